//! The steps of a schedule.

use catbird_client::mls::Mls;
use catbird_client::persona::{sha256_hex, unique};
use catbird_client::xrpc::{base64_text, bytes_value};
use serde_json::json;

use crate::model::{CLIENTS, PEOPLE, Proposal, person};
use crate::schedule::{Action, Fault, Pick, Step};
use crate::world::World;

/// Chooses one of these, if there is one.
pub fn choose(from: &[usize], pick: Pick) -> Option<usize> {
    (!from.is_empty()).then(|| from[pick % from.len()])
}

impl World<'_> {
    /// Does a step, or nothing if there are no people who can.
    pub async fn act(&mut self, step: &Step) {
        let _ = self.try_to_act(step).await;
    }

    async fn try_to_act(&mut self, step: &Step) -> Option<()> {
        let Step { action, fault, replica } = step;
        let (fault, replica) = (*fault, *replica);
        match *action {
            Action::Send(who) => {
                let who = choose(&self.members(), who)?;
                self.catch_up(who, replica).await;
                // OpenMLS sends no message before the proposals are committed, nor after a proposal that the server has refused.
                if self.people[who].mls.commit_is_due(&self.group).unwrap() {
                    let made = self.make(who, &[], &[]).await;
                    self.submit(made, fault, replica).await;
                } else {
                    self.send(who, fault, replica).await;
                }
            }
            Action::Add(who, whom, both) => {
                let who = choose(&self.members(), who)?;
                let mut outsiders = self.outsiders();
                let mut added = vec![choose(&outsiders, whom)?];
                outsiders.retain(|other| *other != added[0]);
                added.extend(choose(&outsiders, whom).filter(|_| both));
                self.catch_up(who, replica).await;
                let made = self.make_addition(who, &added).await;
                self.submit(made, fault, replica).await;
            }
            Action::Name(who, whom) => {
                let who = choose(&self.members(), who)?;
                let whom = choose(&self.outsiders(), whom)?;
                let body = json!({ "convoId": self.convo, "didList": [self.dids[whom]], "idempotencyKey": unique() });
                let reply = self.servers.ask(replica, &self.people[who].xrpc, "addMembers", &body, fault).await;
                let outcome = self.model.name(person(who), &[whom]);
                self.compare(outcome, &reply);
                self.remember(who, "addMembers", body, reply);
            }
            Action::Leave(who, true) => {
                let who = choose(&self.members(), who)?;
                self.catch_up(who, replica).await;
                self.leave(who, fault, replica).await;
            }
            Action::Leave(who, false) => {
                let who = choose(&self.members(), who)?;
                self.strike(who, person(who), fault, replica).await;
            }
            Action::Propose(who, whom) => {
                let who = choose(&self.members(), who)?;
                let whom = choose(&self.outsiders(), whom)?;
                self.catch_up(who, replica).await;
                self.propose(who, whom, fault, replica).await;
            }
            Action::Strike(who, whom) => {
                let who = choose(&self.members(), who)?;
                let whom = whom % PEOPLE;
                self.strike(who, whom, fault, replica).await;
            }
            Action::Remove(who, whom, how) => {
                let who = choose(&self.members(), who)?;
                self.catch_up(who, replica).await;
                let whom = choose(&self.leaves_beside(who), whom)?;
                let made = self.make_removal(who, whom, how).await;
                self.submit(made, fault, replica).await;
            }
            Action::Rotate(who) => {
                let who = choose(&self.members(), who)?;
                self.catch_up(who, replica).await;
                let made = self.make(who, &[], &[]).await;
                self.submit(made, fault, replica).await;
            }
            Action::Change(who, added, removed) => {
                let who = choose(&self.members(), who)?;
                self.catch_up(who, replica).await;
                let (added, removed) = self.change(who, added, removed)?;
                let made = self.make(who, &added, &removed).await;
                self.submit(made, fault, replica).await;
            }
            Action::Publish(who) => {
                let who = choose(&self.members(), who)?;
                self.publish(who, fault, replica).await;
            }
            Action::Join(who) => {
                let who = choose(&self.invited(), who)?;
                self.join(who, fault, replica).await;
            }
            Action::FailToJoin(who) => {
                let who = choose(&self.invited(), who)?;
                let report = json!({ "success": false, "errorDetails": "no such key" });
                self.confirm(who, report, fault, replica).await;
            }
            Action::Return(who) => {
                let clients = self.known_clients();
                let who = choose(&clients, who).filter(|_| self.model.group_info.is_some())?;
                self.come_back(who, fault, replica).await;
            }
            Action::Register(who) => self.register(PEOPLE + who % PEOPLE, fault, replica).await,
            Action::AddDevice(who, whom) => {
                let who = choose(&self.members(), who)?;
                self.catch_up(who, replica).await;
                let mut outside = self.known_clients();
                outside.retain(|client| !self.has_leaf(*client));
                let whom = choose(&outside, whom)?;
                let made = self.make(who, &[whom], &[]).await;
                self.submit(made, fault, replica).await;
            }
            Action::Reset(who, whom) => {
                let mut clients = self.known_clients();
                let is_admin = |client: &usize| self.admin() == Some(person(*client));
                // Most of them are accepted.
                clients.retain(|client| whom.is_multiple_of(5) || self.model.is_wedged || is_admin(client));
                let who = choose(&clients, who)?;
                self.reset(who, whom, fault, replica).await;
            }
            Action::Report(who, how) => {
                let who = choose(&self.clients(), who)?;
                self.report(who, how, fault, replica).await;
            }
            Action::Late(who, commits) => {
                let late: Vec<usize> = (0..CLIENTS).filter(|who| self.people[*who].past.is_some()).collect();
                let who = choose(&late, who)?;
                self.come_late(who, commits, fault, replica).await;
            }
            Action::Ask(who) => {
                let who = choose(&self.clients(), who)?;
                let body = json!({ "convoId": self.convo });
                let reply = self.servers.ask(replica, &self.people[who].xrpc, "readdition", &body, fault).await;
                assert_eq!(reply.status, 200, "{reply}");
                assert_eq!(reply.number("activeMembers").unwrap() as usize, self.model.members.len() - 1, "{reply}");
            }
            Action::CatchUp(who) => {
                let who = choose(&self.members(), who)?;
                self.catch_up(who, replica).await;
            }
            Action::Race(one, other, whom) => {
                let mut members = self.members();
                let one = choose(&members, one)?;
                members.retain(|who| *who != one);
                let other = choose(&members, other)?;
                self.race(one, other, whom, replica).await?;
            }
            Action::Stale(who) => {
                let behind = |who: &usize| self.people[*who].epoch(&self.group) < self.model.at.epoch;
                let behind: Vec<usize> = self.members().into_iter().filter(behind).collect();
                let who = choose(&behind, who)?;
                // An addition could repeat one that was proposed in the old epoch, which MLS forbids.
                let made = self.make(who, &[], &[]).await;
                // It may become right by the time that a lost request arrives.
                let fault = if fault == Fault::Twice { fault } else { Fault::None };
                self.submit(made, fault, replica).await;
            }
            Action::Intrude(who, how) => {
                let outside: Vec<usize> = (0..PEOPLE).filter(|who| !self.model.members.contains_key(who)).collect();
                let who = choose(&outside, who)?;
                self.intrude(who, how, replica).await;
            }
            Action::Repeat(which) => {
                let which = choose(&(0..self.done.len()).collect::<Vec<_>>(), which)?;
                self.repeat(which, fault, replica).await;
            }
        }
        Some(())
    }

    /// Clients of members that can be added or come in by themselves.
    fn known_clients(&self) -> Vec<usize> {
        self.clients().into_iter().filter(|who| self.people[*who].is_known()).collect()
    }

    /// People other than that of this client with a leaf in the group, without those who have proposed to lose one.
    fn leaves_beside(&self, this: usize) -> Vec<usize> {
        let has_leaf = |who: usize| self.model.tree.iter().any(|client| person(*client) == who);
        let leaves = |who: usize| {
            let mut removals = self.model.proposals.iter();
            removals.any(|proposal| matches!(proposal, Proposal::Remove(client) if person(*client) == who))
        };
        (0..PEOPLE).filter(|who| *who != person(this) && has_leaf(*who) && !leaves(*who)).collect()
    }

    /// Proposes an addition.
    async fn propose(&mut self, who: usize, whom: usize, fault: Fault, replica: usize) {
        let package = self.package(whom).await;
        let client = &mut self.people[who];
        let epoch = client.epoch(&self.group);
        let proposal = client.mls.propose_add(&self.group, &package).unwrap();
        let body = json!({
            "convoId": self.convo,
            "proposal": bytes_value(&proposal),
            "idempotencyKey": unique(),
        });
        let reply = self.servers.ask(replica, &self.people[who].xrpc, "submitProposal", &body, fault).await;
        let outcome = self.model.propose(person(who), epoch, &proposal, Proposal::Add(whom, sha256_hex(&package)));
        self.compare(outcome, &reply);
        self.people[who].own.insert(proposal);
        self.remember(who, "submitProposal", body, reply);
    }

    /// Leaves with the proposal that the person be removed.
    async fn leave(&mut self, who: usize, fault: Fault, replica: usize) {
        let client = &mut self.people[who];
        let epoch = client.epoch(&self.group);
        let proposal = client.mls.propose_leave(&self.group).unwrap();
        let body = json!({
            "convoId": self.convo,
            "proposal": bytes_value(&proposal),
            "idempotencyKey": unique(),
        });
        let outcome = self.model.leave(person(who), who, epoch, &proposal);
        // It may become right by the time that a lost request arrives.
        let fault = if outcome.is_ok() { fault } else { Fault::None };
        let reply = self.servers.ask(replica, &self.people[who].xrpc, "leaveConvo", &body, fault).await;
        if self.compare(outcome, &reply).is_some() {
            self.forget(person(who));
            self.remember(who, "leaveConvo", body, reply);
        }
    }

    /// Returns true if a member may commit the removal of this person.
    fn may_remove(&self, who: usize, target: usize) -> bool {
        self.admin() == Some(person(who)) || !self.model.members.contains_key(&target)
    }

    /// Chooses a client to add, of those without a leaf or about to lose it, and people to remove.
    fn change(&self, who: usize, added: Pick, removed: Pick) -> Option<(Vec<usize>, Vec<usize>)> {
        let removed: Vec<usize> =
            choose(&self.leaves_beside(who), removed / 2).filter(|_| removed.is_multiple_of(2)).into_iter().collect();
        let is_free = |client: &usize| !self.has_leaf(*client) || removed.contains(&person(*client));
        let free: Vec<usize> = (0..CLIENTS).filter(|client| self.people[*client].is_known()).filter(is_free).collect();
        Some((vec![choose(&free, added)?], removed))
    }

    /// Stores the GroupInfo of the person's own epoch.
    async fn publish(&mut self, who: usize, fault: Fault, replica: usize) {
        let client = &self.people[who];
        let epoch = client.epoch(&self.group);
        let group_info = client.mls.group_info(&self.group).unwrap();
        let body = json!({ "convoId": self.convo, "groupInfo": base64_text(&group_info), "epoch": epoch });
        // A lost request may arrive after the next one of the same epoch.
        let fault = if fault == Fault::Twice { fault } else { Fault::None };
        let reply = self.servers.ask(replica, &self.people[who].xrpc, "updateGroupInfo", &body, fault).await;
        let outcome = self.model.publish(person(who), epoch, &group_info);
        match outcome {
            Ok(at) => assert_eq!(reply.body, json!({ "updated": true, "epoch": at.epoch }), "{reply}"),
            Err(name) => assert_eq!(reply.error(), Some(name), "{reply}"),
        }
    }

    async fn send(&mut self, who: usize, fault: Fault, replica: usize) {
        let client = &mut self.people[who];
        let epoch = client.epoch(&self.group);
        let ciphertext = client.mls.encrypt(&self.group, b"hello").unwrap();
        let body = json!({
            "convoId": self.convo,
            "ciphertext": bytes_value(&ciphertext),
            "epoch": epoch,
            "idempotencyKey": unique(),
        });
        let reply = self.servers.ask(replica, &self.people[who].xrpc, "sendMessage", &body, fault).await;
        let outcome = self.model.send(person(who), epoch, &ciphertext);
        self.compare(outcome, &reply);
        self.people[who].own.insert(ciphertext);
        self.remember(who, "sendMessage", body, reply);
    }

    /// Takes a person from the roster alone.
    async fn strike(&mut self, who: usize, target: usize, fault: Fault, replica: usize) {
        let body = json!({ "convoId": self.convo, "targetDid": self.dids[target], "idempotencyKey": unique() });
        let outcome = self.model.strike(person(who), target, self.admin());
        // It may become right by the time that a lost request arrives.
        let fault = if outcome.is_ok() { fault } else { Fault::None };
        let reply = self.servers.ask(replica, &self.people[who].xrpc, "leaveConvo", &body, fault).await;
        if self.compare(outcome, &reply).is_some() {
            self.forget(target);
            self.remember(who, "leaveConvo", body, reply);
        }
    }

    /// Two members commit at once, each at a replica of its own: one wins.
    async fn race(&mut self, one: usize, other: usize, whom: Pick, replica: usize) -> Option<()> {
        for who in [one, other] {
            self.catch_up(who, replica).await;
        }
        let (added, mut removed) = self.change(one, whom, whom)?;
        // Which of two refusals comes first is not certain.
        removed.retain(|target| self.may_remove(one, *target));
        let mut targets = self.leaves_beside(other);
        targets.retain(|target| self.may_remove(other, *target));
        let (target, newcomer) = (choose(&targets, whom), choose(&self.outsiders(), whom));
        let is_free = |client: &usize| !self.has_leaf(*client) || removed.contains(&person(*client));
        let added: Vec<usize> = added.into_iter().filter(is_free).collect();
        let made = [
            self.make(one, &added, &removed).await,
            match (whom % 3, target, newcomer) {
                (1, Some(target), _) => self.make_removal(other, target, whom / 3).await,
                (2, _, Some(newcomer)) => self.make_addition(other, &[newcomer]).await,
                _ => self.make(other, &[], &[]).await,
            },
        ];
        let [left, right] = &made;
        let (left, right) = tokio::join!(
            self.servers.insist(replica, &self.people[one].xrpc, left.method, &left.body),
            self.servers.insist(replica + 1, &self.people[other].xrpc, right.method, &right.body),
        );
        let mut ended: Vec<_> = made.into_iter().zip([left, right]).collect();
        // The model does the winner's first.
        ended.sort_by_key(|(_, reply)| reply.status);
        for (made, reply) in ended {
            self.settle(&made.commit, made.method, made.body, reply);
        }
        Some(())
    }

    /// A person that is not a member is refused, whatever it sends.
    async fn intrude(&mut self, who: usize, how: Pick, replica: usize) {
        let epoch = self.model.at.epoch;
        let (method, body) = match how % 3 {
            0 => ("sendMessage", json!({ "ciphertext": bytes_value(b"opaque"), "epoch": epoch })),
            1 => ("addMembers", json!({ "didList": [self.dids[who]] })),
            _ => ("leaveConvo", json!({ "targetDid": self.dids[self.model.creator] })),
        };
        let mut body = body;
        body["convoId"] = json!(self.convo);
        body["idempotencyKey"] = json!(unique());
        let expected = self.model.membership(who).unwrap_err();
        let reply = self.servers.ask(replica, &self.people[who].xrpc, method, &body, Fault::None).await;
        // A creator who has left leaves again.
        if !(how % 3 == 2 && who == self.model.creator) {
            assert_eq!(reply.error(), Some(expected), "{reply}");
        }
    }
}
