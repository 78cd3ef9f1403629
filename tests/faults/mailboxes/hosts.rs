//! P10: a mailbox that fails, hangs, lies or dies is retried later and affects no other.

use std::time::Duration;

use catbird_testkit::receiver::{Answer, Receiver};
use tokio::time::Instant;

use crate::mailboxes::{all_delivered, count, mailbox, set, start, until};

#[tokio::test(flavor = "multi_thread")]
async fn whatever_goes_wrong_it_is_tried_again_with_the_same_id() {
    let app = start(&[]).await;
    let db = app.database.connect().await;
    let (receiver, elsewhere) = (Receiver::start().await, Receiver::start().await);
    let mut members = app.conversation(2).await;
    set(&members[1], &receiver).await;
    let bad = [
        Answer::Status(500),
        Answer::Status(404),
        Answer::Redirect(elsewhere.url()),
        Answer::Garbage,
        Answer::Die,
        Answer::Hang,
    ];
    for (n, answer) in bad.iter().enumerate() {
        receiver.answer_first(std::slice::from_ref(answer));
        members[0].send("hello").await.unwrap();
        let both = receiver.have(2 * (n + 1)).await;
        let [first, second] = [&both[2 * n], &both[2 * n + 1]];
        assert_eq!(first.id(), second.id(), "{answer:?}");
        assert_eq!(first.body, second.body, "{answer:?}");
        all_delivered(&db).await;
        let attempts = "select attempts from envelopes where id = $1";
        assert_eq!(db.query_one(attempts, &[&first.id()]).await.unwrap().get::<_, i32>(0), 2, "{answer:?}");
    }
    assert_eq!(elsewhere.received().len(), 0, "redirects are not followed");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_end_is_not_read_to_it() {
    let app = start(&[]).await;
    let db = app.database.connect().await;
    let receiver = Receiver::start().await;
    receiver.answer(Answer::Endless);
    let mut members = app.conversation(2).await;
    set(&members[1], &receiver).await;
    members[0].send("hello").await.unwrap();
    all_delivered(&db).await;
    assert_eq!(receiver.received().len(), 1, "a 200 is a 200, whatever follows");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_grow_from_one_attempt_to_the_next() {
    let app = start(&[]).await;
    let receiver = Receiver::start().await;
    receiver.answer(Answer::Status(500));
    let mut members = app.conversation(2).await;
    set(&members[1], &receiver).await;
    members[0].send("hello").await.unwrap();
    let mut came = Vec::new();
    for n in 1..=4 {
        receiver.have(n).await;
        came.push(Instant::now());
    }
    // After one, two and four seconds; half of each may be missing and a poll may be added.
    for (n, least) in [(1, 500), (2, 1_000), (3, 2_000)] {
        assert!(came[n] - came[n - 1] >= Duration::from_millis(least) - Duration::from_millis(100), "{came:?}");
    }
    receiver.answer(Answer::Status(204));
    let db = app.database.connect().await;
    all_delivered(&db).await;
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_hangs_does_not_keep_others_waiting() {
    let app = start(&[("MAILBOX_TIMEOUT_SECONDS", "20")]).await;
    let (slow, quick) = (Receiver::start().await, Receiver::start().await);
    slow.answer(Answer::Hang);
    let mut members = app.conversation(3).await;
    set(&members[1], &slow).await;
    for n in 0..80 {
        members[0].send(&format!("{n}")).await.unwrap();
    }
    slow.have(1).await;
    set(&members[2], &quick).await;
    let start = Instant::now();
    for n in 0..20 {
        members[0].send(&format!("{n}")).await.unwrap();
    }
    let mut seqs: Vec<_> =
        quick.have(20).await.iter().map(|got| got.json()["data"]["message"]["seq"].as_i64().unwrap()).collect();
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    seqs.sort_unstable();
    assert_eq!(seqs, (82..102).collect::<Vec<_>>());
    assert!(slow.received().len() <= 8, "{} attempts run at a host that hangs", slow.received().len());
    // The hanging attempts would take the rest of their 20 seconds; the test does not wait for them.
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mailbox_that_is_gone_is_not_asked_again() {
    let app = start(&[]).await;
    let db = app.database.connect().await;
    let receiver = Receiver::start().await;
    receiver.answer(Answer::Status(410));
    let mut members = app.conversation(2).await;
    set(&members[1], &receiver).await;
    members[0].send("hello").await.unwrap();
    until("the end of it", async || count(&db, "dead").await == 1).await;
    let dead = db.query_one("select attempts, last_error from dead_envelopes", &[]).await.unwrap();
    assert_eq!((dead.get(0), dead.get(1)), (1, "the mailbox answered 410"));
    assert_eq!(receiver.received().len(), 1);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_into_the_servers_network_is_not_called_even_if_it_was_once_allowed() {
    let app = start(&[("ALLOW_PRIVATE_MAILBOX_HOSTS", "false"), ("MAILBOX_MAX_ATTEMPTS", "1")]).await;
    let db = app.database.connect().await;
    let receiver = Receiver::start().await;
    let mut members = app.conversation(2).await;
    let set = "insert into mailboxes (member_did, convo_id, provider, url, host, secret)
        values ($1, '', 'webhook', $2, 'here', 'secret') on conflict (member_did, convo_id) do update set url = excluded.url";
    let port = receiver.port;
    for (n, host) in (1..).zip(["http://127.0.0.1", "https://127.0.0.1", "https://localhost", "https://[::1]"]) {
        db.execute(set, &[&members[1].did(), &format!("{host}:{port}/in")]).await.unwrap();
        db.execute("update mailboxes set state = 'verified', reason = null", &[]).await.unwrap();
        members[0].send("hello").await.unwrap();
        until("the refusal", async || count(&db, "dead").await == n).await;
        let seen = mailbox(&members[1], None).await;
        assert!(seen["state"] == "suspended" && seen["reason"].as_str().unwrap().starts_with("url must"), "{seen}");
    }
    let why = db.query("select last_error from dead_envelopes", &[]).await.unwrap();
    assert!(why.iter().all(|row| row.get::<_, &str>(0).starts_with("url must")), "{why:?}");
    assert_eq!(receiver.received().len(), 0);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_never_asked_for_it_is_left_alone() {
    let app = start(&[("MAILBOX_RETRY_SECONDS", "60")]).await;
    let receiver = Receiver::start().await;
    receiver.answer(Answer::Status(404));
    let mut members = app.conversation(2).await;
    set(&members[1], &receiver).await;
    for n in 0..40 {
        members[0].send(&format!("{n}")).await.unwrap();
    }
    receiver.have(8).await;
    let db = app.database.connect().await;
    let put_off =
        "select count(*) from envelopes where state = 'pending' and next_attempt_at > now() + interval '20 seconds'";
    until("the rest", async || db.query_one(put_off, &[]).await.unwrap().get::<_, i64>(0) == 40).await;
    // Attempts that were running at the last failure.
    assert!(receiver.received().len() <= 8 + 2, "{}", receiver.received().len());
    let tried: i64 = db.query_one("select sum(attempts) from envelopes", &[]).await.unwrap().get(0);
    assert!(tried <= 10, "{tried}: who waits loses no attempt");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_names_that_hang_do_not_keep_others_waiting() {
    // Longer than this test waits.
    let app = start(&[("MAILBOX_TIMEOUT_SECONDS", "60")]).await;
    let mut members = app.conversation(10).await;
    let mut slow = Vec::new();
    for member in &members[2..] {
        let receiver = Receiver::start().await;
        receiver.answer(Answer::Hang);
        set(member, &receiver).await;
        slow.push(receiver);
    }
    for n in 0..20 {
        members[0].send(&format!("{n}")).await.unwrap();
    }
    for receiver in &slow {
        receiver.have(2).await;
    }
    let honest = Receiver::start().await;
    set(&members[1], &honest).await;
    for n in 0..10 {
        members[0].send(&format!("{n}")).await.unwrap();
    }
    honest.have(10).await;
    assert!(slow.iter().all(|receiver| receiver.received().len() == 2), "a host that has taken nothing gets no more");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_recipient_has_no_more_attempts_by_having_many_names() {
    let app = start(&[("MAILBOX_TIMEOUT_SECONDS", "60")]).await;
    let mut slow = Vec::new();
    let bob = app.persona();
    for _ in 0..8 {
        let mut alice = app.conversation(1).await.remove(0);
        let convo = alice.convo().unwrap().to_owned();
        let add = serde_json::json!({ "convoId": convo, "didList": [bob.did()] });
        assert_eq!(alice.xrpc.procedure("addMembers", &add).await.unwrap().status, 200);
        let receiver = Receiver::start().await;
        receiver.answer(Answer::Hang);
        let mut mailbox = receiver.mailbox();
        mailbox["convoId"] = convo.into();
        crate::mailboxes::set_with(&bob, mailbox).await;
        for n in 0..2 {
            alice.send(&format!("{n}")).await.unwrap();
        }
        slow.push(receiver);
    }
    let db = app.database.connect().await;
    until("all envelopes", async || count(&db, "pending").await == 16).await;
    let all = || slow.iter().map(|receiver| receiver.received().len()).sum::<usize>();
    until("as many attempts as there may be", async || all() == 8).await;
    // The next poll for envelopes is over when another recipient's envelope arrives.
    let mut members = app.conversation(2).await;
    let other = Receiver::start().await;
    set(&members[1], &other).await;
    members[0].send("hello").await.unwrap();
    other.have(1).await;
    assert_eq!(all(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_says_when_to_come_back_is_left_alone_until_then() {
    let app = start(&[]).await;
    let receiver = Receiver::start().await;
    receiver.answer_first(&[Answer::Busy(3)]);
    let mut members = app.conversation(2).await;
    set(&members[1], &receiver).await;
    members[0].send("one").await.unwrap();
    receiver.have(1).await;
    let start = Instant::now();
    members[0].send("two").await.unwrap();
    receiver.have(3).await;
    assert!(start.elapsed() >= Duration::from_millis(2_800), "{:?}", start.elapsed());
    all_delivered(&app.database.connect().await).await;
    app.finish().await;
}
