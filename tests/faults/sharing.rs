//! P1, P4, P7, P8: commands of many conversations run in one batch, and each gets the same result as alone.

use std::time::Duration;

use catbird_client::persona::{Persona, sha256_hex};
use catbird_client::random_did;
use catbird_client::xrpc::{Reply, base64_text};
use catbird_testkit::cluster::{TestDatabase, database};
use catbird_testkit::fleet::{Fleet, Mode};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::tools::metric;

/// So many that requests which arrive during the first batch must be batched.
const CONVERSATIONS: usize = 24;
/// Far less than any wait for a lock.
const QUICKLY: Duration = Duration::from_secs(3);

struct Place {
    database: TestDatabase,
    fleet: Fleet,
    creators: Vec<Persona>,
}

async fn place(mode: Mode) -> Place {
    let database = database().await;
    let fleet = Fleet::start(&[mode], &database.config, &database.url).await;
    let mut creators = Vec::new();
    for _ in 0..CONVERSATIONS {
        creators.push(fleet.conversation(1).await.remove(0));
    }
    Place { database, fleet, creators }
}

/// Builds an addition with a commit for the epoch that the caller knows.
fn commit(creator: &mut Persona, key: &str) -> Value {
    let group_id = creator.group_id.clone();
    let staged = creator.mls.self_update(&group_id).unwrap();
    json!({
        "convoId": creator.convo().unwrap(),
        "didList": [random_did()],
        "commit": base64_text(&staged.commit),
        "idempotencyKey": key,
    })
}

impl Place {
    /// Sends all requests at once, and returns each reply with its time.
    async fn ask(&self, bodies: &[Value]) -> Vec<(Reply, Duration)> {
        let start = Instant::now();
        let asking =
            self.creators.iter().zip(bodies).map(async |(creator, body)| {
                (creator.xrpc.procedure("addMembers", body).await.unwrap(), start.elapsed())
            });
        join_all(asking).await
    }

    /// Counts the committed batches with several commands.
    async fn shared(&self) -> f64 {
        metric(
            &self.fleet.replicas[0],
            "database_transactions_total{name=\"submitCommit.batch\",outcome=\"committed\"}",
        )
        .await
    }

    async fn epoch(&self, n: usize) -> i64 {
        let convo = self.creators[n].convo().unwrap();
        let query = "select current_epoch from conversations where id = $1";
        self.database.connect().await.query_one(query, &[&convo]).await.unwrap().get(0)
    }
}

/// Requests that lose their epoch, or reuse a key for something else, get their own error and do not affect the others.
pub async fn of_commits_at_once_each_gets_its_own_answer(mode: Mode) {
    let mut place = place(mode).await;
    let mut bodies: Vec<Value> = place.creators.iter_mut().map(|creator| commit(creator, "first")).collect();
    for (reply, _) in place.ask(&bodies).await {
        assert_eq!(reply.status, 200, "{reply}");
    }
    if mode == Mode::Advisory {
        let shared = place.shared().await;
        assert!((1.0..CONVERSATIONS as f64).contains(&shared), "{shared} transactions for {CONVERSATIONS} commands");
    }
    // The same requests again: all get the same replies, and nothing happens.
    for (reply, _) in place.ask(&bodies).await {
        assert_eq!((reply.status, reply.number("epoch").unwrap()), (200, 1), "{reply}");
    }

    for (n, creator) in place.creators.iter_mut().enumerate() {
        let group_id = creator.group_id.clone();
        match n {
            // A client that does not know that it won commits for the same epoch again.
            3 => creator.mls.discard_pending(&group_id).unwrap(),
            _ => drop(creator.mls.merge_pending(&group_id).unwrap()),
        }
    }
    bodies = place.creators.iter_mut().map(|creator| commit(creator, "second")).collect();
    // Beside one for a past epoch: one with a used key, and one for an unknown package.
    bodies[7]["idempotencyKey"] = json!("first");
    bodies[11]["keyPackageHashes"] = json!([{ "did": bodies[11]["didList"][0], "hash": "00".repeat(32) }]);
    let replies = place.ask(&bodies).await;
    for (n, (reply, _)) in replies.iter().enumerate() {
        let (status, error) = match n {
            3 => (409, Some("EpochMismatch")),
            7 => (409, Some("IdempotencyConflict")),
            11 => (409, Some("KeyPackageNotFound")),
            _ => (200, None),
        };
        assert_eq!((reply.status, reply.error()), (status, error), "{n}: {reply}");
        assert_eq!(place.epoch(n).await, if status == 200 { 2 } else { 1 }, "{n}");
    }
    place.fleet.check().await;
}

