//! The rule that binds the two ways of a command to the database: a batch may refuse more than the command alone, never less, and it
//! answers and writes the same.
//!
//! Random commands run in batches on one database, and what a batch refuses runs alone after it, as in production. On its twin the same
//! commands run one by one, in the order in which they were done. Then both databases and all replies are compared.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use catbird_testkit::cluster::{TestDatabase, database};
use chrono::{DateTime, Utc};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use ulid::Ulid;

use super::{Fingerprint, Idempotency, Invitation, LeaveConvo, MAX_MEMBERS, SendMessage, SubmitCommit};
use crate::config::MlsValidation;
use crate::error::Error;
use crate::ids::{ConvoId, Did, EntryId};
use crate::metrics::Registry;
use crate::mls::{Commit, GroupInfo};
use crate::store::messages::{AppMessage, MAX_PROPOSALS};
use crate::store::{BatchOutcome, Batched, Command, LockMode, Locks, Position, Store, StoreConfig, StoreMetrics};

const CASES: u32 = 96;
const CONVOS: usize = 3;
/// This one has room for one more member, and for one more proposal of its first member.
const NEARLY_FULL: usize = 2;
/// Two members of every conversation, one who has left the first one, two who were never in any, and one who is named on every roster and
/// in no group.
const PEOPLE: [&str; 6] = ["ann", "bob", "cat", "dan", "eve", "fay"];
/// The epoch in which every conversation begins.
const FIRST_EPOCH: i64 = 3;
const SUITE: &str = "suite";

/// The states of a key package, each of which everybody has one in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Package {
    Free,
    AlsoFree,
    ClaimedByAnn,
    ClaimedByEve,
    Used,
    LastResort,
    OtherSuite,
    Unknown,
}

impl Package {
    const ALL: [Package; 8] = [
        Package::Free,
        Package::AlsoFree,
        Package::ClaimedByAnn,
        Package::ClaimedByEve,
        Package::Used,
        Package::LastResort,
        Package::OtherSuite,
        Package::Unknown,
    ];
}

/// Fields that all kinds of commands have.
#[derive(Debug, Clone)]
struct Request {
    convo: usize,
    caller: usize,
    /// Distance of its epoch from the conversation's.
    epoch: i64,
    key: Option<u8>,
    /// The same request as an earlier one of its kind, sent again.
    again: Option<prop::sample::Index>,
}

#[derive(Debug, Clone)]
enum Group {
    Sends(Locks, Vec<(Request, Sending)>),
    Commits(Locks, Vec<(Request, Change)>),
    /// Alone on both databases. The target is the caller itself, or another.
    Leaves(Request, usize),
}

#[derive(Debug, Clone)]
struct Sending {
    /// The client's id of a message; a proposal has none.
    id: Option<u8>,
    body: u8,
    is_proposal: bool,
}

#[derive(Debug, Clone)]
struct Change {
    added: BTreeSet<usize>,
    removed: BTreeSet<usize>,
    packages: BTreeSet<(usize, Package)>,
    welcome: bool,
    bytes: u8,
}

fn requests() -> impl Strategy<Value = Request> {
    let epoch = prop_oneof![8 => Just(0_i64), 1 => Just(-1), 1 => Just(-2), 1 => Just(1)];
    let caller = prop_oneof![5 => Just(0_usize), 5 => Just(1), 1 => Just(2), 1 => Just(3)];
    (
        0..CONVOS,
        caller,
        epoch,
        prop::option::weighted(0.3, 0..3_u8),
        prop::option::weighted(0.15, any::<prop::sample::Index>()),
    )
        .prop_map(|(convo, caller, epoch, key, again)| Request { convo, caller, epoch, key, again })
}

