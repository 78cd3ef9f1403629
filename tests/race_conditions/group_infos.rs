//! P14: readers at all replicas fetch GroupInfos while commits move the epoch and members store GroupInfos of epochs that may
//! be over by then.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use catbird_client::mls::Staged;
use catbird_client::persona::Persona;
use catbird_client::xrpc::{Reply, Xrpc, base64_text};
use catbird_server::config::MlsValidation;
use catbird_server::mls::GroupInfo;
use catbird_testkit::fleet::Fleet;
use serde_json::{Value, json};

const MEMBERS: usize = 4;
const READERS: usize = 6;
const EPOCHS: usize = 30;

/// What readers know together.
#[derive(Default)]
struct Seen {
    /// Newest epoch that any getEpoch has returned.
    epoch: AtomicU64,
    is_over: AtomicBool,
}

/// A served GroupInfo has the epoch that it is served with, and never an older one than getEpoch had returned before the request was sent.
pub async fn served_while_epochs_end(fleet: &Fleet) {
    let mut members = fleet.conversation(MEMBERS).await;
    let convo = members[0].convo().unwrap().to_owned();
    let seen = Arc::new(Seen::default());
    let readers: Vec<_> = (0..READERS)
        .map(|n| {
            let xrpc = fleet.xrpc(n, members[n % MEMBERS].did());
            tokio::spawn(read(xrpc, convo.clone(), seen.clone()))
        })
        .collect();
    for n in 0..EPOCHS {
        let (committer, other) = (n % MEMBERS, (n + 1) % MEMBERS);
        let staged = {
            let Persona { mls, group_id, .. } = &mut members[committer];
            mls.self_update(group_id).unwrap()
        };
        let sending = commit(&members[committer], &staged, n % 2 == 0);
        // This one is of the epoch that the commit ends.
        let (committed, updated) = tokio::join!(sending, update(&members[other], &convo));
        assert_eq!(committed.status, 200, "{committed}");
        assert!(updated.status == 200 || updated.error() == Some("EpochMismatch"), "{updated}");
        for (n, member) in members.iter_mut().enumerate() {
            let Persona { mls, group_id, .. } = member;
            if n == committer {
                mls.merge_pending(group_id).unwrap();
            } else {
                mls.apply(group_id, &staged.commit).unwrap();
            }
        }
        // Some epochs have none until they end.
        if n % 3 > 0 {
            let updated = update(&members[other], &convo).await;
            assert_eq!(updated.status, 200, "{updated}");
        }
    }
    seen.is_over.store(true, Ordering::Relaxed);
    let mut served = BTreeSet::new();
    for reader in readers {
        served.extend(reader.await.unwrap());
    }
    assert!(served.len() > EPOCHS / 3, "GroupInfos of {} epochs were served", served.len());
}

/// Sends a commit, with or without its GroupInfo.
async fn commit(member: &Persona, staged: &Staged, informs: bool) -> Reply {
    let group_info = informs.then(|| base64_text(&staged.group_info));
    let body = json!({
        "convoId": member.convo().unwrap(), "commit": base64_text(&staged.commit), "groupInfo": group_info,
    });
    member.xrpc.procedure("submitCommit", &body).await.unwrap()
}

async fn update(member: &Persona, convo: &str) -> Reply {
    let group_info = member.mls.group_info(&member.group_id).unwrap();
    let epoch = member.epoch().unwrap();
    let body = json!({ "convoId": convo, "groupInfo": base64_text(&group_info), "epoch": epoch });
    member.xrpc.procedure("updateGroupInfo", &body).await.unwrap()
}

/// Reads until the race is over, and returns the epochs of the served GroupInfos.
async fn read(xrpc: Xrpc, convo: String, seen: Arc<Seen>) -> BTreeSet<u64> {
    let mut served = BTreeSet::new();
    let parameters = [("convoId", convo)];
    while !seen.is_over.load(Ordering::Relaxed) {
        let least = seen.epoch.load(Ordering::Relaxed);
        let reply = xrpc.query("getGroupInfo", &parameters).await.unwrap();
        match (reply.status, reply.error()) {
            (200, _) => {
                let group_info = reply.bytes("groupInfo").unwrap();
                let parsed = GroupInfo::parser(MlsValidation::Strict)(group_info).unwrap();
                let epoch = reply.number("epoch").unwrap();
                assert_eq!(parsed.frame.epoch as u64, epoch, "it is served as of another epoch");
                assert!(epoch >= least, "of epoch {epoch}, and getEpoch had returned {least}");
                served.insert(epoch);
            }
            (404, Some("GroupInfoUnavailable")) => {
                let epoch = reply.body["serverEpoch"].as_u64().unwrap();
                assert!(epoch >= least, "none of epoch {epoch}, and getEpoch had returned {least}");
            }
            (429, _) => tokio::time::sleep(Duration::from_millis(50)).await,
            _ => panic!("{reply}"),
        }
        let reply = xrpc.query("getEpoch", &parameters).await.unwrap();
        if let Value::Number(epoch) = &reply.body["currentEpoch"] {
            seen.epoch.fetch_max(epoch.as_u64().unwrap(), Ordering::Relaxed);
        }
    }
    served
}
