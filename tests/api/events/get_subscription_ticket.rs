//! getSubscriptionTicket: a ticket opens one WebSocket, once, within its lifetime, for its owner and its conversation.

use std::sync::Arc;

use catbird_client::xrpc::Token;
use catbird_server::auth::ticket::TICKET_SECONDS;
use catbird_server::clock::Clock;
use catbird_server::clock::LEEWAY_SECONDS;
use catbird_testkit::app::{SECRET, SERVICE_DID, TestApp};
use catbird_testkit::cluster::database;
use catbird_testkit::fleet::{Fleet, Mode};
use chrono::{DateTime, TimeDelta};
use serde_json::json;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::subscribe_convo_events::{open, refusal, ticket, typing};
use super::*;
use crate::harness::*;

any_serializer! {
    the_reply_says_where_to_connect_and_until_when;
    p7_a_ticket_for_a_conversation_is_for_its_members;
    p7_a_ticket_for_one_conversation_opens_no_other;
    p12_a_ticket_is_no_token_and_a_token_no_ticket;
    p12_a_used_ticket_is_refused_even_where_tokens_are_not with ("ENFORCE_JTI", "false");
    p10_connections_count_as_requests_of_their_caller with ("RATE_LIMIT_PER_DID", "3");
}

async fn the_reply_says_where_to_connect_and_until_when(app: &TestApp) {
    let alice = app.persona();
    #[expect(clippy::disallowed_methods, reason = "a client has a clock of its own")]
    let now = chrono::Utc::now();
    let reply = ok(ask(&alice, "getSubscriptionTicket", &json!({})).await);
    assert_eq!(reply.body["endpoint"], "wss://mls.test/xrpc/blue.catbird.mls.subscribeConvoEvents");
    let expires = DateTime::parse_from_rfc3339(reply.string("expiresAt").unwrap()).unwrap().to_utc();
    let seconds = (expires - now).num_seconds();
    assert!((TICKET_SECONDS - 2..=TICKET_SECONDS).contains(&seconds), "{seconds}");
    open(&alice, &[("ticket", reply.string("ticket").unwrap())]).await;
}

async fn p7_a_ticket_for_a_conversation_is_for_its_members(app: &TestApp) {
    let members = app.conversation(2).await;
    let stranger = app.persona();
    let asked = json!({ "convoId": convo(&members[0]) });
    refused(ask(&stranger, "getSubscriptionTicket", &asked).await, 404, "ConvoNotFound");
    // Rights that it had before it was removed do not outlive the removal.
    let early = ticket(&members[1], &asked).await;
    let all = ticket(&members[1], &json!({})).await;
    let removal = json!({ "convoId": convo(&members[0]), "targetDid": members[1].did() });
    ok(ask(&members[0], "leaveConvo", &removal).await);
    refused(ask(&members[1], "getSubscriptionTicket", &asked).await, 403, "NotMember");
    refused(refusal(&members[1], &[("ticket", &early)]).await, 403, "NotMember");
    let id = convo(&members[0]);
    refused(refusal(&members[1], &[("ticket", &all), ("convoId", &id)]).await, 403, "NotMember");
    for id in [&id, "01JB2N0W3E8Z6TQ9K4M5V7X1YA"] {
        let all = ticket(&stranger, &json!({})).await;
        refused(refusal(&stranger, &[("ticket", &all), ("convoId", id)]).await, 404, "ConvoNotFound");
    }
}

async fn p7_a_ticket_for_one_conversation_opens_no_other(app: &TestApp) {
    let members = app.conversation(1).await;
    let made = json!({ "groupId": "ab12", "cipherSuite": members[0].mls.suite_name() });
    let other = ok(ask(&members[0], "createConvo", &made).await).string("id").unwrap().to_owned();
    let one = ticket(&members[0], &json!({ "convoId": convo(&members[0]) })).await;
    refused(refusal(&members[0], &[("ticket", &one), ("convoId", &other)]).await, 401, "InvalidToken");
    let one = ticket(&members[0], &json!({ "convoId": convo(&members[0]) })).await;
    let mut stream = open(&members[0], &[("ticket", &one)]).await;
    let sent = json!({ "convoId": other, "ciphertext": { "$bytes": "aGVsbG8" }, "epoch": 0 });
    ok(ask(&members[0], "sendMessage", &sent).await);
    ok(ask(&members[0], "sendMessage", &message(&members[0], b"here")).await);
    assert_eq!(stream.expect("messageEvent").await["message"]["convoId"], convo(&members[0]));
}

