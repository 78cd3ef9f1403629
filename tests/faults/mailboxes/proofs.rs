//! Consent: a mailbox is verified before anything is delivered, is not challenged often, and is suspended when it fails
//! for long; its owner is told.

use catbird_client::persona::Persona;
use catbird_client::xrpc::EventStream;
use catbird_testkit::lexicon;
use catbird_testkit::receiver::{Answer, Receiver, Repeats, SECRET};
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::mailboxes::{PATIENCE, all_delivered, ask, count, judged, mailbox, set, start, until};

/// Mailbox events of an owner.
struct Told(EventStream);

impl Told {
    async fn by(who: &Persona) -> Self {
        Self(who.xrpc.follow("streamConvoEvents", &[], None).await.unwrap().unwrap_or_else(|reply| panic!("{reply}")))
    }

    async fn next(&mut self) -> Value {
        // Keepalives alone would keep the stream open.
        let next = async {
            loop {
                let event = self.0.next().await.unwrap().unwrap();
                lexicon::validate_event("blue.catbird.mls.streamConvoEvents", &event.data).unwrap();
                if event.name == "mailboxEvent" {
                    return event.data;
                }
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("nothing was told of the mailbox")
    }
}

/// Makes the next challenge of a mailbox with this many challenges due now.
async fn hurry(db: &Client, begun: i32) {
    let hurry = "update mailboxes set challenge_at = now() where challenge_at > now() and challenges = $1";
    db.execute(hurry, &[&begun]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_handed_over_before_the_challenge_is_answered() {
    // An attempt before verification does not count.
    let app = start(&[("MAILBOX_MAX_ATTEMPTS", "1")]).await;
    let db = app.database.connect().await;
    let receiver = Receiver::start().await;
    receiver.repeat(Repeats::Otherwise);
    let mut members = app.conversation(2).await;
    let mut told = Told::by(&members[1]).await;
    let mut body = receiver.mailbox();
    body["zone"] = json!("bob's zone");
    ask(&members[1], &body).await;
    members[0].send("not for strangers").await.unwrap();

    let challenge = receiver.have_challenges(1).await.remove(0);
    lexicon::validate_def("blue.catbird.mls.defs#mailboxVerification", &challenge.json()).unwrap();
    assert!(challenge.is_signed_with(SECRET) && !challenge.is_signed_with(b"another secret of enough bytes"));
    let data = challenge.json()["data"].clone();
    assert_eq!((&data["recipient"], &data["zone"]), (&json!(members[1].did()), &json!("bob's zone")));
    assert!(data["challenge"].as_str().unwrap().len() >= 32);
    until("an attempt at the envelope", async || {
        let tried = "select exists (select from envelopes where last_error like '%challenge%')";
        db.query_one(tried, &[]).await.unwrap().get(0)
    })
    .await;
    assert_eq!(mailbox(&members[1], None).await["state"], "unverified");
    receiver.repeat(Repeats::Bare);
    until("the proof", async || {
        hurry(&db, 1).await;
        mailbox(&members[1], None).await["state"] == "verified"
    })
    .await;
    assert_eq!(told.next().await["state"], "verified");
    all_delivered(&db).await;
    assert_eq!(receiver.received().len(), 1, "what came meanwhile is not lost");
    let ids: Vec<String> = receiver.challenges().iter().map(|challenge| challenge.id()).collect();
    assert!(ids[0] != ids[1] && receiver.challenges()[1].json()["data"]["challenge"] != data["challenge"]);

    // It stays verified however often it is set, until it changes.
    let asked = receiver.challenges().len();
    ask(&members[1], &body).await;
    assert_eq!(mailbox(&members[1], None).await["state"], "verified");
    body["secret"] = json!({ "$bytes": "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE" });
    ask(&members[1], &body).await;
    assert_eq!(judged(&members[1], None).await["state"], "verified");
    assert_eq!(receiver.challenges().len(), asked + 1, "with another secret it is");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_does_not_answer_gets_five_challenges_a_day_from_each_member() {
    let app = start(&[]).await;
    let db = app.database.connect().await;
    let victim = Receiver::start().await;
    victim.repeat(Repeats::Not(Answer::Status(404)));
    let mut members = app.conversation(3).await;
    let mut told = Told::by(&members[1]).await;
    ask(&members[1], &victim.mailbox()).await;
    members[0].send("cannon").await.unwrap();
    for begun in 1..5 {
        victim.have_challenges(begun).await;
        until("the next", async || {
            hurry(&db, begun as i32).await;
            victim.challenges().len() > begun
        })
        .await;
    }
    let seen = judged(&members[1], None).await;
    assert_eq!((&seen["state"], &seen["reason"]), (&json!("refused"), &json!("the mailbox answered 404")), "{seen}");
    let event = told.next().await;
    assert_eq!((&event["state"], &event["reason"]), (&seen["state"], &seen["reason"]));
    // An attempt before the last challenge postpones the envelope for as long as the next challenge takes, which is a minute by then.
    let sooner = "update envelopes set next_attempt_at = now() where next_attempt_at > now() + interval '30 seconds'";
    until("the withdrawal", async || {
        db.execute(sooner, &[]).await.unwrap();
        count(&db, "pending").await == 0
    })
    .await;
    members[0].send("no envelope").await.unwrap();

    // A member that has named it often causes no more challenges, and nor do other members once many have.
    let too_often = async |member: &Persona| {
        ask(member, &victim.mailbox()).await;
        let seen = judged(member, None).await;
        assert_eq!(seen["state"], "refused");
        assert!(seen["reason"].as_str().unwrap().contains("too often"), "{seen}");
    };
    too_often(&members[1]).await;
    let by_all = "update mailbox_challenges set sent = $1 where whom like 'url %'";
    db.execute(by_all, &[&25]).await.unwrap();
    too_often(&members[2]).await;
    assert_eq!((victim.challenges().len(), victim.received().len()), (5, 0));
    let all = "select count(*) from envelopes";
    until("the withdrawal", async || db.query_one(all, &[]).await.unwrap().get::<_, i64>(0) == 0).await;

    // One stranger does not lock out its owner.
    db.execute(by_all, &[&5]).await.unwrap();
    victim.repeat(Repeats::Object);
    set(&members[2], &victim).await;
    assert_eq!(victim.challenges().len(), 6);
    too_often(&members[1]).await;

    // On the next day, and after one success, without limit.
    db.execute("update mailbox_challenges set forget_at = now()", &[]).await.unwrap();
    for _ in 0..6 {
        ask(&members[1], &json!({ "provider": "none" })).await;
        set(&members[1], &victim).await;
    }
    assert_eq!(victim.challenges().len(), 6 + 6);
    // But a member may not set one mailbox after the other.
    db.execute("update mailbox_challenges set sent = 50 where whom = 'member ' || $1", &[&members[1].did()])
        .await
        .unwrap();
    ask(&members[1], &json!({ "provider": "none" })).await;
    ask(&members[1], &victim.mailbox()).await;
    let seen = judged(&members[1], None).await;
    assert!(seen["reason"].as_str().unwrap().contains("too many mailboxes"), "{seen}");
    set(&members[0], &victim).await;
    assert_eq!(victim.challenges().len(), 6 + 7);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verified_url_counts_for_all_conversations_of_its_member() {
    let app = start(&[]).await;
    let db = app.database.connect().await;
    let receiver = Receiver::start().await;
    let members = app.conversation(2).await;
    set(&members[1], &receiver).await;
    db.execute("update mailbox_challenges set sent = 50 where whom = 'member ' || $1", &[&members[1].did()])
        .await
        .unwrap();
    let mut here = receiver.mailbox();
    here["convoId"] = json!(members[1].convo().unwrap());
    ask(&members[1], &here).await;
    assert_eq!(judged(&members[1], here["convoId"].as_str()).await["state"], "verified");
    assert_eq!(receiver.challenges().len(), 1);
    // Not with another secret, which could be another owner's.
    here["secret"] = json!({ "$bytes": "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE" });
    ask(&members[1], &here).await;
    assert_eq!(judged(&members[1], here["convoId"].as_str()).await["state"], "refused");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_a_replica_of_an_earlier_build_has_written_has_proved_nothing() {
    let app = start(&[]).await;
    let db = app.database.connect().await;
    let (willing, victim) = (Receiver::start().await, Receiver::start().await);
    victim.repeat(Repeats::Not(Answer::Status(404)));
    let mut members = app.conversation(2).await;
    set(&members[1], &willing).await;
    db.execute("update mailboxes set url = $1, updated_at = now() - interval '2 days'", &[&victim.url()])
        .await
        .unwrap();
    assert_eq!(mailbox(&members[1], None).await["state"], "unverified");
    members[0].send("cannon").await.unwrap();
    victim.have_challenges(1).await;
    assert_eq!((willing.received().len(), victim.received().len()), (0, 0));
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_refused_with_4xx_is_not_retried_often() {
    let app = start(&[]).await;
    let db = app.database.connect().await;
    let receiver = Receiver::start().await;
    let mut members = app.conversation(2).await;
    set(&members[1], &receiver).await;
    receiver.answer(Answer::Status(403));
    members[0].send("hello").await.unwrap();
    until("the end of it", async || count(&db, "dead").await == 1).await;
    assert_eq!(receiver.received().len(), 3);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mailbox_that_fails_for_long_is_suspended_until_it_is_set_again() {
    let app = start(&[]).await;
    let db = app.database.connect().await;
    let receiver = Receiver::start().await;
    let mut members = app.conversation(2).await;
    let mut told = Told::by(&members[1]).await;
    set(&members[1], &receiver).await;
    assert_eq!(told.next().await["state"], "verified");
    // One dead envelope and then silence are not enough.
    db.batch_execute("update mailboxes set failing_since = now() - interval '25 hours', failed = 1").await.unwrap();
    receiver.answer(Answer::Status(500));
    members[0].send("not taken yet").await.unwrap();
    let failed = "select exists (select from envelopes where state = 'pending' and last_error is not null)";
    until("a failed attempt", async || db.query_one(failed, &[]).await.unwrap().get(0)).await;
    assert_eq!(mailbox(&members[1], None).await["state"], "verified");
    // To its end: an attempt that continues would count for the mailbox later.
    receiver.answer(Answer::Status(204));
    all_delivered(&db).await;
    let delivered = async |seq: u64| {
        let delivered = "select exists (select from envelopes where seq = $1 and state = 'delivered')";
        let seq = i64::try_from(seq).unwrap();
        until("a delivery", async || db.query_one(delivered, &[&seq]).await.unwrap().get(0)).await;
    };
    for (standing, answer, reason) in [
        // The hundredth dead envelope in a row.
        ("failed = 99, failing_since = now()", 410, "the mailbox answered 410"),
        // And the second one if none was accepted for a day.
        ("failed = 1, failing_since = now() - interval '25 hours'", 410, "the mailbox answered 410"),
    ] {
        // A success resets everything.
        db.batch_execute(&format!("update mailboxes set {standing}")).await.unwrap();
        receiver.answer(Answer::Status(204));
        delivered(members[0].send("taken").await.unwrap().seq).await;
        let forgiven = "select failed = 0 and failing_since is null and state = 'verified' from mailboxes";
        until("forgiveness", async || db.query_one(forgiven, &[]).await.unwrap().get(0)).await;

        db.batch_execute(&format!("update mailboxes set {standing}")).await.unwrap();
        receiver.answer(Answer::Status(answer));
        members[0].send("not taken").await.unwrap();
        let event = told.next().await;
        assert_eq!((&event["state"], &event["reason"]), (&json!("suspended"), &json!(reason)));
        let seen = mailbox(&members[1], None).await;
        assert_eq!((&seen["state"], &seen["reason"]), (&json!("suspended"), &json!(reason)));
        until("the withdrawal", async || count(&db, "pending").await == 0).await;
        let asked = receiver.challenges().len();

        // Nothing is made or sent for it until it is set again. That starts with a challenge, and with later entries.
        let unwanted = i64::try_from(members[0].send("not wanted").await.unwrap().seq).unwrap();
        receiver.answer(Answer::Status(204));
        set(&members[1], &receiver).await;
        assert_eq!(told.next().await["state"], "verified");
        delivered(members[0].send("wanted").await.unwrap().seq).await;
        assert!(receiver.challenges().len() > asked);
        let made = "select count(*) from envelopes where seq = $1";
        assert_eq!(db.query_one(made, &[&unwanted]).await.unwrap().get::<_, i64>(0), 0);
    }
    app.finish().await;
}
