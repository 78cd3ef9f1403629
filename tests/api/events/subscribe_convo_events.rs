//! subscribeConvoEvents: the same events in frames of DAG-CBOR, and the messages that clients may send.

use std::collections::BTreeSet;

use catbird_client::xrpc::{Frame, Socket, cbor};
use catbird_server::streaming::websocket::MAX_MESSAGE_BYTES;
use catbird_server::streaming::{MAX_FRAMES, PING_KEEPALIVES, PONG_KEEPALIVES};
use catbird_testkit::app::TestApp;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame as RawFrame};

use super::*;
use crate::harness::*;

const SUBSCRIBE: &str = "blue.catbird.mls.subscribeConvoEvents";

either_serializer! {
    p5_a_websocket_gets_the_same_events_as_sse_from_every_cursor;
    p7_a_removed_member_gets_its_removal_and_nothing_after_it;
}

any_serializer! {
    large_events_come_whole;
    a_request_without_an_upgrade_is_told_to_open_a_websocket;
    p7_a_stream_of_one_conversation_closes_with_the_membership;
    a_cursor_that_leads_nowhere_is_refused_in_a_frame;
    typing_reaches_the_other_members_and_no_further;
    an_acknowledged_entry_is_read_and_only_forward;
    a_ping_is_answered_in_both_ways;
    an_unreadable_message_closes_the_stream_with_the_reason;
    unknown_messages_are_ignored_and_fragments_are_joined;
    p10_messages_are_bounded_in_size_and_number;
    p10_a_caller_has_so_many_streams_of_both_kinds;
    p5_a_slow_consumer_is_closed_with_a_reason_and_loses_nothing with ("SSE_BUFFER_SIZE", "20");
    a_drained_server_says_goodbye_and_closes;
    a_client_that_closes_is_answered_and_forgotten;
}

/// A WebSocket under test: every event is validated, and expected events must arrive.
pub struct Follower {
    pub socket: Socket,
    /// Cursor of the last event.
    pub cursor: String,
    /// True once the start position has arrived.
    begun: bool,
}

/// Gets a ticket.
pub async fn ticket(who: &Persona, asked: &Value) -> String {
    ok(ask(who, "getSubscriptionTicket", asked).await).string("ticket").unwrap().to_owned()
}

async fn try_open(who: &Persona, parameters: &[(&str, &str)]) -> Result<Follower, Reply> {
    let parameters: Vec<_> = parameters.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    let socket = who.xrpc.subscribe("subscribeConvoEvents", &parameters).await.unwrap()?;
    Ok(Follower { socket, cursor: String::new(), begun: false })
}

/// Opens a WebSocket with these parameters.
pub async fn open(who: &Persona, parameters: &[(&str, &str)]) -> Follower {
    try_open(who, parameters).await.unwrap_or_else(|reply| panic!("{reply}"))
}

/// Returns the refusal of a WebSocket.
pub async fn refusal(who: &Persona, parameters: &[(&str, &str)]) -> Reply {
    match try_open(who, parameters).await {
        Ok(_) => panic!("a WebSocket was opened"),
        Err(reply) => reply,
    }
}

/// Opens a WebSocket with a new ticket.
async fn enter(who: &Persona, parameters: &[(&str, &str)]) -> Follower {
    let ticket = ticket(who, &json!({})).await;
    let mut all = vec![("ticket", &*ticket)];
    all.extend(parameters);
    open(who, &all).await
}

/// Opens a WebSocket and waits until it is live.
async fn enter_live(who: &Persona, parameters: &[(&str, &str)]) -> Follower {
    let mut early = enter(who, &[]).await;
    early.settle().await;
    let mut all = vec![("cursor", &*early.cursor)];
    all.extend(parameters);
    let mut stream = enter(who, &all).await;
    stream.until(|event| event.data["info"] == "replayed").await;
    stream
}

impl Follower {
    /// Reads the first message, which is the start position.
    async fn begins(&mut self) {
        let frame = tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("nothing came").unwrap();
        let Some(Frame::Event(name, data)) = frame else { panic!("a stream begins, not {frame:?}") };
        assert_eq!(name, "#pongEvent", "a stream begins with its cursor: {data}");
        self.begun = true;
        self.cursor = data["cursor"].as_str().unwrap().to_owned();
    }

