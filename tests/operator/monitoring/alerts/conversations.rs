//! Faults of conversations and their actors.

use std::time::Duration;

use catbird_client::persona::sha256_hex;
use catbird_client::random_did;
use catbird_client::xrpc::{base64_text, bytes_value};
use catbird_testkit::app::validated;
use catbird_testkit::cluster::database;
use catbird_testkit::fleet::{Mode, Replica};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_postgres::Client;

use super::case::Case;
use super::tools::{Clients, Stable, conversation, logged, message, pid, senders};

const PAUSE: Duration = Duration::from_millis(50);

pub async fn a_session_holds_the_lock_of_a_conversation(case: &mut Case) {
    let database = database().await;
    let db = database.connect().await;
    let replica = Replica::start(Mode::Advisory, &database.url, &[]).await;
    let members = conversation(&replica.base, 3).await;
    case.watch(&[&replica.base], &database.url).await;
    let pid = pid(&db).await;
    db.batch_execute("begin").await.unwrap();
    let lock = "select 1 from pg_advisory_xact_lock(hashtextextended($1, 0))";
    db.query(lock, &[&members[0].convo().unwrap()]).await.unwrap();
    let sending = senders(&members, 3, PAUSE);
    case.fires().await;
    case.follow().await.has(&format!("{{{pid}}}")).has("idle in transaction");
    case.says("One holder with a long `held_for`, which the others name in `blocked_by`");
    case.run_sql("select pg_terminate_backend(<pid>)", &[("<pid>", &pid)]).await.has(" t");
    case.resolves().await;
    sending.end().await;
}

/// One member commits, and a client that does not apply the commits of the others repeats its own.
pub async fn a_client_repeats_a_commit_of_an_old_epoch(case: &mut Case) {
    let database = database().await;
    let replica = Replica::start(Mode::Advisory, &database.url, &[]).await;
    let mut members = conversation(&replica.base, 2).await;
    let convo = members[0].convo().unwrap().to_owned();
    let (stale, group) = (members.remove(1), members[0].group_id.clone());
    let (xrpc, mut mls) = (stale.xrpc, stale.mls);
    let commit = mls.self_update(&group).unwrap().commit;
    members[0].rotate().await.unwrap();
    case.watch(&[&replica.base], &database.url).await;
    let (of_convo, body) = (convo.clone(), json!({ "convoId": convo, "commit": base64_text(&commit) }));
    let repeating = Clients::start(2, PAUSE, move |_| {
        let (xrpc, body) = (xrpc.clone(), body.clone());
        async move { assert_eq!(xrpc.procedure("submitCommit", &body).await.unwrap().status, 409) }
    });
    let mut committing = JoinSet::new();
    let mut winner = members.remove(0);
    committing.spawn(async move {
        loop {
            winner.rotate().await.unwrap();
            tokio::time::sleep(10 * PAUSE).await;
        }
    });
    case.fires().await;
    case.follow().await.has(&of_convo);
    case.says("the client does not apply `missing` before it retries");
    repeating.end().await;
    case.resolves().await;
    committing.shutdown().await;
}

pub async fn members_cannot_apply_a_commit(case: &mut Case) {
    let database = database().await;
    let replica = Replica::start(Mode::Advisory, &database.url, &[]).await;
    let mut members = conversation(&replica.base, 3).await;
    case.watch(&[&replica.base], &database.url).await;
    let convo = members[0].convo().unwrap().to_owned();
    members[0].rotate().await.unwrap();
    let epoch = members[0].epoch().unwrap();
    for member in &members[1..] {
        let body =
            json!({ "convoId": convo, "epoch": epoch, "commitHash": sha256_hex(b"unreadable"), "applied": false });
        assert_eq!(member.xrpc.procedure("reportCommit", &body).await.unwrap().status, 200);
    }
    case.fires().await;
    case.follow().await.has(&convo).has("2");
    case.says("a member calls `resetConvo`");
    let others: Vec<String> = [0, 2].map(|n| members[n].did().to_owned()).to_vec();
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    members[1].reset(random_did().as_bytes(), &others).await.unwrap();
    case.resolves().await;
}