/// A request for a locked conversation waits alone.
pub async fn a_conversation_locked_elsewhere_holds_up_no_other_commit(mode: Mode) {
    let mut place = place(mode).await;
    let bodies: Vec<Value> = place.creators.iter_mut().map(|creator| commit(creator, "once")).collect();
    let blocked = place.creators[5].convo().unwrap().to_owned();
    let blocker = super::blocked::block(&place.database, mode, &blocked).await;
    let asking = place.ask(&bodies);
    let releasing = async {
        tokio::time::sleep(QUICKLY).await;
        drop(blocker);
    };
    let (replies, ()) = tokio::join!(asking, releasing);
    for (n, (reply, after)) in replies.iter().enumerate() {
        assert_eq!(reply.status, 200, "{n}: {reply}");
        assert_eq!(*after < QUICKLY, n != 5, "{n} was answered after {after:?}");
    }
    place.fleet.check().await;
}

/// P8. In one transaction or in several, a package is used by one request.
pub async fn a_key_package_in_concurrent_requests_is_used_by_one(mode: Mode) {
    let mut place = place(mode).await;
    let wanted = Persona::new(place.fleet.xrpc(0, &random_did()));
    let hash = wanted.publish_key_packages(1).await.unwrap().remove(0);
    let mut bodies: Vec<Value> = place.creators.iter_mut().map(|creator| commit(creator, "once")).collect();
    for body in &mut bodies {
        body["didList"] = json!([wanted.did()]);
        body["keyPackageHashes"] = json!([{ "did": wanted.did(), "hash": hash }]);
    }
    let replies = place.ask(&bodies).await;
    let won = replies.iter().filter(|(reply, _)| reply.status == 200).count();
    let lost = replies.iter().filter(|(reply, _)| reply.error() == Some("KeyPackageNotFound")).count();
    assert_eq!((won, lost), (1, CONVERSATIONS - 1), "{replies:?}");
    let client = place.database.connect().await;
    let moved = client.query_one("select count(*) from conversations where current_epoch = 1", &[]).await.unwrap();
    assert_eq!(moved.get::<_, i64>(0), 1);
    place.fleet.check().await;
}