fn groups() -> impl Strategy<Value = Group> {
    let locks = || prop_oneof![4 => Just(Locks::Try), 1 => Just(Locks::Wait), 1 => Just(Locks::None)];
    let package = prop_oneof![
        6 => Just(Package::Free),
        3 => Just(Package::AlsoFree),
        3 => Just(Package::LastResort),
        1 => prop::sample::select(Package::ALL.to_vec()),
    ];
    let added = prop::collection::btree_set(prop_oneof![1 => 0..2_usize, 8 => 2..PEOPLE.len()], 0..3);
    let removed = prop_oneof![
        3 => Just(BTreeSet::new()),
        2 => prop::collection::btree_set(0..PEOPLE.len(), 1..3),
    ];
    let owner = prop::option::weighted(0.2, 0..PEOPLE.len());
    let change = (added, removed, owner, prop::collection::vec(package, 0..3), any::<bool>(), 0..3_u8).prop_map(
        |(added, removed, owner, packages, welcome, bytes)| {
            let owner = owner.filter(|owner| !removed.contains(owner) || added.contains(owner));
            let owners: BTreeSet<usize> = added.iter().copied().chain(owner).collect();
            let packages = owners.iter().copied().cycle().zip(packages).collect();
            Change { packages, added, removed, welcome, bytes }
        },
    );
    let sending = (prop::option::weighted(0.4, 0..4_u8), 0..3_u8, prop::bool::weighted(0.3))
        .prop_map(|(id, body, is_proposal)| Sending { id: id.filter(|_| !is_proposal), body, is_proposal });
    let sends = prop::collection::vec((requests(), sending), 1..7);
    prop_oneof![
        3 => (locks(), sends).prop_map(|(locks, sends)| Group::Sends(locks, sends)),
        5 => (locks(), prop::collection::vec((requests(), change), 1..5))
            .prop_map(|(locks, commits)| Group::Commits(locks, commits)),
        1 => (requests(), 0..PEOPLE.len()).prop_map(|(request, target)| Group::Leaves(request, target)),
    ]
}

#[test]
fn a_batch_answers_and_writes_what_its_commands_would_alone() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let twins = runtime.block_on(async { [Twin::new().await, Twin::new().await] });
    let number = AtomicUsize::new(0);
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(CASES) });
    let outcome = runner.run(&prop::collection::vec(groups(), 1..5), |groups| {
        let case = Case { number: number.fetch_add(1, Ordering::Relaxed), twins: &twins };
        runtime.block_on(case.run(&groups))
    });
    runtime.block_on(async { drop(twins) });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

struct Twin {
    store: Store,
    client: tokio_postgres::Client,
    _database: TestDatabase,
}

impl Twin {
    async fn new() -> Self {
        let database = database().await;
        let config = StoreConfig { database: database.config.clone(), max_connections: 4, pooler: false };
        let store = Store::new(config, StoreMetrics::register(&mut Registry::default())).unwrap();
        let twin = Self { store, client: database.connect().await, _database: database };
        // The first transaction begins the incarnation, before which no batch writes.
        let case = Case { number: usize::MAX, twins: &[] };
        let request = Request { convo: 0, caller: 0, epoch: 0, key: None, again: None };
        twin.alone(Arc::new(case.leave(&request, 0)), false).await.unwrap_err();
        twin
    }

    async fn position(&self, convo: &ConvoId) -> Position {
        self.store.reader().await.unwrap().position(convo).await.unwrap()
    }

    async fn alone<C: Command>(&self, command: Arc<C>, remembers: bool) -> Result<C::Output, Error> {
        let mode = match remembers {
            true => LockMode::Remembered(self.position(command.convo()).await),
            false => LockMode::Lock,
        };
        self.store.run(command, mode).await.map(|done| done.output).map_err(Error::from)
    }

    /// Runs commands in batches, and alone what these refuse. Returns them in the order in which they were done, with their replies.
    async fn batched<C: Batched>(
        &self,
        commands: Vec<Arc<C>>,
        locks: Locks,
    ) -> Vec<(Arc<C>, Result<C::Output, Error>)> {
        let (mut queue, mut done) = (commands, Vec::new());
        while !queue.is_empty() {
            let outcomes = self.store.batch(queue.clone(), locks, || None).await.unwrap().output;
            assert_eq!(outcomes.len(), queue.len());
            let (mut refused, mut later) = (Vec::new(), Vec::new());
            for (command, outcome) in queue.into_iter().zip(outcomes) {
                match outcome {
                    BatchOutcome::Committed { output, .. } => done.push((command, Ok(output))),
                    BatchOutcome::Refused(reason) => refused.push((command, Some(reason))),
                    BatchOutcome::RunAlone => refused.push((command, None)),
                    BatchOutcome::Requeue => later.push(command),
                    BatchOutcome::Contended => panic!("no other replica writes these conversations"),
                }
            }
            // Refused commands are answered from the state that the batch left, before any command runs alone.
            refused.sort_by_key(|(_, reason)| reason.is_none());
            for (command, reason) in refused {
                let reply = match reason {
                    Some(reason) => {
                        let db = self.store.reader().await.unwrap();
                        command.refusal(&db, &reason).await.map_err(Error::from)
                    }
                    None => self.alone(command.clone(), false).await,
                };
                done.push((command, reply));
            }
            queue = later;
        }
        done
    }
}

