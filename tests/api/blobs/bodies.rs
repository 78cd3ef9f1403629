//! Conversations of the storage model `blob`: large messages have their ciphertexts in the blob store, and read as all others do.

use std::fs;
use std::path::PathBuf;

use catbird_client::persona::{Persona, hex};
use catbird_client::random_did;
use catbird_client::xrpc::{Frame, Reply, Xrpc, bytes_value, decode_bytes};
use catbird_server::bodies::MIN_BODY_BYTES;
use catbird_server::config::Retention;
use catbird_server::jobs::JOBS;
use catbird_testkit::app::TestApp;
use catbird_testkit::cluster::blob_folder;
use catbird_testkit::receiver::Receiver;
use chrono::TimeDelta;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{content, download, expire, objects, sweep, unknown};
use crate::events::{seq, try_follow};
use crate::harness::*;

either_serializer! {
    both_storage_models_read_the_same with ("ALLOW_PRIVATE_MAILBOX_HOSTS", "true");
    p4_a_repeated_large_message_gets_the_first_reply;
    p3_large_and_small_messages_at_once_share_one_order;
}

any_serializer! {
    p10_a_failing_blob_store_stops_only_who_needs_it_and_no_event_is_lost;
    p7_a_body_is_read_with_its_message_only;
    retention_deletes_bodies_with_their_messages;
    a_conversation_with_bodies_needs_replicas_that_know_them;
    check_finds_bodies_that_do_not_fit_their_messages;
}

/// Creates a conversation of two members.
async fn room(members: &[Persona; 2], model: &str) -> String {
    let reply = ok(ask(&members[0], "createConvo", &creation(members, model)).await);
    assert_eq!(reply.body["storageModel"], model);
    reply.string("id").unwrap().to_owned()
}

fn creation(members: &[Persona; 2], model: &str) -> Value {
    json!({
        "groupId": hex(random_did().as_bytes()),
        "cipherSuite": members[0].mls.suite_name(),
        "initialMembers": [members[1].did()],
        "storageModel": model,
    })
}

fn message(convo: &str, ciphertext: &[u8]) -> Value {
    json!({ "convoId": convo, "ciphertext": bytes_value(ciphertext), "epoch": 0 })
}

fn large(name: &str) -> Vec<u8> {
    content(name, MIN_BODY_BYTES)
}

/// Returns what the log of a conversation has after a seq.
async fn log(xrpc: &Xrpc, convo: &str, since: u64) -> Reply {
    let parameters = [("convoId", convo.to_owned()), ("sinceSeq", since.to_string())];
    xrpc.query("getMessages", &parameters).await.unwrap()
}

/// What every reader sees of an entry: its seq, sender and ciphertext.
type Entry = (u64, String, Vec<u8>);

fn entry(message: &Value) -> Entry {
    let ciphertext = decode_bytes(&message["ciphertext"]).unwrap();
    (message["seq"].as_u64().unwrap(), message["sender"].as_str().unwrap().to_owned(), ciphertext)
}

fn entries(page: &Reply) -> Vec<Entry> {
    page.list("messages").unwrap().iter().map(entry).collect()
}

