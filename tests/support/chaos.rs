//! A proxy between a server and PostgreSQL that does what networks do at the worst moment.
//!
//! It speaks enough of PostgreSQL's protocol (version 3) to know which statements a transaction ran, so that a fault can be
//! aimed at the COMMIT of one kind of transaction: `on_commit("members/leave", …)` meets the next COMMIT that follows that
//! query file on its connection. Whatever it does it counts, because a test of a fault that did not happen proves nothing.

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

/// What happens to a COMMIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// PostgreSQL commits, its reply is swallowed, and the connection is cut.
    LoseReply,
    /// PostgreSQL commits, its reply is swallowed, and nothing ever comes again.
    HangAfter,
    /// PostgreSQL never sees the COMMIT; the connection is cut.
    CutBefore,
    /// PostgreSQL does not see the COMMIT until [`Chaos::let_go`].
    Hold,
}

type Incoming = Box<dyn AsyncRead + Send + Unpin>;
type Outgoing = Box<dyn AsyncWrite + Send + Unpin>;

/// The proxy. Ends with the runtime that started it.
#[derive(Clone)]
pub struct Chaos(Arc<Inner>);

struct Inner {
    address: SocketAddr,
    upstream: Config,
    /// Faults that wait for their COMMIT, by the statement that has to precede it.
    armed: Mutex<Vec<(&'static str, Fault)>>,
    /// The present weather; connections watch it.
    weather: watch::Sender<Weather>,
    counts: Counts,
}

#[derive(Debug, Clone, Copy, Default)]
struct Weather {
    /// Nothing passes, and nobody is told.
    black_hole: bool,
    /// Nothing passes on connections before this one.
    frozen_before: u64,
    /// Each frame takes this long.
    delay: Duration,
    /// Connections made before this generation are cut.
    generation: u64,
    /// Held COMMITs of earlier generations go on.
    released: u64,
}

/// What has really happened.
#[derive(Debug, Default)]
pub struct Counts {
    pub connections: AtomicU64,
    /// COMMITs that PostgreSQL was sent.
    pub commits: AtomicU64,
    /// Successful replies to COMMIT that were swallowed.
    pub swallowed: AtomicU64,
    /// COMMITs that PostgreSQL never saw.
    pub withheld: AtomicU64,
    /// COMMITs that were held, so far.
    pub held: AtomicU64,
    /// Connections that were cut by [`Chaos::cut_all`].
    pub cut: AtomicU64,
    /// Frames that met a black hole.
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
    /// A proxy in front of this database.
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

    /// The database through the proxy.
    pub fn url(&self) -> String {
        let Inner { address, upstream, .. } = &*self.0;
        let (user, database) = (upstream.get_user().unwrap_or_default(), upstream.get_dbname().unwrap_or_default());
        let password = upstream.get_password().map(|password| format!(":{}", String::from_utf8_lossy(password)));
        format!("postgresql://{user}{}@{address}/{database}", password.unwrap_or_default())
    }

    pub fn counts(&self) -> &Counts {
        &self.0.counts
    }

    /// Does this to the next COMMIT of a transaction that ran the query file `after`. Each call is good for one COMMIT.
    pub fn on_commit(&self, after: &'static str, fault: Fault) {
        self.0.armed.lock().unwrap().push((after, fault));
    }

    /// Lets COMMITs that are held go on to PostgreSQL.
    pub fn let_go(&self) {
        self.0.weather.send_modify(|weather| weather.released += 1);
    }

    /// Cuts every connection that is open now.
    pub fn cut_all(&self) {
        self.0.weather.send_modify(|weather| weather.generation += 1);
    }

    /// From now on nothing passes, or everything again.
    pub fn black_hole(&self, on: bool) {
        self.0.weather.send_modify(|weather| weather.black_hole = on);
    }

    /// From now on nothing passes on the connections that are open now; new ones work. They look alive and never answer.
    pub fn freeze_all(&self) {
        let next = Counts::get(&self.0.counts.connections);
        self.0.weather.send_modify(|weather| weather.frozen_before = next);
    }

    /// Each frame in either direction takes this long from now on.
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
        // What the client's half tells the server's half: swallow the reply that comes next, and then cut or hang.
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

    /// A connection to PostgreSQL itself, over whatever it listens on.
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

    /// From the server under test to PostgreSQL. Returns when the connection is over.
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
                // What stands in front of it in the same flush has arrived, whatever becomes of it.
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

    /// From PostgreSQL to the server under test.
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

    /// Waits while nothing passes on this connection.
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

    /// The fault for the COMMIT of a transaction that ran these statements, if one is armed.
    fn aim(&self, statements: &Statements) -> Option<Fault> {
        let mut armed = self.0.armed.lock().unwrap();
        let hit = armed.iter().position(|(after, _)| statements.ran(after))?;
        Some(armed.remove(hit).1)
    }
}
