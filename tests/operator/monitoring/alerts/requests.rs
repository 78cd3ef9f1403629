//! Faults that requests meet: errors, slow statements, full queues, limits and wrong tokens.

use catbird_server::clock::Clock;
use std::time::Duration;

use catbird_client::persona::Persona;
use catbird_client::{random_did, xrpc};
use catbird_testkit::account::{Key, Spelling, document};
use catbird_testkit::app::{SERVICE_DID, validated};
use catbird_testkit::cluster::database;
use catbird_testkit::directory::{Answer, Directory};
use catbird_testkit::fleet::{Mode, Replica};
use serde_json::{Value, json};

use super::case::Case;
use super::tools::{
    Clients, Stable, break_inserts, conversation, logged, mend_inserts, message, pid, readers, senders,
};
use super::uploads::Uploads;

const PAUSE: Duration = Duration::from_millis(50);

/// A test cannot fill the disk for itself alone, so a trigger raises PostgreSQL's error.
const DISK_FULL: &str = "raise exception using errcode = 'disk_full', message = 'could not extend file'";

/// Creates conversations of one member each.
async fn conversations(base: &str, n: usize) -> Vec<Persona> {
    let mut members = Vec::new();
    for _ in 0..n {
        members.push(conversation(base, 1).await.remove(0));
    }
    members
}

pub async fn the_disk_of_postgres_is_full(case: &mut Case) {
    let database = database().await;
    let db = database.connect().await;
    let replica = Replica::start(Mode::Advisory, &database.url, &[]).await;
    let members = conversations(&replica.base, 2).await;
    case.watch(&[&replica.base], &database.url).await;
    let (reading, sending) = (readers(&members, 2, PAUSE), senders(&members, 2, PAUSE));
    break_inserts(&db, "", DISK_FULL).await;
    case.fires().await;
    case.follow().await.has("xrpc_errors_total{error=\"DatabaseUnavailable\"}").has("status=\"503\"");
    case.says("the log says `PostgreSQL has run out of disk or memory`");
    logged(&replica, "PostgreSQL has run out of disk or memory").await;
    mend_inserts(&db).await;
    case.resolves().await;
    reading.end().await;
    sending.end().await;
}

/// One request in a hundred fails, so the alert for many errors does not fire.
pub async fn a_few_requests_fail_for_long(case: &mut Case) {
    let database = database().await;
    let db = database.connect().await;
    let replica = Replica::start(Mode::Advisory, &database.url, &[]).await;
    let members = conversations(&replica.base, 1).await;
    case.watch(&[&replica.base], &database.url).await;
    break_inserts(&db, "", DISK_FULL).await;
    let (xrpc, body) = (members[0].xrpc.clone(), message(&members[0]));
    let clients = Clients::start(1, PAUSE, move |_| {
        let (xrpc, body) = (xrpc.clone(), body.clone());
        async move {
            for _ in 0..99 {
                assert_eq!(xrpc.query("getConvos", &[]).await.unwrap().status, 200);
            }
            drop(xrpc.procedure("sendMessage", &body).await);
        }
    });
    case.fires().await;
    assert!(!case.prometheus().firing().await.contains(&"CatbirdErrors".to_owned()), "the errors are few");
    case.follow().await.has("xrpc_errors_total{error=\"DatabaseUnavailable\"}").has("status=\"503\"");
    case.says("the log says `PostgreSQL has run out of disk or memory`");
    mend_inserts(&db).await;
    case.resolves().await;
    clients.end().await;
}

pub async fn a_trigger_of_an_operator_raises_an_error(case: &mut Case) {
    let database = database().await;
    let db = database.connect().await;
    let replica = Replica::start(Mode::Advisory, &database.url, &[]).await;
    let members = conversations(&replica.base, 1).await;
    case.watch(&[&replica.base], &database.url).await;
    break_inserts(&db, "", "raise exception 'no such account'").await;
    let reply = members[0].xrpc.procedure("sendMessage", &message(&members[0])).await.unwrap();
    assert_eq!(reply.error(), Some("InternalServerError"), "{reply}");
    case.fires().await;
    case.follow().await;
    case.says("look for `\"level\":\"ERROR\"`");
    let line = logged(&replica, "a request failed for an unforeseen reason").await;
    assert!(
        line.contains("\"level\":\"ERROR\"")
            && line.contains("SQLSTATE P0001")
            && line.contains(reply.string("requestId").unwrap()),
        "{line}"
    );
    mend_inserts(&db).await;
    case.resolves().await;
}

