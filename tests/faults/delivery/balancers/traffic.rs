//! Members that send, commit and read through a balancer without pause. No request is repeated, so each one that a client would have
//! to repeat counts as failed.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use catbird_client::persona::{Persona, unique};
use catbird_client::xrpc::{Reply, Xrpc, XrpcError, base64_text, bytes_value};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Pause between two requests of a client.
const PAUSE: Duration = Duration::from_millis(10);
/// Every how manyeth message is large, and its bytes: more than the buffer of a balancer.
const LARGE: (usize, usize) = (20, 200_000);

/// Records of all clients.
#[derive(Debug, Default)]
pub struct Book {
    /// Start and duration of each request.
    pub requests: Vec<(Instant, Duration)>,
    /// Requests that were not answered with 200.
    pub failed: Vec<String>,
    /// Positions of the accepted entries.
    pub seqs: Vec<u64>,
}

impl Book {
    /// Returns the 99th percentile of the requests that began in a period, in milliseconds.
    pub fn p99(&self, from: Instant, to: Instant) -> f64 {
        let within = self.requests.iter().filter(|(at, _)| (from..to).contains(at));
        let mut all: Vec<Duration> = within.map(|(_, took)| *took).collect();
        all.sort_unstable();
        all.get((all.len() * 99).div_ceil(100).saturating_sub(1)).map_or(0.0, |took| took.as_secs_f64() * 1_000.0)
    }
}

/// A running load.
pub struct Traffic {
    stop: watch::Sender<bool>,
    clients: JoinSet<()>,
    book: Arc<Mutex<Book>>,
}

/// One client.
#[derive(Clone)]
struct Client {
    xrpc: Xrpc,
    convo: String,
    book: Arc<Mutex<Book>>,
    stopping: watch::Receiver<bool>,
}

impl Traffic {
    /// The first member commits, and the others send and read.
    pub fn start(members: Vec<Persona>) -> Self {
        let (stop, stopping) = watch::channel(false);
        let (mut clients, book) = (JoinSet::new(), Arc::new(Mutex::new(Book::default())));
        for (n, member) in members.into_iter().enumerate() {
            let (xrpc, convo) = (member.xrpc.clone(), member.convo().unwrap().to_owned());
            let client = Client { xrpc, convo, book: book.clone(), stopping: stopping.clone() };
            match n {
                0 => clients.spawn(client.commit(member)),
                _ => clients.spawn(client.send_and_read(member.epoch().unwrap())),
            };
        }
        Self { stop, clients, book }
    }

    /// Waits for the last reply of each client, and returns the records.
    pub async fn stop(mut self) -> Book {
        self.stop.send_replace(true);
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
        std::mem::take(&mut *self.book.lock().unwrap())
    }
}

impl Client {
    async fn send_and_read(self, epoch: u64) {
        for n in 1.. {
            if self.is_stopping().await {
                return;
            }
            let bytes = if n % LARGE.0 == 0 { LARGE.1 } else { 100 };
            let ciphertext = bytes_value(&vec![b'x'; bytes]);
            let body = json!({
                "convoId": self.convo, "ciphertext": ciphertext, "epoch": epoch, "idempotencyKey": unique(),
            });
            let begin = Instant::now();
            self.note(begin, self.xrpc.procedure("sendMessage", &body).await);
            if n % 3 == 0 {
                let begin = Instant::now();
                let page = [("convoId", self.convo.clone()), ("limit", "5".to_owned())];
                self.note(begin, self.xrpc.query("getMessages", &page).await);
            }
        }
    }

    async fn commit(self, mut member: Persona) {
        while !self.is_stopping().await {
            let staged = member.mls.self_update(&member.group_id).unwrap();
            let body = json!({
                "convoId": self.convo, "commit": base64_text(&staged.commit), "idempotencyKey": unique(),
            });
            let begin = Instant::now();
            match self.note(begin, self.xrpc.procedure("submitCommit", &body).await) {
                true => drop(member.mls.merge_pending(&member.group_id).unwrap()),
                false => return,
            }
        }
    }

    async fn is_stopping(&self) -> bool {
        tokio::time::sleep(PAUSE).await;
        *self.stopping.borrow()
    }

    /// Records a request. Returns true if it succeeded.
    fn note(&self, begin: Instant, reply: Result<Reply, XrpcError>) -> bool {
        let mut book = self.book.lock().unwrap();
        book.requests.push((begin, begin.elapsed()));
        match reply {
            Ok(reply) if reply.is_ok() => book.seqs.extend(reply.body["seq"].as_u64()),
            Ok(reply) => book.failed.push(reply.to_string()),
            Err(error) => book.failed.push(error.to_string()),
        }
        book.failed.is_empty()
    }
}
