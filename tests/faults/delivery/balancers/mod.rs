//! P5 and P10 behind the load balancers of ops/, HAProxy and nginx: replicas restart one by one under load and no request fails, a
//! drained replica gets nothing, slow clients hold up no other, and a stream that is cut resumes from its cursor.

mod haproxy;
mod nginx;
mod slow_clients;
mod traffic;

use catbird_client::persona::Persona;
use catbird_client::xrpc::{Frame, Socket, Xrpc};
use catbird_testkit::cluster::{TestDatabase, database};
use catbird_testkit::fleet::{Fleet, Mode, Replica};
use catbird_testkit::port::Port;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::checker::Checker;
use super::*;
use traffic::Traffic;

/// Time in which requests are measured before the first restart.
const BEFORE: Duration = Duration::from_secs(2);
const MODES: [Mode; 3] = [Mode::Advisory, Mode::Actors, Mode::Advisory];
/// A restart of each replica in its mode.
const RESTARTS: [(usize, Mode); 3] = [(0, MODES[0]), (1, MODES[1]), (2, MODES[2])];

/// Three replicas that keep their addresses when they are replaced.
struct Stage {
    database: TestDatabase,
    fleet: Fleet,
    ports: [Port; 3],
    modes: [Mode; 3],
}

impl Stage {
    async fn start() -> Self {
        Self::with(MODES).await
    }

    /// Starts replicas with these serializers.
    async fn with(modes: [Mode; 3]) -> Self {
        let database = database().await;
        let fleet = Fleet::start(&[], &database.config, &database.url).await;
        let ports = modes.map(|_| Port::reserve());
        let mut stage = Self { database, fleet, ports, modes };
        for n in 0..modes.len() {
            let replica = stage.replica(n).await;
            stage.fleet.replicas.push(replica);
        }
        stage
    }

    /// Starts the `n`-th replica, with the drain delay that servers have by default.
    async fn replica(&self, n: usize) -> Replica {
        let settings = [
            ("SERVER_PORT", &*self.ports[n].to_string()),
            ("DRAIN_DELAY_SECONDS", "3"),
            ("MESSAGE_EPOCH_WINDOW", "1000"),
        ];
        Replica::start(self.modes[n], &self.database.url, &settings).await
    }

    /// Stops the `n`-th replica in good order, and starts another one in its place.
    async fn restart(&mut self, n: usize) {
        let old = self.fleet.replicas.remove(n);
        assert_eq!(old.terminate().await, Some(0));
        let replica = self.replica(n).await;
        self.fleet.replicas.insert(n, replica);
    }

    fn bases(&self) -> [&str; 3] {
        [0, 1, 2].map(|n| &*self.fleet.replicas[n].base)
    }

    /// Creates a conversation of four whose members call through the balancer.
    async fn members(&self, balancer: &str) -> Vec<Persona> {
        let mut members = self.fleet.conversation(4).await;
        for member in &mut members {
            member.xrpc = member.xrpc.at(balancer.parse().unwrap());
        }
        members
    }

    /// Waits until this many more entries are in the log.
    async fn progress(&self, db: &tokio_postgres::Client, convo: &str, more: u64) {
        let before = newest(db, convo).await;
        until("some traffic", async || newest(db, convo).await >= before + more).await;
    }
}

/// Follows as each member through the balancer, and waits until all streams are live.
async fn follow(members: &[Persona], balancer: &str) -> Vec<Checker> {
    let (_fixed, server) = watch::channel(vec![balancer.to_owned()]);
    let checkers: Vec<Checker> = members.iter().map(|member| Checker::start(&member.xrpc, server.clone())).collect();
    for checker in &checkers {
        checker.until("the stream", |seen| seen.live).await;
    }
    checkers
}

/// Position of the newest entry.
async fn newest(db: &tokio_postgres::Client, convo: &str) -> u64 {
    let row = db.query_one("select last_seq from conversations where id = $1", &[&convo]).await.unwrap();
    row.get::<_, i64>(0).cast_unsigned()
}