pub async fn each_insertion_takes_long(case: &mut Case) {
    let database = database().await;
    let db = database.connect().await;
    let replica = Replica::start(Mode::Advisory, &database.url, &[]).await;
    let members = conversations(&replica.base, 3).await;
    case.watch(&[&replica.base], &database.url).await;
    break_inserts(&db, "", "perform pg_sleep(1.5)").await;
    let sending = senders(&members, 3, PAUSE);
    case.fires().await;
    case.follow().await.has("stage=\"transaction\"").has("PgSleep");
    case.says("PostgreSQL is slow");
    mend_inserts(&db).await;
    case.resolves().await;
    sending.end().await;
}

/// Reads get one connection of four here, and the one that has it waits.
pub async fn a_session_locks_a_table(case: &mut Case) {
    let database = database().await;
    let db = database.connect().await;
    let replica = Replica::start(Mode::Advisory, &database.url, &[("DATABASE_MAX_CONNECTIONS", "4")]).await;
    let members = conversation(&replica.base, 2).await;
    case.watch(&[&replica.base], &database.url).await;
    let pid = pid(&db).await;
    db.batch_execute("begin; lock table members in access exclusive mode").await.unwrap();
    let reading = readers(&members, 12, Duration::from_millis(10));
    case.fires().await;
    case.follow().await.has("database_connection_timeouts_total{lane=\"read\"}").has("Lock");
    case.says("Sessions `active` with wait event type `Lock`");
    case.turn_to("CatbirdLockWait");
    case.follow().await.has(&pid).has("idle in transaction").has("lock table members");
    case.run_sql("select pg_terminate_backend(<pid>)", &[("<pid>", &pid)]).await.has(" t");
    case.resolves().await;
    reading.end().await;
}

pub async fn the_pool_is_too_small_for_the_load(case: &mut Case) {
    let database = database().await;
    let stable = Stable::start(Mode::Advisory, &database.url, &[("DATABASE_MAX_CONNECTIONS", "2")]).await;
    let members = conversation(&stable.replica.base, 2).await;
    case.watch(&[&stable.replica.base], &database.url).await;
    let reading = readers(&members, 200, Duration::from_millis(1));
    case.fires().await;
    case.follow().await.has("database_connections_max 2");
    case.says("Few sessions in PostgreSQL and many that wait: raise `DATABASE_MAX_CONNECTIONS` (restart)");
    let _stable = stable.restart(Mode::Advisory, &database.url, &[("DATABASE_MAX_CONNECTIONS", "20")]).await;
    reading.end().await;
    let reading = readers(&members, 10, PAUSE);
    case.resolves().await;
    reading.end().await;
}

async fn the_lock_of_a_conversation_is_held(case: &mut Case, mode: Mode, lock: &str, metric: &str) {
    let database = database().await;
    let db = database.connect().await;
    let replica = Replica::start(mode, &database.url, &[]).await;
    let members = conversation(&replica.base, 4).await;
    case.watch(&[&replica.base], &database.url).await;
    let pid = pid(&db).await;
    db.batch_execute("begin").await.unwrap();
    db.query(lock, &[&members[0].convo().unwrap()]).await.unwrap();
    let sending = senders(&members, 400, Duration::from_millis(20));
    case.fires().await;
    case.follow().await.has(metric);
    case.says("No new entries: its lock or its row is held");
    case.turn_to("CatbirdLockWait");
    case.follow().await.has(&pid).has("idle in transaction");
    case.run_sql("select pg_terminate_backend(<pid>)", &[("<pid>", &pid)]).await.has(" t");
    sending.end().await;
    let sending = senders(&members, 4, PAUSE);
    case.resolves().await;
    sending.end().await;
}

pub async fn the_lock_of_a_conversation_is_held_and_its_queue_fills(case: &mut Case) {
    let lock = "select 1 from pg_advisory_xact_lock(hashtextextended($1, 0))";
    the_lock_of_a_conversation_is_held(case, Mode::Advisory, lock, "queue_full_total").await;
}

