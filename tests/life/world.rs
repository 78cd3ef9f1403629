//! A conversation with its people, its model and its servers, and the life that a schedule gives it.

use catbird_client::persona::{hex, sha256_hex, unique};
use catbird_client::random_did;
use catbird_client::xrpc::{Reply, base64_text};
use serde_json::{Value, json};

use crate::model::{At, CLIENTS, Commit, Model, PEOPLE, Proposal, Refusal, Welcome, person};
use crate::people::Person;
use crate::schedule::{Fault, Step};
use crate::servers::{Servers, effect};

/// The first person creates the conversation, and the next ones come along.
const FIRST: usize = 3;

pub struct World<'a> {
    pub servers: &'a mut Servers,
    /// Clients of the people: the first one of each, and then the second one of each.
    pub people: Vec<Person>,
    /// DIDs of the people.
    pub dids: Vec<String>,
    pub model: Model,
    pub convo: String,
    pub group: Vec<u8>,
    /// Accepted requests, which may be sent again.
    pub done: Vec<Done>,
}

pub struct Done {
    /// The client.
    pub who: usize,
    /// Membership of the sender after the request: a repeat by a former member is judged by its new standing.
    pub since: Option<u64>,
    pub method: &'static str,
    pub body: Value,
    pub reply: Reply,
}

/// A commit that was made and not sent.
pub struct Made {
    pub commit: Commit,
    pub method: &'static str,
    pub body: Value,
}

impl<'a> World<'a> {
    /// Creates a conversation whose first members join with the Welcome of its creation.
    pub async fn begin(servers: &'a mut Servers) -> Self {
        let dids: Vec<String> = (0..PEOPLE).map(|_| random_did()).collect();
        let mut people: Vec<_> = (0..CLIENTS).map(|n| Person::new(servers, n, &dids[person(n)])).collect();
        let group = random_did().into_bytes();
        let (mut packages, mut others, mut named) = (Vec::new(), Vec::new(), Vec::new());
        for who in 1..FIRST {
            let package = publish(servers, &people[who]).await;
            let hash = sha256_hex(&package);
            named.push(json!({ "did": dids[who], "hash": hash }));
            others.push((who, hash));
            packages.push(package);
        }
        let creator = &mut people[0];
        creator.mls.create_group(&group, creator.handshake).unwrap();
        creator.in_group = true;
        let staged = creator.commit(&group, &packages, &[]);
        creator.merge(&group, 0);
        let body = json!({
            "groupId": hex(&group),
            "cipherSuite": creator.mls.suite_name(),
            "initialMembers": dids[1..FIRST],
            "welcomeMessage": base64_text(&staged.welcome),
            "keyPackageHashes": named,
            "currentEpoch": 1,
            "idempotencyKey": unique(),
        });
        let reply = servers.ask(0, &creator.xrpc, "createConvo", &body, Fault::Twice).await;
        assert_eq!(reply.status, 200, "{reply}");
        let model = Model::new(0, 1, &others);
        let convo = reply.string("id").unwrap().to_owned();
        Self { servers, people, dids, model, convo, group, done: Vec::new() }
    }

    /// Does all steps, and lets all members that can come together at the end.
    pub async fn live(mut self, steps: &[Step]) {
        self.agree(0, "the creation").await;
        for (n, step) in steps.iter().enumerate() {
            self.act(step).await;
            self.agree(n, step).await;
        }
        for who in self.invited() {
            self.join(who, Fault::None, 0).await;
        }
        let mut secrets = Vec::new();
        for who in self.members() {
            self.catch_up(who, 1).await;
            let person = &self.people[who];
            assert_eq!(person.epoch(&self.group), self.model.at.epoch);
            secrets.push(person.mls.epoch_authenticator(&self.group).unwrap());
        }
        assert!(secrets.windows(2).all(|pair| pair[0] == pair[1]), "all clients share one history");
        self.agree(steps.len(), "the end").await;
    }

