//! A server on one thread that answers each request at once: with the same bytes, to measure the load generator, or with
//! the document of a DID, as a directory.

use std::borrow::Cow;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};

use super::tokens::document_of;
use super::{Result, http};

/// Approximately the server's reply to `sendMessage`.
const SENT: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 114\r\ncontent-type: application/json\r\n\r\n\
    {\"messageId\":\"01K0000000000000000000000000\",\"receivedAt\":\"2000-01-01T00:00:00.000Z\",\"seq\":1234567,\"epoch\":1234567}";

/// Makes the reply to a request.
type Answer = fn(&[u8]) -> Cow<'static, [u8]>;

const LISTENER: Token = Token(usize::MAX);
const STOP: Token = Token(usize::MAX - 1);

/// A responder. It replies until it is dropped.
pub struct Responder {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Responder {
    /// Replies as the server does to `sendMessage`.
    pub fn start() -> Result<Self> {
        Self::with(|_| SENT.into())
    }

    /// Replies with the document of the DID that is the path, as the directory of did:plc does.
    pub fn directory() -> Result<Self> {
        Self::with(|request| {
            let path = String::from_utf8_lossy(request);
            let did = path.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
            let document = document_of(did).to_string();
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length";
            format!("{head}: {}\r\n\r\n{document}", document.len()).into_bytes().into()
        })
    }

    fn with(answer: Answer) -> Result<Self> {
        let poll = Poll::new()?;
        let mut listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let waker = Waker::new(poll.registry(), STOP)?;
        let (address, stop) = (listener.local_addr()?, Arc::new(AtomicBool::new(false)));
        let stopping = stop.clone();
        let thread = thread::Builder::new().name("responder".to_owned()).spawn(move || {
            if let Err(failure) = respond(poll, &listener, &stopping, answer) {
                eprintln!("the responder ended: {failure}");
            }
        })?;
        Ok(Self { address, stop, waker, thread: Some(thread) })
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if self.waker.wake().is_ok()
            && let Some(thread) = self.thread.take()
        {
            // If it panicked, it has already printed the panic.
            let _ = thread.join();
        }
    }
}

fn respond(mut poll: Poll, listener: &TcpListener, stopping: &AtomicBool, answer: Answer) -> Result<()> {
    let mut events = Events::with_capacity(1_024);
    let mut clients: Vec<(TcpStream, Vec<u8>)> = Vec::new();
    let mut room = vec![0; 64 * 1024];
    while !stopping.load(Ordering::Acquire) {
        match poll.poll(&mut events, None) {
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            match event.token() {
                STOP => {}
                LISTENER => {
                    while let Ok((mut stream, _)) = listener.accept() {
                        poll.registry().register(&mut stream, Token(clients.len()), Interest::READABLE)?;
                        clients.push((stream, Vec::new()));
                    }
                }
                Token(client) => serve(&mut clients[client], &mut room, answer)?,
            }
        }
    }
    Ok(())
}

fn serve((stream, pending): &mut (TcpStream, Vec<u8>), room: &mut [u8], answer: Answer) -> Result<()> {
    loop {
        match stream.read(room) {
            Ok(0) => return Ok(()),
            Ok(read) => pending.extend_from_slice(&room[..read]),
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(e.into()),
        }
        while let Some(request) = http::request(pending)? {
            let reply = answer(&pending[..request.end]);
            pending.drain(..request.end);
            // In a closed loop the socket's buffer never has more than one reply.
            stream.write_all(&reply)?;
        }
    }
}