async fn p12_a_ticket_is_no_token_and_a_token_no_ticket(app: &TestApp) {
    let alice = app.persona();
    let xrpc = &alice.xrpc;
    let given = ticket(&alice, &json!({})).await;
    for nsid in ["blue.catbird.mls.getConvos", "blue.catbird.mls.subscribeConvoEvents"] {
        let request = xrpc.http.get(xrpc.url("blue.catbird.mls.getConvos", &[])).bearer_auth(&given);
        refused(xrpc.send("blue.catbird.mls.getConvos", request).await.unwrap(), 401, "InvalidToken");
        let token = xrpc.token(nsid);
        refused(refusal(&alice, &[("ticket", &token)]).await, 401, "InvalidToken");
    }
    // Signed with the very secret of tickets and tokens, with the claims of a ticket.
    let claims = json!({ "iss": SERVICE_DID, "aud": SERVICE_DID, "sub": alice.did(), "iat": 0, "exp": 4_000_000_000u32, "jti": "1" });
    refused(refusal(&alice, &[("ticket", &Token::new(SECRET).mint(&claims))]).await, 401, "InvalidToken");
    for wrong in ["", "x", "a.b.c"] {
        refused(refusal(&alice, &[("ticket", wrong)]).await, 401, "InvalidToken");
    }
    refused(refusal(&alice, &[]).await, 400, "InvalidRequest");
    open(&alice, &[("ticket", &given)]).await;
}

async fn p12_a_used_ticket_is_refused_even_where_tokens_are_not(app: &TestApp) {
    let alice = app.persona();
    let once = ticket(&alice, &json!({})).await;
    open(&alice, &[("ticket", &once)]).await;
    refused(refusal(&alice, &[("ticket", &once)]).await, 401, "TokenReplayed");
}

async fn p10_connections_count_as_requests_of_their_caller(app: &TestApp) {
    let alice = app.persona();
    let mut tickets = Vec::new();
    for _ in 0..6 {
        let reply = ask(&alice, "getSubscriptionTicket", &json!({})).await;
        tickets.extend(reply.is_ok().then(|| reply.string("ticket").unwrap().to_owned()));
    }
    let refused = refused(refusal(&alice, &[("ticket", &tickets[0])]).await, 429, "RateLimitExceeded");
    tokio::time::sleep(refused.retry_after().unwrap()).await;
    let mut stream = open(&alice, &[("ticket", &tickets[0])]).await;
    // The same holds for messages sent through them.
    for _ in 0..20 {
        stream.say(&typing("01JB2N0W3E8Z6TQ9K4M5V7X1YA", true)).await;
    }
    stream.ends(Some("RateLimitExceeded"), CloseCode::Policy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_dies_after_its_time() {
    let clock = Clock::manual(DateTime::from_timestamp(chrono_now(), 0).unwrap());
    let app = TestApp::at(clock.clone(), &[]).await;
    let alice = app.persona();
    let (early, late) = (ticket(&alice, &json!({})).await, ticket(&alice, &json!({})).await);
    clock.advance(TimeDelta::seconds(TICKET_SECONDS + LEEWAY_SECONDS - 1));
    open(&alice, &[("ticket", &early)]).await;
    clock.advance(TimeDelta::seconds(1));
    refused(refusal(&alice, &[("ticket", &late)]).await, 401, "ExpiredToken");
    app.finish().await;
}

#[expect(clippy::disallowed_methods, reason = "a client has a clock of its own")]
fn chrono_now() -> i64 {
    chrono::Utc::now().timestamp()
}

#[tokio::test(flavor = "multi_thread")]
async fn p12_a_ticket_is_good_once_in_a_fleet_and_nowhere_else() {
    let database = database().await;
    let other = [("TICKET_SECRET", "another secret that only tests use, 32+")];
    let fleet = Fleet::start(&[Mode::Advisory, Mode::Actors], &database.config, &database.url).await;
    let stray = catbird_testkit::fleet::Replica::start(Mode::Advisory, &database.url, &other).await;
    let alice = fleet.persona(0).await;
    let at = |base: &str| Persona::new(catbird_testkit::app::validated(base, alice.did()));
    let (first, second, stray) = (at(&fleet.replicas[0].base), at(&fleet.replicas[1].base), at(&stray.base).xrpc);
    // In either order; the other replica knows.
    for (used, late) in [(&first, &second), (&second, &first)] {
        let once = ticket(&first, &json!({})).await;
        open(used, &[("ticket", &once)]).await;
        refused(refusal(late, &[("ticket", &once)]).await, 401, "TokenReplayed");
    }
    // All at once, at both replicas.
    let once = Arc::new(ticket(&first, &json!({})).await);
    let attempts = (0..10).map(|n| {
        let (who, once) = (if n % 2 == 0 { first.xrpc.clone() } else { second.xrpc.clone() }, once.clone());
        tokio::spawn(async move {
            let parameters = [("ticket", String::clone(&once))];
            who.subscribe("subscribeConvoEvents", &parameters).await.unwrap().is_ok()
        })
    });
    let opened =
        futures_util::future::join_all(attempts).await.into_iter().filter(|one| *one.as_ref().unwrap()).count();
    assert_eq!(opened, 1, "one ticket, one WebSocket");
    let elsewhere = ticket(&first, &json!({})).await;
    refused(refusal(&Persona::new(stray), &[("ticket", &elsewhere)]).await, 401, "InvalidToken");
    fleet.check().await;
}
