//! P13 for fifty members at once: all lost their state and come back by external commits, while others talk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use catbird_client::mls::Handshake;
use catbird_client::persona::Persona;
use catbird_client::xrpc::{Reply, base64_text};
use catbird_testkit::cluster::database;
use catbird_testkit::fleet::{Fleet, Mode};
use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use serde_json::json;

const LOST: usize = 50;
const TALKERS: usize = 4;
/// Budget of the conversation: as many external commits in as many seconds.
const BUDGET: usize = 10;
const SECONDS: i64 = 2;
/// Time in which all have to be back.
const PATIENCE: Duration = Duration::from_secs(120);
/// Time for which the rate of messages is measured before the storm, and again after it.
const CALM: Duration = Duration::from_secs(2);

/// The epochs grow by no more than the budget, every member is back, and all clients share one history. Prints the rate of the others'
/// messages before, during and after the storm.
pub async fn fifty_come_back() {
    let database = database().await;
    let (seconds, budget) = (SECONDS.to_string(), BUDGET.to_string());
    let settings = [("EXTERNAL_COMMIT_SECONDS", &*seconds), ("EXTERNAL_COMMITS_PER_CONVO", &*budget)];
    let modes = [Mode::Advisory, Mode::Actors, Mode::Actors];
    let fleet = Fleet::with(&modes, &database.config, &database.url, &settings).await;
    let mut members = fleet.conversation(1 + TALKERS + LOST).await;
    let lost = members.split_off(1 + TALKERS);
    let talkers = members.split_off(1);
    let convo = members[0].convo().unwrap().to_owned();
    let first = members[0].epoch().unwrap();
    publish(&members[0], &members[0].mls.group_info(&members[0].group_id).unwrap()).await;

    let (sent, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let talking: Vec<_> =
        talkers.into_iter().map(|talker| tokio::spawn(talk(talker, sent.clone(), over.clone()))).collect();
    tokio::time::sleep(CALM).await;
    let before = rate(&sent, CALM);
    let begun = Instant::now();
    let coming = lost.iter().enumerate().map(|(n, member)| {
        let device = Persona::new(member.xrpc.clone());
        tokio::spawn(come_back(device, convo.clone(), n))
    });
    let back: Vec<Persona> = join_all(coming).await.into_iter().map(Result::unwrap).collect();
    let took = begun.elapsed();
    let meanwhile = rate(&sent, took);
    tokio::time::sleep(CALM).await;
    let after = rate(&sent, CALM);
    println!(
        "{LOST} are back after {took:?}; messages per second: {before:.0} before, {meanwhile:.0} meanwhile, {after:.0} after"
    );
    over.store(true, Ordering::SeqCst);

    let mut all = back;
    all.append(&mut members);
    for talker in join_all(talking).await {
        all.push(talker.unwrap());
    }
    let mut secrets = Vec::new();
    for member in &mut all {
        member.catch_up().await.unwrap();
        secrets.push(member.epoch_authenticator().unwrap());
    }
    assert!(secrets.iter().all(|secret| *secret == secrets[0]), "all clients share one history");
    assert_eq!(all[0].epoch().unwrap(), first + LOST as u64, "one epoch for each");
    let keeper = &all[LOST];
    let range = [("convoId", convo), ("fromEpoch", (first + 1).to_string()), ("limit", "100".to_owned())];
    let commits = keeper.xrpc.query("getCommits", &range).await.unwrap();
    let times: Vec<DateTime<Utc>> = commits
        .list("commits")
        .unwrap()
        .iter()
        .map(|one| one["createdAt"].as_str().unwrap().parse().unwrap())
        .collect();
    assert_eq!(times.len(), LOST);
    // One transaction may take a moment from its check to its commit.
    let window = chrono::Duration::milliseconds(SECONDS * 1_000 - 200);
    for some in times.windows(BUDGET + 1) {
        assert!(some[BUDGET] - some[0] > window, "more than {BUDGET} in {SECONDS} s: {some:?}");
    }
    fleet.check().await;
}

fn rate(sent: &AtomicU64, time: Duration) -> f64 {
    sent.swap(0, Ordering::SeqCst) as f64 / time.as_secs_f64()
}

/// Sends messages until the storm is over.
async fn talk(mut talker: Persona, sent: Arc<AtomicU64>, over: Arc<AtomicBool>) -> Persona {
    while !over.load(Ordering::SeqCst) {
        talker.send("hello").await.unwrap();
        sent.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    talker
}

/// Stores the GroupInfo of the member's epoch, unless that is over.
async fn publish(member: &Persona, group_info: &[u8]) -> Reply {
    let body = json!({
        "convoId": member.convo().unwrap(),
        "groupInfo": base64_text(group_info),
        "epoch": member.epoch().unwrap(),
    });
    member.xrpc.procedure("updateGroupInfo", &body).await.unwrap()
}

/// Tries with each new GroupInfo until an external commit is accepted, and waits as long as the server says.
async fn come_back(mut device: Persona, convo: String, n: usize) -> Persona {
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < PATIENCE, "a member is not back");
        let found = device.xrpc.query("getGroupInfo", &[("convoId", convo.clone())]).await.unwrap();
        if !found.is_ok() {
            assert_eq!(found.error(), Some("GroupInfoUnavailable"), "{found}");
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        }
        let info = found.bytes("groupInfo").unwrap();
        let (entering, entry) = tokio::task::spawn_blocking(move || {
            let entry = device.mls.enter(&info, Handshake::default()).unwrap();
            (device, entry)
        })
        .await
        .unwrap();
        device = entering;
        let body = json!({ "convoId": convo, "externalCommit": base64_text(&entry.staged.commit) });
        let reply = device.xrpc.procedure("processExternalCommit", &body).await.unwrap();
        if reply.is_ok() {
            device.group_id = entry.group_id;
            device.convo_id = Some(convo);
            device.mls.merge_pending(&device.group_id).unwrap();
            device.last_seq = reply.number("seq").unwrap();
            publish(&device, &entry.staged.group_info).await;
            return device;
        }
        device.mls.discard_pending(&entry.group_id).unwrap();
        let wait = match reply.error() {
            Some("EpochMismatch") => Duration::from_millis(20 * n as u64),
            Some("RateLimitExceeded") => reply.retry_after().unwrap(),
            _ => panic!("{reply}"),
        };
        tokio::time::sleep(wait).await;
    }
}
