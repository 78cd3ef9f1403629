//! P4 in the hardest case: COMMIT was sent and its reply is lost. The server must find out the outcome, and a client
//! without an idempotency key gets one true answer.

use catbird_client::mls::DEFAULT_SUITE;
use catbird_client::persona::{Persona, hex, unique};
use catbird_client::random_did;
use catbird_client::xrpc::{Reply, base64_text};
use catbird_testkit::chaos::{Chaos, Counts, Fault};
use catbird_testkit::cluster::{TestDatabase, database};
use catbird_testkit::fleet::{Fleet, Mode, Replica};
use futures_util::future::join_all;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio_postgres::Client;

use super::tools::{ADD, SEND, count, entries, eventually, message, metric, recovered};

struct Place {
    fleet: Fleet,
    chaos: Chaos,
    database: TestDatabase,
    client: Client,
}

/// One server behind the proxy, and a direct connection to the database.
async fn place(mode: Mode) -> Place {
    let database = database().await;
    let chaos = Chaos::before(&database.config).await;
    let fleet = Fleet::start(&[mode], &database.config, &chaos.url()).await;
    let client = database.connect().await;
    Place { fleet, chaos, database, client }
}

/// A request without a key, the statement that identifies its transaction, and the condition that its success implies.
struct Mutation {
    method: &'static str,
    statement: &'static str,
    body: Value,
    /// Query that counts its effects, given `name`.
    trace: &'static str,
    name: String,
}

/// One request of each kind by the creator of a conversation of four, in a possible order.
fn mutations(members: &mut [Persona]) -> Vec<Mutation> {
    let convo = members[0].convo().unwrap().to_owned();
    let group_id = members[0].group_id.clone();
    let staged = members[0].mls.self_update(&group_id).unwrap();
    let (joins, removed, group) = (random_did(), members[3].did().to_owned(), hex(random_did().as_bytes()));
    let on_roster = "select count(*) from members where member_did = $1 and left_at is null and joined_seq > 0";
    let mut mutations = vec![
        Mutation {
            method: "sendMessage",
            statement: SEND,
            body: message(&members[0], "once"),
            trace: "select count(*) from messages where convo_id = $1 and message_type = 'app'",
            name: convo.clone(),
        },
        Mutation {
            method: "addMembers",
            statement: ADD,
            body: json!({ "convoId": convo, "didList": [joins], "commit": base64_text(&staged.commit) }),
            trace: on_roster,
            name: joins,
        },
        Mutation {
            method: "createConvo",
            statement: "convos/insert",
            body: json!({ "groupId": group, "cipherSuite": format!("{DEFAULT_SUITE:?}") }),
            trace: "select count(*) from conversations where group_id = $1",
            name: group,
        },
        Mutation {
            method: "leaveConvo",
            statement: "members/leave",
            body: json!({ "convoId": convo, "targetDid": removed }),
            trace: "select count(*) from members where member_did = $1 and left_at is not null",
            name: removed,
        },
    ];
    let invited = random_did();
    mutations.push(Mutation {
        method: "addMembers",
        statement: ADD,
        body: json!({ "convoId": members[0].convo().unwrap(), "didList": [invited] }),
        trace: on_roster,
        name: invited,
    });
    mutations
}

/// The position that the server reports agrees with the database's.
async fn agrees(client: &Client, convo: &str, reply: &Reply) {
    let (epoch, seq) = (reply.number("epoch").unwrap(), reply.number("seq").unwrap());
    let row =
        client.query_one("select current_epoch, last_seq from conversations where id = $1", &[&convo]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0) as u64, row.get::<_, i64>(1) as u64), (epoch, seq), "{reply}");
}

/// Runs each request once with a fault at its COMMIT.
async fn each_once(mode: Mode, fault: Fault) -> Place {
    let place = place(mode).await;
    let mut members = place.fleet.conversation(4).await;
    let creator_convo = members[0].convo().unwrap().to_owned();
    let mutations = mutations(&mut members);
    let kinds = mutations.len() as f64;
    for Mutation { method, statement, body, trace, name } in mutations {
        let before = count(&place.client, trace, &name).await;
        place.chaos.on_commit(statement, fault);
        let reply = members[0].xrpc.procedure(method, &body).await.unwrap();
        assert_eq!(reply.status, 200, "{method}: {reply}");
        assert_eq!(count(&place.client, trace, &name).await, before + 1, "{method} by {statement} was done once");
        if method != "createConvo" {
            agrees(&place.client, &creator_convo, &reply).await;
        }
    }
    // Batched commands are sent again: messages and commits. For all others PostgreSQL is asked.
    let asked = if fault == Fault::CutBefore { "rolled_back" } else { "committed" };
    for (outcome, times) in [(asked, kinds - 2.0), ("sent_again", 2.0)] {
        let found_out = format!("database_commits_recovered_total{{outcome=\"{outcome}\"}}");
        assert_eq!(metric(&place.fleet.replicas[0], &found_out).await, times, "{outcome}");
    }
    recovered(&place.fleet.replicas[0], &members[0]).await;
    place.fleet.check().await;
    place
}

