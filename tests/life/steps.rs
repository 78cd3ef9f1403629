//! The steps of a schedule.

use catbird_client::persona::unique;
use catbird_client::xrpc::bytes_value;
use serde_json::json;

use crate::model::Welcome;
use crate::schedule::{Action, Fault, Pick, Step};
use crate::world::World;

/// Chooses one of these, if there is one.
fn choose(from: &[usize], pick: Pick) -> Option<usize> {
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
                self.send(who, fault, replica).await;
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
                let outcome = self.model.name(who, &[whom]);
                self.compare(outcome, &reply);
                self.remember(who, "addMembers", body, reply);
            }
            Action::Leave(who) => {
                let who = choose(&self.members(), who)?;
                self.strike(who, who, fault, replica).await;
            }
            Action::Strike(who, whom) => {
                let who = choose(&self.members(), who)?;
                let whom = choose(&(0..self.people.len()).collect::<Vec<_>>(), whom)?;
                self.strike(who, whom, fault, replica).await;
            }
            Action::Remove(whom) => {
                let who = self.admin().filter(|who| self.people[*who].in_group)?;
                let others: Vec<usize> = self.model.tree.iter().copied().filter(|other| *other != who).collect();
                let whom = choose(&others, whom)?;
                self.catch_up(who, replica).await;
                let made = self.make_removal(who, whom);
                self.submit(made, fault, replica).await;
            }
            Action::Join(who) => {
                let who = choose(&self.invited(), who)?;
                self.join(who, fault, replica).await;
            }
            Action::FailToJoin(who) => {
                let who = choose(&self.invited(), who)?;
                let body = json!({ "convoId": self.convo, "success": false, "errorDetails": "no such key" });
                let reply = self.servers.ask(replica, &self.people[who].xrpc, "confirmWelcome", &body, fault).await;
                assert_eq!(reply.status, 200, "{reply}");
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
                let whom = choose(&self.outsiders(), whom)?;
                self.race(one, other, whom, replica).await;
            }
            Action::Stale(who, whom) => {
                let behind = |who: &usize| self.people[*who].epoch(&self.group) < self.model.at.epoch;
                let behind: Vec<usize> = self.members().into_iter().filter(behind).collect();
                let who = choose(&behind, who)?;
                let whom = choose(&self.outsiders(), whom)?;
                let of_its_group = self.people[who].mls.members(&self.group).unwrap();
                if of_its_group.contains(&self.dids[whom]) {
                    return None;
                }
                let made = self.make_addition(who, &[whom]).await;
                // It may become right by the time that a lost request arrives.
                let fault = if fault == Fault::Twice { fault } else { Fault::None };
                self.submit(made, fault, replica).await;
            }
            Action::Intrude(who, how) => {
                let outside: Vec<usize> =
                    (0..self.people.len()).filter(|who| !self.model.members.contains_key(who)).collect();
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

    /// Members whose Welcome waits.
    fn invited(&self) -> Vec<usize> {
        let waits = |who: &usize| matches!(self.model.members[who].welcome, Welcome::Waits { .. });
        self.model.members.keys().copied().filter(waits).collect()
    }

    async fn send(&mut self, who: usize, fault: Fault, replica: usize) {
        let person = &mut self.people[who];
        let epoch = person.epoch(&self.group);
        let ciphertext = person.mls.encrypt(&self.group, b"hello").unwrap();
        let body = json!({
            "convoId": self.convo,
            "ciphertext": bytes_value(&ciphertext),
            "epoch": epoch,
            "idempotencyKey": unique(),
        });
        let reply = self.servers.ask(replica, &self.people[who].xrpc, "sendMessage", &body, fault).await;
        let outcome = self.model.send(who, epoch, &ciphertext);
        self.compare(outcome, &reply);
        self.remember(who, "sendMessage", body, reply);
    }

    /// Takes a person from the roster alone.
    async fn strike(&mut self, who: usize, target: usize, fault: Fault, replica: usize) {
        let body = json!({ "convoId": self.convo, "targetDid": self.dids[target], "idempotencyKey": unique() });
        let outcome = self.model.strike(who, target, self.admin());
        // It may become right by the time that a lost request arrives.
        let fault = if outcome.is_ok() { fault } else { Fault::None };
        let reply = self.servers.ask(replica, &self.people[who].xrpc, "leaveConvo", &body, fault).await;
        if self.compare(outcome, &reply).is_some() {
            self.people[target].forget(&self.group);
            self.remember(who, "leaveConvo", body, reply);
        }
    }

    /// Two members commit at once, each at a replica of its own: one wins.
    async fn race(&mut self, one: usize, other: usize, whom: usize, replica: usize) {
        for who in [one, other] {
            self.catch_up(who, replica).await;
        }
        let made = [self.make_addition(one, &[whom]).await, self.make_addition(other, &[whom]).await];
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
