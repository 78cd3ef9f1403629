//! Socket that the HTTP library reads and writes.

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use actix_web::web::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::bytes::Buf;

use crate::error::Code;
use crate::timing::time_for;

use super::chunks::Chunks;
use super::discard::DISCARD_PIECE;
use super::head::Scanner;
use super::metrics::ConnectionMetrics;
use super::{
    Connection, Connections, Ended, HEAD_TIME, LINGER, LONG_HEAD_BYTES, Left, MAX_HEAD_BYTES, Phase, TAKE_GRACE,
};

/// Maximum number of bytes that are read at once while the end of a head or of a chunked body is searched. Bytes after
/// that end wait here.
const PIECE: usize = 4 * 1024;

/// TCP stream with flow control per request and time limits (see the parent module).
pub struct Socket {
    io: TcpStream,
    connection: Connection,
    connections: Connections,
    metrics: ConnectionMetrics,
    /// Bytes that were read and not handed over.
    read: BytesMut,
    scanner: Scanner,
    /// Length of the complete head at the beginning of `read`.
    head: usize,
    long_head: Option<OwnedSemaphorePermit>,
    /// Deadline for what is being read.
    read_until: Option<Pin<Box<Sleep>>>,
    /// Time until which nothing more is discarded.
    discard_at: Option<Pin<Box<Sleep>>>,
    /// Position in the chunked body that was handed over.
    chunks: Chunks,
    /// Since when the peer has been taking what is sent, and how many bytes it has taken. `None`: nothing waits for it.
    taking: Option<(Instant, u64)>,
    take_until: Option<Pin<Box<Sleep>>>,
    /// Since when the peer has been given all that there is to send.
    given: Option<Instant>,
    /// Unsent rest of the refusal that replaces the library's own.
    refusal: BytesMut,
}

impl Socket {
    pub fn new(io: TcpStream, connections: Connections, metrics: ConnectionMetrics) -> Self {
        metrics.opened();
        Self {
            io,
            connection: Connection::new(),
            connections,
            metrics,
            read: BytesMut::new(),
            scanner: Scanner::default(),
            head: 0,
            long_head: None,
            read_until: None,
            discard_at: None,
            chunks: Chunks::default(),
            taking: None,
            take_until: None,
            given: None,
            refusal: BytesMut::new(),
        }
    }

    /// Returns the handle for the requests on this connection.
    pub fn connection(&self) -> Connection {
        self.connection.clone()
    }

    fn end(&self, why: Ended) -> io::Error {
        self.metrics.ended(why);
        io::Error::new(io::ErrorKind::TimedOut, why.label())
    }

