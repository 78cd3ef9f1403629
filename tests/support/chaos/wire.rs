//! As much of PostgreSQL's protocol (version 3, manual chapter 55) as a proxy has to understand.

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

    /// Query with this text.
    pub fn is_simple_query(&self, text: &str) -> bool {
        self.kind() == b'Q'
            && strings(self.body()).next().is_some_and(|query| query.eq_ignore_ascii_case(text.as_bytes()))
    }

    /// CommandComplete with this tag.
    pub fn is_command_complete(&self, tag: &str) -> bool {
        self.kind() == b'C' && strings(self.body()).next() == Some(tag.as_bytes())
    }
}

/// The zero-terminated strings that a body begins with.
fn strings(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    body.split(|byte| *byte == 0)
}

/// Reads whole messages.
pub struct Reader<R>(BufReader<R>);

impl<R: AsyncRead + Unpin> Reader<R> {
    pub fn new(half: R) -> Self {
        Self(BufReader::new(half))
    }

    /// The first message of a client, which has no type.
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

    /// A length, which counts itself, and as much as it says.
    async fn rest(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        let length = self.0.read_u32().await?;
        let start = bytes.len();
        bytes.extend(length.to_be_bytes());
        bytes.resize(start + length as usize, 0);
        self.0.read_exact(&mut bytes[start + 4..]).await?;
        Ok(())
    }

    /// Whether nothing more has been received yet.
    pub fn is_drained(&self) -> bool {
        self.0.buffer().is_empty()
    }
}

/// Writes whole messages.
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

/// Which statements a connection has prepared, and which its transaction has run.
#[derive(Default)]
pub struct Statements {
    prepared: HashMap<Vec<u8>, String>,
    ran: Vec<String>,
}

impl Statements {
    /// Notes what a client's message says.
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

    /// Whether the transaction ran this query file, which its opening comment names.
    pub fn ran(&self, file: &str) -> bool {
        let opening = format!("-- {file}:");
        self.ran.iter().any(|text| text.starts_with(&opening))
    }
}