async fn both_storage_models_read_the_same(app: &TestApp) {
    let (_running, stop) = watch::channel(false);
    tokio::spawn(app.app.delivery.clone().fan_out(stop.clone()));
    tokio::spawn(app.app.delivery.clone().deliver(stop));
    let members = [app.persona(), app.persona()];
    for model in ["database", "blob"] {
        let convo = room(&members, model).await;
        assert_eq!(only_of(&members[1], &convo).await["storageModel"], model);
        let sizes = [1, MIN_BODY_BYTES - 1, MIN_BODY_BYTES, 100, 1024 * 1024, MIN_BODY_BYTES + 1];
        let sent = play(&members, &convo, &sizes).await;
        let db = app.database.connect().await;
        let bodies = "select count(*) from messages where convo_id = $1 and body_key is not null and ciphertext = ''";
        let bodies: i64 = db.query_one(bodies, &[&convo]).await.unwrap().get(0);
        assert_eq!(bodies, if model == "blob" { 3 } else { 0 });
        // A page of its own bytes: two of the largest would not fit.
        let newest = [("convoId", &*convo), ("limit", "3")];
        let page = ok(get(&members[0], "getMessages", &newest).await);
        assert!(entries(&page) == sent[3..], "{model}: the newest");
        let cursor = page.string("cursor").unwrap();
        let before = [("convoId", &*convo), ("limit", "3"), ("cursor", cursor)];
        assert!(entries(&ok(get(&members[0], "getMessages", &before).await)) == sent[..3], "{model}: the page before");
        for since in 0..6 {
            let page = ok(log(&members[1].xrpc, &convo, since).await);
            assert!(entries(&page) == sent[usize::try_from(since).unwrap()..], "{model}: after {since}");
        }
    }
}

/// Returns a conversation of a member from getConvos.
async fn only_of(member: &Persona, convo: &str) -> Value {
    let reply = ok(get(member, "getConvos", &[]).await);
    reply.list("conversations").unwrap().iter().find(|one| one["id"] == convo).unwrap().clone()
}

/// Lets both members send messages of these sizes in turn, while the second one follows in every way. Returns what was sent, which every
/// way must have shown.
async fn play(members: &[Persona; 2], convo: &str, sizes: &[usize]) -> Vec<Entry> {
    let receiver = Receiver::start().await;
    ok(ask(&members[1], "setMailbox", &with(&receiver.mailbox(), json!({ "convoId": convo }))).await);
    let mut stream = try_follow(&members[1], &[("convoId", convo)], None).await.unwrap();
    let ticket = ok(ask(&members[1], "getSubscriptionTicket", &json!({})).await).string("ticket").unwrap().to_owned();
    let parameters = [("ticket", ticket), ("convoId", convo.to_owned())];
    let mut socket = members[1].xrpc.subscribe("subscribeConvoEvents", &parameters).await.unwrap().unwrap();
    stream.next_id().await;
    let mut sent = Vec::new();
    for (n, size) in sizes.iter().enumerate() {
        let (sender, ciphertext) = (&members[n % 2], content(&n.to_string(), *size));
        let reply = ok(ask(sender, "sendMessage", &message(convo, &ciphertext)).await);
        sent.push((landed(&reply).1, sender.did().to_owned(), ciphertext));
    }
    let last = sent.last().unwrap().0;
    let events = stream.until(|event| seq(event) == Some(last)).await;
    let events: Vec<Entry> =
        events.iter().filter(|event| seq(event).is_some()).map(|event| entry(&event.data["message"])).collect();
    assert!(events == sent, "the stream");
    let mut frames = Vec::new();
    while frames.len() < sent.len() {
        match socket.next().await.unwrap() {
            Some(Frame::Event(name, data)) if name == "#messageEvent" => frames.push(entry(&data["message"])),
            Some(Frame::Event(..)) => {}
            other => panic!("the WebSocket ended: {other:?}"),
        }
    }
    assert!(frames == sent, "the WebSocket");
    let theirs: Vec<&Entry> = sent.iter().filter(|(_, sender, _)| sender == members[0].did()).collect();
    let delivered = receiver.have(theirs.len()).await;
    let mut delivered: Vec<Entry> = delivered.iter().map(|one| entry(&one.json()["data"]["message"])).collect();
    delivered.sort();
    assert!(delivered.iter().eq(theirs), "the mailbox");
    sent
}

