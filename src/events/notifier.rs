//! Telling the tails of all replicas that there is something to read: soon after a commit, and without any promise.
//!
//! The store notes whom committed transactions concern, and nobody else does. This replica's own tail is woken at once. The others
//! are told by Redis where there is one, else by NOTIFY; behind a pooler, which carries no LISTEN, they find out by themselves. What
//! was noted while the last hint was on its way goes into the next. A hint names conversations and people by hashes and carries
//! nothing to deliver, so that losing one, or sending one for nothing, costs time and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use ulid::Ulid;

use crate::background::{Background, tasks};
use crate::redis::{Listener, Redis};
use crate::store::{self, Affected, ChangeSet, Store, Topic};

use super::event::Typing;
use super::hub::Hub;
use super::metrics::EventMetrics;

/// What Redis is asked for here, as the log says when it does not answer.
const PURPOSE: &str = "telling replicas of new events";
/// Where hints go, in Redis and in PostgreSQL.
const CHANNEL: &str = "catbird:hints";
/// Where typing indicators go, in Redis.
const TYPING_CHANNEL: &str = "catbird:typing";
/// The shortest time between two hints through Redis, and through PostgreSQL, where each is a transaction.
const MIN_REDIS_INTERVAL: Duration = Duration::from_millis(2);
const MIN_NOTIFY_INTERVAL: Duration = Duration::from_millis(20);
/// The pause before the next attempt to listen.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// How replicas tell each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Redis,
    Notify,
    /// Not at all.
    Poll,
}

impl Transport {
    /// As pages and metrics have it.
    pub fn name(self) -> &'static str {
        match self {
            Transport::Redis => "redis",
            Transport::Notify => "notify",
            Transport::Poll => "poll",
        }
    }
}

/// What tells and is told. Cheap to clone.
#[derive(Clone)]
pub struct Notifier {
    transport: Transport,
    listening: Arc<AtomicBool>,
    redis: Option<Redis>,
}

impl Notifier {
    /// Starts telling and listening.
    pub fn start(
        store: &Store,
        hub: &Hub,
        redis: Option<&Redis>,
        database: tokio_postgres::Config,
        pooler: bool,
        metrics: EventMetrics,
        background: &Background,
    ) -> Self {
        let own_id = Ulid::new().to_string();
        let outgoing = ChangeSet::default();
        let listening = Arc::new(AtomicBool::new(false));
        let redis = redis.map(|redis| redis.also_for(PURPOSE));
        let transport = match (&redis, pooler) {
            (Some(_), _) => Transport::Redis,
            (None, false) => Transport::Notify,
            (None, true) => Transport::Poll,
        };
        background.start(
            &tasks::EVENT_RELAY,
            relay(store.clone(), hub.clone(), outgoing.clone(), transport != Transport::Poll),
        );
        match &redis {
            Some(redis) => {
                let listener = redis.listener(vec![CHANNEL.to_owned(), TYPING_CHANNEL.to_owned()], listening.clone());
                background.start(&tasks::EVENT_RECEIVER, receive(listener, hub.clone(), own_id.clone()));
                background.start(&tasks::EVENT_PUBLISHER, publish(redis.clone(), outgoing, own_id, metrics));
            }
            None if !pooler => {
                background.start(
                    &tasks::EVENT_NOTIFIER,
                    notify(database, hub.clone(), outgoing, own_id, metrics, listening.clone()),
                );
            }
            None => {}
        }
        Self { transport, listening, redis }
    }

    /// How replicas tell each other.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Whether this replica is told by others just now. Without, it polls.
    pub fn listening(&self) -> bool {
        self.listening.load(Ordering::Relaxed)
    }

    /// Tells the other replicas that somebody types. Lost without Redis.
    pub fn typing(&self, typing: &Typing, runtime: &Handle) {
        let Some(redis) = self.redis.clone() else { return };
        let text = serde_json::to_string(typing).expect("two texts and a flag are JSON");
        runtime.spawn(async move { redis.publish(TYPING_CHANNEL, text).await });
    }
}

