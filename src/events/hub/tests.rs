//! Interleavings of passes, streams that catch up, and changes of rosters, step by step.

use std::task::Waker;

use chrono::DateTime;
use ulid::Ulid;

use super::*;
use crate::bytes::LexBytes;
use crate::error::Code;
use crate::events::subscriber::Outgoing;
use crate::ids::Did;
use crate::store::events::{Attachment, Entries, EventPayload, EventRow, Key, Moment};
use crate::wire::{Ciphertext, MessageType};

const CONVO: &str = "01M7ZYXXG28C7PCE4ZTPCRBEN4";

/// Returns a hub whose tail has made one pass.
fn hub() -> Hub {
    let hub = Hub::new(100, MAX_STREAMS, crate::app::Metrics::default().events);
    pass(&hub);
    hub
}

/// Makes a pass that reads nothing.
fn pass(hub: &Hub) {
    end(hub, hub.begin_pass().pass);
}

fn end(hub: &Hub, pass: u64) {
    let moment = Moment::new("10:10:".to_owned(), 1, 1, Key([0; 32]), DateTime::UNIX_EPOCH).unwrap();
    hub.end_pass(pass, &moment);
}

/// Returns a stream that catches up and lacks the entries after `position`, of which `last_seq` is the last.
fn stream(hub: &Hub, did: &str, position: i64, last_seq: i64) -> Arc<Subscriber> {
    let subscriber = hub.register(&did.parse().unwrap(), None, None, Cursor::nowhere()).unwrap();
    let attachment = Attachment { convo: CONVO.parse().unwrap(), since: 1, position, last_seq };
    hub.attach(&subscriber, &[attachment], Cursor::nowhere(), None);
    pass(hub);
    hub.take_unread(10);
    subscriber
}

fn entry(seq: i64) -> MessageView {
    MessageView {
        generation: 1,
        id: Ulid::new().to_string().parse().unwrap(),
        convo_id: CONVO.parse().unwrap(),
        sender: "did:plc:sender".parse().unwrap(),
        message_type: MessageType::App,
        ciphertext: Ciphertext::Row(LexBytes(Vec::new())),
        epoch: 0,
        seq,
        created_at: DateTime::UNIX_EPOCH,
        embed_type: None,
        embed_uri: None,
    }
}

fn membership(did: &str, last_seq: i64) -> RosterEntry {
    let (convo, did) = (CONVO.parse().unwrap(), did.parse().unwrap());
    RosterEntry { convo, did, joined_seq: 0, since: 1, left_seq: None, last_seq, roster: 1 }
}

/// Returns a page of entries, read at a version of the roster.
fn page(entries: Vec<MessageView>, roster: i64) -> Entries {
    Entries { entries, more: false, newest: 0, rosters: vec![(CONVO.parse().unwrap(), roster)] }
}

/// Takes the entries that wait for a client.
fn received(subscriber: &Subscriber) -> Vec<i64> {
    let mut received = Vec::new();
    while let Ok(Some(Outgoing::Event(event, _))) = subscriber.next(Waker::noop()) {
        if let Event::Message { message, .. } = &event.event {
            received.push(message.seq);
        }
    }
    received
}

#[test]
fn streams_leave_some_connections_to_requests() {
    let hub = Hub::new(100, 22, crate::app::Metrics::default().events);
    let register = |n: usize| {
        let did = format!("did:plc:{n}").parse().unwrap();
        hub.register(&did, None, None, Cursor::nowhere()).map_err(|error| error.code)
    };
    let streams: Vec<_> = (0..20).map(|n| register(n).unwrap()).collect();
    assert_eq!(register(20).err(), Some(Code::Overloaded));
    hub.remove(&streams[0]);
    assert!(register(20).is_ok());
}

#[test]
fn p5_a_stream_that_joins_during_a_read_gets_its_missing_entries_first() {
    let hub = hub();
    let (first, late) = ("did:plc:first", "did:plc:late");
    let first_stream = stream(&hub, first, 10, 10);
    assert!(matches!(hub.next_step(&first_stream, 10, 0), NextStep::Done));
    pass(&hub);
    pass(&hub);
    let late_stream = stream(&hub, late, 7, 10);

    let reading = hub.begin_pass().pass;
    hub.mark_unread(&[CONVO.parse().unwrap()]);
    let taken = hub.take_unread(10);
    assert_eq!(taken, [(Arc::from(CONVO), 10)]);
    // The tail has asked for the entries after 10, and does not know yet of a stream that lacks 8.
    assert!(matches!(hub.next_step(&late_stream, 10, 5), NextStep::Done));
    hub.publish(&[(CONVO, 10)], page(vec![entry(11)], 1), &[membership(first, 11), membership(late, 11)]);
    end(&hub, reading);
    assert_eq!((received(&first_stream), received(&late_stream)), (vec![11], vec![]));

    let reading = hub.begin_pass().pass;
    assert_eq!(hub.take_unread(10), [(Arc::from(CONVO), 7)]);
    let missing = (8..=11).map(entry).collect();
    hub.publish(&[(CONVO, 7)], page(missing, 1), &[membership(first, 11), membership(late, 11)]);
    end(&hub, reading);
    assert_eq!((received(&first_stream), received(&late_stream)), (vec![], vec![8, 9, 10, 11]));
}