pub async fn a_lost_reply_to_commit_is_still_one_success(mode: Mode) {
    let place = each_once(mode, Fault::LoseReply).await;
    assert_eq!(Counts::get(&place.chaos.counts().swallowed), 5, "each fault happened");
}

pub async fn a_commit_that_never_arrived_is_made_again(mode: Mode) {
    let place = each_once(mode, Fault::CutBefore).await;
    assert_eq!(Counts::get(&place.chaos.counts().withheld), 5, "each fault happened");
}

/// Slow: the server waits five seconds for a reply before it asks on another connection.
pub async fn a_reply_to_commit_that_never_comes_is_found_out(mode: Mode) {
    let place = place(mode).await;
    let mut conversations = join_all((0..5).map(|_| place.fleet.conversation(1))).await;
    let ask = |(nth, members): (usize, &mut Vec<Persona>)| {
        let member = &mut members[0];
        let convo = member.convo().unwrap();
        let (method, statement, body) = match nth {
            0 => ("sendMessage", SEND, message(member, "once")),
            1 => {
                let convo = convo.to_owned();
                let staged = member.mls.self_update(&member.group_id).unwrap();
                let body =
                    json!({ "convoId": convo, "didList": [random_did()], "commit": base64_text(&staged.commit) });
                ("addMembers", ADD, body)
            }
            // Each of these has its own transaction.
            _ => ("addMembers", ADD, json!({ "convoId": convo, "didList": [random_did()] })),
        };
        place.chaos.on_commit(statement, Fault::HangAfter);
        let xrpc = member.xrpc.clone();
        async move { xrpc.procedure(method, &body).await.unwrap() }
    };
    let asking: Vec<_> = conversations.iter_mut().enumerate().map(ask).collect();
    let replies = join_all(asking).await;
    for (nth, (reply, members)) in replies.iter().zip(&conversations).enumerate() {
        let appended = i64::from(nth < 2);
        let (convo, on_roster) = (members[0].convo().unwrap(), "select count(*) from members where convo_id = $1");
        assert_eq!((reply.status, reply.number("seq").unwrap()), (200, appended as u64), "{nth}: {reply}");
        assert_eq!(entries(&place.client, convo).await, appended, "{nth}");
        assert_eq!(count(&place.client, on_roster, convo).await, if nth == 0 { 1 } else { 2 }, "{nth}");
    }
    assert_eq!(Counts::get(&place.chaos.counts().swallowed), 5, "each fault happened");
    recovered(&place.fleet.replicas[0], &conversations[0][0]).await;
    place.fleet.check().await;
}

/// PostgreSQL commits, and after that nothing reaches the server. A request with neither key nor commit is told how a
/// retry reveals the outcome, and a client that follows this does nothing twice.
pub async fn an_unconfirmed_request_is_told_how_to_find_out(mode: Mode) {
    let place = place(mode).await;
    let members = place.fleet.conversation(1).await;
    let (convo, xrpc) = (members[0].convo().unwrap(), &members[0].xrpc);
    let mut sending = message(&members[0], "once");
    let creating = json!({ "groupId": hex(random_did().as_bytes()), "cipherSuite": format!("{DEFAULT_SUITE:?}") });
    place.chaos.on_commit(SEND, Fault::HangAfter);
    place.chaos.on_commit("convos/insert", Fault::HangAfter);
    let darkness = async {
        eventually("the commits", async || Counts::get(&place.chaos.counts().swallowed) == 2).await;
        place.chaos.black_hole(true);
    };
    let (sent, created, ()) =
        tokio::join!(xrpc.procedure("sendMessage", &sending), xrpc.procedure("createConvo", &creating), darkness);
    place.chaos.black_hole(false);
    place.chaos.cut_all();
    let [sent, created] = [sent, created].map(Result::unwrap);
    for (reply, error, recovery, hint) in [
        (&sent, "MessageUnconfirmed", "retryWithMsgId", "with msgId"),
        (&created, "DatabaseUnavailable", "retrySame", "ConvoAlreadyExists"),
    ] {
        assert_eq!((reply.status, reply.error()), (503, Some(error)), "{reply}");
        assert_eq!((&reply.body["outcome"], &reply.body["recovery"]), (&json!("unknown"), &json!(recovery)), "{reply}");
        assert!(reply.string("message").unwrap().contains(hint), "{reply}");
    }

    recovered(&place.fleet.replicas[0], &members[0]).await;
    sending["msgId"] = sent.body["messageId"].clone();
    let again = xrpc.procedure("sendMessage", &sending).await.unwrap();
    assert_eq!((again.status, &again.body["messageId"]), (200, &sent.body["messageId"]), "{again}");
    let again = xrpc.procedure("createConvo", &creating).await.unwrap();
    assert_eq!((again.status, again.error()), (409, Some("ConvoAlreadyExists")), "{again}");
    assert_eq!(entries(&place.client, convo).await, 1, "the message is there once");
    place.fleet.check().await;
}