    /// Returns the next message or the server's Close; `None` at the end of the connection.
    async fn frame(&mut self) -> Option<Frame> {
        let frame = tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("nothing came").unwrap();
        match &frame {
            Some(Frame::Event(name, data)) if !self.begun => {
                assert_eq!(name, "#pongEvent", "a stream begins with its cursor: {data}");
                self.begun = true;
                self.cursor = data["cursor"].as_str().unwrap().to_owned();
                Box::pin(self.frame()).await
            }
            _ => frame,
        }
    }

    /// Returns the next event.
    pub async fn next(&mut self) -> Event {
        loop {
            match self.frame().await {
                Some(Frame::Event(name, data)) => {
                    let name = name.strip_prefix('#').expect("the type of a local event").to_owned();
                    validate_event(SUBSCRIBE, &data).unwrap_or_else(|why| panic!("{why}\n{data}"));
                    assert_eq!(data["$type"], format!("{SUBSCRIBE}#{name}"), "the header and $type agree");
                    self.cursor = data["cursor"].as_str().unwrap().to_owned();
                    if name != "keyPackagesLowEvent" {
                        return Event { name, id: self.cursor.clone(), data };
                    }
                }
                other => panic!("an event was to come, not {other:?}"),
            }
        }
    }

    /// Returns the next event, which must have this type.
    pub async fn expect(&mut self, name: &str) -> Value {
        let event = self.next().await;
        assert_eq!(event.name, name, "{}", event.data);
        event.data
    }

