//! Those who send, and those who change who is a member.
//!
//! The creator of a conversation makes all its commits, so that none conflicts; what conflicts do is proved elsewhere. Members are
//! whoever the server says they are: MLS is played by the creator alone, whose commits the server cannot look into.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use catbird_client::mls::{Handshake, MlsClient};
use catbird_client::persona::{hex, unique};
use catbird_client::random_did;
use catbird_client::xrpc::{Reply, Xrpc, base64_text, bytes_value};
use catbird_testkit::load::insist;
use reqwest::Url;
use serde_json::{Value, json};
use tokio::sync::{Mutex, OwnedRwLockReadGuard, RwLock, watch};

/// The pause between two changes of a roster.
const CHANGE: Duration = Duration::from_millis(250);
/// The pause between two messages to one conversation.
const SEND: Duration = Duration::from_millis(15);

/// What was acknowledged.
#[derive(Debug, Default)]
pub struct Counts {
    pub messages: AtomicU64,
    pub commits: AtomicU64,
    /// How often a creator was told that its commits are lost.
    pub rolled_back: AtomicU64,
}

/// What all clients share.
#[derive(Clone)]
pub struct Desk {
    pub servers: Arc<watch::Sender<Vec<Url>>>,
    pub stopping: watch::Receiver<bool>,
    /// Held by whoever asks for something, so that it can be waited for.
    pub gate: Arc<RwLock<()>>,
    /// What was acknowledged may be lost.
    pub may_lose: bool,
    pub unanswered: Arc<AtomicU64>,
    pub counts: Arc<Counts>,
    /// Everybody.
    pub people: Arc<[Xrpc]>,
}

impl Desk {
    async fn insist(&self, who: &Xrpc, turn: usize, method: &str, body: &Value) -> Reply {
        insist(&self.servers, &self.unanswered, who, turn, method, body).await
    }

    /// Waits for a turn. `None`: there is none any more.
    async fn pause(&self, pause: Duration) -> Option<OwnedRwLockReadGuard<()>> {
        tokio::time::sleep(pause).await;
        let turn = self.gate.clone().read_owned().await;
        (!*self.stopping.borrow()).then_some(turn)
    }
}

/// One conversation, as its clients know it.
pub struct Convo {
    pub id: String,
    group: Vec<u8>,
    /// Held by whoever changes the roster.
    state: Mutex<State>,
    /// The members by their number among all people, the creator first, and the epoch, for those who send meanwhile.
    present: watch::Sender<(Vec<usize>, u64)>,
}

struct State {
    mls: MlsClient,
    /// What the creator has heard last of the database's incarnation.
    incarnation: Option<Value>,
}

impl Convo {
    /// Creates the `n`-th conversation.
    pub async fn create(desk: &Desk, n: usize, roster: usize) -> Self {
        let members: Vec<usize> = (0..roster).map(|member| (n * 7 + member * 3) % desk.people.len()).collect();
        let mut distinct = members.clone();
        distinct.sort_unstable();
        distinct.dedup();
        // Whoever would be in it twice is in it once; the creator stays first.
        let members: Vec<usize> =
            std::iter::once(members[0]).chain(distinct.into_iter().filter(|member| *member != members[0])).collect();
        let creator = &desk.people[members[0]];
        let group = random_did().into_bytes();
        let mut mls = MlsClient::new(creator.did.clone());
        mls.create_group(&group, Handshake::Private).unwrap();
        let body = json!({
            "groupId": hex(&group),
            "cipherSuite": mls.suite_name(),
            "currentEpoch": 0,
            "initialMembers": members[1..].iter().map(|member| &desk.people[*member].did).collect::<Vec<_>>(),
            "idempotencyKey": unique(),
        });
        let reply = desk.insist(creator, n, "createConvo", &body).await;
        assert_eq!(reply.status, 200, "{reply}");
        let id = reply.string("id").unwrap().to_owned();
        Self {
            id,
            group,
            state: Mutex::new(State { mls, incarnation: None }),
            present: watch::Sender::new((members, 0)),
        }
    }

    /// The epoch as far as the clients know.
    pub fn epoch(&self) -> u64 {
        self.present.borrow().1
    }

    /// The members as far as the clients know, the creator first.
    pub fn members(&self) -> Vec<usize> {
        self.present.borrow().0.clone()
    }
}

/// Adds and removes members, and lets some leave by themselves, until told to stop.
pub async fn change(desk: Desk, convo: Arc<Convo>, turn: usize) {
    for n in turn.. {
        let Some(_turn) = desk.pause(CHANGE).await else { return };
        let members = convo.members();
        let outsiders: Vec<usize> = (0..desk.people.len()).filter(|one| !members.contains(one)).collect();
        // Small ones grow and large ones shrink; now and then somebody who was removed a moment ago is added again.
        match (members.len(), n % 3) {
            (..=3, _) | (_, 0) if !outsiders.is_empty() => {
                let count = (n % 2 + 1).min(outsiders.len());
                let first = if n % 5 == 0 { outsiders.len() - 1 } else { n * 11 };
                let mut added: Vec<usize> =
                    (0..count).map(|next| outsiders[(first + next * 5) % outsiders.len()]).collect();
                added.sort_unstable();
                added.dedup();
                commit(&desk, &convo, n, &added, None).await;
            }
            (len, 1) => commit(&desk, &convo, n, &[], Some(members[1 + n % (len - 1)])).await,
            (len, _) => {
                let member = members[1 + n % (len - 1)];
                match n % 2 {
                    0 => leave(&desk, &convo, n, member).await,
                    // Out and in again, as fast as it goes.
                    _ => {
                        commit(&desk, &convo, n, &[], Some(member)).await;
                        commit(&desk, &convo, n, &[member], None).await;
                    }
                }
            }
        }
    }
}