#[test]
fn p7_memberships_are_read_again_only_after_the_roster_has_changed() {
    let hub = hub();
    let did = "did:plc:first";
    let stream = stream(&hub, did, 10, 10);
    assert!(matches!(hub.next_step(&stream, 10, 0), NextStep::Done));
    pass(&hub);
    pass(&hub);
    let asked = |roster| hub.audience(&page(Vec::new(), roster).rosters).len();
    assert_eq!(asked(1), 1);
    hub.publish(&[(CONVO, 10)], page(vec![entry(11)], 1), &[membership(did, 11)]);
    assert_eq!((asked(1), asked(2)), (0, 1));
    // At the same version of the roster, no membership has to be read.
    hub.publish(&[(CONVO, 11)], page(vec![entry(12)], 1), &[]);
    assert_eq!(received(&stream), [11, 12]);
    // At another version, the entry is not handed out before memberships are read again.
    hub.publish(&[(CONVO, 12)], page(vec![entry(13)], 2), &[]);
    assert_eq!(received(&stream), [0; 0]);
    let ended = RosterEntry { left_seq: Some(12), roster: 2, ..membership(did, 13) };
    hub.publish(&[(CONVO, 12)], page(vec![entry(13)], 2), &[ended]);
    assert_eq!((received(&stream), asked(2)), (vec![], 1));
}

#[test]
fn p10_when_too_many_bytes_wait_the_streams_with_the_most_are_cut_first() {
    let hub = hub();
    let read = |name: String, bytes: &[usize]| {
        let stream = stream(&hub, &name, 0, 10);
        let sized = |(seq, size): (i64, &usize)| MessageView {
            ciphertext: Ciphertext::Row(LexBytes(vec![0; *size])),
            ..entry(seq)
        };
        hub.supply(&stream, page((1..).zip(bytes).map(sized).collect(), 1), &[membership(&name, 10)], &[]);
        stream
    };
    let slow: Vec<_> = (0..12).map(|n| read(format!("did:plc:slow{n}"), &[8 << 20, 8 << 20, 8 << 20])).collect();
    let quick = read("did:plc:quick".to_owned(), &[8 << 20]);
    hub.shed_load();
    let ended =
        |stream: &Arc<Subscriber>| matches!(stream.next(Waker::noop()), Err(End::Announced(Info::SlowConsumer)));
    assert_eq!(slow.iter().filter(|stream| ended(stream)).count(), 5, "no more than had to");
    assert!(!ended(&quick));
    assert!(hub.0.held.load(Ordering::Relaxed) <= MAX_HELD_BYTES);
    drop((slow, quick));
    hub.end_all(Info::Draining, true);
    assert_eq!(hub.0.held.load(Ordering::Relaxed), 0);
}

#[test]
fn a_stream_ends_with_a_final_event_at_its_maximum_age() {
    let hub = hub();
    let stream = stream(&hub, "did:plc:first", 10, 10);
    let after = |minutes: u64| hub.keep_alive(0, 1, Instant::now() + Duration::from_secs(60 * minutes));
    after(44);
    assert!(matches!(stream.next(Waker::noop()), Ok(Some(Outgoing::Keepalive(_)))));
    after(76);
    assert!(matches!(stream.next(Waker::noop()), Err(End::Announced(Info::Expired))));
}

#[test]
fn a_replica_without_passes_of_the_tail_is_not_current() {
    let hub = hub();
    assert!(hub.is_current(Instant::now()));
    assert!(!hub.is_current(Instant::now() + STALE));
    pass(&hub);
    assert!(hub.is_current(Instant::now()));
}

#[test]
fn p10_held_rows_of_a_stream_that_catches_up_are_bounded_in_bytes() {
    let hub = hub();
    let did: Did = "did:plc:first".parse().unwrap();
    let subscriber = hub.register(&did, None, None, Cursor::nowhere()).unwrap();
    let row = |id| EventRow {
        id,
        convo: None,
        recipient: Some(did.clone()),
        what: EventPayload::KeyPackagesLow { available: 1, device_id: None },
        tx: id,
        size: 8 << 20,
        emitted_at: DateTime::UNIX_EPOCH,
    };
    hub.publish_rows((1..=4).map(row).collect(), &[]);
    assert!(!subscriber.has_ended());
    assert!(hub.0.held.load(Ordering::Relaxed) >= 4 * (8 << 20));
    hub.publish_rows(vec![row(5)], &[]);
    assert!(subscriber.has_ended());
    assert_eq!(hub.0.held.load(Ordering::Relaxed), 0, "what waited is gone");
}