    async fn until(&mut self, mut is_last: impl FnMut(&Event) -> bool) -> Vec<Event> {
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

    async fn seqs_until(&mut self, last: u64) -> Vec<u64> {
        self.until(|event| seq(event) == Some(last)).await.iter().filter_map(seq).collect()
    }

    /// Expects the end of the stream: this error, if any, a Close with this code, and the end of the connection.
    pub async fn ends(&mut self, error: Option<&str>, code: CloseCode) {
        if let Some(error) = error {
            match self.frame().await {
                Some(Frame::Error(name, message)) => assert!(name == error && !message.is_empty(), "{name}: {message}"),
                other => panic!("{error} was to come, not {other:?}"),
            }
        }
        match self.frame().await {
            Some(Frame::Closed(closed, _)) => assert_eq!(closed, u16::from(code)),
            other => panic!("Close was to come, not {other:?}"),
        }
        assert!(self.frame().await.is_none(), "the connection ends");
    }

    pub async fn say(&mut self, what: &Value) {
        self.socket.send(Message::text(what.to_string())).await.unwrap();
    }

    async fn say_in_cbor(&mut self, what: &Value) {
        self.socket.send(Message::binary(cbor(what))).await.unwrap();
    }

    /// Waits until the server has processed all sent messages.
    async fn settle(&mut self) {
        self.say(&ping()).await;
        self.expect("pongEvent").await;
    }
}

fn ping() -> Value {
    json!({ "$type": format!("{SUBSCRIBE}#ping") })
}

pub fn typing(convo: &str, is_typing: bool) -> Value {
    json!({ "$type": format!("{SUBSCRIBE}#typing"), "convoId": convo, "isTyping": is_typing })
}

fn ack(convo: Option<&str>, seq: u64) -> Value {
    let mut ack = json!({ "$type": format!("{SUBSCRIBE}#ack"), "seq": seq });
    if let Some(convo) = convo {
        ack["convoId"] = json!(convo);
    }
    ack
}

/// Returns an event without the parts that differ by design: the method in its type, and the cursor, which advances on
/// its own.
fn essence(event: &Event) -> Value {
    let mut data = event.data.clone();
    data["$type"] = json!(event.name);
    data.as_object_mut().unwrap().remove("cursor");
    data
}

async fn p5_a_websocket_gets_the_same_events_as_sse_from_every_cursor(app: &TestApp) {
    let mut members = app.conversation(3).await;
    let mut other = app.conversation(1).await.remove(0);
    let mut live = follow(&members[1]).await;
    let mut socket = enter_live(&members[1], &[]).await;
    members[0].send("one").await.unwrap();
    let joined = json!({ "convoId": convo(&other), "didList": [members[1].did()] });
    ok(ask(&other, "addMembers", &joined).await);
    other.send("two").await.unwrap();
    ok(ask(&members[1], "updateRead", &json!({ "convoId": convo(&members[1]) })).await);
    let gone = members[2].did().to_owned();
    members[0].remove(&gone).await.unwrap();
    let last = members[0].send("three").await.unwrap().seq;
    // Entries and other events are ordered among themselves only.
    let complete = || {
        let mut missing = BTreeSet::from(["conversationEvent", "membershipChangeEvent", "readEvent", "the last entry"]);
        let id = convo(&members[0]);
        move |event: &Event| {
            missing.remove(&*event.name);
            if seq(event) == Some(last) && event.data["message"]["convoId"] == id {
                missing.remove("the last entry");
            }
            missing.is_empty()
        }
    };
    let events = live.until(complete()).await;
    let same = |a: &[Event], b: &[Event]| {
        // Within one pass the order of conversations does not matter; within each conversation it does.
        let split = |events: &[Event]| {
            let of = |event: &Event| {
                event.data["message"]["convoId"].as_str().or(event.data["convoId"].as_str()).map(str::to_owned)
            };
            let mut by_convo: std::collections::BTreeMap<_, Vec<Value>> = Default::default();
            for event in events {
                by_convo.entry((of(event), seq(event).is_some())).or_default().push(essence(event));
            }
            by_convo
        };
        assert_eq!(split(a), split(b));
    };
    same(&events, &socket.until(complete()).await);
    for event in &events {
        let replayed = |event: &Event| event.data["info"] == "replayed";
        let by_sse = resume(&members[1], &event.id).await.until(replayed).await;
        let by_socket = enter(&members[1], &[("cursor", &event.id)]).await.until(replayed).await;
        same(&by_sse, &by_socket);
    }
    // A client that is cut off before the first event loses nothing either.
    let mut early = enter(&members[1], &[]).await;
    early.begins().await;
    let sent = members[0].send("meanwhile").await.unwrap().seq;
    let seqs = enter(&members[1], &[("cursor", &early.cursor)]).await.seqs_until(sent).await;
    assert_eq!(seqs, [sent]);
    // A cursor works for both transports.
    let cursor = socket.cursor.clone();
    resume(&members[1], &cursor).await.until(|event| event.data["info"] == "replayed").await;
}

async fn p7_a_removed_member_gets_its_removal_and_nothing_after_it(app: &TestApp) {
    let mut members = app.conversation(3).await;
    let mut other = app.conversation(1).await.remove(0);
    ok(ask(&other, "addMembers", &json!({ "convoId": convo(&other), "didList": [members[2].did()] })).await);
    let mut stream = enter_live(&members[2], &[]).await;
    let mut witness = enter_live(&members[1], &[]).await;
    members[0].send("before").await.unwrap();
    let third = members[2].did().to_owned();
    let removal = members[0].remove(&third).await.unwrap();
    members[0].send("after").await.unwrap();
    let events = stream.until(|event| event.name == "removedEvent").await;
    assert_eq!(events.iter().filter_map(seq).collect::<Vec<_>>(), [removal.seq - 1, removal.seq]);
    members[0].send("long after").await.unwrap();
    ok(ask(&members[0], "sendTypingIndicator", &json!({ "convoId": convo(&members[0]), "isTyping": true })).await);
    // Its messages no longer have an effect.
    stream.say(&typing(&convo(&members[0]), true)).await;
    stream.settle().await;
    other.send("elsewhere").await.unwrap();
    assert_eq!(stream.expect("messageEvent").await["message"]["convoId"], convo(&other));
    // Typing indicators come at the end of a pass, so the second message shows that all have arrived.
    for text in ["the end", "the very end"] {
        let sent = members[0].send(text).await.unwrap().seq;
        let heard = witness.until(|event| seq(event) == Some(sent)).await;
        assert!(heard.iter().all(|event| event.name != "typingEvent" || event.data["did"] != third), "{heard:?}");
    }
}

async fn large_events_come_whole(app: &TestApp) {
    let members = app.conversation(2).await;
    let mut stream = enter(&members[1], &[]).await;
    for size in [1, 125, 126, 65_535, 65_536, 1024 * 1024, 7 * 1024 * 1024] {
        let body = message(&members[0], &vec![0xa5; size]);
        ok(ask(&members[0], "sendMessage", &body).await);
        assert!(stream.expect("messageEvent").await["message"]["ciphertext"] == body["ciphertext"], "{size} bytes");
    }
}

async fn a_request_without_an_upgrade_is_told_to_open_a_websocket(app: &TestApp) {
    let alice = app.persona();
    let ticket = ticket(&alice, &json!({})).await;
    let xrpc = &alice.xrpc;
    let bare = xrpc.http.get(xrpc.url(SUBSCRIBE, &[("ticket", ticket.clone())]));
    let good = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    for (without, instead) in
        [(0, None), (1, None), (2, None), (3, None), (2, Some("8")), (3, Some("short")), (1, Some("h2c"))]
    {
        let mut request = bare.try_clone().unwrap();
        for (n, (name, value)) in good.iter().enumerate() {
            match (n == without, instead) {
                (true, None) => {}
                (true, Some(value)) => request = request.header(*name, value),
                (false, _) => request = request.header(*name, *value),
            }
        }
        let reply = refused(xrpc.send(SUBSCRIBE, request).await.unwrap(), 426, "UpgradeRequired");
        assert!(reply.headers["upgrade"] == "websocket" && reply.headers["sec-websocket-version"] == "13");
        let connection = reply.headers["connection"].to_str().unwrap();
        assert!(connection.contains("close"), "what would follow is not read as HTTP any more: {connection}");
    }
    // None of these used the ticket.
    open(&alice, &[("ticket", &ticket)]).await;
}

async fn p7_a_stream_of_one_conversation_closes_with_the_membership(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let id = convo(&members[0]);
    let mut stream = enter_live(&members[1], &[("convoId", &id)]).await;
    let did = members[1].did().to_owned();
    let removal = members[0].remove(&did).await.unwrap();
    assert_eq!(stream.expect("messageEvent").await["message"]["seq"], removal.seq);
    stream.expect("removedEvent").await;
    stream.ends(None, CloseCode::Normal).await;
}

async fn a_cursor_that_leads_nowhere_is_refused_in_a_frame(app: &TestApp) {
    let mut members = app.conversation(1).await;
    let mut stream = enter(&members[0], &[]).await;
    let sent = members[0].send("x").await.unwrap().seq;
    stream.seqs_until(sent).await;
    let old = stream.cursor.clone();
    let mark: ulid::Ulid = old[..26].parse().unwrap();
    let future = ulid::Ulid(mark.0 + (1 << 40)).to_string() + &old[26..];
    for (cursor, error) in [("not a cursor", "InvalidCursor"), (&*future, "FutureCursor")] {
        enter(&members[0], &[("cursor", cursor)]).await.ends(Some(error), CloseCode::Policy).await;
    }
    let horizon = "update event_horizon set tx = pg_snapshot_xmax(pg_current_snapshot())";
    sql(app, horizon, &[]).await;
    enter(&members[0], &[("cursor", &old)]).await.ends(Some("OutdatedCursor"), CloseCode::Policy).await;
    enter(&members[0], &[]).await.settle().await;
}

async fn typing_reaches_the_other_members_and_no_further(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let other = app.conversation(1).await.remove(0);
    let id = convo(&members[0]);
    let (mut own, mut bob) = (enter_live(&members[0], &[]).await, enter_live(&members[1], &[]).await);
    let mut sse = follow(&members[1]).await;
    let mut elsewhere = enter(&other, &[]).await;
    let sent = members[0].send("x").await.unwrap().seq;
    own.seqs_until(sent).await;
    bob.seqs_until(sent).await;
    sse.seqs_until(sent).await;
    let before = contents(app).await;
    own.say(&typing(&id, true)).await;
    own.settle().await;
    own.say_in_cbor(&typing(&id, false)).await;
    for is_typing in [true, false] {
        let event = bob.expect("typingEvent").await;
        assert_eq!((&event["convoId"], &event["did"]), (&json!(id), &json!(members[0].did())));
        assert_eq!(event["isTyping"], is_typing);
        assert_eq!(sse.expect("typingEvent").await["isTyping"], is_typing);
    }
    // A stranger, a conversation that does not exist, and one outside the stream.
    elsewhere.say(&typing(&id, true)).await;
    elsewhere.say(&typing("01JB2N0W3E8Z6TQ9K4M5V7X1YA", true)).await;
    elsewhere.settle().await;
    let made = json!({ "groupId": "ab12", "cipherSuite": members[0].mls.suite_name() });
    let second = ok(ask(&members[0], "createConvo", &made).await).string("id").unwrap().to_owned();
    own.expect("conversationEvent").await;
    let mut narrow = enter(&members[0], &[("convoId", &second)]).await;
    narrow.say(&typing(&id, true)).await;
    narrow.settle().await;
    // Typing indicators come at the end of a pass, so the second message shows that all have arrived.
    for text in ["y", "z"] {
        let sent = members[0].send(text).await.unwrap().seq;
        assert_eq!(bob.expect("messageEvent").await["message"]["seq"], sent, "nothing in between");
        own.seqs_until(sent).await;
    }
    assert_eq!(contents(app).await.count("event_stream") - before.count("event_stream"), 1, "of createConvo");
    // The limit is that of sendTypingIndicator: excess indicators are dropped, and the stream continues.
    for _ in 0..20 {
        own.say(&typing(&id, true)).await;
    }
    own.settle().await;
    let over = json!({ "convoId": id, "isTyping": true });
    refused(ask(&members[0], "sendTypingIndicator", &over).await, 429, "RateLimitExceeded");
    let mut heard = 0;
    for text in ["u", "v"] {
        let sent = members[0].send(text).await.unwrap().seq;
        heard += bob.until(|event| seq(event) == Some(sent)).await.len() - 1;
    }
    assert!((1..20).contains(&heard), "{heard} came through");
}

async fn an_acknowledged_entry_is_read_and_only_forward(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let stranger = app.persona();
    let id = convo(&members[0]);
    let mut stream = enter(&members[1], &[]).await;
    let first = members[0].send("0").await.unwrap().seq;
    for n in 1..6 {
        members[0].send(&format!("{n}")).await.unwrap();
    }
    stream.seqs_until(first + 5).await;
    let unread = async || {
        app.settle().await;
        only_convo(&members[1]).await["unreadCount"].as_u64().unwrap()
    };
    assert_eq!(unread().await, 6);
    stream.say(&ack(Some(&id), first + 1)).await;
    stream.settle().await;
    assert_eq!(unread().await, 4);
    // While one is written, the next ones queue up; ineffective ones do not drop the others.
    let mut db = app.database.connect().await;
    let held = db.transaction().await.unwrap();
    let lock = "select 1 from members where convo_id = $1 and member_did = $2 for update";
    held.query_one(lock, &[&id, &members[1].did()]).await.unwrap();
    stream.say_in_cbor(&ack(Some(&id), first + 2)).await;
    stream.settle().await;
    stream.say_in_cbor(&ack(Some(&id), first + 3)).await;
    stream.say(&ack(Some(&id), first)).await;
    stream.say(&ack(Some(&id), first + 1_000)).await;
    stream.say(&ack(None, first + 5)).await;
    stream.settle().await;
    held.rollback().await.unwrap();
    assert_eq!(unread().await, 2, "forward only, not past the log, and of some conversation");
    let mut narrow = enter(&members[1], &[("convoId", &id)]).await;
    narrow.say(&ack(Some("01JB2N0W3E8Z6TQ9K4M5V7X1YA"), first + 5)).await;
    narrow.settle().await;
    assert_eq!(unread().await, 2);
    narrow.say(&ack(None, first + 4)).await;
    narrow.settle().await;
    assert_eq!(unread().await, 1, "the stream's conversation need not be named");
    // No other position moves, and a stranger has none.
    let before = contents(app).await;
    let mut outside = enter(&stranger, &[]).await;
    outside.say(&ack(Some(&id), first + 5)).await;
    outside.settle().await;
    assert_eq!(contents(app).await, before);
}

async fn a_ping_is_answered_in_both_ways(app: &TestApp) {
    let mut members = app.conversation(1).await;
    let mut stream = enter(&members[0], &[]).await;
    stream.settle().await;
    stream.socket.send(Message::Ping("here".into())).await.unwrap();
    let pong = futures_util::StreamExt::next(&mut stream.socket.stream).await.unwrap().unwrap();
    assert_eq!(pong, Message::Pong("here".into()));
    let sent = members[0].send("x").await.unwrap().seq;
    let event = stream.until(|event| seq(event) == Some(sent)).await.pop().unwrap();
    stream.say_in_cbor(&ping()).await;
    let cursor = stream.expect("pongEvent").await["cursor"].as_str().unwrap().to_owned();
    assert!(cursor >= event.id);
    members[0].send("y").await.unwrap();
    let again = enter(&members[0], &[("cursor", &cursor)]).await.until(|event| event.data["info"] == "replayed").await;
    assert!(again.iter().filter_map(seq).any(|seq| seq == sent + 1), "the cursor leads on");
}

async fn an_unreadable_message_closes_the_stream_with_the_reason(app: &TestApp) {
    let alice = app.persona();
    let id = "01JB2N0W3E8Z6TQ9K4M5V7X1YA";
    let mut garbage: Vec<Message> =
        ["", "x", "[]", "7", "{}", "{\"$type\":7}", "{\"$type\":", "[\"a\"]"].map(Message::text).into();
    garbage.extend(
        [&b""[..], b"\xff", b"\xa0", b"\xbf\xff", b"\x9f", b"\xa1\x61a", &[0x81; 4_000], &[0xd8; 100]]
            .map(|bytes| Message::binary(bytes.to_vec())),
    );
    for wrong in [
        json!({ "$type": format!("{SUBSCRIBE}#typing"), "convoId": id }),
        json!({ "$type": format!("{SUBSCRIBE}#typing"), "convoId": "a b", "isTyping": true }),
        json!({ "$type": format!("{SUBSCRIBE}#typing"), "convoId": id, "isTyping": 1 }),
        json!({ "$type": format!("{SUBSCRIBE}#ack"), "convoId": id }),
        json!({ "$type": format!("{SUBSCRIBE}#ack"), "convoId": id, "seq": "1" }),
        json!({ "$type": format!("{SUBSCRIBE}#ack"), "convoId": 7, "seq": 1 }),
    ] {
        garbage.push(Message::text(wrong.to_string()));
        garbage.push(Message::binary(cbor(&wrong)));
    }
    let mut followers = Vec::new();
    for message in &garbage {
        let mut stream = enter(&alice, &[]).await;
        stream.socket.send(message.clone()).await.unwrap();
        stream.ends(Some("InvalidRequest"), CloseCode::Invalid).await;
        followers.push(stream);
        assert_eq!(app.app.events.streams(), 0, "{message:?}");
    }
    // Bytes that are not a frame.
    let raw = |opcode, finished| Message::Frame(RawFrame::message("x", opcode, finished));
    for broken in [raw(OpCode::Data(Data::Continue), true), raw(OpCode::Data(Data::Reserved(5)), true)] {
        let mut stream = enter(&alice, &[]).await;
        stream.socket.send(broken).await.unwrap();
        stream.ends(Some("InvalidRequest"), CloseCode::Protocol).await;
    }
}

async fn unknown_messages_are_ignored_and_fragments_are_joined(app: &TestApp) {
    let alice = app.persona();
    let mut stream = enter(&alice, &[]).await;
    for unknown in [json!({ "$type": "#ping" }), json!({ "$type": "x", "deep": [{ "er": [null, 1.5] }] })] {
        stream.say(&unknown).await;
        stream.say_in_cbor(&unknown).await;
    }
    stream.settle().await;
    let whole = ping().to_string();
    let (one, rest) = whole.split_at(5);
    let (two, three) = rest.split_at(7);
    let piece =
        |bytes: &str, opcode, last| Message::Frame(RawFrame::message(bytes.to_owned(), OpCode::Data(opcode), last));
    stream.socket.send(piece(one, Data::Text, false)).await.unwrap();
    stream.socket.send(Message::Ping("in between".into())).await.unwrap();
    stream.socket.send(piece(two, Data::Continue, false)).await.unwrap();
    stream.socket.send(piece(three, Data::Continue, true)).await.unwrap();
    stream.expect("pongEvent").await;
}

async fn p10_messages_are_bounded_in_size_and_number(app: &TestApp) {
    let alice = app.persona();
    let padded = |bytes: usize| {
        let frame = json!({ "$type": format!("{SUBSCRIBE}#ping"), "more": "" });
        let room = bytes - frame.to_string().len();
        Message::text(with(&frame, json!({ "more": "x".repeat(room) })).to_string())
    };
    let mut stream = enter(&alice, &[]).await;
    stream.socket.send(padded(MAX_MESSAGE_BYTES)).await.unwrap();
    stream.expect("pongEvent").await;
    stream.socket.send(padded(MAX_MESSAGE_BYTES + 1)).await.unwrap();
    stream.ends(Some("PayloadTooLarge"), CloseCode::Size).await;
    // The server neither waits for the end of an oversized frame nor buffers it: a terabyte is announced and a little
    // arrives.
    let mut stream = enter(&alice, &[]).await;
    let head = [[0x82, 0xff].as_slice(), &(1u64 << 40).to_be_bytes(), &[0; 4], &vec![0; 8 * 1024 * 1024]].concat();
    tokio::io::AsyncWriteExt::write_all(stream.socket.stream.get_mut(), &head).await.unwrap();
    stream.ends(Some("PayloadTooLarge"), CloseCode::Size).await;
    let mut stream = enter(&alice, &[]).await;
    let huge = stream.socket.send(Message::binary(vec![0; 64 * 1024 * 1024]));
    let _ = tokio::time::timeout(PATIENCE, huge).await.expect("it is taken or cut off");
    drop(stream);
    // Nor if it arrives in small pieces.
    let mut stream = enter(&alice, &[]).await;
    for n in 0..5 {
        let opcode = if n == 0 { Data::Binary } else { Data::Continue };
        let frame = RawFrame::message(vec![0; 1_000], OpCode::Data(opcode), false);
        stream.socket.send(Message::Frame(frame)).await.unwrap();
    }
    stream.ends(Some("PayloadTooLarge"), CloseCode::Size).await;
    let mut stream = enter(&alice, &[]).await;
    for _ in 0..=MAX_FRAMES {
        stream.socket.send(Message::Pong("".into())).await.unwrap();
    }
    stream.ends(Some("RateLimitExceeded"), CloseCode::Policy).await;
}

async fn p10_a_caller_has_so_many_streams_of_both_kinds(app: &TestApp) {
    let alice = app.persona();
    let mut sse = Vec::new();
    for _ in 0..8 {
        sse.push(follow(&alice).await);
    }
    let mut sockets = Vec::new();
    for _ in 8..catbird_server::events::hub::MAX_STREAMS_PER_CALLER {
        sockets.push(enter(&alice, &[]).await);
    }
    for _ in 0..8 {
        sockets.push(enter(&alice, &[]).await);
        let rest = sse.remove(0).rest().await;
        assert_eq!(rest.last().expect("the oldest one ends").data["info"], "replaced");
    }
    let _late = follow(&alice).await;
    let mut oldest = sockets.remove(0);
    assert_eq!(oldest.expect("infoEvent").await["info"], "replaced");
    oldest.ends(None, CloseCode::Policy).await;
}

async fn p5_a_slow_consumer_is_closed_with_a_reason_and_loses_nothing(app: &TestApp) {
    let members = app.conversation(3).await;
    let mut witness = enter(&members[2], &[]).await;
    let mut slow = enter(&members[1], &[]).await;
    let send = async |bytes: &[u8]| {
        ok(ask(&members[0], "sendMessage", &message(&members[0], bytes)).await).number("seq").unwrap()
    };
    let first = send(b"first").await;
    slow.seqs_until(first).await;
    witness.seqs_until(first).await;
    let big = vec![b'x'; 1024 * 1024];
    let mut last = first;
    for _ in 0..40 {
        last = send(&big).await;
        // A client that reads is not delayed.
        witness.seqs_until(last).await;
    }
    let mut seen = Vec::new();
    let told = loop {
        let event = slow.next().await;
        seen.extend(seq(&event));
        if event.name == "infoEvent" {
            break event;
        }
    };
    assert_eq!(told.data["info"], "slowConsumer");
    assert!(told.data["retryAfterMs"].as_u64().is_some());
    slow.ends(Some("ConsumerTooSlow"), CloseCode::Policy).await;
    assert!(seen.len() < 40, "it was cut before the end");
    let mut again = enter(&members[1], &[("cursor", &told.id)]).await;
    seen.extend(again.seqs_until(last).await);
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, (first + 1..=last).collect::<Vec<_>>());
}