/// One run of random commands, whose names no other run uses.
struct Case<'a> {
    number: usize,
    twins: &'a [Twin],
}

impl Case<'_> {
    fn did(&self, person: usize) -> Did {
        format!("did:plc:{}{}", PEOPLE[person], self.number).parse().unwrap()
    }

    fn convo(&self, convo: usize) -> ConvoId {
        format!("case{}c{convo}", self.number).parse().unwrap()
    }

    fn package(&self, owner: usize, package: Package) -> [u8; 32] {
        Sha256::digest(format!("{} {package:?}", self.did(owner))).into()
    }

    async fn run(&self, groups: &[Group]) -> Result<(), TestCaseError> {
        for twin in self.twins {
            twin.client.batch_execute(&self.beginning()).await.unwrap();
        }
        let (mut sends, mut commits) = (Vec::new(), Vec::new());
        let (alone, batched) = (&self.twins[0], &self.twins[1]);
        for group in groups {
            match group {
                Group::Sends(locks, requests) => {
                    let mut commands = Vec::new();
                    for (request, sending) in requests {
                        let send = match &request.again {
                            Some(earlier) if !sends.is_empty() => repeat_send(earlier.get::<Arc<SendMessage>>(&sends)),
                            _ => self.send(request, *locks, sending).await,
                        };
                        sends.push(send.clone());
                        commands.push(send);
                    }
                    self.compare(commands, *locks, |sent| {
                        json!([sent.id.as_str(), sent.seq, sent.epoch, sent.replayed])
                    })
                    .await?;
                }
                Group::Commits(locks, requests) => {
                    let mut commands = Vec::new();
                    for (request, change) in requests {
                        let command = match &request.again {
                            Some(earlier) if !commits.is_empty() => {
                                repeat_commit(earlier.get::<Arc<SubmitCommit>>(&commits))
                            }
                            _ => self.submit(request, *locks, change).await,
                        };
                        commits.push(command.clone());
                        commands.push(command);
                    }
                    self.compare(commands, *locks, |accepted| json!([accepted.seq, accepted.epoch, accepted.replayed]))
                        .await?;
                }
                Group::Leaves(request, target) => {
                    let leave = Arc::new(self.leave(request, *target));
                    let replies = (alone.alone(leave.clone(), false).await, batched.alone(leave, false).await);
                    let plain = |reply| {
                        plain(reply, |accepted: &super::Accepted| {
                            json!([accepted.seq, accepted.epoch, accepted.replayed])
                        })
                    };
                    prop_assert_eq!(plain(replies.0), plain(replies.1));
                }
            }
            let (left, right) = (self.state(alone).await, self.state(batched).await);
            prop_assert_eq!(left, right, "after {:?}", group);
        }
        Ok(())
    }

    /// Runs commands in batches on one twin, and in the same order one by one on the other.
    async fn compare<C: Batched + std::fmt::Debug>(
        &self,
        commands: Vec<Arc<C>>,
        locks: Locks,
        output: impl Fn(&C::Output) -> Value,
    ) -> Result<(), TestCaseError> {
        let (alone, batched) = (&self.twins[0], &self.twins[1]);
        for (command, reply) in batched.batched(commands, locks).await {
            let same = alone.alone(command.clone(), locks == Locks::None).await;
            prop_assert_eq!(plain(same, &output), plain(reply, &output), "{:?}", command);
        }
        Ok(())
    }

    /// The conversation that a request names. Whoever waits for a lock, or takes none, has only one.
    async fn at(&self, request: &Request, locks: Locks) -> (ConvoId, i64) {
        let convo = self.convo(if locks == Locks::Try { request.convo } else { 0 });
        let epoch = (self.twins[1].position(&convo).await.epoch + request.epoch).max(0);
        (convo, epoch)
    }

    async fn send(&self, request: &Request, locks: Locks, sending: &Sending) -> Arc<SendMessage> {
        let Sending { id, body, is_proposal } = *sending;
        let (convo, epoch) = self.at(request, locks).await;
        let (sender, body) = (self.did(request.caller), format!("body {body}").into_bytes());
        let fingerprint = Fingerprint::default()
            .text(Some(convo.as_str()))
            .field(Some(&body))
            .number(Some(epoch))
            .number(id.map(i64::from));
        let key = request.key.map(|key| format!("key {key}"));
        let method = if is_proposal { "submitProposal" } else { "sendMessage" };
        let proposal_hash = is_proposal.then(|| Sha256::digest(format!("{convo} {epoch} {sender} {body:?}")).into());
        Arc::new(SendMessage {
            idempotency: Idempotency::new(sender.clone(), method, key, fingerprint),
            convo_id: convo,
            message: AppMessage {
                generation: None,
                id: id.map_or_else(new_entry, |id| format!("message-{id}").parse().unwrap()),
                sender,
                epoch,
                ciphertext: body,
                body: None,
                embed_type: None,
                embed_uri: None,
                proposal_hash,
            },
            has_own_id: id.is_some(),
            blobs: Vec::new(),
            window: 1,
            incarnation: None,
        })
    }

    async fn submit(&self, request: &Request, locks: Locks, change: &Change) -> Arc<SubmitCommit> {
        let (convo, epoch) = self.at(request, locks).await;
        let caller = self.did(request.caller);
        let commit = commit(&convo, epoch, &caller, change.bytes);
        let group_info = (change.bytes.is_multiple_of(2)).then(|| group_info(&convo, epoch + 1, change.bytes));
        let dids = |people: &BTreeSet<usize>| people.iter().map(|person| self.did(*person)).collect::<Vec<Did>>();
        let (added, removed) = (dids(&change.added), dids(&change.removed));
        let packages =
            change.packages.iter().map(|(owner, package)| (self.did(*owner), self.package(*owner, *package)));
        let packages: Vec<_> = packages.collect();
        let fingerprint = Fingerprint::default()
            .text(Some(convo.as_str()))
            .list(added.iter().map(|did| did.as_str().as_bytes()))
            .list(removed.iter().map(|did| did.as_str().as_bytes()))
            .list(packages.iter().map(|(_, hash)| hash.as_slice()))
            .field(Some(&commit.bytes));
        let method = if added.is_empty() { "submitCommit" } else { "addMembers" };
        let key = request.key.map(|key| format!("key {key}"));
        let welcome = change.welcome.then(|| b"welcome".to_vec());
        Arc::new(SubmitCommit {
            generation: Some(1),
            idempotency: Idempotency::new(caller.clone(), method, key, fingerprint),
            invitation: invitation(&added, &removed, welcome, packages),
            group_info,
            convo_id: convo,
            caller,
            added,
            removed,
            commit: Some(commit),
            arrival: None,
            entry_id: new_entry(),
            incarnation: None,
        })
    }

    fn leave(&self, request: &Request, target: usize) -> LeaveConvo {
        let (caller, target) = (self.did(request.caller), self.did(target));
        LeaveConvo {
            convo_id: self.convo(request.convo),
            idempotency: Idempotency::new(caller.clone(), "leaveConvo", None, Fingerprint::default()),
            caller,
            target,
            proposal: None,
            incarnation: None,
        }
    }

    /// The state in which both databases begin.
    fn beginning(&self) -> String {
        let did = |person| self.did(person);
        let mut sql = String::new();
        for convo in 0..CONVOS {
            let id = self.convo(convo);
            sql += &format!(
                "insert into conversations (id, group_id, creator_did, cipher_suite, initial_epoch, current_epoch)
                 values ('{id}', '{id}', '{ann}', '{SUITE}', {FIRST_EPOCH}, {FIRST_EPOCH});
                 insert into members (convo_id, member_did, joined_seq, joined_epoch, last_read_seq, in_group)
                 values ('{id}', '{ann}', 0, {FIRST_EPOCH}, 0, true), ('{id}', '{bob}', 0, {FIRST_EPOCH}, 0, true),
                        ('{id}', '{fay}', 0, {FIRST_EPOCH}, 0, false);",
                ann = did(0),
                bob = did(1),
                fay = did(5),
            );
        }
        // A former member for whom a Welcome waits, as builds before this one may have left it.
        sql += &format!(
            "insert into members (convo_id, member_did, joined_seq, joined_epoch, last_read_seq, left_at, left_by, left_epoch, left_seq)
             values ('{convo}', '{cat}', 0, {FIRST_EPOCH}, 0, now(), '{cat}', {FIRST_EPOCH}, 0);
             insert into welcomes (id, welcome) values ('{convo}', 'old');
             insert into welcome_messages (id, convo_id, recipient_did, welcome_id, epoch)
             values ('{convo}', '{convo}', '{cat}', '{convo}', {FIRST_EPOCH});
             update conversations set member_count = {MAX_MEMBERS} - 1, last_seq = {MAX_PROPOSALS} - 1 where id = '{full}';
             insert into messages (convo_id, seq, id, sender_did, message_type, epoch, ciphertext, body_hash)
             select '{full}', n, 'proposal' || n, '{ann}', 'proposal', {FIRST_EPOCH}, '', sha256(n::text::bytea)
               from generate_series(1, {MAX_PROPOSALS} - 1) n;",
            convo = self.convo(0),
            ann = did(0),
            cat = did(2),
            full = self.convo(NEARLY_FULL),
        );
        for owner in 0..PEOPLE.len() {
            for package in Package::ALL {
                let hash = crate::hex::encode(&self.package(owner, package));
                let suite = if package == Package::OtherSuite { "another" } else { SUITE };
                let claimed = match package {
                    Package::ClaimedByAnn => format!("'{}', now(), now() + interval '1 hour'", did(0)),
                    Package::ClaimedByEve => format!("'{}', now(), now() + interval '1 hour'", did(4)),
                    _ => "null, null, null".to_owned(),
                };
                let used = if package == Package::Used { "'1970-01-01Z', 'elsewhere'" } else { "null, null" };
                let last_resort = package == Package::LastResort;
                if package != Package::Unknown {
                    sql += &format!(
                        "insert into key_packages (hash, init_key_hash, owner_did, cipher_suite, key_package, last_resort, expires_at,
                                                   claimed_by, claimed_at, claim_expires_at, consumed_at, consumed_convo)
                         values ('\\x{hash}', sha256('\\x{hash}'), '{owner}', '{suite}', 'package', {last_resort}, now() + interval '1 day',
                                 {claimed}, {used});",
                        owner = did(owner),
                    );
                }
            }
        }
        sql
    }

    /// Everything that commands write, without times and numbers of transactions.
    async fn state(&self, twin: &Twin) -> Vec<String> {
        let like = format!("case{}c%", self.number);
        let own = format!("%{}", self.number);
        let state = "
            select 'convo ' || (id, current_epoch, last_seq, member_count, roster_version)::text from conversations where id like $1
            union all select 'entry ' || (convo_id, seq, id, sender_did, message_type, epoch, ciphertext, body_hash)::text
              from messages where convo_id like $1
            union all select 'member ' || (convo_id, member_did, joined_seq, joined_epoch, last_read_seq, last_read_at is null, in_group, left_by,
                                      left_epoch, left_seq)::text
              from members where convo_id like $1
            union all select 'event ' || (convo_id, event_type, payload)::text from event_stream where convo_id like $1
            union all select 'welcome ' || (m.id, m.convo_id, recipient_did, key_package_hash, epoch, state, w.id, w.welcome)::text
              from welcome_messages m left join welcomes w on w.id = m.welcome_id where convo_id like $1
            union all select 'bytes ' || id from welcomes w where not exists (select from welcome_messages m where m.welcome_id = w.id)
            union all select 'package ' || (hash, consumed_at, consumed_convo, claimed_by)::text from key_packages where owner_did like $2
            union all select 'group info ' || (convo_id, epoch, group_info, signer_did)::text from group_infos where convo_id like $1
            union all select 'record ' || (caller_did, method, key, fingerprint, reply - 'received_at', reply ? 'received_at')::text
              from idempotency_records where caller_did like $2
            order by 1";
        let rows = twin.client.query(state, &[&like, &own]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }
}

