//! Mailboxes: every recipient gets one envelope for each entry that is its own, and nothing else (P7), whoever dies in between (P5);
//! what a mailbox does badly costs only itself (P10); who has not asked for anything is sent nothing but a few challenges; and operators
//! see what was given up, and put it back.

mod deaths;
mod hosts;
mod operators;
mod proofs;
mod recipients;
mod restored;

use std::time::Duration;

use catbird_client::persona::Persona;
use catbird_testkit::app::TestApp;
use catbird_testkit::receiver::Receiver;
use serde_json::Value;
use tokio::time::Instant;
use tokio_postgres::Client;

const PATIENCE: Duration = Duration::from_secs(60);

/// A server whose mailboxes may be in this test, which asks quickly again.
const LOCAL: [(&str, &str); 3] =
    [("ALLOW_PRIVATE_MAILBOX_HOSTS", "true"), ("MAILBOX_RETRY_SECONDS", "1"), ("MAILBOX_TIMEOUT_SECONDS", "1")];

/// A server in this process that hands entries over.
async fn start(settings: &[(&str, &str)]) -> TestApp {
    let app = TestApp::with(&[&LOCAL, settings].concat()).await;
    app.app.start_background();
    app
}

/// Gives somebody a mailbox at this host for all of its conversations, and waits until it has proved itself.
async fn set(member: &Persona, receiver: &Receiver) {
    set_with(member, receiver.mailbox()).await;
}

async fn set_with(member: &Persona, body: Value) {
    ask(member, &body).await;
    if body["provider"] == "webhook" {
        assert_eq!(judged(member, body["convoId"].as_str()).await["state"], "verified");
    }
}

/// Gives somebody a mailbox, which has proved nothing yet.
async fn ask(member: &Persona, body: &Value) {
    let reply = member.xrpc.procedure("setMailbox", body).await.unwrap();
    assert_eq!(reply.status, 200, "{reply}");
}

/// What getMailbox says.
async fn mailbox(member: &Persona, convo: Option<&str>) -> Value {
    let convo: Vec<_> = convo.map(|convo| ("convoId", convo.to_owned())).into_iter().collect();
    let reply = member.xrpc.query("getMailbox", &convo).await.unwrap();
    assert_eq!(reply.status, 200, "{reply}");
    reply.body
}

/// What getMailbox says once it is known what the mailbox is worth.
async fn judged(member: &Persona, convo: Option<&str>) -> Value {
    until("a judgement", async || mailbox(member, convo).await["state"] != "unverified").await;
    mailbox(member, convo).await
}

/// Waits for something that comes by itself.
async fn until(what: &str, mut come: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !come().await {
        assert!(Instant::now() < deadline, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// How many envelopes are in this state.
async fn count(db: &Client, state: &str) -> i64 {
    db.query_one("select count(*) from envelopes where state = $1", &[&state]).await.unwrap().get(0)
}

/// Envelopes as "recipient seq", in order.
async fn rows(db: &Client, query: &str) -> Vec<(String, i64)> {
    db.query(query, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// The envelopes that there are, and those that there have to be: one for each recipient of an entry that has a mailbox and had it
/// before the entry.
async fn owed(db: &Client) -> (Vec<(String, i64)>, Vec<(String, i64)>) {
    let made = "select recipient_did || ' ' || convo_id, seq from envelopes order by 1, 2";
    let due = "select r.recipient_did || ' ' || r.convo_id, r.seq
        from message_recipients r join messages m on m.convo_id = r.convo_id and m.seq = r.seq
        join mailboxes b on b.member_did = r.recipient_did and b.convo_id = '' and (m.era, m.tx) > (b.era, b.tx)
       order by 1, 2";
    (rows(db, made).await, rows(db, due).await)
}

/// Waits until everything owed is made and delivered, and proves that nothing else was made.
async fn all_delivered(db: &Client) {
    until("the last envelope", async || {
        let (made, due) = owed(db).await;
        assert!(made.len() <= due.len(), "{made:?} are more than {due:?}");
        made.len() == due.len() && count(db, "delivered").await == made.len() as i64
    })
    .await;
    let (made, due) = owed(db).await;
    assert_eq!(made, due);
}
