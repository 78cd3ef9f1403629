//! sendMessage: one entry per message, in the present epoch, for every size up to 7 MiB and any other writers of the
//! conversation.

use catbird_client::persona::{Persona, unique};
use catbird_client::random_did;
use catbird_client::xrpc::bytes_value;
use catbird_testkit::app::TestApp;
use futures_util::future::join_all;
use serde_json::json;

use crate::harness::*;

const MIB: usize = 1024 * 1024;

either_serializer! {
    everything_that_was_sent_is_in_the_log;
    p3_messages_and_commits_share_one_dense_order;
    p9_a_stale_message_gets_the_missing_commits;
    p9_a_message_for_a_future_epoch_gets_epoch_ahead;
    a_window_lets_messages_lag with ("MESSAGE_EPOCH_WINDOW", "2");
    seven_mib_fit_through_a_pds_and_one_byte_more_is_refused;
    p4_a_message_from_before_there_was_this_limit_is_known_by_its_id;
    a_message_is_written_once_however_many_are_in_the_conversation;
    a_former_member_cannot_send;
}
any_serializer! {
    every_spelling_of_base64_is_the_same_message;
    snake_case_is_accepted_and_unknown_fields_are_ignored;
    the_sender_is_the_tokens_issuer;
    a_message_that_says_it_is_of_another_epoch_than_the_request_is_refused;
    p1_bytes_that_start_like_an_mls_message_must_be_an_encrypted_application_message;
    embeds_have_their_shape;
    a_body_beyond_any_valid_request_is_413;
}

async fn everything_that_was_sent_is_in_the_log(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let ciphertext = {
        let Persona { mls, group_id, .. } = &mut members[0];
        mls.encrypt(group_id, b"hello").unwrap()
    };
    let id = unique();
    let asked = json!({
        "convoId": convo(&members[0]), "ciphertext": bytes_value(&ciphertext), "epoch": 1, "senderDid": members[0].did(),
        "msgId": id, "embedType": "image/png", "embedUri": "https://example.com/cat.png?x='1'", "idempotencyKey": unique(),
    });
    let sent = ok(ask(&members[0], "sendMessage", &asked).await);
    assert_eq!((sent.string("messageId").unwrap(), landed(&sent)), (&*id, (1, 2)));
    let log = ok(get(&members[1], "getMessages", &[("convoId", &convo(&members[1])), ("sinceSeq", "1")]).await);
    assert_eq!(
        log.list("messages").unwrap(),
        [json!({
            "id": id, "convoId": convo(&members[0]), "sender": members[0].did(), "messageType": "app",
            "ciphertext": bytes_value(&ciphertext), "generation": 1, "epoch": 1, "seq": 2, "createdAt": sent.body["receivedAt"],
            "embedType": asked["embedType"], "embedUri": asked["embedUri"],
        })]
    );
    assert_eq!(members[1].catch_up().await.unwrap(), ["hello"]);
    let unnamed = ok(ask(&members[0], "sendMessage", &message(&members[0], b"opaque")).await);
    assert_eq!(unnamed.string("messageId").unwrap().len(), 26, "a ULID");
}

async fn p3_messages_and_commits_share_one_dense_order(app: &TestApp) {
    let mut members = app.conversation(3).await;
    let (sender, reader) = (members.pop().unwrap(), members.pop().unwrap());
    let sending = join_all((0..30u8).map(async |n| {
        // Opaque messages of epoch 1 lose their race against the commit; the test counts the accepted ones.
        let reply = ask(&sender, "sendMessage", &message(&sender, &[b'a', n])).await;
        reply.is_ok().then(|| reply.number("seq").unwrap())
    }));
    let newcomer = app.published_persona().await;
    let adding = async { members[0].add(&[newcomer.did()]).await.unwrap() };
    let (sent, landed) = tokio::join!(sending, adding);
    let mut seqs: Vec<u64> = sent.into_iter().flatten().chain([landed.seq]).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (2..2 + seqs.len() as u64).collect::<Vec<_>>());
    let log = ok(get(&reader, "getMessages", &[("convoId", &convo(&reader)), ("sinceSeq", "1")]).await);
    let read: Vec<u64> = log.list("messages").unwrap().iter().map(|one| one["seq"].as_u64().unwrap()).collect();
    assert_eq!(read, seqs, "each of them once, which is how often it was sent");
}

