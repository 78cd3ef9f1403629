//! The process's one connection to Redis, the patience with it, and the notes about it in log and metrics.
//!
//! Redis makes things faster and decides nothing. So a call to it is short or fails, nobody waits for a connection to come
//! back, and every user goes on without it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fred::clients::{Client, WithOptions};
use fred::interfaces::{ClientLike, EventInterface, PubsubInterface};
use fred::types::config::{Config, Options, ReconnectPolicy, Server};
use fred::types::{Builder, Message};
use tokio::sync::broadcast::{self, error::RecvError};

use crate::metrics::Metrics;
use crate::net::tls;

pub use fred::error::Error;

/// How long Redis may take to answer before it is left out.
const TIMEOUT: Duration = Duration::from_millis(50);

/// How long to wait before connecting to Redis again, in milliseconds: the first time, and at most.
const RECONNECT_MS: (u32, u32) = (100, 5_000);

/// Redis for one use. Cheap to clone; clones share the connection and the notes.
#[derive(Clone)]
pub struct Redis {
    client: Client,
    metrics: Metrics,
    /// What suffers without it, as the log says.
    purpose: &'static str,
    /// Whether it answered when it was last asked for this purpose.
    answers: Arc<AtomicBool>,
}

impl Redis {
    /// Connects in the background, now and whenever the connection is lost; a Redis that is not there yet is no failure. Fails if
    /// the URL is none.
    pub fn connect(url: &str, purpose: &'static str, metrics: Metrics) -> Result<Self, Error> {
        tls::install();
        let config = Config { fail_fast: false, ..Config::from_url(url)? };
        let (first, most) = RECONNECT_MS;
        let forever = 0;
        let client = Builder::from_config(config)
            .set_policy(ReconnectPolicy::new_exponential(forever, first, most, 2))
            .build()?;
        client.connect();
        Ok(Self { client, metrics, purpose, answers: Arc::new(AtomicBool::new(true)) })
    }

    /// The same connection for another purpose. Each notes for itself, because Redis may answer one command and refuse another.
    pub fn also_for(&self, purpose: &'static str) -> Self {
        Self { purpose, answers: Arc::new(AtomicBool::new(true)), ..self.clone() }
    }

    /// The client with a time limit, which refuses at once while the connection is down.
    pub fn hasty(&self) -> WithOptions<Client> {
        self.client.with_options(&Options {
            timeout: Some(TIMEOUT),
            fail_fast: true,
            max_attempts: Some(1),
            ..Options::default()
        })
    }

    /// Publishes a text; says whether Redis took it. Never waits for long.
    pub async fn publish(&self, channel: &'static str, text: String) -> bool {
        let sent: Result<(), Error> = self.hasty().publish(channel, text).await;
        self.note(sent.as_ref().err());
        sent.is_ok()
    }

    /// A second connection, since one that listens cannot do anything else. `listening` says whether it does just now.
    pub fn listener(&self, channels: Vec<String>, listening: Arc<AtomicBool>) -> Listener {
        let client = self.client.clone_new();
        let (texts, connections, failures) = (client.message_rx(), client.reconnect_rx(), client.error_rx());
        client.connect();
        Listener { client, channels, listening, texts, connections, failures }
    }

    /// Takes note of how a call ended, and says when Redis stops answering and when it answers again.
    pub fn note(&self, failure: Option<&Error>) {
        self.metrics.redis_answers(failure.is_none());
        if self.answers.swap(failure.is_none(), Ordering::Relaxed) == failure.is_none() {
            return;
        }
        match failure {
            Some(cause) => tracing::warn!(%cause, purpose = self.purpose, "Redis does not answer; it is left out"),
            None => tracing::warn!(purpose = self.purpose, "Redis answers again"),
        }
    }
}

/// What others publish.
pub struct Listener {
    client: Client,
    channels: Vec<String>,
    listening: Arc<AtomicBool>,
    texts: broadcast::Receiver<Message>,
    connections: broadcast::Receiver<Server>,
    failures: broadcast::Receiver<(Error, Option<Server>)>,
}

impl Listener {
    /// The next text and its channel. The channel is empty when texts may have been missed: listening has begun anew, or they came
    /// too fast. `None`: the process ends.
    pub async fn next(&mut self) -> Option<(String, String)> {
        let missed = || Some((String::new(), String::new()));
        loop {
            tokio::select! {
                text = self.texts.recv() => match text {
                    Ok(text) => return Some((text.channel.to_string(), text.value.as_string().unwrap_or_default())),
                    Err(RecvError::Lagged(_)) => return missed(),
                    Err(RecvError::Closed) => return None,
                },
                connected = self.connections.recv() => {
                    if matches!(connected, Err(RecvError::Closed)) {
                        return None;
                    }
                    // The server forgets who listened when the connection ends.
                    let listens = self.client.subscribe(self.channels.clone()).await.is_ok();
                    self.listening.store(listens, Ordering::Relaxed);
                    return missed();
                }
                failed = self.failures.recv() => {
                    if matches!(failed, Err(RecvError::Closed)) {
                        return None;
                    }
                    self.listening.store(false, Ordering::Relaxed);
                }
            }
        }
    }
}

/// The connection itself, for those who watch it.
impl std::ops::Deref for Redis {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}
