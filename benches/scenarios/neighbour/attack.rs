//! What a neighbour does to a server: one kind of request or connection again and again, as often as it is allowed to, on a thread of its
//! own, so that the honest callers' clock is never its.

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

/// What the neighbour has open at once.
pub const CONNECTIONS: u32 = 50;
/// What it may begin per second, and at once: the rate limit of one caller.
const RATE: u32 = 100;
const BURST: usize = 2 * RATE as usize;
/// What strangers begin per second, whom no limit by caller holds.
const STRANGERS_RATE: u32 = 2_000;
/// How much a slow reader takes, and how often: a little more than has to be taken.
const SIP: (usize, Duration) = (20 * 1024, Duration::from_millis(500));

/// What is done again and again.
#[derive(Clone)]
pub enum Act {
    /// A request.
    Ask(Request),
    /// A conversation with so many members, of whom none exists. Its group id is new each time.
    NewConvo(u32),
    /// A request whose reply is taken as slowly as it may be.
    Sip(Request),
    /// The head of a request whose body never comes.
    Silence,
    /// A stream that ends when something has come in which this stands.
    Follow(Request, &'static str),
    /// A page that anybody may read.
    Page(&'static str),
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Score {
    pub accepted: AtomicU64,
    pub refused: AtomicU64,
}

/// A neighbour at work. It stops with this value.
pub struct Neighbour {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    score: Arc<Score>,
}

impl Neighbour {
    /// Begins at once.
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

    /// Ends it: how much was accepted, and how much refused.
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

/// Does it on all connections, none of them sooner than the rate allows.
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
                    // To be refused is what limits are for.
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
    /// Does it once, on a connection of its own; returns the status.
    async fn once(&self, server: SocketAddr, account: &str, minter: &mut Minter) -> Result<u16> {
        let mut bytes = Vec::new();
        let mut rest: &[u8] = &[];
        match self {
            Act::Ask(request) | Act::Follow(request, _) | Act::Sip(request) => {
                // Megabytes are not copied each time: what the neighbour does shall cost the server, not the machine.
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
                bytes.extend_from_slice(format!("GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n").as_bytes())
            }
        }
        let socket = TcpSocket::new_v4()?;
        if matches!(self, Act::Sip(_)) {
            socket.set_recv_buffer_size(4 * 1024)?;
        }
        let (mut from, mut to) = socket.connect(server).await?.into_split();
        // A refusal may come before all of it was sent, and then the rest need not be.
        let mut sending = pin!(async {
            to.write_all(&bytes).await?;
            to.write_all(rest).await
        });
        let mut answering = pin!(self.answer(&mut from));
        tokio::select! {
            answered = &mut answering => answered,
            sent = &mut sending => match sent {
                Ok(()) => answering.await,
                Err(cause) => answering.await.map_err(|_| cause.into()),
            },
        }
    }

    /// Reads the answer, as it does.
    async fn answer(&self, from: &mut (impl AsyncReadExt + Unpin)) -> Result<u16> {
        let (mut answer, mut piece) = (Vec::new(), vec![0; 64 * 1024]);
        loop {
            let room = if matches!(self, Act::Sip(_)) { SIP.0 } else { piece.len() };
            let read = from.read(&mut piece[..room]).await?;
            if read == 0 {
                return Err("the server closed the connection".into());
            }
            match self {
                Act::Follow(_, last) => {
                    answer.extend_from_slice(&piece[..read]);
                    if answer.starts_with(b"HTTP/1.1 4") || answer.starts_with(b"HTTP/1.1 5") {
                        return Ok(429);
                    }
                    if answer.windows(last.len()).any(|part| part == last.as_bytes()) {
                        return Ok(200);
                    }
                    // What stands across two pieces is found all the same.
                    let keep = answer.len().saturating_sub(last.len());
                    answer.drain(16.min(keep)..keep);
                }
                _ => {
                    answer.extend_from_slice(&piece[..read]);
                    if let Some(message) = http::response(&answer)? {
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

/// The first cursor of a stream of somebody.
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

/// Sends a request and reads its answer, which has to be a 200.
pub async fn must(server: SocketAddr, did: &str, request: Request) -> Result<()> {
    match Act::Ask(request).once(server, did, &mut Minter::new()).await? {
        200 => Ok(()),
        status => Err(format!("the scene could not be set: {status}").into()),
    }
}
