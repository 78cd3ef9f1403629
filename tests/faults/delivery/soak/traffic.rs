//! Clients that send, and clients that change rosters.
//!
//! The creator of a conversation makes all its commits, so none conflicts; other tests cover conflicts. The server's
//! roster counts: only the creator has MLS state, and the server cannot decrypt its commits.

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

/// Pause between two changes of a roster.
const CHANGE: Duration = Duration::from_millis(250);
/// Pause between two messages to one conversation.
const SEND: Duration = Duration::from_millis(15);

/// Acknowledged requests.
#[derive(Debug, Default)]
pub struct Counts {
    pub messages: AtomicU64,
    pub commits: AtomicU64,
    /// Number of times that a creator was told that its commits are lost.
    pub rolled_back: AtomicU64,
}

/// State shared by all clients.
#[derive(Clone)]
pub struct Desk {
    pub servers: Arc<watch::Sender<Vec<Url>>>,
    pub stopping: watch::Receiver<bool>,
    /// Held during each request, so that a pause can wait for requests.
    pub gate: Arc<RwLock<()>>,
    /// Acknowledged requests may be lost.
    pub may_lose: bool,
    pub unanswered: Arc<AtomicU64>,
    pub counts: Arc<Counts>,
    /// All clients.
    pub people: Arc<[Xrpc]>,
}

impl Desk {
    async fn insist(&self, who: &Xrpc, turn: usize, method: &str, body: &Value) -> Reply {
        insist(&self.servers, &self.unanswered, who, turn, method, body).await
    }

    /// Waits for a turn. `None` once the traffic has ended.
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
    /// Held while the roster changes.
    state: Mutex<State>,
    /// Members by client number, the creator first, and the epoch, for concurrent senders.
    present: watch::Sender<(Vec<usize>, u64)>,
}

struct State {
    mls: MlsClient,
    /// Incarnation that the creator saw last.
    incarnation: Option<Value>,
}

impl Convo {
    /// Creates the `n`-th conversation.
    pub async fn create(desk: &Desk, n: usize, roster: usize) -> Self {
        let members: Vec<usize> = (0..roster).map(|member| (n * 7 + member * 3) % desk.people.len()).collect();
        let mut distinct = members.clone();
        distinct.sort_unstable();
        distinct.dedup();
        // Duplicate members are merged; the creator stays first.
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
            "idempotencyKey": unique(),
        });
        let reply = desk.insist(creator, n, "createConvo", &body).await;
        assert_eq!(reply.status, 200, "{reply}");
        let id = reply.string("id").unwrap().to_owned();
        // A commit brings them into the group. Members that are only named could be added once more.
        let added: Vec<_> = members[1..].iter().map(|member| &desk.people[*member].did).collect();
        let staged = mls.self_update(&group).unwrap();
        let body = json!({ "convoId": id, "didList": added, "commit": base64_text(&staged.commit) });
        let reply = desk.insist(creator, n, "addMembers", &body).await;
        assert_eq!(reply.status, 200, "{reply}");
        let epoch = mls.merge_pending(&group).unwrap();
        Self {
            id,
            group,
            state: Mutex::new(State { mls, incarnation: None }),
            present: watch::Sender::new((members, epoch)),
        }
    }

    /// Epoch as far as the clients know.
    pub fn epoch(&self) -> u64 {
        self.present.borrow().1
    }

    /// Members as far as the clients know, the creator first.
    pub fn members(&self) -> Vec<usize> {
        self.present.borrow().0.clone()
    }
}

/// Adds and removes members, and lets some leave, until it is stopped.
pub async fn change(desk: Desk, convo: Arc<Convo>, turn: usize) {
    for n in turn.. {
        let Some(_turn) = desk.pause(CHANGE).await else { return };
        let members = convo.members();
        let outsiders: Vec<usize> = (0..desk.people.len()).filter(|one| !members.contains(one)).collect();
        // Small ones grow and large ones shrink; sometimes a member that was just removed is added again.
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
                    // Removed and added again as fast as possible.
                    _ => {
                        commit(&desk, &convo, n, &[], Some(member)).await;
                        commit(&desk, &convo, n, &[member], None).await;
                    }
                }
            }
        }
    }
}

/// Sends a commit by the creator that adds these members or removes one.
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

/// Returns the server's incarnation, if it names one.
async fn incarnation(desk: &Desk, convo: &Convo, creator: &Xrpc, turn: usize) -> Option<Value> {
    let url = desk.servers.borrow()[turn % desk.servers.borrow().len()].clone();
    let reply = creator.at(url).query("getEpoch", &[("convoId", convo.id.clone())]).await.ok()?;
    reply.body.get("serverIncarnation").cloned()
}

/// Starts over after the server has lost commits or members: the creator creates a group in the server's epoch, as if
/// it had rejoined. The server cannot distinguish the two.
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

/// Lets a member leave, which is not an entry of the log.
async fn leave(desk: &Desk, convo: &Convo, turn: usize, member: usize) {
    let _held = convo.state.lock().await;
    let reply = desk.insist(&desk.people[member], turn, "leaveConvo", &json!({ "convoId": convo.id })).await;
    // A member that joined in a lost period never joined.
    assert!(reply.status == 200 || desk.may_lose && matches!(reply.status, 403 | 404), "{reply}");
    convo.present.send_modify(|(members, _)| members.retain(|one| *one != member));
}

/// Sends as one member after the other until it is stopped.
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
            // Or the database has lost the epoch or the conversation, and the clients do not know yet.
            (409, Some("EpochAhead" | "ServerRolledBack")) | (404, Some("ConvoNotFound")) if desk.may_lose => {}
            _ => panic!("{reply}"),
        }
    }
}