/// Wakes this replica's tail, and gathers what the others have to be told.
async fn relay(store: Store, hub: Hub, outgoing: ChangeSet, others: bool) {
    loop {
        let affected = store.changes().take().await;
        hub.wake(&affected);
        if others {
            outgoing.add(affected);
        }
    }
}

/// Tells the others through Redis.
async fn publish(redis: Redis, outgoing: ChangeSet, own_id: String, metrics: EventMetrics) {
    loop {
        let notification = write(&own_id, &outgoing.take().await);
        let sent = redis.publish(CHANNEL, notification).await;
        metrics.notification(Transport::Redis, sent);
        tokio::time::sleep(MIN_REDIS_INTERVAL).await;
    }
}

/// Hears the others through Redis.
async fn receive(mut listener: Listener, hub: Hub, own_id: String) {
    while let Some((channel, text)) = listener.next().await {
        match channel.as_str() {
            CHANNEL => handle(&text, &own_id, &hub),
            TYPING_CHANNEL => {
                if let Ok(typing) = serde_json::from_str(&text) {
                    hub.queue_typing(typing);
                }
            }
            // It listens anew, and may have missed some.
            _ => hub.wake(&Affected::All),
        }
    }
}

/// Tells and hears the others through PostgreSQL.
async fn notify(
    database: tokio_postgres::Config,
    hub: Hub,
    outgoing: ChangeSet,
    own_id: String,
    metrics: EventMetrics,
    listening: Arc<AtomicBool>,
) {
    loop {
        let Ok(mut channel) = store::listen(&database, CHANNEL).await else {
            tokio::time::sleep(RETRY_DELAY).await;
            continue;
        };
        listening.store(true, Ordering::Relaxed);
        hub.wake(&Affected::All);
        let mut not_before = tokio::time::Instant::now();
        loop {
            tokio::select! {
                next = channel.next() => match next {
                    Some(text) => handle(&text, &own_id, &hub),
                    None => break,
                },
                affected = async { tokio::time::sleep_until(not_before).await; outgoing.take().await } => {
                    let sent = channel.notify(&write(&own_id, &affected)).await;
                    metrics.notification(Transport::Notify, sent);
                    not_before = tokio::time::Instant::now() + MIN_NOTIFY_INTERVAL;
                    if !sent {
                        break;
                    }
                }
            }
        }
        listening.store(false, Ordering::Relaxed);
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

/// A hint as text: who sends it, and whom it concerns.
fn write(own_id: &str, affected: &Affected) -> String {
    match affected {
        Affected::All => format!("{own_id} *"),
        Affected::Topics(topics) => {
            let mut text = String::with_capacity(own_id.len() + topics.len() * 17);
            text.push_str(own_id);
            topics.iter().for_each(|Topic(topic)| text.push_str(&format!(" {topic:016x}")));
            text
        }
    }
}

/// Wakes the tail for a hint of another replica. One that cannot be read may concern anybody.
fn handle(text: &str, own_id: &str, hub: &Hub) {
    let mut words = text.split(' ');
    if words.next() == Some(own_id) {
        return;
    }
    let topics: Option<Vec<Topic>> = words.map(|word| u64::from_str_radix(word, 16).ok().map(Topic)).collect();
    hub.wake(&topics.map_or(Affected::All, Affected::Topics));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MAX_TOPICS;

    #[test]
    fn the_longest_list_of_topics_fits_into_a_notification() {
        let topics = (0..MAX_TOPICS as u64).map(|n| Topic(u64::MAX - n)).collect();
        let longest = write(&Ulid::new().to_string(), &Affected::Topics(topics));
        assert!(longest.len() < 8_000, "PostgreSQL takes less than 8000 bytes, this has {}", longest.len());
    }
}
