//! One persistent connection with its client. At most one request is in flight.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Instant;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use super::{Client, Reply, Tally, Window};
use crate::support::{Result, http};

/// Initial size of a connection's buffer in bytes. Most replies are far smaller.
const ROOM: usize = 16 * 1024;

pub(super) struct Connection {
    stream: TcpStream,
    server: SocketAddr,
    registry: Registry,
    token: Token,
    /// Index of its tally.
    load: usize,
    client: Box<dyn Client>,
    request: Vec<u8>,
    written: usize,
    buffer: Vec<u8>,
    filled: usize,
    asked: Instant,
    waiting: bool,
    resting: bool,
}

impl Connection {
    pub fn open(
        registry: &Registry,
        number: usize,
        server: SocketAddr,
        load: usize,
        client: Box<dyn Client>,
    ) -> Result<Self> {
        let (registry, token) = (registry.try_clone()?, Token(number));
        let stream = connect(&registry, token, server)?;
        Ok(Self {
            stream,
            server,
            registry,
            token,
            load,
            client,
            request: Vec::new(),
            written: 0,
            buffer: vec![0; ROOM],
            filled: 0,
            asked: Instant::now(),
            waiting: false,
            resting: false,
        })
    }

    /// Whether a reply is outstanding.
    pub fn is_waiting(&self) -> bool {
        self.waiting
    }

    /// Whether the client pauses. Input of the connection is read after the next request.
    pub fn is_resting(&self) -> bool {
        self.resting
    }

    /// Lets the client pause until its next request.
    pub fn rest(&mut self) {
        self.resting = true;
    }

    /// Returns the time at which the client's next request is due.
    pub fn next_request(&self) -> Instant {
        self.asked + self.client.pause()
    }

    /// Sends the client's next request.
    pub fn ask(&mut self, tallies: &mut [Tally]) -> Result<()> {
        self.request.clear();
        self.client.ask(&mut self.request);
        (self.written, self.filled, self.waiting, self.resting) = (0, 0, true, false);
        self.asked = Instant::now();
        self.write(tallies)
    }

    /// Reads available input. Returns true if no request is in flight, so the client may send the next one.
    pub fn hear(&mut self, window: &Window, tallies: &mut [Tally]) -> Result<bool> {
        if self.written < self.request.len() {
            self.write(tallies)?;
        }
        while self.waiting {
            if self.filled == self.buffer.len() {
                self.buffer.resize(2 * self.filled, 0);
            }
            let read = match self.stream.read(&mut self.buffer[self.filled..]) {
                Ok(0) => return self.lose("the server closed the connection", tallies),
                Ok(read) => read,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return self.lose(&e.to_string(), tallies),
            };
            self.filled += read;
            if let Some(message) = http::response(&self.buffer[..self.filled])? {
                let heard = Instant::now();
                let (head, body) = self.buffer[..message.end].split_at(message.head);
                let counts = window.holds(heard);
                let reply = Reply { status: message.status, head, body, asked: self.asked, heard, counts };
                let verdict = self.client.hear(&reply);
                tallies[self.load].count(verdict, &reply);
                self.waiting = false;
            }
        }
        Ok(true)
    }

    fn write(&mut self, tallies: &mut [Tally]) -> Result<()> {
        while self.written < self.request.len() {
            match self.stream.write(&self.request[self.written..]) {
                Ok(written) => self.written += written,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return self.lose(&e.to_string(), tallies).map(drop),
            }
        }
        Ok(())
    }

    /// Counts a request without a reply, and reconnects. The client is not informed.
    fn lose(&mut self, why: &str, tallies: &mut [Tally]) -> Result<bool> {
        tallies[self.load].fail(|| format!("no reply: {why}"));
        self.stream = connect(&self.registry, self.token, self.server)?;
        self.waiting = false;
        Ok(true)
    }
}

fn connect(registry: &Registry, token: Token, server: SocketAddr) -> Result<TcpStream> {
    let stream = std::net::TcpStream::connect(server).map_err(|e| format!("cannot connect to {server}: {e}"))?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    let mut stream = TcpStream::from_std(stream);
    registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
    Ok(stream)
}
