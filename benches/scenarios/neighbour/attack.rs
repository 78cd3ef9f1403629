//! A neighbour: it repeats one kind of request or connection as often as allowed, on a thread of its own, so that it
//! does not delay the honest callers' clock.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Semaphore, oneshot};

use crate::support::Result;
use crate::support::http::{self, Request};
use crate::support::mix::fresh;
use crate::support::seed;
use crate::support::tokens::Minter;

/// Number of connections of the neighbour.
pub const CONNECTIONS: u32 = 50;
/// Requests per second and burst of the neighbour: the rate limit of one caller.
const RATE: u32 = 100;
const BURST: usize = 2 * RATE as usize;
/// Requests per second of callers without a token, to which no limit by caller applies.
const STRANGERS_RATE: u32 = 2_000;
/// Bytes that a slow reader reads, and how often: slightly more than the minimum rate.
const SIP: (usize, Duration) = (20 * 1024, Duration::from_millis(500));

/// The repeated action.
#[derive(Clone)]
pub enum Act {
    /// A request.
    Ask(Request),
    /// A conversation with this many members, none of whom exists. Its group id is new each time.
    NewConvo(u32),
    /// A request whose reply is read as slowly as allowed.
    Sip(Request),
    /// The head of a request whose body never arrives.
    Silence,
    /// A stream that is closed once this text has arrived.
    Follow(Request, &'static str),
    /// A public page.
    Page(&'static str),
}

/// Result of one action.
#[derive(Debug, Default)]
pub struct Score {
    pub accepted: AtomicU64,
    pub refused: AtomicU64,
}

/// A running neighbour. It stops when the value is dropped.
pub struct Neighbour {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    score: Arc<Score>,
}

impl Neighbour {
    /// Starts a neighbour.
    pub fn begin(server: SocketAddr, account: &str, act: &Act) -> Result<Self> {
        let (stop, stopped) = oneshot::channel::<()>();
        let score = Arc::new(Score::default());
        let (account, act, counted) = (account.to_owned(), Arc::new(act.clone()), score.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("neighbour".to_owned());
        let thread = thread.spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = work(server, account, act, counted) => {}
                }
            });
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread), score })
    }

    /// Stops it. Returns the numbers of accepted and of refused requests.
    pub fn end(mut self) -> (u64, u64) {
        self.halt();
        (self.score.accepted.load(Ordering::Relaxed), self.score.refused.load(Ordering::Relaxed))
    }

    fn halt(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.halt();
    }
}

/// Repeats the action on all connections, at the allowed rate.
async fn work(server: SocketAddr, account: String, act: Arc<Act>, score: Arc<Score>) {
    let (rate, burst) = match *act {
        Act::Page(_) => (STRANGERS_RATE, 0),
        _ => (RATE, BURST),
    };
    let allowed = Arc::new(Semaphore::new(burst));
    let clients = tokio::task::LocalSet::new();
    for _ in 0..CONNECTIONS {
        let (allowed, account, act, score) = (allowed.clone(), account.clone(), act.clone(), score.clone());
        clients.spawn_local(async move {
            let mut minter = Minter::new();
            while let Ok(permit) = allowed.acquire().await {
                permit.forget();
                match act.once(server, &account, &mut minter).await {
                    Ok(200) => score.accepted.fetch_add(1, Ordering::Relaxed),
                    // Refusals are expected: the limits apply.
                    _ => score.refused.fetch_add(1, Ordering::Relaxed),
                };
            }
        });
    }
    let tick = Duration::from_millis(10);
    clients
        .run_until(async {
            let mut ticks = tokio::time::interval(tick);
            loop {
                ticks.tick().await;
                let more = (rate as usize) / 100;
                allowed.add_permits(more.min(BURST.saturating_sub(allowed.available_permits())));
            }
        })
        .await;
}