async fn p9_a_stale_message_gets_the_missing_commits(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let winner = offer(&mut members[0], &[&app.persona()]);
    ok(ask(&members[0], "addMembers", &winner.body).await);
    let before = contents(app).await;
    let reply = refused(ask(&members[1], "sendMessage", &message(&members[1], b"late")).await, 409, "EpochMismatch");
    assert_eq!((&reply.body["serverEpoch"], &reply.body["reason"]), (&json!(2), &json!("stale")));
    assert_eq!((&reply.body["recovery"], &reply.body["moreMissing"]), (&json!("catchUpThenRebase"), &json!(false)));
    let missing = reply.list("missing").unwrap();
    assert_eq!((missing.len(), &missing[0]["epoch"]), (1, &json!(2)));
    assert_eq!(reply.bytes_in(&missing[0], "commitData").unwrap(), winner.staged.commit);
    assert_eq!(contents(app).await, before);

    seed_entries(app, &members[0], "commit", 60, 10).await;
    let reply = refused(ask(&members[1], "sendMessage", &message(&members[1], b"late")).await, 409, "EpochMismatch");
    assert_eq!((reply.list("missing").unwrap().len(), &reply.body["moreMissing"]), (50, &json!(true)));
    assert_eq!(reply.body["missing"][0]["epoch"], 2);
}

async fn p9_a_message_for_a_future_epoch_gets_epoch_ahead(app: &TestApp) {
    let members = app.conversation(2).await;
    for epoch in [2u64, 1 << 40, (1 << 53) - 1] {
        let early = with(&message(&members[0], b"early"), json!({ "epoch": epoch }));
        let reply = refused(ask(&members[0], "sendMessage", &early).await, 409, "EpochAhead");
        assert_eq!((&reply.body["reason"], &reply.body["serverEpoch"]), (&json!("future"), &json!(1)));
        assert_eq!(reply.body["recovery"], "rejoin", "no commit leads back");
        assert_eq!(reply.list("missing").unwrap().len(), 0);
    }
}

async fn a_window_lets_messages_lag(app: &TestApp) {
    let members = app.conversation(2).await;
    seed_entries(app, &members[0], "commit", 3, 10).await;
    for (epoch, status) in [(1, 409), (2, 200), (3, 200), (4, 200), (5, 409)] {
        let asked = with(&message(&members[1], b"lagging"), json!({ "epoch": epoch }));
        let reply = ask(&members[1], "sendMessage", &asked).await;
        assert_eq!(reply.status, status, "{epoch}: {reply}");
        if status == 200 {
            assert_eq!(reply.number("epoch").unwrap(), epoch, "the epoch that it is filed under");
        }
    }
}

async fn seven_mib_fit_through_a_pds_and_one_byte_more_is_refused(app: &TestApp) {
    let members = app.conversation(2).await;
    let large = vec![0x5a; 7 * MIB];
    let sent = ok(ask(&members[0], "sendMessage", &message(&members[0], &large)).await);
    let read = ok(get(&members[1], "getMessages", &[("convoId", &convo(&members[1])), ("limit", "1")]).await);
    assert!(read.text.len() < 10 * MIB, "{} bytes", read.text.len());
    let entry = &read.list("messages").unwrap()[0];
    assert_eq!(entry["id"], sent.body["messageId"]);
    assert!(read.bytes_in(entry, "ciphertext").unwrap() == large);
    let before = contents(app).await;
    let larger = vec![0x5a; 7 * MIB + 1];
    refused(ask(&members[0], "sendMessage", &message(&members[0], &larger)).await, 413, "MessageTooLarge");
    assert_eq!(contents(app).await, before);
}