    /// Clients of members.
    pub fn clients(&self) -> Vec<usize> {
        (0..CLIENTS).filter(|who| self.model.members.contains_key(&person(*who))).collect()
    }

    /// Clients of members that have keys of the group.
    pub fn members(&self) -> Vec<usize> {
        self.clients().into_iter().filter(|who| self.people[*who].in_group).collect()
    }

    /// Clients that have no keys of the group and for which a Welcome waits.
    pub fn invited(&self) -> Vec<usize> {
        let waits = |who: &usize| matches!(self.model.welcomes.get(who), Some(Welcome::Waits { .. }));
        self.clients().into_iter().filter(|who| waits(who) && !self.people[*who].in_group).collect()
    }

    /// Lets all clients of a person forget the group.
    pub fn forget(&mut self, target: usize) {
        for client in (0..CLIENTS).filter(|client| person(*client) == target) {
            self.people[client].forget(&self.group);
        }
    }

    pub fn admin(&self) -> Option<usize> {
        self.model.admin(&self.dids)
    }

    /// People whom the next commit adds, because it was proposed, with the hashes of their key packages.
    pub fn proposed(&self) -> Vec<(usize, String)> {
        let add = |proposal: &Proposal| match proposal {
            Proposal::Add(who, hash) => Some((*who, hash.clone())),
            Proposal::Remove(_) => None,
        };
        self.model.proposals.iter().filter_map(add).collect()
    }

    /// Returns true if a client has a leaf in the group, or gets one by the next commit.
    pub fn has_leaf(&self, who: usize) -> bool {
        self.model.tree.contains(&who) || self.proposed().iter().any(|(proposed, _)| *proposed == who)
    }

    /// People who are not members, and whose first clients are not in the group.
    pub fn outsiders(&self) -> Vec<usize> {
        let inside = |who: &usize| self.model.members.contains_key(who) || self.has_leaf(*who);
        (0..PEOPLE).filter(|who| !inside(who)).collect()
    }

    pub async fn catch_up(&mut self, who: usize, replica: usize) {
        self.people[who].catch_up(self.servers, replica, &self.convo, &self.group).await;
    }

    /// Publishes a key package.
    pub async fn package(&mut self, who: usize) -> Vec<u8> {
        publish(self.servers, &self.people[who]).await
    }

    /// Makes an addition.
    pub async fn make_addition(&mut self, who: usize, added: &[usize]) -> Made {
        let mut made = self.make(who, added, &[]).await;
        made.method = "addMembers";
        made.body.as_object_mut().unwrap().remove("removedDids");
        made.body["didList"] = made.body["addedDids"].take();
        made
    }

    /// Makes a removal, with one of the methods that can commit it.
    pub async fn make_removal(&mut self, who: usize, target: usize, how: usize) -> Made {
        let mut made = self.make(who, &[], &[target]).await;
        if !made.commit.invited.is_empty() {
            return made;
        }
        if let Some(method) = ["leaveConvo", "removeMember"].get(how % 3) {
            made.method = method;
            made.body["targetDid"] = json!(self.dids[target]);
        }
        made
    }