async fn p4_a_repeated_large_message_gets_the_first_reply(app: &TestApp) {
    let members = [app.persona(), app.persona()];
    let convo = room(&members, "blob").await;
    for id in [json!({ "msgId": "chosen" }), json!({ "idempotencyKey": "key" })] {
        let body = with(&message(&convo, &large("one")), id.clone());
        let first = ok(ask(&members[0], "sendMessage", &body).await);
        assert_eq!(ok(ask(&members[0], "sendMessage", &body).await).body, first.body);
        for other in [large("two"), b"small".to_vec()] {
            let other = with(&message(&convo, &other), id.clone());
            refused(ask(&members[0], "sendMessage", &other).await, 409, "IdempotencyConflict");
        }
    }
    assert_eq!(objects(app).await.len(), 2, "what is refused or repeated is not stored");
    // One after the other was in the database, and now would be a body.
    let body = with(&message(&convo, &large("as it was")), json!({ "msgId": "before" }));
    let first = ok(ask(&members[0], "sendMessage", &body).await);
    let db = app.database.connect().await;
    let moved = "with moved as (update messages set ciphertext = $2, body_key = null, body_bytes = null where convo_id = $1 and id = 'before' returning seq)
                 delete from blob_references r using moved where r.convo_id = $1 and r.seq = moved.seq";
    assert_eq!(db.execute(moved, &[&convo, &large("as it was")]).await.unwrap(), 1);
    assert_eq!(ok(ask(&members[0], "sendMessage", &body).await).body, first.body);
    // Equal requests at once.
    let body = with(&message(&convo, &large("at once")), json!({ "msgId": "at-once" }));
    let replies = join_all((0..8).map(|_| ask(&members[0], "sendMessage", &body))).await;
    let replies: Vec<Reply> = replies.into_iter().map(ok).collect();
    assert!(replies.iter().all(|reply| reply.body == replies[0].body), "{replies:?}");
    expire(app).await;
    let unused = db.query_one("select count(*) from blobs where ref_count = 0", &[]).await.unwrap().get(0);
    sweep(app, unused).await;
    assert_eq!(objects(app).await.len(), 3);
    assert_eq!(entries(&ok(log(&members[1].xrpc, &convo, 0).await)).len(), 4);
}

async fn p3_large_and_small_messages_at_once_share_one_order(app: &TestApp) {
    let members = [app.persona(), app.persona()];
    let convo = room(&members, "blob").await;
    let send = async |n: usize| {
        let ciphertext = if n.is_multiple_of(3) { large(&n.to_string()) } else { n.to_string().into_bytes() };
        let reply = ok(ask(&members[n % 2], "sendMessage", &message(&convo, &ciphertext)).await);
        (landed(&reply).1, members[n % 2].did().to_owned(), ciphertext)
    };
    let mut sent = join_all((0..24).map(send)).await;
    sent.sort();
    assert!(sent.iter().map(|(seq, ..)| *seq).eq(1..=24));
    assert!(entries(&ok(log(&members[0].xrpc, &convo, 0).await)) == sent);
}

/// The folder of a blob store, with a file in its place.
struct Broken(PathBuf);

impl Broken {
    fn new(app: &TestApp) -> Self {
        let folder = blob_folder(&app.database.config).join("blobs");
        fs::rename(&folder, folder.with_extension("away")).unwrap();
        fs::write(&folder, "").unwrap();
        Self(folder)
    }

    fn repair(self) {
        fs::remove_file(&self.0).unwrap();
        fs::rename(self.0.with_extension("away"), &self.0).unwrap();
    }
}