async fn p4_a_message_from_before_there_was_this_limit_is_known_by_its_id(app: &TestApp) {
    let members = app.conversation(2).await;
    seed_entries(app, &members[0], "app", 1, (8 * MIB).try_into().unwrap()).await;
    let (id, seq) = ("seeded-2", 2);
    let again = with(&message(&members[0], &vec![0x5a; 8 * MIB]), json!({ "msgId": id }));
    let before = contents(app).await;
    let known = ok(ask(&members[0], "sendMessage", &again).await);
    assert_eq!((known.string("messageId").unwrap(), landed(&known)), (id, (1, seq)));
    refused(ask(&members[1], "sendMessage", &again).await, 413, "MessageTooLarge");
    let another = with(&again, json!({ "ciphertext": bytes_value(&vec![0x5b; 8 * MIB]) }));
    refused(ask(&members[0], "sendMessage", &another).await, 409, "IdempotencyConflict");
    let new = with(&again, json!({ "msgId": unique() }));
    refused(ask(&members[0], "sendMessage", &new).await, 413, "MessageTooLarge");
    assert_eq!(contents(app).await, before);
}

async fn a_message_is_written_once_however_many_are_in_the_conversation(app: &TestApp) {
    let mut written = Vec::new();
    for others in [0, 9_998] {
        let members = app.conversation(2).await;
        seed_members(app, &convo(&members[0]), others).await;
        let first = next_transaction(app).await;
        ok(ask(&members[0], "sendMessage", &message(&members[0], b"hello, all")).await);
        written.push(written_since(app, first).await);
        let unread = "select count(*) from member_unread where convo_id = $1 and unread_count = 1";
        let unread = app.database.connect().await.query_one(unread, &[&convo(&members[0])]).await.unwrap();
        assert_eq!(unread.get::<_, i64>(0), others + 1, "the other members have it unread");
    }
    assert_eq!(written[0], written[1]);
    assert_eq!((written[0]["messages"], written[0]["conversations"]), (1, 1));
    assert_eq!(written[0].values().sum::<i64>(), 2, "{written:?}");
}

async fn a_former_member_cannot_send(app: &TestApp) {
    let members = app.conversation(3).await;
    for (n, gone) in members[1..].iter().enumerate() {
        let (by, target) = if n == 0 { (gone, gone) } else { (&members[0], gone) };
        ok(ask(by, "leaveConvo", &json!({ "convoId": convo(by), "targetDid": target.did() })).await);
        let before = contents(app).await;
        for epoch in [0, 1, 2] {
            let asked = with(&message(gone, b"still here?"), json!({ "epoch": epoch }));
            let reply = refused(ask(gone, "sendMessage", &asked).await, 403, "NotMember");
            assert_eq!(reply.body["recovery"], "rejoin");
        }
        assert_eq!(contents(app).await, before);
    }
}

async fn every_spelling_of_base64_is_the_same_message(app: &TestApp) {
    let members = app.conversation(2).await;
    let bytes = [b"\xfb\xff\xbf".as_slice(), b"\xfb\xff\xbf\xfe", b"\xfb\xff\xbf\xfe\xff"];
    for bytes in bytes {
        for spelling in spellings(bytes) {
            let asked = with(&message(&members[0], b""), json!({ "ciphertext": spelling }));
            ok(ask(&members[0], "sendMessage", &asked).await);
        }
        let log = ok(get(&members[1], "getMessages", &[("convoId", &convo(&members[1])), ("limit", "8")]).await);
        for entry in log.list("messages").unwrap() {
            assert_eq!(entry["ciphertext"], bytes_value(bytes));
        }
    }
}

async fn snake_case_is_accepted_and_unknown_fields_are_ignored(app: &TestApp) {
    let members = app.conversation(2).await;
    let asked = json!({
        "convo_id": convo(&members[0]), "ciphertext": "aGVsbG8=", "epoch": 1, "sender_did": members[0].did(),
        "msg_id": "a-1_B", "embed_type": "t", "embed_uri": "at://x", "idempotency_key": "k", "padding": [0, null, {}],
    });
    let sent = ok(ask(&members[0], "sendMessage", &asked).await);
    assert_eq!(sent.string("messageId").unwrap(), "a-1_B");
    let log = ok(get(&members[1], "getMessages", &[("convo_id", &convo(&members[1])), ("since_seq", "1")]).await);
    assert_eq!(log.body["messages"][0]["embedUri"], "at://x");
}

async fn the_sender_is_the_tokens_issuer(app: &TestApp) {
    let members = app.conversation(2).await;
    for sender in [members[1].did(), &random_did()] {
        let asked = with(&message(&members[0], b"not me"), json!({ "senderDid": sender }));
        refused(ask(&members[0], "sendMessage", &asked).await, 403, "NotAuthorized");
    }
}