/// A commit by the creator that adds these or removes one.
async fn commit(desk: &Desk, convo: &Convo, turn: usize, added: &[usize], removed: Option<usize>) {
    let mut state = convo.state.lock().await;
    let staged = state.mls.self_update(&convo.group).unwrap();
    let creator = &desk.people[convo.members()[0]];
    if state.incarnation.is_none() {
        state.incarnation = incarnation(desk, convo, creator, turn).await;
    }
    let mut body = json!({ "convoId": convo.id, "commit": base64_text(&staged.commit) });
    if let Some(heard) = &state.incarnation {
        body["serverIncarnation"] = heard.clone();
    }
    let method = match removed {
        Some(member) => {
            body["targetDid"] = json!(desk.people[member].did);
            "leaveConvo"
        }
        None => {
            body["didList"] = added.iter().map(|member| desk.people[*member].did.clone()).collect();
            "addMembers"
        }
    };
    let reply = desk.insist(creator, turn, method, &body).await;
    if desk.may_lose && reply.status != 200 {
        assert!(reply.error() != Some("EpochAhead") || state.incarnation.is_none(), "it was not told: {reply}");
        let told = u64::from(reply.error() == Some("ServerRolledBack"));
        desk.counts.rolled_back.fetch_add(told, Ordering::SeqCst);
        return begin_anew(desk, convo, turn, &mut state).await;
    }
    assert_eq!(reply.status, 200, "{method}: {reply}");
    let epoch = state.mls.merge_pending(&convo.group).unwrap();
    assert_eq!(reply.number("newEpoch").unwrap(), epoch);
    desk.counts.commits.fetch_add(1, Ordering::SeqCst);
    convo.present.send_modify(|(members, now)| {
        members.extend(added);
        members.retain(|member| Some(*member) != removed);
        *now = epoch;
    });
}

/// What the server says of the database's incarnation, if it does.
async fn incarnation(desk: &Desk, convo: &Convo, creator: &Xrpc, turn: usize) -> Option<Value> {
    let url = desk.servers.borrow()[turn % desk.servers.borrow().len()].clone();
    let reply = creator.at(url).query("getEpoch", &[("convoId", convo.id.clone())]).await.ok()?;
    reply.body.get("serverIncarnation").cloned()
}

/// The server has lost commits, or members: the creator takes its word, and has a group of its own in the server's epoch, as if it
/// had come back into it. The server cannot tell the two apart.
async fn begin_anew(desk: &Desk, convo: &Convo, turn: usize, state: &mut State) {
    let creator = &desk.people[convo.members()[0]];
    let url = desk.servers.borrow()[turn % desk.servers.borrow().len()].clone();
    let Ok(reply) = creator.at(url).query("getConvos", &[("limit", "100".to_owned())]).await else { return };
    let all = reply.list("conversations").unwrap_or_default();
    let Some(found) = all.iter().find(|one| one["id"] == json!(convo.id)) else { return };
    let mut mls = MlsClient::new(creator.did.clone());
    mls.create_group(&convo.group, Handshake::Private).unwrap();
    let epoch = found["epoch"].as_u64().unwrap();
    for _ in 0..epoch {
        mls.self_update(&convo.group).unwrap();
        mls.merge_pending(&convo.group).unwrap();
    }
    state.mls = mls;
    state.incarnation = None;
    let named =
        |one: &usize| found["members"].as_array().unwrap().iter().any(|m| m["did"] == json!(desk.people[*one].did));
    let members: Vec<usize> = (0..desk.people.len()).filter(named).collect();
    convo.present.send_modify(|(before, now)| {
        let creator = before[0];
        *before = std::iter::once(creator).chain(members.into_iter().filter(|one| *one != creator)).collect();
        *now = epoch;
    });
}

/// A member leaves by itself, which is no entry of the log.
async fn leave(desk: &Desk, convo: &Convo, turn: usize, member: usize) {
    let _held = convo.state.lock().await;
    let reply = desk.insist(&desk.people[member], turn, "leaveConvo", &json!({ "convoId": convo.id })).await;
    // Whoever joined in a time that was lost never did.
    assert!(reply.status == 200 || desk.may_lose && matches!(reply.status, 403 | 404), "{reply}");
    convo.present.send_modify(|(members, _)| members.retain(|one| *one != member));
}

/// Sends, as one member after the other, until told to stop.
pub async fn send(desk: Desk, convo: Arc<Convo>, turn: usize) {
    for n in turn.. {
        let Some(_turn) = desk.pause(SEND).await else { return };
        let (members, epoch) = convo.present.borrow().clone();
        let member = members[n % members.len()];
        let body = json!({
            "convoId": convo.id,
            "ciphertext": bytes_value(format!("{member} says {n}").as_bytes()),
            "epoch": epoch,
            "idempotencyKey": unique(),
        });
        let reply = desk.insist(&desk.people[member], n, "sendMessage", &body).await;
        match (reply.status, reply.error()) {
            (200, _) => {
                desk.counts.messages.fetch_add(1, Ordering::SeqCst);
            }
            // A commit or its own removal came first.
            (409, Some("EpochMismatch")) | (403, Some("NotMember")) => {}
            // Or the database has lost the epoch, or even the conversation, and nobody has noticed yet.
            (409, Some("EpochAhead" | "ServerRolledBack")) | (404, Some("ConvoNotFound")) if desk.may_lose => {}
            _ => panic!("{reply}"),
        }
    }
}
