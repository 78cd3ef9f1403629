//! Following by the stream: entries are taken from events, and the log is read only if an event shows that one is
//! missing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reqwest::Url;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::super::xrpc::{Event, Reply, Xrpc};
use super::{Persona, PersonaError};

/// Method of the stream.
const METHOD: &str = "streamConvoEvents";
/// Pause before the next server is tried.
const PAUSE: Duration = Duration::from_millis(20);
/// Maximum number of events that wait for the persona. The connection is read only as fast as it processes them.
const MOST_WAITING: usize = 64;

/// Events of one DID from any server that answers, through every reconnection. It ends with this value.
pub struct Events {
    received: mpsc::Receiver<Result<Event, Box<Reply>>>,
    cut: watch::Sender<u64>,
    connections: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Drop for Events {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Events {
    /// Follows as `who` at these servers in turn, starting with the `turn`-th. Returns when the first stream is open.
    pub async fn follow(who: &Xrpc, servers: Vec<Url>, turn: usize) -> Self {
        let (send, received) = mpsc::channel(MOST_WAITING);
        let (cut, cuts) = watch::channel(0);
        let (open, mut opened) = watch::channel(());
        let connections = Arc::new(AtomicU64::new(0));
        let count = connections.clone();
        let connected = move || {
            count.fetch_add(1, Ordering::SeqCst);
            open.send_replace(());
        };
        let task = tokio::spawn(pump(who.clone(), servers, turn, send, cuts, connected));
        // The task holds the other end while this value lives.
        let _ = opened.changed().await;
        Self { received, cut, connections, task }
    }

    /// Returns the next event, or the refusal of the cursor after which the stream has begun anew: what follows has a gap
    /// before it, and what came before may be lost. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Event, Box<Reply>>> {
        self.received.recv().await
    }

    /// Cuts the connection at any point.
    pub fn cut(&self) {
        self.cut.send_modify(|cuts| *cuts += 1);
    }

    /// Number of connections so far.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Connects, passes events on, and reconnects with the cursor of the last one.
async fn pump(
    who: Xrpc,
    servers: Vec<Url>,
    mut turn: usize,
    send: mpsc::Sender<Result<Event, Box<Reply>>>,
    mut cuts: watch::Receiver<u64>,
    connected: impl Fn(),
) {
    let mut cursor: Option<String> = None;
    let mut refused: Option<Reply> = None;
    loop {
        let server = servers[turn % servers.len()].clone();
        turn += 1;
        let mut stream = match who.at(server).follow(METHOD, &[], cursor.as_deref()).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(reply)) if reply.body["recovery"] == "startAnew" => {
                (cursor, refused) = (None, Some(reply));
                continue;
            }
            _ => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        if stream.skip().await.is_err() {
            continue;
        }
        cursor = stream.last_id.clone().or(cursor);
        connected();
        if let Some(reply) = refused.take()
            && send.send(Err(Box::new(reply))).await.is_err()
        {
            return;
        }
        cuts.mark_unchanged();
        loop {
            let event = tokio::select! {
                event = stream.next() => event,
                _ = cuts.changed() => break,
            };
            let Ok(Some(event)) = event else { break };
            cursor = Some(event.id.clone());
            if send.send(Ok(event)).await.is_err() {
                return;
            }
        }
    }
}

impl Persona {
    /// Processes an event, and returns the new texts of other members: usually of one message, or of several if the log
    /// was read because one was missing. Repeated events change nothing. Being added leads to joining, and being
    /// removed to forgetting.
    pub async fn take_event(&mut self, event: &Event) -> Result<Vec<String>, PersonaError> {
        let reply = event.as_reply(METHOD);
        self.hear(&event.data);
        match event.name.as_str() {
            "messageEvent" => {
                let entry = &event.data["message"];
                let here = self.convo_id.as_deref() == Some(reply.string_in(entry, "convoId")?);
                if !here || reply.number_in(entry, "seq")? <= self.last_seq {
                    return Ok(Vec::new());
                }
                let taken = match reply.number("prevSeq")? {
                    prev if prev == self.last_seq => self.take(&reply, entry).map(Vec::from_iter),
                    _ => {
                        self.gaps += 1;
                        self.catch_up().await
                    }
                };
                match taken {
                    Err(PersonaError::Removed { .. }) => {
                        self.mls.forget(&self.group_id)?;
                        self.convo_id = None;
                        Ok(Vec::new())
                    }
                    taken => taken,
                }
            }
            "welcomeEvent" if self.convo_id.is_none() => {
                self.join(reply.string("convoId")?).await?;
                Ok(Vec::new())
            }
            _ => Ok(Vec::new()),
        }
    }
}
