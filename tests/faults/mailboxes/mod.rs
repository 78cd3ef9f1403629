//! Mailboxes: each recipient gets one envelope for each of its entries and nothing else (P7), whichever process dies
//! (P5). A bad mailbox affects only itself (P10). A host that did not ask for envelopes gets at most a few challenges.
//! Operators can list and requeue dead envelopes.

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

/// Settings that allow local mailboxes and shorten retries.
const LOCAL: [(&str, &str); 3] =
    [("ALLOW_PRIVATE_MAILBOX_HOSTS", "true"), ("MAILBOX_RETRY_SECONDS", "1"), ("MAILBOX_TIMEOUT_SECONDS", "1")];

/// Starts a server in this process that delivers envelopes.
async fn start(settings: &[(&str, &str)]) -> TestApp {
    let app = TestApp::with(&[&LOCAL, settings].concat()).await;
    app.app.start_background();
    app
}

/// Sets a mailbox at this host for all conversations of a member, and waits until it is verified.
async fn set(member: &Persona, receiver: &Receiver) {
    set_with(member, receiver.mailbox()).await;
}

async fn set_with(member: &Persona, body: Value) {
    ask(member, &body).await;
    if body["provider"] == "webhook" {
        assert_eq!(judged(member, body["convoId"].as_str()).await["state"], "verified");
    }
}

/// Sets a mailbox that is not verified yet.
async fn ask(member: &Persona, body: &Value) {
    let reply = member.xrpc.procedure("setMailbox", body).await.unwrap();
    assert_eq!(reply.status, 200, "{reply}");
}

/// Returns the reply of getMailbox.
async fn mailbox(member: &Persona, convo: Option<&str>) -> Value {
    let convo: Vec<_> = convo.map(|convo| ("convoId", convo.to_owned())).into_iter().collect();
    let reply = member.xrpc.query("getMailbox", &convo).await.unwrap();
    assert_eq!(reply.status, 200, "{reply}");
    reply.body
}

/// Returns the reply of getMailbox once the mailbox is verified or refused.
async fn judged(member: &Persona, convo: Option<&str>) -> Value {
    until("a judgement", async || mailbox(member, convo).await["state"] != "unverified").await;
    mailbox(member, convo).await
}

/// Waits for a condition that comes true by itself.
async fn until(what: &str, mut come: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !come().await {
        assert!(Instant::now() < deadline, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Counts the envelopes in this state.
async fn count(db: &Client, state: &str) -> i64 {
    db.query_one("select count(*) from envelopes where state = $1", &[&state]).await.unwrap().get(0)
}

/// Returns envelopes as "recipient seq", in order.
async fn rows(db: &Client, query: &str) -> Vec<(String, i64)> {
    db.query(query, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Returns the existing envelopes and the expected ones: one for each recipient of an entry whose mailbox is older than
/// the entry.
async fn owed(db: &Client) -> (Vec<(String, i64)>, Vec<(String, i64)>) {
    let made = "select recipient_did || ' ' || convo_id, seq from envelopes order by 1, 2";
    let due = "select r.recipient_did || ' ' || r.convo_id, r.seq
        from message_recipients r join messages m on m.convo_id = r.convo_id and m.seq = r.seq
        join mailboxes b on b.member_did = r.recipient_did and b.convo_id = '' and (m.era, m.tx) > (b.era, b.tx)
       order by 1, 2";
    (rows(db, made).await, rows(db, due).await)
}

/// Waits until all expected envelopes are delivered, and checks that there are no others.
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