    /// Reads up to the end of the next head. Returns false if the peer sends no more.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            if let Some(end) = self.scanner.end(&self.read) {
                self.head = end;
                break;
            }
            if self.read.len() >= MAX_HEAD_BYTES {
                // The head is too large; the library tells the client.
                self.head = self.read.len();
                break;
            }
            if !self.read.is_empty() {
                let timer = self.read_until.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + HEAD_TIME)));
                if timer.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Err(self.end(Ended::Head)));
                }
            }
            if self.read.len() > LONG_HEAD_BYTES && self.long_head.is_none() {
                match self.connections.long_heads.clone().try_acquire_owned() {
                    Ok(permit) => self.long_head = Some(permit),
                    Err(_) => return Poll::Ready(Err(self.end(Ended::LongHeads))),
                }
            }
            if !ready!(self.poll_piece(cx))? {
                return Poll::Ready(Ok(false));
            }
        }
        (self.read_until, self.long_head) = (None, None);
        self.chunks = Chunks::default();
        self.connection.0.phase.set(Phase::Request);
        self.connection.0.begun.set(false);
        Poll::Ready(Ok(true))
    }

    /// Reads one more piece. Returns false if the peer sends no more.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut piece = [MaybeUninit::uninit(); PIECE];
        let mut piece = ReadBuf::uninit(&mut piece);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut piece))?;
        self.read.extend_from_slice(piece.filled());
        Poll::Ready(Ok(!piece.filled().is_empty()))
    }

    /// Hands over the next part of a chunked body, at most this many bytes and nothing beyond its end.
    fn poll_chunks(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>, wanted: usize) -> Poll<io::Result<()>> {
        if self.read.is_empty() && !ready!(self.poll_piece(cx))? {
            return Poll::Ready(Ok(()));
        }
        let most = wanted.min(buffer.remaining()).min(self.read.len());
        let part = self.chunks.take(&self.read[..most]);
        buffer.put_slice(&self.read[..part]);
        self.drop_read(part);
        self.connection.body_came(part);
        if self.chunks == Chunks::End {
            self.connection.0.left.set(Left::Nothing);
        }
        Poll::Ready(Ok(()))
    }

    /// Hands over buffered bytes, or else reads; at most this many bytes.
    fn poll_bytes(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>, most: usize) -> Poll<io::Result<usize>> {
        let most = most.min(buffer.remaining());
        if !self.read.is_empty() {
            let ready = most.min(self.read.len());
            buffer.put_slice(&self.read[..ready]);
            self.drop_read(ready);
            return Poll::Ready(Ok(ready));
        }
        let bytes = if most == buffer.remaining() {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
            buffer.filled().len() - before
        } else {
            let mut part = ReadBuf::new(buffer.initialize_unfilled_to(most));
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut part))?;
            let bytes = part.filled().len();
            buffer.advance(bytes);
            bytes
        };
        Poll::Ready(Ok(bytes))
    }

    /// Sends the refusal that replaces `bytes`. `None`: `bytes` must be sent unchanged.
    fn poll_refusal(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Option<io::Result<usize>>> {
        if self.refusal.is_empty() {
            match (self.connections.replace)(bytes, self.connections.open) {
                Some(refusal) => self.refusal.extend_from_slice(&refusal),
                None => return Poll::Ready(None),
            }
            self.metrics.error(Code::InvalidRequest);
        }
        while !self.refusal.is_empty() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.refusal)) {
                Ok(0) => return Poll::Ready(Some(Err(io::ErrorKind::WriteZero.into()))),
                Ok(written) => self.refusal.advance(written),
                Err(cause) => return Poll::Ready(Some(Err(cause))),
            }
        }
        self.connection.0.begun.set(true);
        Poll::Ready(Some(Ok(bytes.len())))
    }

    fn drop_read(&mut self, bytes: usize) {
        self.read.advance(bytes);
        if self.read.is_empty() {
            // Idle connections must hold no buffer.
            self.read = BytesMut::new();
        }
    }

    /// Reads nothing until more may be read or the peer resets the connection.
    fn poll_closed_gate(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        *self.connection.0.reader.borrow_mut() = Some(cx.waker().clone());
        let mut byte = [MaybeUninit::uninit(); 1];
        match self.io.poll_peek(cx, &mut ReadBuf::uninit(&mut byte)) {
            Poll::Ready(Err(cause)) => Poll::Ready(Err(cause)),
            Poll::Ready(Ok(_)) | Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.head == 0 && this.connection.0.phase.get() == Phase::Head {
            // A client that does not read its replies gets no further request answered.
            if this.taking.is_some() {
                return this.poll_closed_gate(cx);
            }
            match ready!(this.poll_head(cx)) {
                Ok(true) => {}
                Ok(false) => return Poll::Ready(Ok(())),
                Err(cause) => return Poll::Ready(Err(cause)),
            }
        }
        if this.head > 0 {
            let part = this.head.min(buffer.remaining());
            buffer.put_slice(&this.read[..part]);
            this.head -= part;
            this.drop_read(part);
            return Poll::Ready(Ok(()));
        }
        let most = match (this.connection.0.phase.get(), this.connection.0.left.get()) {
            (Phase::Head, _) | (Phase::Request, _) | (Phase::Body(0), _) => 0,
            (Phase::Body(_), Left::Nothing | Left::Bytes(0)) => 0,
            (Phase::Body(wanted), Left::Bytes(left)) => usize::try_from(left).unwrap_or(usize::MAX).min(wanted),
            (Phase::Body(wanted), Left::Chunks) => return this.poll_chunks(cx, buffer, wanted),
            (Phase::Body(wanted), Left::Everything) => wanted,
            (Phase::Discard, _) => {
                let timer = this.read_until.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + LINGER)));
                if timer.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Err(this.end(Ended::Body)));
                }
                while let Some(at) = this.connections.discard.wait() {
                    let pause = this.discard_at.get_or_insert_with(|| Box::pin(sleep_until(at)));
                    if pause.deadline() != at {
                        pause.as_mut().reset(at);
                    }
                    if pause.as_mut().poll(cx).is_pending() {
                        return this.poll_closed_gate(cx);
                    }
                }
                DISCARD_PIECE
            }
        };
        if most == 0 {
            return this.poll_closed_gate(cx);
        }
        let bytes = ready!(this.poll_bytes(cx, buffer, most))?;
        match this.connection.0.phase.get() {
            Phase::Discard => this.connections.discard.count(bytes),
            Phase::Body(_) => this.connection.body_came(bytes),
            Phase::Head | Phase::Request => {}
        }
        if let Left::Bytes(left) = this.connection.0.left.get() {
            let left = left.saturating_sub(bytes as u64);
            this.connection.0.left.set(if left == 0 { Left::Nothing } else { Left::Bytes(left) });
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if !this.connection.0.begun.get()
            && let Some(sent) = ready!(this.poll_refusal(cx, bytes))
        {
            return Poll::Ready(sent);
        }
        if let (Some(given), Some((since, _))) = (this.given.take(), &mut this.taking) {
            *since += given.elapsed();
        }
        match Pin::new(&mut this.io).poll_write(cx, bytes) {
            Poll::Ready(Ok(written)) => {
                if let Some((_, taken)) = &mut this.taking {
                    *taken += written as u64;
                }
                Poll::Ready(Ok(written))
            }
            Poll::Pending => {
                let (since, taken) = *this.taking.get_or_insert_with(|| (Instant::now(), 0));
                let until = since + TAKE_GRACE + time_for(taken);
                let timer = this.take_until.get_or_insert_with(|| Box::pin(sleep_until(until)));
                if timer.deadline() != until {
                    timer.as_mut().reset(until);
                }
                match timer.as_mut().poll(cx) {
                    Poll::Ready(()) => Poll::Ready(Err(this.end(Ended::Reply))),
                    Poll::Pending => Poll::Pending,
                }
            }
            failed => failed,
        }
    }

    /// The library calls this when the kernel has all bytes to send.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // A reply of known length is timed as a whole.
        if this.taking.is_some() && this.connection.0.sized.get() {
            this.given.get_or_insert_with(Instant::now);
        } else if this.taking.is_some() {
            (this.taking, this.take_until, this.given) = (None, None, None);
            if let Some(reader) = this.connection.0.reader.take() {
                reader.wake();
            }
        }
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.metrics.closed();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::connection::BODY_AHEAD;
    use crate::connection::discard::DISCARD_RATE;
    use crate::timing::MIN_RATE;

    async fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (io, _) = listener.accept().await.unwrap();
        (
            Socket::new(
                io,
                Connections::new(true, crate::xrpc::reply_to_unreadable_head),
                crate::app::Metrics::default().connections,
            ),
            peer,
        )
    }

    /// Reads everything that is available without waiting for the peer.
    async fn come(socket: &mut Socket) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut buffer = [0; 8 * 1024];
        loop {
            let read = tokio::time::timeout(std::time::Duration::from_millis(50), socket.read(&mut buffer)).await;
            match read {
                Ok(read) => bytes.extend_from_slice(&buffer[..read.unwrap()]),
                Err(_) => return bytes,
            }
        }
    }

    const HEAD: &str = "GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n";

    #[tokio::test]
    async fn the_next_request_is_not_read_before_the_reply_is_taken() {
        let (mut socket, mut peer) = pair().await;
        peer.write_all(HEAD.repeat(500).as_bytes()).await.unwrap();
        for _ in 0..3 {
            assert_eq!(come(&mut socket).await, HEAD.as_bytes(), "one head at a time");
            assert!(socket.read.len() <= PIECE);
            socket.connection().begin(Left::Nothing);
            assert_eq!(come(&mut socket).await, b"");
            socket.connection().replied();
        }
    }

    #[tokio::test]
    async fn a_body_is_read_when_it_is_asked_for_and_no_further() {
        let (mut socket, mut peer) = pair().await;
        peer.write_all(format!("{HEAD}0123456789{HEAD}").as_bytes()).await.unwrap();
        assert_eq!(come(&mut socket).await, HEAD.as_bytes());
        socket.connection().begin(Left::Bytes(10));
        assert_eq!(come(&mut socket).await, b"");
        socket.connection().want_body();
        assert_eq!(come(&mut socket).await, b"0123456789");
        socket.connection().replied();
        assert_eq!(come(&mut socket).await, HEAD.as_bytes());
    }

    #[tokio::test]
    async fn a_body_is_read_no_further_ahead_than_its_reader_has_asked_for() {
        for (left, head) in [(Left::Bytes(1 << 20), ""), (Left::Chunks, "100000\r\n")] {
            let (mut socket, mut peer) = pair().await;
            let bytes = format!("{HEAD}{head}{}", "x".repeat(4 * BODY_AHEAD));
            // The kernel may not take all of it.
            tokio::spawn(async move { peer.write_all(bytes.as_bytes()).await });
            assert_eq!(come(&mut socket).await, HEAD.as_bytes());
            socket.connection().begin(left);
            for _ in 0..2 {
                socket.connection().want_body();
                assert_eq!(come(&mut socket).await.len(), BODY_AHEAD, "{left:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn unread_bodies_are_discarded_at_one_rate_for_all_connections() {
        const MIB: usize = 1024 * 1024;
        let connections = Connections::new(true, crate::xrpc::reply_to_unreadable_head);
        let begun = Instant::now();
        let throwing_away = (0..4).map(async |_| {
            let (mut socket, mut peer) = pair().await;
            socket.connections = connections.clone();
            // More than is discarded if one connection gets the whole rate, and more than the kernel buffers.
            let sending = tokio::spawn(async move {
                let mebibyte = vec![b'x'; MIB];
                for _ in 0..128 {
                    peer.write_all(&mebibyte).await?;
                }
                Ok::<_, io::Error>(())
            });
            socket.connection().begin(Left::Bytes(u64::MAX));
            socket.connection().0.phase.set(Phase::Request);
            socket.connection().replied();
            let (mut thrown, mut buffer) = (0, vec![0; 128 * 1024]);
            let ended = loop {
                match socket.read(&mut buffer).await {
                    Ok(0) => panic!("it has not all been sent"),
                    Ok(bytes) => thrown += bytes,
                    Err(ended) => break ended,
                }
            };
            assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
            drop(socket);
            assert!(sending.await.unwrap().is_err(), "the rest was not taken");
            thrown
        });
        let thrown: usize = futures_util::future::join_all(throwing_away).await.into_iter().sum();
        assert_eq!(begun.elapsed(), LINGER);
        let most = usize::try_from(DISCARD_RATE).unwrap() * 21 / 10 + 4 * DISCARD_PIECE;
        assert!((MIB..=most).contains(&thrown), "{thrown} bytes in {LINGER:?}");
    }

    #[tokio::test]
    async fn a_head_comes_whole_or_not_at_all() {
        let (mut socket, mut peer) = pair().await;
        let (half, rest) = HEAD.split_at(20);
        peer.write_all(half.as_bytes()).await.unwrap();
        assert_eq!(come(&mut socket).await, b"");
        peer.write_all(rest.as_bytes()).await.unwrap();
        assert_eq!(come(&mut socket).await, HEAD.as_bytes());
    }

    #[tokio::test(start_paused = true)]
    async fn every_head_has_its_time_not_only_the_first() {
        for before in 0..2 {
            let (mut socket, mut peer) = pair().await;
            let mut buffer = [0; 1024];
            for _ in 0..before {
                peer.write_all(HEAD.as_bytes()).await.unwrap();
                assert_eq!(socket.read(&mut buffer).await.unwrap(), HEAD.len());
                socket.connection().replied();
            }
            peer.write_all(b"G").await.unwrap();
            let begun = Instant::now();
            let late = socket.read(&mut buffer).await.unwrap_err();
            assert_eq!(late.kind(), io::ErrorKind::TimedOut);
            assert!(begun.elapsed() >= HEAD_TIME && begun.elapsed() < 2 * HEAD_TIME, "{:?}", begun.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reply_that_is_not_taken_ends_the_connection() {
        let (mut socket, mut peer) = pair().await;
        let begun = Instant::now();
        socket.connection().reply(true);
        let reply = vec![7; 64 * 1024];
        let failed = loop {
            if let Err(failed) = socket.write_all(&reply).await {
                break failed;
            }
            socket.flush().await.unwrap();
        };
        assert_eq!(failed.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= TAKE_GRACE, "{:?}", begun.elapsed());
        drop(socket);
        // The peer can still read what the kernel had.
        assert!(peer.read(&mut vec![0; 1024]).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reply_that_is_taken_at_the_smallest_rate_gets_through() {
        let (mut socket, mut peer) = pair().await;
        socket.connection().reply(true);
        // More than kernels buffer before anyone reads, and longer than the grace at that rate.
        let reply = vec![7; 24 * 1024 * 1024];
        let length = reply.len();
        let mut taken = 0;
        let mut second = vec![0; 2 * usize::try_from(MIN_RATE).unwrap()];
        let taking = async {
            while taken < length {
                taken += peer.read(&mut second).await.unwrap();
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        };
        let (written, ()) = tokio::join!(socket.write_all(&reply), taking);
        written.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_reply_may_wait_for_what_the_server_has_yet_to_send() {
        let (mut socket, mut peer) = pair().await;
        socket.connection().reply(true);
        // More than kernels buffer, so that the peer is waited for.
        let part = vec![7; 16 * 1024 * 1024];
        let mut taken = vec![0; part.len()];
        for _ in 0..2 {
            let sending = async {
                socket.write_all(&part).await.unwrap();
                socket.flush().await.unwrap();
            };
            // The paused clock advances while the runtime is idle, which it may be until the kernel has passed the bytes on.
            let busy = tokio::spawn(async {
                loop {
                    tokio::task::yield_now().await;
                }
            });
            let (_, read) = tokio::join!(sending, peer.read_exact(&mut taken));
            busy.abort();
            read.unwrap();
            assert!(socket.taking.is_some(), "the peer was never waited for");
            tokio::time::sleep(10 * TAKE_GRACE + 2 * time_for(part.len() as u64)).await;
        }
    }
}