/// The same message sent again: the server makes another id where the client has named none.
fn repeat_send(earlier: &Arc<SendMessage>) -> Arc<SendMessage> {
    let SendMessage { convo_id, message, has_own_id, blobs, window, incarnation, idempotency } = &**earlier;
    let mut message = message.clone();
    if !message.id.as_str().starts_with("message-") {
        message.id = new_entry();
    }
    let (convo_id, incarnation, idempotency) = (convo_id.clone(), incarnation.clone(), idempotency.clone());
    let (blobs, has_own_id, window) = (blobs.clone(), *has_own_id, *window);
    Arc::new(SendMessage { convo_id, message, has_own_id, blobs, window, incarnation, idempotency })
}

/// The same commit sent again: the server makes other ids.
fn repeat_commit(earlier: &Arc<SubmitCommit>) -> Arc<SubmitCommit> {
    let SubmitCommit {
        convo_id,
        caller,
        added,
        removed,
        commit,
        invitation: sent,
        group_info,
        incarnation,
        idempotency,
        ..
    } = &**earlier;
    let welcome = sent.welcome.as_ref().map(|welcome| welcome.bytes.clone());
    Arc::new(SubmitCommit {
        generation: Some(1),
        invitation: invitation(added, removed, welcome, sent.key_packages.clone()),
        convo_id: convo_id.clone(),
        caller: caller.clone(),
        added: added.clone(),
        removed: removed.clone(),
        commit: commit.clone(),
        group_info: group_info.clone(),
        arrival: None,
        entry_id: new_entry(),
        incarnation: incarnation.clone(),
        idempotency: idempotency.clone(),
    })
}

