//! The process's connection to Redis, with its time limit, log lines and metrics.
//!
//! Redis makes things faster and decides nothing. A call to it is short or fails, no request waits for it to reconnect,
//! and every user continues without it.

mod metrics;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fred::clients::{Client, WithOptions};
use fred::error::ErrorKind;
use fred::interfaces::{ClientLike, EventInterface, PubsubInterface};
use fred::types::config::{Config, Options, ReconnectPolicy, Server};
use fred::types::{Builder, CustomCommand, FromValue, Message};
use tokio::sync::broadcast::{self, error::RecvError};

use crate::net::tls;

pub use fred::error::Error;
pub use metrics::RedisMetrics;

/// Maximum time of a call to Redis.
const TIMEOUT: Duration = Duration::from_millis(50);

/// Delay before reconnecting, in milliseconds: the first one, and the maximum.
const RECONNECT_MS: (u32, u32) = (100, 5_000);

/// Time in which [`inspect`] connects and asks.
const INSPECTION_TIME: Duration = Duration::from_secs(3);

/// State of a Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// True if it follows another Redis, and only reads.
    pub is_replica: bool,
    /// Limit on its memory, in bytes; 0 is none.
    pub max_memory: u64,
    /// What it evicts at that limit, as `maxmemory-policy`.
    pub policy: String,
    /// True if it writes to disk; `None` if it does not tell.
    pub persists: Option<bool>,
}

/// Asks a Redis for its state, once, on a connection of its own. Fails if it does not answer.
pub async fn inspect(url: &str) -> Result<Inspection, Error> {
    tls::install();
    let client = Builder::from_config(Config::from_url(url)?).build()?;
    let asking = async {
        let _connection = client.init().await?;
        let info: String = ask(&client, "INFO", vec![]).await?;
        // A provider of Redis may forbid this.
        let save: Option<Vec<String>> = ask(&client, "CONFIG", vec!["GET", "save"]).await.ok();
        Ok((info, save))
    };
    let asked = tokio::time::timeout(INSPECTION_TIME, asking).await;
    let (info, save) = asked.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::Timeout, format!("no answer within {} s", INSPECTION_TIME.as_secs())))
    })?;
    // The connection ends with the client; nothing waits for its farewell.
    let _ = client.quit().await;
    let value =
        |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default();
    let appends = value("aof_enabled") == "1";
    let saves = save.map(|save| save.get(1).is_some_and(|times| !times.is_empty()));
    Ok(Inspection {
        is_replica: value("role") == "slave",
        max_memory: value("maxmemory").parse().unwrap_or(0),
        policy: value("maxmemory_policy").to_owned(),
        persists: if appends { Some(true) } else { saves },
    })
}

async fn ask<T: FromValue>(client: &Client, command: &'static str, arguments: Vec<&str>) -> Result<T, Error> {
    client.custom(CustomCommand::new_static(command, None, false), arguments).await
}

/// Redis for one purpose. Cheap to clone; clones share the connection and its state.
#[derive(Clone)]
pub struct Redis {
    client: Client,
    metrics: RedisMetrics,
    /// Feature that is degraded without Redis, for the log.
    purpose: &'static str,
    /// True if Redis answered its last call for this purpose.
    answers: Arc<AtomicBool>,
}

impl Redis {
    /// Connects in the background, now and whenever the connection is lost; a Redis that is not up yet is not an error.
    /// Fails if the URL is invalid.
    pub fn connect(url: &str, purpose: &'static str, metrics: RedisMetrics) -> Result<Self, Error> {
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

    /// Returns the same connection for another purpose. Each purpose logs on its own, because Redis may accept one
    /// command and refuse another.
    pub fn also_for(&self, purpose: &'static str) -> Self {
        Self { purpose, answers: Arc::new(AtomicBool::new(true)), ..self.clone() }
    }

    /// Returns the client with a time limit, which fails at once while the connection is down.
    pub fn with_timeout(&self) -> WithOptions<Client> {
        self.client.with_options(&Options {
            timeout: Some(TIMEOUT),
            fail_fast: true,
            max_attempts: Some(1),
            ..Options::default()
        })
    }

    /// Publishes a text and returns whether Redis accepted it, within the time limit.
    pub async fn publish(&self, channel: &'static str, text: String) -> bool {
        let sent: Result<(), Error> = self.with_timeout().publish(channel, text).await;
        self.note(sent.as_ref().err());
        sent.is_ok()
    }

    /// Opens a second connection, since a subscribed one cannot do anything else. `listening` is true while it is
    /// subscribed.
    pub fn listener(&self, channels: Vec<String>, listening: Arc<AtomicBool>) -> Listener {
        let client = self.client.clone_new();
        let (texts, connections, failures) = (client.message_rx(), client.reconnect_rx(), client.error_rx());
        client.connect();
        Listener { client, channels, listening, texts, connections, failures }
    }

    /// Records the outcome of a call, and logs when Redis stops answering and when it answers again.
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

/// Subscription to channels.
pub struct Listener {
    client: Client,
    channels: Vec<String>,
    listening: Arc<AtomicBool>,
    texts: broadcast::Receiver<Message>,
    connections: broadcast::Receiver<Server>,
    failures: broadcast::Receiver<(Error, Option<Server>)>,
}

impl Listener {
    /// Returns the next text and its channel. The channel is empty if texts may have been missed: after a new
    /// subscription, or if they arrived too fast. `None`: the process is ending.
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
                    // The server drops subscriptions when the connection ends.
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

/// The client itself, for the health check.
impl std::ops::Deref for Redis {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}