impl Act {
    /// Performs the action once, on its own connection. Returns the status.
    async fn once(&self, server: SocketAddr, account: &str, minter: &mut Minter) -> Result<u16> {
        let mut bytes = Vec::new();
        let mut rest: &[u8] = &[];
        match self {
            Act::Ask(request) | Act::Follow(request, _) | Act::Sip(request) => {
                // Large bodies are not copied: the neighbour should cost the server, not the machine.
                request.begin(minter, account, &mut bytes);
                rest = request.rest();
            }
            Act::NewConvo(members) => new_convo(*members).render(minter, account, &mut bytes),
            Act::Silence => {
                let token = minter.token(account, "blue.catbird.mls.sendMessage");
                let head =
                    "POST /xrpc/blue.catbird.mls.sendMessage HTTP/1.1\r\nhost: bench\r\ncontent-length: 20971520";
                bytes.extend_from_slice(format!("{head}\r\nauthorization: Bearer {token}\r\n\r\n").as_bytes());
            }
            Act::Page(path) => {
                bytes.extend_from_slice(format!("GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n").as_bytes());
            }
        }
        let socket = TcpSocket::new_v4()?;
        if matches!(self, Act::Sip(_)) {
            socket.set_recv_buffer_size(4 * 1024)?;
        }
        let (mut from, mut to) = socket.connect(server).await?.into_split();
        // A refusal may arrive before the request is complete; the rest is then not sent.
        let mut sending = pin!(async {
            to.write_all(&bytes).await?;
            to.write_all(rest).await
        });
        let mut reading = pin!(self.read_reply(&mut from));
        tokio::select! {
            answered = &mut reading => answered,
            sent = &mut sending => match sent {
                Ok(()) => reading.await,
                Err(cause) => reading.await.map_err(|_| cause.into()),
            },
        }
    }

    /// Reads the reply at its own pace.
    async fn read_reply(&self, from: &mut (impl AsyncReadExt + Unpin)) -> Result<u16> {
        let (mut bytes, mut piece) = (Vec::new(), vec![0; 64 * 1024]);
        loop {
            let room = if matches!(self, Act::Sip(_)) { SIP.0 } else { piece.len() };
            let read = from.read(&mut piece[..room]).await?;
            if read == 0 {
                return Err("the server closed the connection".into());
            }
            match self {
                Act::Follow(_, last) => {
                    bytes.extend_from_slice(&piece[..read]);
                    if bytes.starts_with(b"HTTP/1.1 4") || bytes.starts_with(b"HTTP/1.1 5") {
                        return Ok(429);
                    }
                    if bytes.windows(last.len()).any(|part| part == last.as_bytes()) {
                        return Ok(200);
                    }
                    // The text may span two reads.
                    let keep = bytes.len().saturating_sub(last.len());
                    bytes.drain(16.min(keep)..keep);
                }
                _ => {
                    bytes.extend_from_slice(&piece[..read]);
                    if let Some(message) = http::response(&bytes)? {
                        return Ok(message.status);
                    }
                }
            }
            if matches!(self, Act::Sip(_)) {
                tokio::time::sleep(SIP.1).await;
            }
        }
    }
}

fn new_convo(members: u32) -> Request {
    let members: Vec<String> = (1..members).map(|_| seed::person()).collect();
    let group_id = format!("{:032x}", u128::from(fresh()) | 1 << 100);
    Request::procedure(
        "createConvo",
        &json!({"groupId": group_id, "initialMembers": members, "cipherSuite": catbird_server::mls::DEFAULT_SUITE}),
    )
}

/// Returns the first cursor of a stream.
pub async fn cursor(server: SocketAddr, did: &str) -> Result<String> {
    let mut bytes = Vec::new();
    Request::query("streamConvoEvents", "").render(&mut Minter::new(), did, &mut bytes);
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(&bytes).await?;
    let (mut text, mut piece) = (String::new(), [0; 4096]);
    loop {
        if let Some((id, _)) = text.split_once("\nid: ").and_then(|(_, rest)| rest.split_once('\n')) {
            return Ok(id.trim().to_owned());
        }
        match stream.read(&mut piece).await? {
            0 => return Err(format!("no cursor in {text}").into()),
            read => text.push_str(&String::from_utf8_lossy(&piece[..read])),
        }
    }
}

/// Sends a request and reads its reply, which must be a 200.
pub async fn must(server: SocketAddr, did: &str, request: Request) -> Result<()> {
    match Act::Ask(request).once(server, did, &mut Minter::new()).await? {
        200 => Ok(()),
        status => Err(format!("the set-up failed: {status}").into()),
    }
}