async fn p10_a_failing_blob_store_stops_only_who_needs_it_and_no_event_is_lost(app: &TestApp) {
    let members = [app.persona(), app.persona()];
    let (convo, plain) = (room(&members, "blob").await, room(&members, "database").await);
    let mut stream = try_follow(&members[1], &[("convoId", &convo)], None).await.unwrap();
    let cursor = stream.next_id().await;
    drop(stream);
    let sent = [b"before".to_vec(), large("lost"), b"after".to_vec()];
    for ciphertext in &sent {
        ok(ask(&members[0], "sendMessage", &message(&convo, ciphertext)).await);
    }
    // A replica that has kept nothing of what was sent.
    let beside = Beside::start(app, false).await;
    let there = |who: &Persona| Persona::new(beside.xrpc(who));
    let (alice, bob) = (there(&members[0]), there(&members[1]));
    let broken = Broken::new(app);

    let refusal = refused(log(&bob.xrpc, &convo, 0).await, 503, "BlobStoreUnavailable");
    assert!(refusal.retry_after().is_some(), "{refusal}");
    assert_eq!(entries(&ok(log(&bob.xrpc, &convo, 2).await))[0].2, sent[2], "a page without the body");
    let mut stream = try_follow(&bob, &[("convoId", &convo), ("cursor", &cursor)], None).await.unwrap();
    let before = stream.rest().await;
    let seqs: Vec<u64> = before.iter().filter_map(seq).collect();
    assert_eq!(seqs, [1], "the stream stops before the body");
    let end = before.last().unwrap();
    assert_eq!((&*end.name, &end.data["info"]), ("infoEvent", &json!("reset")), "{}", end.data);
    let ticket = ok(ask(&bob, "getSubscriptionTicket", &json!({})).await).string("ticket").unwrap().to_owned();
    let parameters = [("ticket", ticket), ("convoId", convo.clone()), ("cursor", end.id.clone())];
    let mut socket = bob.xrpc.subscribe("subscribeConvoEvents", &parameters).await.unwrap().unwrap();
    let mut names = Vec::new();
    let code = loop {
        match socket.next().await.unwrap() {
            Some(Frame::Event(name, data)) => names.push((name, data["info"].clone())),
            Some(Frame::Closed(code, _)) => break code,
            other => panic!("no close came: {other:?}"),
        }
    };
    assert!(code == 1012 && names.last() == Some(&("#infoEvent".to_owned(), json!("reset"))), "{code} {names:?}");

    refused(ask(&alice, "sendMessage", &message(&convo, &large("refused"))).await, 503, "BlobStoreUnavailable");
    ok(ask(&alice, "sendMessage", &message(&convo, b"small")).await);
    let mut stream = try_follow(&bob, &[("convoId", &plain)], None).await.unwrap();
    let reply = ok(ask(&alice, "sendMessage", &message(&plain, &large("elsewhere"))).await);
    stream.until(|event| seq(event) == Some(landed(&reply).1)).await;
    assert_eq!(entries(&ok(log(&bob.xrpc, &plain, 0).await))[0].2, large("elsewhere"));

    broken.repair();
    let mut stream = try_follow(&bob, &[("convoId", &convo), ("cursor", &end.id)], None).await.unwrap();
    let rest = stream.until(|event| seq(event) == Some(4)).await;
    // What was sent before the end may come again.
    let rest = rest.iter().filter(|event| seq(event).is_some_and(|seq| seq > 1));
    let rest: Vec<Vec<u8>> = rest.map(|event| entry(&event.data["message"]).2).collect();
    assert!(rest == [&sent[1..], &[b"small".to_vec()]].concat(), "each once, in order");
    drop(stream);
    beside.stop().await;
    // The body whose bytes were never stored.
    expire(app).await;
    sweep(app, 1).await;
}

async fn p7_a_body_is_read_with_its_message_only(app: &TestApp) {
    let members = [app.persona(), app.persona()];
    let convo = room(&members, "blob").await;
    ok(ask(&members[0], "sendMessage", &message(&convo, &large("body"))).await);
    let db = app.database.connect().await;
    let key: String = db.query_one("select key from blobs where is_body", &[]).await.unwrap().get(0);
    for who in [&members[0], &members[1], &app.persona()] {
        assert_eq!(download(&who.xrpc, &key).await, unknown());
    }
    let refers = with(&message(&convo, b"mine too"), json!({ "blobs": [key] }));
    refused(ask(&members[1], "sendMessage", &refers).await, 404, "BlobNotFound");
    let stranger = app.persona();
    refused(ask(&stranger, "sendMessage", &message(&convo, &large("no member"))).await, 404, "ConvoNotFound");
    let behind = with(&message(&convo, &large("another epoch")), json!({ "epoch": 5 }));
    refused(ask(&members[0], "sendMessage", &behind).await, 409, "EpochAhead");
    assert_eq!(objects(app).await.len(), 1, "nothing is stored of what is refused");
}