fn invitation(added: &[Did], removed: &[Did], welcome: Option<Vec<u8>>, packages: Vec<(Did, [u8; 32])>) -> Invitation {
    let stays = |did: &Did| !removed.contains(did);
    Invitation::new(added, stays, welcome, packages, || Ulid::new().to_string(), now()).unwrap()
}

fn new_entry() -> EntryId {
    Ulid::new().to_string().parse().unwrap()
}

fn now() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH
}

/// A GroupInfo that parses, without tree and signature (RFC 9420, section 12.4.3).
fn group_info(group: &ConvoId, epoch: i64, signature: u8) -> GroupInfo {
    let mut bytes = vec![0, 1, 0, 1, group.as_str().len() as u8];
    bytes.extend_from_slice(group.as_str().as_bytes());
    bytes.extend_from_slice(&epoch.to_be_bytes());
    // Tree hash, transcript hash, two lists of extensions, confirmation tag and signer.
    bytes.extend_from_slice(&[0; 9]);
    bytes.extend_from_slice(&[1, signature]);
    GroupInfo::parser(MlsValidation::Framing)(bytes).unwrap()
}

/// A PrivateMessage that holds a commit, as far as its frame shows (RFC 9420, section 6.3).
fn commit(group: &ConvoId, epoch: i64, caller: &Did, bytes: u8) -> Commit {
    let mut message = vec![0, 1, 0, 2];
    message.push(group.as_str().len() as u8);
    message.extend_from_slice(group.as_str().as_bytes());
    message.extend_from_slice(&epoch.to_be_bytes());
    message.extend_from_slice(&[3, 0, 20]);
    message.extend_from_slice(&[0; 20]);
    let sealed = format!("sealed by {caller}: {bytes}");
    message.push(sealed.len() as u8);
    message.extend_from_slice(sealed.as_bytes());
    Commit::parse(message).unwrap()
}

/// A reply without times.
fn plain<T>(reply: Result<T, Error>, output: impl Fn(&T) -> Value) -> Value {
    match reply {
        Ok(done) => json!({ "done": output(&done) }),
        Err(error) => {
            let mut details = serde_json::to_value(&*error.details).unwrap();
            details.as_object_mut().unwrap().remove("serverIncarnation");
            for commit in details["missing"].as_array_mut().into_iter().flatten() {
                commit.as_object_mut().unwrap().remove("createdAt");
            }
            json!({ "error": error.code.name(), "message": error.message, "details": details })
        }
    }
}