async fn a_message_that_says_it_is_of_another_epoch_than_the_request_is_refused(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let Persona { mls, group_id, .. } = &mut members[0];
    let ciphertext = mls.encrypt(group_id, b"hello").unwrap();
    for epoch in [0, 2] {
        let asked = with(&message(&members[0], &ciphertext), json!({ "epoch": epoch }));
        refused(ask(&members[0], "sendMessage", &asked).await, 400, "InvalidMessage");
    }
}

async fn p1_bytes_that_start_like_an_mls_message_must_be_an_encrypted_application_message(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let before = contents(app).await;
    for wire_format in 1..=5 {
        let asked = message(&members[0], &[0, 1, 0, wire_format, 0xff, 0xff, 0xff]);
        refused(ask(&members[0], "sendMessage", &asked).await, 400, "InvalidMessage");
    }
    // A PublicMessage of this group and epoch with application content: version and wire format, group id, epoch,
    // sender (member 0), no authenticated data, content, signature, membership tag.
    let group = members[0].group_id.clone();
    let mut public = vec![0, 1, 0, 1, group.len() as u8];
    public.extend(&group);
    public.extend(1_u64.to_be_bytes());
    public.extend([1, 0, 0, 0, 0, 0, 1, 2]);
    public.extend(b"hi");
    public.extend([1, 0, 1, 0]);
    let reply = refused(ask(&members[0], "sendMessage", &message(&members[0], &public)).await, 400, "InvalidMessage");
    assert!(reply.body["message"].as_str().unwrap().contains("encrypted"), "{reply}");
    // An epoch beyond the integers of JSON.
    let Persona { mls, group_id, .. } = &mut members[0];
    let mut beyond = mls.encrypt(group_id, b"hello").unwrap();
    let epoch = 5 + group.len();
    beyond[epoch..epoch + 8].copy_from_slice(&u64::MAX.to_be_bytes());
    let asked = with(&message(&members[0], &beyond), json!({ "epoch": (1_u64 << 53) - 1 }));
    refused(ask(&members[0], "sendMessage", &asked).await, 400, "InvalidMessage");
    assert_eq!(contents(app).await, before);
    for opaque in [b"\0\x01".as_slice(), &[0, 1, 0, 6, 1], &[0, 2, 0, 1, 1], &[1, 0, 1, 0]] {
        ok(ask(&members[0], "sendMessage", &message(&members[0], opaque)).await);
    }
}

async fn embeds_have_their_shape(app: &TestApp) {
    let members = app.conversation(2).await;
    let before = contents(app).await;
    for changes in [
        json!({ "embedType": "t".repeat(257) }),
        json!({ "embedType": "\0" }),
        json!({ "embedUri": "no scheme" }),
        json!({ "embedUri": "https:" }),
        json!({ "embedUri": "https://a b" }),
        json!({ "embedUri": "https://a\u{0}" }),
        json!({ "embedUri": format!("https://{}", "u".repeat(8_192)) }),
    ] {
        let asked = with(&message(&members[0], b"look"), changes);
        refused(ask(&members[0], "sendMessage", &asked).await, 400, "InvalidAsset");
    }
    assert_eq!(contents(app).await, before);
}

async fn a_body_beyond_any_valid_request_is_413(app: &TestApp) {
    let members = app.conversation(2).await;
    let xrpc = &members[0].xrpc;
    let nsid = "blue.catbird.mls.sendMessage";
    // With a Content-Length and without: a stream has none.
    let announced = xrpc.http.post(xrpc.url(nsid, &[])).body(vec![b' '; 20 * MIB + 1]);
    let chunks = (0..21).map(|_| Ok::<_, std::io::Error>(vec![b' '; MIB]));
    let streamed =
        xrpc.http.post(xrpc.url(nsid, &[])).body(reqwest::Body::wrap_stream(futures_util::stream::iter(chunks)));
    for request in [announced, streamed] {
        // A server that refuses early may close the connection before the client has sent everything.
        match xrpc.send(nsid, request.bearer_auth(xrpc.token(nsid))).await {
            Ok(reply) => _ = refused(reply, 413, "PayloadTooLarge"),
            Err(error) => panic!("{error}"),
        }
    }
    ok(ask(&members[0], "sendMessage", &message(&members[0], b"and now a small one")).await);
}