/// P5, P6, P8. Everything that belongs to a batched commit is stored with it: the Welcome, the membership, the event,
/// and the used key package.
pub async fn commits_that_share_bring_everything_along(mode: Mode) {
    let mut place = place(mode).await;
    let (mut joiners, mut bodies) = (Vec::new(), Vec::new());
    for creator in &mut place.creators {
        let joiner = Persona::new(place.fleet.xrpc(0, &random_did()));
        let package = joiner.mls.key_package().unwrap();
        let published = json!({ "keyPackage": base64_text(&package), "cipherSuite": joiner.mls.suite_name() });
        assert_eq!(joiner.xrpc.procedure("publishKeyPackage", &published).await.unwrap().status, 200);
        let staged = creator.mls.add(&creator.group_id, std::slice::from_ref(&package)).unwrap();
        bodies.push(json!({
            "convoId": creator.convo().unwrap(),
            "didList": [joiner.did()],
            "commit": base64_text(&staged.commit),
            "welcomeMessage": base64_text(&staged.welcome),
            "keyPackageHashes": [{ "did": joiner.did(), "hash": sha256_hex(&package) }],
            "idempotencyKey": "brings everything",
        }));
        joiners.push(joiner);
    }
    for (reply, _) in place.ask(&bodies).await {
        assert_eq!(
            (reply.status, reply.number("epoch").unwrap(), reply.number("seq").unwrap()),
            (200, 1, 1),
            "{reply}"
        );
    }
    if mode == Mode::Advisory {
        assert!(place.shared().await >= 1.0);
    }
    for (creator, joiner) in place.creators.iter_mut().zip(&mut joiners) {
        let convo = creator.convo().unwrap().to_owned();
        joiner.join(&convo).await.expect("its Welcome waits for it, and opens");
        creator.mls.merge_pending(&creator.group_id).unwrap();
        assert_eq!(creator.epoch_authenticator().unwrap(), joiner.epoch_authenticator().unwrap());
    }
    let client = place.database.connect().await;
    let left_behind = "select (select count(*) from key_packages where consumed_convo is not null),
        (select count(*) from event_stream e where event_type = 'joined'
            and payload @> jsonb_build_object('epoch', 1, 'seq', 1, 'welcome', true)
            and exists (select from members m where m.convo_id = e.convo_id and payload->'dids' = jsonb_build_array(m.member_did)
                           and m.joined_seq = 1 and m.joined_epoch = 1)),
        (select count(*) from idempotency_records where method = 'addMembers' and reply = '{\"epoch\": 1, \"generation\": 1, \"seq\": 1}')";
    let row = client.query_one(left_behind, &[]).await.unwrap();
    assert_eq!([0, 1, 2].map(|column| row.get::<_, i64>(column)), [CONVERSATIONS as i64; 3]);
    // The same requests again: the recorded replies, and nothing happens.
    for (reply, _) in place.ask(&bodies).await {
        assert_eq!(
            (reply.status, reply.number("epoch").unwrap(), reply.number("seq").unwrap()),
            (200, 1, 1),
            "{reply}"
        );
    }
    place.fleet.check().await;
}

/// Of many commits for one epoch one wins; the others are answered together, with the missing commits.
pub async fn losers_of_one_epoch_are_answered_together(mode: Mode) {
    let place = place(mode).await;
    let mut members = place.fleet.conversation(16).await;
    let convo = members[0].convo().unwrap().to_owned();
    let epoch = members[0].epoch().unwrap();
    let bodies: Vec<Value> = members.iter_mut().map(|member| commit(member, "race")).collect();
    let asking = members.iter().zip(&bodies).map(|(member, body)| member.xrpc.procedure("addMembers", body));
    let replies: Vec<Reply> = join_all(asking).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(replies.iter().filter(|reply| reply.status == 200).count(), 1, "{replies:?}");
    for loser in replies.iter().filter(|reply| reply.status != 200) {
        assert_eq!((loser.status, loser.error()), (409, Some("EpochMismatch")), "{loser}");
        assert_eq!(loser.number("serverEpoch").unwrap(), epoch + 1, "{loser}");
        assert_eq!(loser.list("missing").unwrap().len(), 1, "{loser}");
    }
    // A stranger with a commit for a past epoch learns nothing.
    let stranger = Persona::new(place.fleet.xrpc(0, &random_did()));
    let reply = stranger.xrpc.procedure("addMembers", &bodies[0]).await.unwrap();
    assert_eq!((reply.status, reply.error()), (404, Some("ConvoNotFound")), "{reply}");
    let client = place.database.connect().await;
    let commits = "select count(*) from messages where convo_id = $1 and message_type = 'commit' and epoch > $2";
    assert_eq!(client.query_one(commits, &[&convo, &(epoch as i64)]).await.unwrap().get::<_, i64>(0), 1);
    place.fleet.check().await;
}
