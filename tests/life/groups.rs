//! The steps that concern a whole group or a device: coming in by an external commit, registering, resetting, and reporting commits.

use catbird_client::persona::{hex, sha256_hex, unique};
use catbird_client::random_did;
use catbird_client::xrpc::{base64_text, bytes_value};
use serde_json::json;

use crate::model::{Commit, Reset, person};
use crate::schedule::{Fault, Pick};
use crate::world::{World, some};

impl World<'_> {
    /// Comes in by an external commit, without any state of the group.
    pub async fn come_back(&mut self, who: usize, fault: Fault, replica: usize) {
        let here = [("convoId", self.convo.clone())];
        let served = self.servers.read(replica, &self.people[who].xrpc, "getGroupInfo", &here).await;
        let client = &mut self.people[who];
        client.forget(&self.group);
        let entry = client.mls.enter(&served.bytes("groupInfo").unwrap(), client.handshake).unwrap();
        let mut body = json!({
            "convoId": self.convo,
            "externalCommit": base64_text(&entry.staged.commit),
            "idempotencyKey": unique(),
        });
        let group_info = some(&entry.staged.commit).then_some(entry.staged.group_info);
        if let Some(bytes) = &group_info {
            body["groupInfo"] = json!(base64_text(bytes));
        }
        let reply = self.servers.ask(replica, &self.people[who].xrpc, "processExternalCommit", &body, fault).await;
        assert_eq!(reply.status, 200, "the GroupInfo is of the present epoch: {reply}");
        let commit = Commit {
            client: who,
            sender: person(who),
            made_in: entry.staged.made_in,
            added: Vec::new(),
            removed: Vec::new(),
            invited: Vec::new(),
            bytes: entry.staged.commit,
            group_info,
            external: true,
        };
        self.settle(&commit, "processExternalCommit", body, reply);
        self.people[who].in_group = true;
    }

    /// Registers a device, perhaps again, which keeps its id.
    pub async fn register(&mut self, who: usize, fault: Fault, replica: usize) {
        let client = &self.people[who];
        let package = client.mls.key_package().unwrap();
        let body = json!({
            "deviceName": "second",
            "deviceUUID": "2",
            "signaturePublicKey": bytes_value(client.mls.signature_key()),
            "keyPackages": [{ "keyPackage": base64_text(&package), "cipherSuite": client.mls.suite_name() }],
            "idempotencyKey": unique(),
        });
        let reply = self.servers.ask(replica, &client.xrpc, "registerDevice", &body, fault).await;
        assert_eq!(reply.status, 200, "{reply}");
        let id = reply.string("deviceId").unwrap();
        assert_eq!(*self.people[who].device.get_or_insert(id.to_owned()), *id);
        self.remember(who, "registerDevice", body, reply);
    }

    /// Replaces the group by a new one, with Welcomes for about two thirds of the other clients, or for none.
    pub async fn reset(&mut self, who: usize, whom: Pick, fault: Fault, replica: usize) {
        let mut others = self.clients();
        others.retain(|other| *other != who && self.people[*other].is_known());
        others.retain(|other| !whom.is_multiple_of(4) && !(whom + other).is_multiple_of(3));
        let (mut packages, mut invited) = (Vec::new(), Vec::new());
        for other in others {
            let package = self.package(other).await;
            invited.push((other, person(other), sha256_hex(&package)));
            packages.push(package);
        }
        let group = random_did().into_bytes();
        let client = &mut self.people[who];
        client.mls.create_group(&group, client.handshake).unwrap();
        let mut body = json!({
            "convoId": self.convo,
            "prior": { "generation": self.model.generation, "epoch": self.model.at.epoch },
            "newGroupId": hex(&group),
            "idempotencyKey": unique(),
        });
        if !invited.is_empty() {
            let staged = client.commit(&group, &packages, &[]);
            client.mls.merge_pending(&group).unwrap();
            let hashes = invited.iter().map(|(_, who, hash)| json!({ "did": self.dids[*who], "hash": hash }));
            body["keyPackageHashes"] = json!(hashes.collect::<Vec<_>>());
            body["commit"] = json!(base64_text(&staged.commit));
            body["welcomeMessage"] = json!(base64_text(&staged.welcome));
        }
        let group_info = client.mls.group_info(&group).unwrap();
        let group_info = some(&group_info).then_some(group_info);
        if let Some(bytes) = &group_info {
            body["groupInfo"] = json!(base64_text(bytes));
        }
        let reset = Reset { client: who, sender: person(who), invited, group_info };
        let outcome = self.model.reset(&reset, self.admin());
        // It may become right by the time that a lost request arrives.
        let fault = if outcome.is_ok() { fault } else { Fault::None };
        let reply = self.servers.ask(replica, &self.people[who].xrpc, "resetConvo", &body, fault).await;
        let Some(at) = self.compare(outcome, &reply) else {
            return self.people[who].mls.forget(&group).unwrap();
        };
        assert_eq!(reply.number("generation").unwrap(), self.model.generation, "{reply}");
        for client in &mut self.people {
            client.outlive(&self.group);
        }
        self.group = group;
        let client = &mut self.people[who];
        (client.in_group, client.seen) = (true, at.seq);
        self.remember(who, "resetConvo", body, reply);
    }

    /// Reports that a commit could be applied, or could not.
    pub async fn report(&mut self, who: usize, how: Pick, fault: Fault, replica: usize) {
        let current = self.model.at.epoch;
        // The newest epoch, one before, or one that is not there yet.
        let epoch = match how % 8 {
            0 => current + 1,
            1 | 2 => current.saturating_sub(1),
            _ => current,
        };
        let applied = (how / 8).is_multiple_of(4);
        let has_created = |entry: &&crate::model::Entry| {
            entry.kind == "commit" && entry.generation == self.model.generation && entry.epoch == epoch
        };
        let commit = self.model.log.iter().find(has_created).map_or(&b"none"[..], |entry| &entry.bytes);
        let body = json!({
            "convoId": self.convo, "epoch": epoch, "commitHash": sha256_hex(commit), "applied": applied,
            "idempotencyKey": unique(),
        });
        let outcome = self.model.report(person(who), epoch, applied);
        // It may become right by the time that a lost request arrives.
        let fault = if outcome.is_ok() { fault } else { Fault::None };
        let reply = self.servers.ask(replica, &self.people[who].xrpc, "reportCommit", &body, fault).await;
        match outcome {
            Ok(tally) => {
                let told = (reply.number("cannotApply").unwrap(), reply.number("quorum").unwrap());
                assert_eq!(told, (tally.unable as u64, tally.quorum as u64), "{reply}");
                assert_eq!(reply.body["state"], if self.model.is_wedged { "wedged" } else { "active" }, "{reply}");
                self.remember(who, "reportCommit", body, reply);
            }
            Err(name) => assert_eq!(reply.error(), Some(name), "{reply}"),
        }
    }

    /// Sends a commit or a message of a group that a reset has ended.
    pub async fn come_late(&mut self, who: usize, commits: bool, fault: Fault, replica: usize) {
        let client = &mut self.people[who];
        let past = client.past.clone().unwrap();
        let (method, mut body) = if commits || client.mls.commit_is_due(&past).unwrap() {
            let staged = client.mls.self_update(&past).unwrap();
            client.mls.discard_pending(&past).unwrap();
            ("submitCommit", json!({ "commit": base64_text(&staged.commit) }))
        } else {
            let epoch = client.epoch(&past);
            let ciphertext = client.mls.encrypt(&past, b"late").unwrap();
            ("sendMessage", json!({ "ciphertext": bytes_value(&ciphertext), "epoch": epoch }))
        };
        body["convoId"] = json!(self.convo);
        body["idempotencyKey"] = json!(unique());
        let fault = if fault == Fault::Twice { fault } else { Fault::None };
        let reply = self.servers.ask(replica, &self.people[who].xrpc, method, &body, fault).await;
        match self.model.membership(person(who)) {
            Ok(_) => {
                assert_eq!(reply.error(), Some("StaleGeneration"), "{reply}");
                assert_eq!(reply.number("generation").unwrap(), self.model.generation, "{reply}");
                assert_eq!(reply.body["groupId"], json!(hex(&self.group)), "{reply}");
            }
            Err(name) => assert_eq!(reply.error(), Some(name), "{reply}"),
        }
    }
}