pub async fn the_row_of_a_conversation_is_held_and_its_mailbox_fills(case: &mut Case) {
    let lock = "select 1 from conversations where id = $1 for update";
    the_lock_of_a_conversation_is_held(case, Mode::Actors, lock, "actor_mailbox_full_events_total").await;
}

/// Bodies of more accounts than one, since each has a quarter of the memory.
pub async fn large_bodies_take_the_memory_for_all(case: &mut Case) {
    let database = database().await;
    let replica = Replica::start(Mode::Advisory, &database.url, &[]).await;
    case.watch(&[&replica.base], &database.url).await;
    let held = Uploads::start(&replica.base, 23, 19 << 20).await;
    let base = replica.base.clone();
    let refused = Clients::start(2, PAUSE, move |_| {
        let base = base.clone();
        async move { drop(Uploads::start(&base, 1, 19 << 20).await) }
    });
    case.fires().await;
    case.follow().await.has("memory_room_full_total{room=\"bodies\",share=\"all\"}");
    case.says("`bodies`: many large requests arrive at once");
    drop(held);
    refused.end().await;
    case.resolves().await;
}

pub async fn a_caller_exceeds_the_rate_limit(case: &mut Case) {
    let database = database().await;
    let (directory, key, did) = (Directory::start(), Key::p256(7), random_did());
    directory.put(&format!("/{did}"), Answer::Document(document(&did, &[key.method("#atproto", Spelling::Multikey)])));
    let directory_url = directory.url();
    let settings =
        [("RATE_LIMIT_PER_DID", "5"), ("PLC_DIRECTORY_URL", &*directory_url), ("ALLOW_PRIVATE_DID_HOSTS", "true")];
    let replica = Replica::start(Mode::Advisory, &database.url, &settings).await;
    case.watch(&[&replica.base], &database.url).await;
    let (url, abuser) = (format!("{}/xrpc/{}", replica.base, xrpc::nsid("updateRead")), did.clone());
    let calling = Clients::start(2, PAUSE, move |_| {
        let now = Clock::system().now().timestamp();
        let jti = ulid::Ulid::new().to_string();
        let claims = json!({
            "iss": abuser, "aud": SERVICE_DID, "iat": now, "exp": now + 60, "lxm": xrpc::nsid("updateRead"), "jti": jti,
        });
        let token = key.token(&json!({ "typ": "JWT", "alg": key.alg() }), &claims);
        let request = xrpc::http().unwrap().post(&url).bearer_auth(token).json(&json!({ "convoId": "none" }));
        async move { drop(request.send().await) }
    });
    case.fires().await;
    case.follow().await.has("rate_limited_total{scope=\"did\"}");
    case.says("The log names callers that a limit refused by a keyed hash");
    let line: Value = serde_json::from_str(&logged(&replica, "\"caller\":").await).unwrap();
    let caller = line["caller"].as_str().unwrap();
    let who = "catbird-server admin who <caller> --reason <text>";
    case.run(who, &[("<caller>", caller), ("<text>", "abuse")]).await.has(&did);
    let suspend = "catbird-server admin suspend <did> --reason <text>";
    case.run(suspend, &[("<did>", &did), ("<text>", "abuse")]).await.has("{\"suspended\":1}");
    case.resolves().await;
    calling.end().await;
}

pub async fn the_service_has_another_did_than_clients_name(case: &mut Case) {
    let database = database().await;
    let stable = Stable::start(Mode::Advisory, &database.url, &[("SERVICE_DID", "did:web:mls.wrong.test")]).await;
    case.watch(&[&stable.replica.base], &database.url).await;
    let caller = Persona::new(validated(&stable.replica.base, &random_did()));
    let reading = readers(&[caller], 1, PAUSE);
    case.fires().await;
    case.follow().await.has("authentications_total").has("\"id\":\"did:web:mls.wrong.test\"");
    case.says("`SERVICE_DID` is not what clients name as audience (it is the `id` above)");
    let _stable = stable.restart(Mode::Advisory, &database.url, &[]).await;
    case.resolves().await;
    reading.end().await;
}