/// No actor expects a conversation without an epoch, so each that reads this one panics.
pub async fn an_actor_panics(case: &mut Case) {
    let database = database().await;
    let db = database.connect().await;
    let replica = Replica::start(Mode::Advisory, &database.url, &[]).await;
    let members = conversation(&replica.base, 1).await;
    drop(replica);
    let replica = Replica::start(Mode::Actors, &database.url, &[]).await;
    case.watch(&[&replica.base], &database.url).await;
    let (convo, epoch) = (members[0].convo().unwrap(), i64::try_from(members[0].epoch().unwrap()).unwrap());
    db.batch_execute("alter table conversations alter current_epoch drop not null").await.unwrap();
    db.execute("update conversations set current_epoch = null where id = $1", &[&convo]).await.unwrap();
    let xrpc = members[0].xrpc.at(replica.base.parse().unwrap());
    let reply = xrpc.procedure("sendMessage", &message(&members[0])).await.unwrap();
    assert!(!reply.is_ok(), "{reply}");
    case.fires().await;
    case.follow().await.has("actor_stops_total{actor_type=\"conversation_actor\",reason=\"failed\"} 1");
    logged(&replica, "a conversation's actor failed").await;
    logged(&replica, "panicked").await;
    case.says("the next request starts another actor");
    db.execute("update conversations set current_epoch = $2 where id = $1", &[&convo, &epoch]).await.unwrap();
    let reply = xrpc.procedure("sendMessage", &message(&members[0])).await.unwrap();
    assert_eq!(reply.status, 200, "{reply}");
    case.resolves().await;
}

/// Conversations that are made in SQL, and a message of an old epoch to each, which is refused and starts an actor.
pub async fn more_conversations_are_active_than_actors_may_run(case: &mut Case) {
    const CONVERSATIONS: usize = 9_200;
    const CLIENTS: usize = 16;
    let database = database().await;
    let db = database.connect().await;
    let stable = Stable::start(Mode::Actors, &database.url, &[]).await;
    case.watch(&[&stable.replica.base], &database.url).await;
    let member = conversation(&stable.replica.base, 1).await.remove(0);
    copy_conversation(&db, member.convo().unwrap(), CONVERSATIONS).await;
    let mut writing = JoinSet::new();
    for client in 0..CLIENTS {
        let xrpc = validated(&stable.replica.base, member.did());
        writing.spawn(async move {
            for n in (1..=CONVERSATIONS).skip(client).step_by(CLIENTS) {
                let body = json!({ "convoId": format!("copy-{n}"), "ciphertext": bytes_value(b"opaque"), "epoch": 7, "senderDid": xrpc.did });
                let reply = xrpc.procedure("sendMessage", &body).await.unwrap();
                assert_eq!(reply.status, 409, "{reply}");
            }
        });
    }
    writing.join_all().await;
    case.fires().await;
    case.follow().await.has("actor_registry_max_actors 10000");
    case.says("Lower `ACTOR_IDLE_SECONDS`");
    let _stable = stable.restart(Mode::Actors, &database.url, &[("ACTOR_IDLE_SECONDS", "1")]).await;
    case.resolves().await;
}

/// Copies a conversation with its members, with the ids `copy-1` and so on.
async fn copy_conversation(db: &Client, convo: &str, copies: usize) {
    const COLUMNS: &str = "
select string_agg(case attname::text when $2 then '''copy-'' || n' when 'group_id' then 'md5(n::text)' else quote_ident(attname) end, ', '),
       string_agg(quote_ident(attname), ', ')
  from pg_attribute
 where attrelid = to_regclass($1) and attnum > 0 and not attisdropped and attgenerated = '' and attidentity = ''";
    for (table, key) in [("conversations", "id"), ("members", "convo_id")] {
        let row = db.query_one(COLUMNS, &[&table, &key]).await.unwrap();
        let (values, names): (String, String) = (row.get(0), row.get(1));
        let copy = format!(
            "insert into {table} ({names}) select {values} from {table}, generate_series(1, {copies}) n where {key} = '{convo}'"
        );
        db.batch_execute(&copy).await.unwrap();
    }
}
