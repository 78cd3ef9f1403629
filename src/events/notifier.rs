//! Notifications that make the tails of all replicas read soon after a commit. They may be lost: a pass follows within
//! a second anyway.
//!
//! The store notes the topics of committed transactions. The tail of this replica is woken at once. The other replicas
//! are notified through Redis if there is one, else by NOTIFY. Behind a pooler, which carries no LISTEN, they only
//! poll. Topics that are noted while a notification is being sent go into the next one. A notification names
//! conversations and people by hashes, and carries no content.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;
use ulid::Ulid;

use crate::background::{Background, tasks};
use crate::redis::{Listener, Redis};
use crate::store::{self, Affected, ChangeSet, Store, Topic};

use super::event::Typing;
use super::hub::Hub;
use super::metrics::EventMetrics;

/// Purpose of Redis here, for the log.
const PURPOSE: &str = "telling replicas of new events";
/// Channel of notifications, in Redis and in PostgreSQL.
const CHANNEL: &str = "catbird:hints";
/// Channel of typing indicators, in Redis.
const TYPING_CHANNEL: &str = "catbird:typing";
/// Shortest time between two notifications of a replica through Redis, and of all replicas together through PostgreSQL.
const MIN_INTERVAL: Duration = Duration::from_millis(2);
/// Longest pause of a replica after a notification through PostgreSQL.
const MAX_NOTIFY_PAUSE: Duration = Duration::from_millis(20);
/// A notification through PostgreSQL is followed by a pause of this many times its duration: it is a transaction, and takes longer where
/// PostgreSQL has much to do.
const PAUSE_FACTOR: u32 = 10;
/// Pause before the next attempt to listen.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Transport of notifications.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Redis,
    Notify,
    /// None: replicas only poll.
    Poll,
}

impl Transport {
    /// Name on the pages of operators and in the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Transport::Redis => "redis",
            Transport::Notify => "notify",
            Transport::Poll => "poll",
        }
    }
}

/// Publisher and receiver of notifications. Cheap to clone.
#[derive(Clone)]
pub struct Notifier {
    transport: Transport,
    listening: Arc<AtomicBool>,
    redis: Option<Redis>,
}

impl Notifier {
    /// Starts to publish and to receive.
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

    /// Transport of notifications.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Returns whether notifications of other replicas arrive just now. If not, the tail only polls.
    pub fn listening(&self) -> bool {
        self.listening.load(Ordering::Relaxed)
    }

    /// Publishes a typing indicator to the other replicas. Without Redis it is lost.
    pub fn typing(&self, typing: &Typing, runtime: &Handle) {
        let Some(redis) = self.redis.clone() else { return };
        let text = serde_json::to_string(typing).expect("two texts and a flag are JSON");
        runtime.spawn(async move { redis.publish(TYPING_CHANNEL, text).await });
    }
}

/// Wakes the tail of this replica, and gathers topics for the others.
async fn relay(store: Store, hub: Hub, outgoing: ChangeSet, others: bool) {
    loop {
        let affected = store.changes().take().await;
        hub.wake(&affected);
        if others {
            outgoing.add(affected);
        }
    }
}

/// Publishes through Redis.
async fn publish(redis: Redis, outgoing: ChangeSet, own_id: String, metrics: EventMetrics) {
    loop {
        let notification = write(&own_id, &outgoing.take().await);
        let sent = redis.publish(CHANNEL, notification).await;
        metrics.notification(Transport::Redis, sent);
        tokio::time::sleep(MIN_INTERVAL).await;
    }
}

/// Receives through Redis.
async fn receive(mut listener: Listener, hub: Hub, own_id: String) {
    while let Some((channel, text)) = listener.next().await {
        match channel.as_str() {
            CHANNEL => handle(&text, &own_id, &hub),
            TYPING_CHANNEL => {
                if let Ok(typing) = serde_json::from_str(&text) {
                    hub.queue_typing(typing);
                }
            }
            // The connection was lost, and notifications with it.
            _ => hub.wake(&Affected::All),
        }
    }
}

/// Publishes and receives through PostgreSQL.
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
        let mut not_before = Instant::now();
        // Notifications that were received since the last one was sent; this one is among them.
        let mut received = 0;
        loop {
            tokio::select! {
                next = channel.next() => match next {
                    Some(text) => {
                        received += 1;
                        handle(&text, &own_id, &hub);
                    }
                    None => break,
                },
                affected = async { tokio::time::sleep_until(not_before).await; outgoing.take().await } => {
                    let begun = Instant::now();
                    let sent = channel.notify(&write(&own_id, &affected)).await;
                    metrics.notification(Transport::Notify, sent);
                    not_before = Instant::now() + pause(begun.elapsed(), std::mem::take(&mut received));
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

/// Returns the time for which a replica sends nothing after a notification through PostgreSQL that took this time, and before which it received
/// this many since its last one. So all replicas together send one in [`MIN_INTERVAL`], as long as they are few.
fn pause(took: Duration, received: u32) -> Duration {
    (took * PAUSE_FACTOR).max(MIN_INTERVAL * received).clamp(MIN_INTERVAL, MAX_NOTIFY_PAUSE)
}

/// Returns the text of a notification: the sender and the topics.
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

/// Wakes the tail for a notification of another replica. An unreadable one may concern any topic.
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
    fn replicas_pause_for_longer_the_more_of_them_notify_and_the_longer_postgres_takes() {
        let (quick, ms) = (Duration::from_micros(150), Duration::from_millis);
        assert_eq!([0, 1, 2, 4, 1_000].map(|received| pause(quick, received)), [ms(2), ms(2), ms(4), ms(8), ms(20)]);
        assert_eq!([0, 1, 5].map(|took| pause(ms(took), 0)), [ms(2), ms(10), ms(20)]);
    }

    #[test]
    fn the_longest_list_of_topics_fits_into_a_notification() {
        let topics = (0..MAX_TOPICS as u64).map(|n| Topic(u64::MAX - n)).collect();
        let longest = write(&Ulid::new().to_string(), &Affected::Topics(topics));
        assert!(longest.len() < 8_000, "PostgreSQL takes less than 8000 bytes, this has {}", longest.len());
    }
}
