//! A proxy between a server and PostgreSQL that causes network faults at the worst moment.
//!
//! It understands enough of PostgreSQL's protocol (version 3) to know the statements of a transaction, so a fault can
//! be aimed at the COMMIT of one kind of transaction: `on_commit("members/leave", …)` hits the next COMMIT after that
//! query file on its connection. It counts its faults, because a test without its fault proves nothing.

mod wire;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio_postgres::Config;
use tokio_postgres::config::Host;

use wire::{Reader, Statements, Writer};

/// Fault at a COMMIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// PostgreSQL commits, its reply is dropped, and the connection is cut.
    LoseReply,
    /// PostgreSQL commits, its reply is dropped, and nothing follows.
    HangAfter,
    /// PostgreSQL never sees the COMMIT; the connection is cut.
    CutBefore,
    /// PostgreSQL does not see the COMMIT until [`Chaos::let_go`].
    Hold,
}

type Incoming = Box<dyn AsyncRead + Send + Unpin>;
type Outgoing = Box<dyn AsyncWrite + Send + Unpin>;

/// The proxy. It ends with the runtime that started it.
#[derive(Clone)]
pub struct Chaos(Arc<Inner>);

struct Inner {
    address: SocketAddr,
    upstream: Config,
    /// Faults that wait for their COMMIT, by the preceding statement.
    armed: Mutex<Vec<(&'static str, Fault)>>,
    /// Present state of the network, which connections watch.
    weather: watch::Sender<Weather>,
    counts: Counts,
}

#[derive(Debug, Clone, Copy, Default)]
struct Weather {
    /// No frame passes, silently.
    black_hole: bool,
    /// No frame passes on connections before this one.
    frozen_before: u64,
    /// Delay of each frame.
    delay: Duration,
    /// Connections made before this generation are cut.
    generation: u64,
    /// Held COMMITs of earlier generations continue.
    released: u64,
}

/// Counts of faults that happened.
#[derive(Debug, Default)]
pub struct Counts {
    pub connections: AtomicU64,
    /// COMMITs that were sent to PostgreSQL.
    pub commits: AtomicU64,
    /// Successful replies to COMMIT that were dropped.
    pub swallowed: AtomicU64,
    /// COMMITs that PostgreSQL never saw.
    pub withheld: AtomicU64,
    /// COMMITs that were held so far.
    pub held: AtomicU64,
    /// Connections that were cut by [`Chaos::cut_all`].
    pub cut: AtomicU64,
    /// Frames stuck in a black hole.
    pub stuck: AtomicU64,
}

impl Counts {
    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::SeqCst)
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::SeqCst);
}