    /// Makes a commit. Clients that it adds get a new key package and a Welcome. Their people are added too, unless they are in the group.
    pub async fn make(&mut self, who: usize, clients: &[usize], removed: &[usize]) -> Made {
        let mut packages = Vec::new();
        for joiner in clients {
            packages.push(self.package(*joiner).await);
        }
        let dids = |people: &[usize]| people.iter().map(|who| self.dids[*who].clone()).collect::<Vec<_>>();
        let removed_dids = dids(removed);
        let targets: Vec<&str> = removed_dids.iter().map(|did| &**did).collect();
        let staged = self.people[who].commit(&self.group, &packages, &targets);
        let mut invited: Vec<(usize, String)> =
            clients.iter().copied().zip(packages.iter().map(|bytes| sha256_hex(bytes))).collect();
        // A commit makes the additions that were proposed in its epoch.
        if staged.made_in == self.model.at.epoch {
            invited.extend(self.proposed());
        }
        let is_new =
            |who: &usize| removed.contains(who) || !self.model.members.get(who).is_some_and(|one| one.in_group);
        let mut added: Vec<usize> = invited.iter().map(|(client, _)| person(*client)).filter(is_new).collect();
        added.sort_unstable();
        added.dedup();
        let added_dids = dids(&added);
        let hashes = invited.iter().map(|(client, hash)| json!({ "did": self.dids[person(*client)], "hash": hash }));
        let mut body = json!({
            "convoId": self.convo,
            "commit": base64_text(&staged.commit),
            "addedDids": added_dids,
            "removedDids": removed_dids,
            "keyPackageHashes": hashes.collect::<Vec<_>>(),
            "idempotencyKey": unique(),
        });
        let group_info = some(&staged.commit).then(|| staged.group_info.clone());
        if let Some(bytes) = &group_info {
            body["groupInfo"] = json!(base64_text(bytes));
        }
        if !invited.is_empty() {
            body["welcomeMessage"] = json!(base64_text(&staged.welcome));
        }
        let commit = Commit {
            client: who,
            sender: person(who),
            made_in: staged.made_in,
            added,
            removed: removed.to_vec(),
            invited,
            bytes: staged.commit,
            group_info,
            external: false,
        };
        Made { commit, method: "submitCommit", body }
    }

    /// Sends a commit, which must fare as the model says.
    pub async fn submit(&mut self, made: Made, fault: Fault, replica: usize) {
        let Made { commit, method, body } = made;
        let who = commit.client;
        let reply = self.servers.ask(replica, &self.people[who].xrpc, method, &body, fault).await;
        self.settle(&commit, method, body, reply);
    }

    /// Compares the reply to a commit with the model, and brings its sender along.
    pub fn settle(&mut self, commit: &Commit, method: &'static str, body: Value, reply: Reply) {
        let who = commit.client;
        let outcome = self.model.commit(commit, self.admin());
        let at = self.compare(outcome, &reply);
        if let Some(At { seq, epoch }) = at {
            let named = if method == "removeMember" { "epochHint" } else { "newEpoch" };
            assert_eq!(reply.number(named).unwrap(), epoch, "{reply}");
            self.people[who].merge(&self.group, seq);
            for target in &commit.removed {
                self.forget(*target);
            }
            self.remember(who, method, body, reply);
            return;
        }
        // The winner may have removed it.
        if self.people[who].in_group {
            self.people[who].mls.discard_pending(&self.group).unwrap();
        }
        if outcome == Err("EpochMismatch") && self.people[who].in_group {
            self.rebase(who, commit.made_in, &reply);
        }
    }

    /// Follows from a refusal alone, which holds all commits that the sender lacks.
    fn rebase(&mut self, who: usize, made_in: u64, reply: &Reply) {
        assert_eq!(reply.number("serverEpoch").unwrap(), self.model.at.epoch, "{reply}");
        let missing = reply.list("missing").unwrap();
        let lacking = self.model.commits(person(who), self.model.generation, made_in);
        assert_eq!(missing.len(), lacking.len(), "{reply}");
        for (told, entry) in missing.iter().zip(lacking) {
            let bytes = reply.bytes_in(told, "commitData").unwrap();
            for proposal in told["proposals"].as_array().into_iter().flatten() {
                let person = &mut self.people[who];
                if entry.epoch == person.epoch(&self.group) + 1
                    && reply.number_in(proposal, "seq").unwrap() > person.seen
                {
                    person.take_proposal(&self.group, &reply.bytes_in(proposal, "proposal").unwrap());
                }
            }
            assert_eq!((reply.number_in(told, "epoch").unwrap(), &bytes), (entry.epoch, &entry.bytes));
            self.people[who].apply_commit(&self.group, entry.epoch, &bytes);
        }
        assert_eq!(self.people[who].epoch(&self.group), self.model.at.epoch, "the refusal is enough to follow");
    }