async fn retention_deletes_bodies_with_their_messages(app: &TestApp) {
    let members = [app.persona(), app.persona()];
    let convo = room(&members, "blob").await;
    for n in 0..3 {
        ok(ask(&members[0], "sendMessage", &message(&convo, &large(&n.to_string()))).await);
    }
    expire(app).await;
    sweep(app, 0).await;
    let now = Retention { messages: Some(TimeDelta::zero()), ..app.app.config.retention };
    let (_stop, mut stopped) = watch::channel(false);
    let messages = JOBS.iter().find(|job| job.name == "messages").unwrap();
    super::runner_with(app, now).pass(messages, &mut stopped).await.unwrap();
    assert_eq!(entries(&ok(log(&members[1].xrpc, &convo, 0).await)), [(3, members[0].did().to_owned(), large("2"))]);
    sweep(app, 2).await;
    assert_eq!(objects(app).await.len(), 1);
}

async fn a_conversation_with_bodies_needs_replicas_that_know_them(app: &TestApp) {
    let members = [app.persona(), app.persona()];
    let body = with(&creation(&members, "blob"), json!({ "idempotencyKey": "before" }));
    let first = ok(ask(&members[0], "createConvo", &body).await);
    let old = "insert into replicas (id, version, connections, settings) values ('old', '1.0.0', 10, '{\"ACTOR_IDLE\": \"1\"}')";
    sql(app, old, &[]).await;
    let refusal =
        refused(ask(&members[0], "createConvo", &creation(&members, "blob")).await, 503, "StorageModelUnavailable");
    assert!(refusal.retry_after().is_some(), "{refusal}");
    assert_eq!(ok(ask(&members[0], "createConvo", &body).await).body, first.body, "a repeated request");
    let other = with(&body, json!({ "storageModel": "database" }));
    refused(ask(&members[0], "createConvo", &other).await, 409, "IdempotencyConflict");
    refused(ask(&members[0], "createConvo", &creation(&members, "paper")).await, 400, "InvalidRequest");
    room(&members, "database").await;
    sql(app, "update replicas set seen_at = now() - interval '3 minutes' where id = 'old'", &[]).await;
    room(&members, "blob").await;
    let new = "update replicas set seen_at = now(), settings = '{\"BLOB_STORE_URL\": \"\"}' where id = 'old'";
    sql(app, new, &[]).await;
    room(&members, "blob").await;
}

async fn check_finds_bodies_that_do_not_fit_their_messages(app: &TestApp) {
    let members = [app.persona(), app.persona()];
    let convo = room(&members, "blob").await;
    ok(ask(&members[0], "sendMessage", &message(&convo, &large("body"))).await);
    let db = app.database.connect().await;
    let key: String = db.query_one("select key from blobs", &[]).await.unwrap().get(0);
    let violated =
        async || catbird_server::check::with_objects(&app.database.config, &app.app.objects).await.unwrap().violated();
    assert_eq!(violated().await, [""; 0]);
    let size = MIN_BODY_BYTES;
    for (damage, repair) in [
        ("update messages set body_bytes = 7".to_owned(), format!("update messages set body_bytes = {size}")),
        ("update blobs set is_body = false".to_owned(), "update blobs set is_body = true".to_owned()),
        (
            "update messages set body_key = null, body_bytes = null".to_owned(),
            format!("update messages set body_key = '{key}', body_bytes = {size}"),
        ),
        (
            "delete from blob_references".to_owned(),
            format!("insert into blob_references values ('{convo}', 1, '{key}')"),
        ),
    ] {
        db.batch_execute(&damage).await.unwrap();
        assert_eq!(violated().await, ["blobs"], "{damage}");
        db.batch_execute(&repair).await.unwrap();
    }
    assert_eq!(violated().await, [""; 0]);
}
