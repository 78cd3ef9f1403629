mod get_subscription_ticket;
mod send_typing_indicator;
mod stream_convo_events;
mod subscribe_convo_events;

use std::time::Duration;

use catbird_client::persona::Persona;
use catbird_client::xrpc::{Event, EventStream, Reply};
use catbird_testkit::lexicon::validate_event;
use serde_json::Value;

/// Maximum time until an expected event arrives.
const PATIENCE: Duration = Duration::from_secs(20);
const NSID: &str = "blue.catbird.mls.streamConvoEvents";

/// A stream under test: every event is validated, and expected events must arrive.
pub struct Follower {
    pub stream: EventStream,
    /// Events of this type are skipped: they arrive whenever a member is added with a key package.
    pub but: &'static str,
}

/// Opens a stream, or returns the refusal.
pub async fn try_follow(
    who: &Persona,
    parameters: &[(&str, &str)],
    last_event_id: Option<&str>,
) -> Result<Follower, Reply> {
    let parameters: Vec<_> = parameters.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    let stream = who.xrpc.follow("streamConvoEvents", &parameters, last_event_id).await.unwrap()?;
    Ok(Follower { stream, but: "keyPackagesLowEvent" })
}

/// Opens a stream of all conversations.
pub async fn follow(who: &Persona) -> Follower {
    try_follow(who, &[], None).await.unwrap()
}

/// Opens a stream of all conversations from a cursor.
pub async fn resume(who: &Persona, cursor: &str) -> Follower {
    try_follow(who, &[("cursor", cursor)], None).await.unwrap()
}

impl Follower {
    /// Returns the next event.
    pub async fn next(&mut self) -> Event {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.stream.next()).await.expect("no event came");
            let event = next.unwrap().expect("the stream ended");
            check(&event);
            if event.name != self.but {
                return event;
            }
        }
    }

    /// Returns the position of the stream before any event.
    pub async fn next_id(&mut self) -> String {
        while self.stream.last_id.is_none() {
            tokio::time::timeout(PATIENCE, self.stream.skip()).await.expect("no sign of life").unwrap();
        }
        self.stream.last_id.clone().unwrap()
    }

    /// Reads to the end of the stream, and returns the events.
    pub async fn rest(&mut self) -> Vec<Event> {
        let mut rest = Vec::new();
        while let Some(event) =
            tokio::time::timeout(PATIENCE, self.stream.next()).await.expect("the stream did not end").unwrap()
        {
            check(&event);
            rest.push(event);
        }
        rest
    }

    /// Returns the next event, which must have this type.
    pub async fn expect(&mut self, name: &str) -> Value {
        let event = self.next().await;
        assert_eq!(event.name, name, "{}", event.data);
        event.data
    }

    /// Returns all events up to and including this one.
    pub async fn until(&mut self, mut is_last: impl FnMut(&Event) -> bool) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let event = self.next().await;
            let last = is_last(&event);
            events.push(event);
            if last {
                return events;
            }
        }
    }

    /// Returns the seqs of the next entries, up to this one.
    pub async fn seqs_until(&mut self, last: u64) -> Vec<u64> {
        self.until(|event| seq(event) == Some(last)).await.iter().filter_map(seq).collect()
    }
}

/// Returns the seq of an entry.
pub fn seq(event: &Event) -> Option<u64> {
    event.data["message"]["seq"].as_u64()
}

fn check(event: &Event) {
    validate_event(NSID, &event.data).unwrap_or_else(|why| panic!("{why}\n{}", event.data));
    assert_eq!(event.data["$type"], format!("{NSID}#{}", event.name), "the line event and $type agree");
    assert_eq!(event.data["cursor"], event.id, "the line id and cursor agree");
    if let Some(seq) = seq(event) {
        assert_eq!(event.data["prevSeq"], seq - 1);
    }
}