    /// Checks that a reply is what the model says. Returns the position after a success.
    #[track_caller]
    pub fn compare(&self, outcome: Result<At, Refusal>, reply: &Reply) -> Option<At> {
        match outcome {
            Ok(at) => {
                assert_eq!(reply.status, 200, "the model says {at:?}: {reply}");
                assert_eq!(
                    At { epoch: reply.number("epoch").unwrap(), seq: reply.number("seq").unwrap() },
                    at,
                    "{reply}"
                );
                Some(at)
            }
            Err(name) => {
                assert_eq!(reply.error(), Some(name), "{reply}");
                None
            }
        }
    }

    pub fn remember(&mut self, who: usize, method: &'static str, body: Value, reply: Reply) {
        let since = self.model.members.get(&person(who)).map(|member| member.since);
        self.done.push(Done { who, since, method, body, reply });
    }

    /// Sends an accepted request again, which gets the same reply and changes nothing.
    pub async fn repeat(&mut self, n: usize, fault: Fault, replica: usize) {
        let Done { who, since, method, body, reply } = &self.done[n];
        if self.model.members.get(&person(*who)).map(|member| member.since) != *since {
            return;
        }
        let again = self.servers.ask(replica, &self.people[*who].xrpc, method, body, fault).await;
        assert_eq!(effect(&again), effect(reply), "the same request again: {again}, not {reply}");
    }

    /// Parameters that select the Welcomes of a client. Its person has a single client if it has no device.
    pub fn welcome_of(&self, who: usize) -> Vec<(&'static str, String)> {
        let mut selected = vec![("convoId", self.convo.clone())];
        if let Some(device) = &self.people[who].device {
            selected.push(("deviceId", device.clone()));
        } else if let Some(Welcome::Waits { hash, .. } | Welcome::Confirmed { hash }) = self.model.welcomes.get(&who) {
            selected.push(("keyPackageHash", hash.clone()));
        }
        selected
    }

    /// Reports whether a client has joined with its Welcome.
    pub async fn confirm(&mut self, who: usize, changes: Value, fault: Fault, replica: usize) {
        let mut body = changes;
        for (field, value) in self.welcome_of(who) {
            body[field] = json!(value);
        }
        let reply = self.servers.ask(replica, &self.people[who].xrpc, "confirmWelcome", &body, fault).await;
        assert_eq!(reply.status, 200, "{reply}");
    }

    /// Joins with the Welcome that waits, and confirms it.
    pub async fn join(&mut self, who: usize, fault: Fault, replica: usize) {
        let which = self.welcome_of(who);
        let reply = self.servers.read(replica, &self.people[who].xrpc, "getWelcome", &which).await;
        assert_eq!(reply.status, 200, "{reply}");
        let person = &mut self.people[who];
        person.mls.join(&reply.bytes("welcome").unwrap(), person.handshake).unwrap();
        (person.in_group, person.seen) = (true, reply.number("seq").unwrap());
        let epoch = reply.number("epoch").unwrap();
        assert_eq!(person.epoch(&self.group), epoch, "the epoch of the Welcome");
        self.catch_up(who, replica).await;
        self.confirm(who, json!({ "success": true, "epoch": epoch }), fault, replica).await;
        self.model.confirm(who);
    }
}

/// Publishes a key package of a client.
async fn publish(servers: &Servers, client: &Person) -> Vec<u8> {
    let package = client.mls.key_package().unwrap();
    let body = json!({ "keyPackage": base64_text(&package), "cipherSuite": client.mls.suite_name() });
    let reply = servers.insist(0, &client.xrpc, "publishKeyPackage", &body).await;
    assert_eq!(reply.status, 200, "{reply}");
    package
}

/// Returns true for half of all messages. Those come with the GroupInfo of the epoch that they create.
pub fn some(message: &[u8]) -> bool {
    message.last().is_some_and(|byte| *byte < 128)
}