/// A COMMIT arrives late: the batch was given up and is sent again while the first transaction still holds the
/// conversation. The second waits for it and finds that it succeeded.
pub async fn a_commit_that_arrives_late_is_found_by_the_batch_that_was_sent_again(mode: Mode) {
    let place = place(mode).await;
    let (mut adding, sending) = (place.fleet.conversation(1).await, place.fleet.conversation(1).await);
    let group_id = adding[0].group_id.clone();
    let staged = adding[0].mls.self_update(&group_id).unwrap();
    let add = json!({
        "convoId": adding[0].convo().unwrap(), "didList": [random_did()], "commit": base64_text(&staged.commit),
    });
    let send = message(&sending[0], "late");
    place.chaos.on_commit(ADD, Fault::Hold);
    place.chaos.on_commit(SEND, Fault::Hold);
    let letting_go = async {
        let again = "database_transaction_retries_total{name=\"sendMessage.batch\",cause=\"unanswered\"}";
        eventually("the message is sent again", async || metric(&place.fleet.replicas[0], again).await >= 1.0).await;
        place.chaos.let_go();
    };
    let (added, sent, ()) = tokio::join!(
        adding[0].xrpc.procedure("addMembers", &add),
        sending[0].xrpc.procedure("sendMessage", &send),
        letting_go
    );
    for (reply, members) in [(added.unwrap(), &adding), (sent.unwrap(), &sending)] {
        assert_eq!((reply.status, reply.number("seq").unwrap()), (200, 1), "{reply}");
        assert_eq!(entries(&place.client, members[0].convo().unwrap()).await, 1);
    }
    assert_eq!(Counts::get(&place.chaos.counts().held), 2, "each fault happened");
    recovered(&place.fleet.replicas[0], &sending[0]).await;
    place.fleet.check().await;
}

/// A replica stops between its last statement and its COMMIT. PostgreSQL ends the idle transaction after eight seconds,
/// another replica continues, and the first one's late COMMIT changes nothing that was acknowledged.
pub async fn a_stalled_replica_loses_its_transaction_and_its_late_commit_does_nothing(mode: Mode) {
    let mut place = place(mode).await;
    place.fleet.replicas.push(Replica::start(mode, &place.database.url, &[]).await);
    let Place { fleet, chaos, client, .. } = &place;
    let members = fleet.conversation(2).await;
    let (convo, first) = (members[0].convo().unwrap(), members[0].last_seq + 1);
    let mut body = message(&members[0], "stalled");
    body["idempotencyKey"] = json!(unique());
    chaos.on_commit(SEND, Fault::Hold);

    let (stalled, healthy) = (&members[0].xrpc, &members[1].xrpc);
    let stalling = async { stalled.procedure("sendMessage", &body).await.unwrap() };
    let going_on = async {
        eventually("a COMMIT is held", async || Counts::get(&chaos.counts().held) == 1).await;
        fleet.replicas[0].signal(Signal::SIGSTOP);
        let mut reply = healthy.procedure("sendMessage", &message(&members[1], "healthy")).await.unwrap();
        while reply.status == 503 {
            reply = healthy.procedure("sendMessage", &message(&members[1], "healthy")).await.unwrap();
        }
        assert_eq!(
            (reply.status, reply.number("seq").unwrap()),
            (200, first),
            "the stalled entry is not there: {reply}"
        );
        chaos.let_go();
        fleet.replicas[0].signal(Signal::SIGCONT);
    };
    let (mut reply, ()) = tokio::join!(stalling, going_on);
    // It may have been stopped for longer than a request may take, and then reports it.
    while reply.status == 503 {
        reply = stalled.procedure("sendMessage", &body).await.unwrap();
    }
    assert_eq!((reply.status, reply.number("seq").unwrap()), (200, first + 1), "{reply}");
    assert_eq!(entries(client, convo).await as u64, first + 1);
    recovered(&fleet.replicas[0], &members[0]).await;
    fleet.check().await;
}