impl Chaos {
    /// Starts a proxy in front of this database.
    pub async fn before(database: &Config) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let inner = Inner {
            address: listener.local_addr().unwrap(),
            upstream: database.clone(),
            armed: Mutex::default(),
            weather: watch::Sender::default(),
            counts: Counts::default(),
        };
        let chaos = Self(Arc::new(inner));
        let accepting = chaos.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(accepting.clone().connection(client));
            }
        });
        chaos
    }

    /// URL of the database through the proxy.
    pub fn url(&self) -> String {
        let Inner { address, upstream, .. } = &*self.0;
        let (user, database) = (upstream.get_user().unwrap_or_default(), upstream.get_dbname().unwrap_or_default());
        let password = upstream.get_password().map(|password| format!(":{}", String::from_utf8_lossy(password)));
        format!("postgresql://{user}{}@{address}/{database}", password.unwrap_or_default())
    }

    pub fn counts(&self) -> &Counts {
        &self.0.counts
    }

    /// Causes this fault at the next COMMIT of a transaction that ran the query file `after`. Each call is for one
    /// COMMIT.
    pub fn on_commit(&self, after: &'static str, fault: Fault) {
        self.0.armed.lock().unwrap().push((after, fault));
    }

    /// Forwards held COMMITs to PostgreSQL.
    pub fn let_go(&self) {
        self.0.weather.send_modify(|weather| weather.released += 1);
    }

    /// Cuts every open connection.
    pub fn cut_all(&self) {
        self.0.weather.send_modify(|weather| weather.generation += 1);
    }

    /// Stops all frames, or lets them pass again.
    pub fn black_hole(&self, on: bool) {
        self.0.weather.send_modify(|weather| weather.black_hole = on);
    }

    /// Stops all frames on the connections that are open now; new ones work. The stopped ones look alive and never
    /// answer.
    pub fn freeze_all(&self) {
        let next = Counts::get(&self.0.counts.connections);
        self.0.weather.send_modify(|weather| weather.frozen_before = next);
    }

    /// Delays each frame in either direction from now on.
    pub fn delay(&self, delay: Duration) {
        self.0.weather.send_modify(|weather| weather.delay = delay);
    }

    async fn connection(self, client: TcpStream) {
        let id = self.0.counts.connections.fetch_add(1, Ordering::SeqCst);
        let mut weather = self.0.weather.subscribe();
        let born = weather.borrow_and_update().generation;
        client.set_nodelay(true).unwrap();
        let Ok((from_server, to_server)) = self.upstream().await else { return };
        let (from_client, to_client) = client.into_split();
        // Message from the client's half to the server's half: drop the next reply, then cut or hang.
        let (swallow, swallowing) = watch::channel(None);
        let cut = async {
            let _ = weather.wait_for(|weather| weather.generation != born).await;
        };
        tokio::select! {
            () = self.upward(id, from_client, to_server, &swallow) => {}
            () = self.downward(id, from_server, to_client, swallowing) => {}
            () = cut => count(&self.0.counts.cut),
        }
    }

    /// Opens a connection to PostgreSQL itself, over the transport that it listens on.
    async fn upstream(&self) -> std::io::Result<(Incoming, Outgoing)> {
        let port = self.0.upstream.get_ports().first().copied().unwrap_or(5432);
        match self.0.upstream.get_hosts().first() {
            Some(Host::Unix(directory)) => {
                let socket = UnixStream::connect(directory.join(format!(".s.PGSQL.{port}"))).await?;
                let (from, to) = socket.into_split();
                Ok((Box::new(from), Box::new(to)))
            }
            Some(Host::Tcp(host)) => {
                let (from, to) = TcpStream::connect((host.as_str(), port)).await?.into_split();
                Ok((Box::new(from), Box::new(to)))
            }
            None => panic!("the database has no address"),
        }
    }

    /// Forwards from the server under test to PostgreSQL, until the connection ends.
    async fn upward(
        &self,
        id: u64,
        from: impl AsyncRead + Unpin,
        to: Outgoing,
        swallow: &watch::Sender<Option<Fault>>,
    ) {
        let (mut from, mut to) = (Reader::new(from), Writer::new(to));
        let mut weather = self.0.weather.subscribe();
        let mut statements = Statements::default();
        let Ok(startup) = from.startup().await else { return };
        self.pass(id, &mut weather).await;
        if to.send(&startup, true).await.is_err() {
            return;
        }
        while let Ok(frame) = from.frame().await {
            self.pass(id, &mut weather).await;
            if frame.is_simple_query("commit") {
                // Frames before it in the same flush are forwarded in any case.
                if to.send(&[], true).await.is_err() {
                    return;
                }
                match self.aim(&statements) {
                    Some(Fault::CutBefore) => return count(&self.0.counts.withheld),
                    Some(Fault::Hold) => {
                        let now = weather.borrow_and_update().released;
                        count(&self.0.counts.held);
                        let _ = weather.wait_for(|weather| weather.released > now).await;
                    }
                    Some(fault) => {
                        swallow.send_replace(Some(fault));
                    }
                    None => {}
                }
                count(&self.0.counts.commits);
            }
            statements.note(&frame);
            if to.send(&frame.bytes, from.is_drained()).await.is_err() {
                return;
            }
        }
    }

    /// Forwards from PostgreSQL to the server under test.
    async fn downward(
        &self,
        id: u64,
        from: Incoming,
        to: impl AsyncWrite + Unpin,
        swallowing: watch::Receiver<Option<Fault>>,
    ) {
        let (mut from, mut to) = (Reader::new(from), Writer::new(to));
        let mut weather = self.0.weather.subscribe();
        while let Ok(frame) = from.frame().await {
            self.pass(id, &mut weather).await;
            let fault = *swallowing.borrow();
            match fault {
                Some(_) if !frame.is_command_complete("COMMIT") => {}
                Some(Fault::HangAfter) => {
                    count(&self.0.counts.swallowed);
                    return std::future::pending().await;
                }
                Some(_) => return count(&self.0.counts.swallowed),
                None if to.send(&frame.bytes, from.is_drained()).await.is_err() => return,
                None => {}
            }
        }
    }

    /// Waits while nothing may pass on this connection.
    async fn pass(&self, id: u64, weather: &mut watch::Receiver<Weather>) {
        let stuck = |weather: &Weather| weather.black_hole || id < weather.frozen_before;
        let now = *weather.borrow_and_update();
        if stuck(&now) {
            count(&self.0.counts.stuck);
            let _ = weather.wait_for(|weather| !stuck(weather)).await;
        }
        if !now.delay.is_zero() {
            tokio::time::sleep(now.delay).await;
        }
    }

    /// Returns the armed fault for the COMMIT of a transaction with these statements.
    fn aim(&self, statements: &Statements) -> Option<Fault> {
        let mut armed = self.0.armed.lock().unwrap();
        let hit = armed.iter().position(|(after, _)| statements.ran(after))?;
        Some(armed.remove(hit).1)
    }
}