/// Restarts replicas under load, each with its new serializer. `take_out` is called with a replica that is to be stopped, and without one
/// when it is back. Prints what was sent, and panics if a request failed or an event was lost.
async fn rolling_restart(
    balancer: &str,
    stage: &mut Stage,
    base: &str,
    connections: impl Fn(&Xrpc) -> Xrpc,
    take_out: impl AsyncFn(Option<usize>),
    restarts: &[(usize, Mode)],
) {
    let db = stage.database.connect().await;
    let mut members = stage.members(base).await;
    members.iter_mut().for_each(|member| member.xrpc = connections(&member.xrpc));
    let convo = members[0].convo().unwrap().to_owned();
    let checkers = follow(&members, base).await;
    let begin = newest(&db, &convo).await + 1;
    let traffic = Traffic::start(members);
    stage.progress(&db, &convo, 30).await;
    let before = Instant::now();
    tokio::time::sleep(BEFORE).await;
    let during = Instant::now();
    for (n, mode) in restarts.iter().copied() {
        take_out(Some(n)).await;
        stage.modes[n] = mode;
        stage.restart(n).await;
        take_out(None).await;
        stage.progress(&db, &convo, 30).await;
    }
    let after = Instant::now();
    let book = traffic.stop().await;
    let end = newest(&db, &convo).await;
    let (mut streams, mut refused, mut lost) = (0, 0, 0);
    for checker in &checkers {
        checker.within(PATIENCE, |seen| seen.has(&convo, end)).await;
        let seen = checker.seen();
        lost += (begin..=end).filter(|seq| !seen.has(&convo, *seq)).count();
        (streams, refused) = (streams + seen.connections, refused + seen.refused);
    }
    println!(
        "rolling restart behind {balancer}: {} requests sent, {} failed; {} streams opened, {refused} refused; {} events, {lost} lost; \
         p99 {:.0} ms before, {:.0} ms during {:.0} s",
        book.requests.len(),
        book.failed.len(),
        streams,
        (end + 1 - begin) as usize * checkers.len(),
        book.p99(before, during),
        book.p99(during, after),
        (after - during).as_secs_f64(),
    );
    assert_eq!((&*book.failed, refused, lost), (&[][..], 0, 0));
    for checker in &checkers {
        checker.seen().is_exactly(&convo, begin..=end);
    }
    assert!(book.seqs.iter().all(|seq| (begin..=end).contains(seq)), "an accepted entry is not in the log");
    assert!(streams > checkers.len() as u64, "no stream was ended by a restart");
    stage.fleet.check().await;
}

/// Opens a WebSocket through the balancer, with a new ticket.
async fn open_socket(who: &Xrpc, cursor: Option<&str>) -> Socket {
    let reply = who.procedure("getSubscriptionTicket", &json!({})).await.unwrap();
    let mut parameters = vec![("ticket", reply.string("ticket").unwrap().to_owned())];
    parameters.extend(cursor.map(|cursor| ("cursor", cursor.to_owned())));
    who.subscribe("subscribeConvoEvents", &parameters).await.unwrap().unwrap_or_else(|reply| panic!("{reply}"))
}

/// Reads entries after `seq`, of which none may be missing, up to `end` or to the end of the connection. Returns the last one and its
/// cursor.
async fn read(mut socket: Socket, mut seq: u64, end: u64) -> (u64, String) {
    let mut cursor = String::new();
    while seq < end {
        let Ok(Some(Frame::Event(name, data))) = tokio::time::timeout(PATIENCE, socket.next()).await.expect("an event")
        else {
            break;
        };
        if name == "#messageEvent" {
            let next = data["message"]["seq"].as_u64().unwrap();
            assert!(next <= seq + 1, "entries are missing between {seq} and {next}");
            seq = seq.max(next);
        }
        data["cursor"].as_str().unwrap_or_default().clone_into(&mut cursor);
    }
    assert!(end == u64::MAX || seq == end, "the socket ended at {seq}, before {end}");
    (seq, cursor)
}

/// Headers of a WebSocket's handshake, which HAProxy needs to recognise it.
const UPGRADE: &str =
    "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Sends the beginning of a request and returns the status of the reply, which may come before the end of the connection.
async fn first_status(base: &str, head: &str, headers: &str) -> u16 {
    let mut socket = TcpStream::connect(base.trim_start_matches("http://")).await.unwrap();
    let request = format!("{head} HTTP/1.1\r\nHost: mls.test\r\n{headers}");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut line = [0; 12];
    tokio::time::timeout(PATIENCE, socket.read_exact(&mut line)).await.expect("a reply").unwrap();
    std::str::from_utf8(&line[9..]).unwrap().parse().unwrap()
}

/// Sends a request without a body and returns status and body of the reply.
async fn reply(base: &str, head: &str, headers: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(base.trim_start_matches("http://")).await.unwrap();
    let request = format!("{head} HTTP/1.1\r\nHost: mls.test\r\nConnection: close, Upgrade\r\n{headers}\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut bytes)).await.expect("a reply");
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no reply: {text}")), text)
}
