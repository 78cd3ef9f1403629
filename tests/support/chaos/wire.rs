//! The part of PostgreSQL's protocol (version 3, manual chapter 55) that the proxy needs.

use std::collections::HashMap;
use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, BufWriter};

/// One message: its type, its length, its body.
pub struct Frame {
    pub bytes: Vec<u8>,
}

impl Frame {
    fn kind(&self) -> u8 {
        self.bytes[0]
    }

    fn body(&self) -> &[u8] {
        &self.bytes[5..]
    }

    /// Returns true for a Query with this text.
    pub fn is_simple_query(&self, text: &str) -> bool {
        self.kind() == b'Q'
            && strings(self.body()).next().is_some_and(|query| query.eq_ignore_ascii_case(text.as_bytes()))
    }

    /// Returns true for CommandComplete with this tag.
    pub fn is_command_complete(&self, tag: &str) -> bool {
        self.kind() == b'C' && strings(self.body()).next() == Some(tag.as_bytes())
    }
}

/// Reads the zero-terminated strings at the start of a body.
fn strings(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    body.split(|byte| *byte == 0)
}

/// Reads complete messages.
pub struct Reader<R>(BufReader<R>);

impl<R: AsyncRead + Unpin> Reader<R> {
    pub fn new(half: R) -> Self {
        Self(BufReader::new(half))
    }

    /// Reads a client's first message, which has no type.
    pub async fn startup(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.rest(&mut bytes).await?;
        Ok(bytes)
    }

    pub async fn frame(&mut self) -> io::Result<Frame> {
        let mut bytes = vec![self.0.read_u8().await?];
        self.rest(&mut bytes).await?;
        Ok(Frame { bytes })
    }

    /// Reads a length, which includes itself, and the bytes that it announces.
    async fn rest(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        let length = self.0.read_u32().await?;
        let start = bytes.len();
        bytes.extend(length.to_be_bytes());
        bytes.resize(start + length as usize, 0);
        self.0.read_exact(&mut bytes[start + 4..]).await?;
        Ok(())
    }

    /// Returns true if no more bytes have been received.
    pub fn is_drained(&self) -> bool {
        self.0.buffer().is_empty()
    }
}

/// Writes complete messages.
pub struct Writer<W>(BufWriter<W>);

impl<W: AsyncWrite + Unpin> Writer<W> {
    pub fn new(half: W) -> Self {
        Self(BufWriter::new(half))
    }

    pub async fn send(&mut self, bytes: &[u8], flush: bool) -> io::Result<()> {
        self.0.write_all(bytes).await?;
        if flush {
            self.0.flush().await?;
        }
        Ok(())
    }
}

/// Statements that a connection has prepared, and those that its transaction has run.
#[derive(Default)]
pub struct Statements {
    prepared: HashMap<Vec<u8>, String>,
    ran: Vec<String>,
}

impl Statements {
    /// Records a client's message.
    pub fn note(&mut self, frame: &Frame) {
        let mut strings = strings(frame.body());
        let mut next = || strings.next().unwrap_or_default().to_vec();
        match frame.kind() {
            // Parse: the statement's name, its text.
            b'P' => {
                let (name, text) = (next(), next());
                self.prepared.insert(name, String::from_utf8_lossy(&text).into_owned());
            }
            // Bind: the portal's name, the statement's name.
            b'B' => {
                let (_, name) = (next(), next());
                self.ran.extend(self.prepared.get(&name).cloned());
            }
            // A Query begins or ends a transaction.
            b'Q' => self.ran.clear(),
            _ => {}
        }
    }

    /// Returns true if the transaction ran this query file, which its first comment names.
    pub fn ran(&self, file: &str) -> bool {
        let opening = format!("-- {file}:");
        self.ran.iter().any(|text| text.starts_with(&opening))
    }
}