async fn a_drained_server_says_goodbye_and_closes(app: &TestApp) {
    let members = app.conversation(1).await;
    let mut streams = Vec::new();
    for _ in 0..8 {
        streams.push(enter(&members[0], &[]).await);
    }
    let late = ticket(&members[0], &json!({})).await;
    app.app.events.drain();
    let mut waits = BTreeSet::new();
    for stream in &mut streams {
        let told = stream.expect("infoEvent").await;
        assert_eq!(told["info"], "draining");
        waits.insert(told["retryAfterMs"].as_u64().unwrap());
        stream.ends(None, CloseCode::Away).await;
    }
    assert!(waits.len() > 1, "they do not all come back at once: {waits:?}");
    refused(refusal(&members[0], &[("ticket", &late)]).await, 503, "Overloaded");
}

async fn a_client_that_closes_is_answered_and_forgotten(app: &TestApp) {
    let alice = app.persona();
    let mut stream = enter(&alice, &[]).await;
    assert_eq!(app.app.events.streams(), 1);
    let frame = CloseFrame { code: CloseCode::Normal, reason: "enough".into() };
    stream.socket.send(Message::Close(Some(frame))).await.unwrap();
    stream.ends(None, CloseCode::Normal).await;
    assert_eq!(app.app.events.streams(), 0);
    // A client that disappears silently is noticed.
    let stream = enter(&alice, &[]).await;
    drop(stream);
    let start = std::time::Instant::now();
    while app.app.events.streams() > 0 {
        assert!(start.elapsed() < PATIENCE, "a stream whose client is gone stays open");
        tokio::task::yield_now().await;
    }
}

/// Takes as long as the limits; clients that answer pings stay connected meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_answers_no_ping_is_given_up() {
    let keepalive = std::time::Duration::from_secs(1);
    let app = TestApp::adjusted(|config| config.keepalive = keepalive).await;
    let (alice, bob) = (app.persona(), app.persona());
    // This client does not read, so nothing answers pings.
    let mut silent = enter(&alice, &[]).await;
    let mut there = enter(&bob, &[]).await;
    there.begins().await;
    let longest = keepalive * (PING_KEEPALIVES + PONG_KEEPALIVES + 2);
    let start = std::time::Instant::now();
    while app.app.events.streams() > 1 {
        assert!(start.elapsed() < longest + PATIENCE, "it is still there");
        let _ = tokio::time::timeout(std::time::Duration::from_millis(200), there.socket.next()).await;
    }
    assert!(start.elapsed() >= keepalive * PONG_KEEPALIVES, "it was given its time");
    assert!(there.socket.pings >= 2);
    there.settle().await;
    match silent.frame().await {
        Some(Frame::Closed(code, _)) => assert_eq!(code, u16::from(CloseCode::Policy)),
        other => panic!("Close was to come, not {other:?}"),
    }
    drop(there);
    app.finish().await;
}
