//! Commits: making one, sending it, and rebasing it when another one has won.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::super::mls::{Processed, Proposal, Staged, is_of, owner, person};
use super::super::xrpc::{Reply, base64_text};
use super::{Call, Landed, Persona, PersonaError, sha256_hex, unique};

/// Maximum number of attempts for one change. In a race of n members the last one loses n - 1 times.
pub(super) const MAX_ATTEMPTS: u32 = 100;

/// Change of a commit, independent of its epoch.
struct Change {
    /// Method that declares it, unless the commit also carries out proposals of others, which submitCommit declares.
    method: &'static str,
    added: Vec<Served>,
    removed: Vec<String>,
}

/// A key package as the server issued it.
pub(super) struct Served {
    pub did: String,
    pub bytes: Vec<u8>,
}

impl Persona {
    /// Adds members: claims a key package for each, and sends commit and Welcome in one request.
    pub async fn add(&mut self, dids: &[&str]) -> Result<Landed, PersonaError> {
        let added = self.claim(dids).await?;
        self.commit(Change { method: "addMembers", added, removed: Vec::new() }).await
    }

    /// Removes a member, or commits the removal of one that has left.
    pub async fn remove(&mut self, did: &str) -> Result<Landed, PersonaError> {
        self.commit(Change { method: "leaveConvo", added: Vec::new(), removed: vec![did.to_owned()] }).await
    }

    /// Rotates this member's keys, and carries out the proposals of the epoch.
    pub async fn rotate(&mut self) -> Result<Landed, PersonaError> {
        self.commit(Change { method: "submitCommit", added: Vec::new(), removed: Vec::new() }).await
    }

    /// Removes members and adds others with one commit. A DID in both lists begins its membership again.
    pub async fn replace(&mut self, removed: &[&str], added: &[&str]) -> Result<Landed, PersonaError> {
        let added = self.claim(added).await?;
        let removed = removed.iter().map(|did| (*did).to_owned()).collect();
        self.commit(Change { method: "submitCommit", added, removed }).await
    }

    /// Adds another device of a member, by a key package of this device.
    pub async fn add_device(&mut self, did: &str, key_package: Vec<u8>) -> Result<Landed, PersonaError> {
        let added = vec![Served { did: did.to_owned(), bytes: key_package }];
        self.commit(Change { method: "submitCommit", added, removed: Vec::new() }).await
    }

    /// Takes the leaf of a member's device out of the group.
    pub async fn remove_device(&mut self, identity: &str) -> Result<Landed, PersonaError> {
        self.commit(Change { method: "submitCommit", added: Vec::new(), removed: vec![identity.to_owned()] }).await
    }

    /// Submits a proposal, which the commit that ends the epoch may carry out. Its maker keeps it for its own commits.
    pub async fn propose(&mut self, proposal: &Proposal) -> Result<Landed, PersonaError> {
        self.enter_proposal("submitProposal", proposal).await
    }

    /// Leaves, and proposes to be taken out of the group in the same request. The next commit of any member does it.
    pub async fn leave_by_proposal(&mut self, proposal: &Proposal) -> Result<Landed, PersonaError> {
        let landed = self.enter_proposal("leaveConvo", proposal).await?;
        self.mls.forget(&self.group_id)?;
        self.convo_id = None;
        Ok(landed)
    }

    /// Sends a proposal until its epoch is the present one.
    async fn enter_proposal(&mut self, method: &str, proposal: &Proposal) -> Result<Landed, PersonaError> {
        let mut conflicts = 0;
        loop {
            let bytes = self.mls.propose(&self.group_id, proposal)?;
            let mut body =
                json!({ "convoId": self.convo()?, "proposal": base64_text(&bytes), "idempotencyKey": unique() });
            self.name_incarnation(&mut body);
            let reply = self.patient(Call::Procedure(method, &body)).await?;
            if reply.is_ok() {
                return Ok(Landed { epoch: reply.number("epoch")?, seq: reply.number("seq")?, conflicts });
            }
            conflicts += 1;
            self.rebase(reply, conflicts)?;
        }
    }

    /// Sends the change until it wins, rebuilt in each new epoch.
    async fn commit(&mut self, change: Change) -> Result<Landed, PersonaError> {
        let mut conflicts = 0;
        loop {
            let (staged, method, body) = self.stage(&change)?;
            let reply = self.patient(Call::Procedure(method, &body)).await?;
            if reply.is_ok() {
                let merged = self.mls.merge_pending(&self.group_id)?;
                self.led_by = Some((merged, staged.commit));
                let landed = Landed { epoch: reply.number("epoch")?, seq: reply.number("seq")?, conflicts };
                let ok = landed.epoch == merged && reply.number("newEpoch")? == merged;
                self.expect(ok, || format!("a commit made in epoch {} was answered with {reply}", staged.made_in))?;
                return Ok(landed);
            }
            self.mls.discard_pending(&self.group_id)?;
            conflicts += 1;
            self.rebase(reply, conflicts)?;
        }
    }

    /// Makes the commit in the present epoch, and its request. Changes that others have made meanwhile are omitted.
    fn stage(&mut self, change: &Change) -> Result<(Staged, &'static str, Value), PersonaError> {
        let convo = self.convo()?.to_owned();
        let members = self.mls.members(&self.group_id)?;
        let is_in = |named: &str| members.iter().any(|member| is_of(member, named));
        let removed: Vec<&str> = change.removed.iter().map(String::as_str).filter(|named| is_in(named)).collect();
        let is_new = |package: &&Served| {
            let identity = owner(&package.bytes).unwrap_or_else(|| package.did.clone());
            !is_in(&identity) || removed.iter().any(|named| is_of(&identity, named))
        };
        let added: Vec<&Served> = change.added.iter().filter(is_new).collect();
        if added.is_empty() && removed.is_empty() && !(change.added.is_empty() && change.removed.is_empty()) {
            return Err(PersonaError::Overtaken { did: self.did().to_owned() });
        }
        let packages: Vec<_> = added.iter().map(|package| package.bytes.clone()).collect();
        let staged = self.mls.change(&self.group_id, &packages, &removed)?;

        let (added_dids, removed_dids) = declared(&members, &staged);
        let is_declared = match change.method {
            "addMembers" => removed_dids.is_empty() && added_dids.len() == added.len(),
            "leaveConvo" => added_dids.is_empty() && removed_dids == removed,
            _ => false,
        };
        let method = if is_declared { change.method } else { "submitCommit" };
        let mut body = json!({ "convoId": convo, "commit": base64_text(&staged.commit) });
        self.name_incarnation(&mut body);
        let mut put = |field: &str, value: Value| body[field] = value;
        match method {
            "addMembers" => put("didList", json!(added_dids)),
            "leaveConvo" => put("targetDid", json!(removed_dids[0])),
            _ => {
                put("addedDids", json!(added_dids));
                put("removedDids", json!(removed_dids));
            }
        }
        if self.shares_group_info {
            put("groupInfo", json!(base64_text(&staged.group_info)));
        }
        if !added.is_empty() {
            let hash = |package: &&Served| json!({ "did": package.did, "hash": sha256_hex(&package.bytes) });
            put("welcomeMessage", json!(base64_text(&staged.welcome)));
            put("keyPackageHashes", json!(added.iter().map(hash).collect::<Vec<_>>()));
            put("idempotencyKey", json!(unique()));
        }
        Ok((staged, method, body))
    }

    /// Catches up with the commits of a 409 and nothing else; any other refusal is final.
    pub(super) fn rebase(&mut self, reply: Reply, conflicts: u32) -> Result<(), PersonaError> {
        if reply.error() != Some("EpochMismatch") {
            return Err(self.refused(reply));
        }
        if conflicts >= MAX_ATTEMPTS {
            return Err(PersonaError::NeverFirst {
                did: self.did().to_owned(),
                attempts: conflicts,
                reply: Box::new(reply),
            });
        }
        self.hear(&reply.body);
        let before = self.epoch()?;
        for commit in reply.list("missing")? {
            if reply.number_in(commit, "epoch")? == self.epoch()? + 1 {
                for proposal in commit["proposals"].as_array().into_iter().flatten() {
                    self.take_proposal(&reply, proposal)?;
                }
            }
            self.take_commit(reply.number_in(commit, "epoch")?, &reply.bytes_in(commit, "commitData")?)?;
        }
        let after = self.epoch()?;
        self.expect(after > before, || format!("a refusal in epoch {before} brings nothing to rebase on: {reply}"))
    }

    /// Keeps a proposal of the present epoch that the commit after it may refer to, unless it came with the log or is this client's own.
    fn take_proposal(&mut self, reply: &Reply, proposal: &Value) -> Result<(), PersonaError> {
        if reply.number_in(proposal, "seq")? <= self.last_seq {
            return Ok(());
        }
        match self.mls.apply(&self.group_id, &reply.bytes_in(proposal, "proposal")?)? {
            Processed::Proposal | Processed::OwnMessage => Ok(()),
            other => Err(self.broken(format!("an entry that is no proposal was served as one: {other:?}"))),
        }
    }

    /// Applies a commit from the log. An epoch that this persona has passed is skipped.
    pub(super) fn take_commit(&mut self, makes: u64, bytes: &[u8]) -> Result<(), PersonaError> {
        let epoch = self.epoch()?;
        if self.led_by.as_ref().is_some_and(|(led_to, commit)| *led_to == epoch && makes == epoch && commit != bytes) {
            return Err(PersonaError::Lost { did: self.did().to_owned(), epoch });
        }
        if makes <= epoch {
            return Ok(());
        }
        match self.mls.apply(&self.group_id, bytes)? {
            Processed::Commit { removed_me: true, .. } => {
                Err(PersonaError::Removed { did: self.did().to_owned(), epoch: makes })
            }
            Processed::Commit { epoch, .. } => {
                self.led_by = Some((makes, bytes.to_vec()));
                self.expect(epoch == makes, || {
                    format!("a commit that makes epoch {epoch} was served as one for {makes}")
                })
            }
            other => Err(self.broken(format!("an entry that is no commit was served as one: {other:?}"))),
        }
    }

    /// Claims a key package for each device of each DID.
    pub(super) async fn claim(&self, dids: &[&str]) -> Result<Vec<Served>, PersonaError> {
        let mut parameters: Vec<_> = dids.iter().map(|did| ("dids", (*did).to_owned())).collect();
        parameters.push(("cipherSuite", self.mls.suite_name()));
        let reply = self.query("getKeyPackages", &parameters).await?;
        let mut served = Vec::with_capacity(dids.len());
        for package in reply.list("keyPackages")? {
            let bytes = reply.bytes_in(package, "keyPackage")?;
            let (hash, named) = (sha256_hex(&bytes), reply.string_in(package, "keyPackageHash")?);
            self.expect(named == hash, || format!("a key package with SHA-256 {hash} was served as {named}"))?;
            served.push(Served { did: reply.string_in(package, "did")?.to_owned(), bytes });
        }
        for did in dids {
            let owners: Vec<_> = served.iter().filter(|one| one.did == *did).map(|one| owner(&one.bytes)).collect();
            if owners.is_empty() {
                return Err(PersonaError::NoKeyPackage { did: self.did().to_owned(), of: (*did).to_owned() });
            }
            let distinct: BTreeSet<_> = owners.iter().collect();
            self.expect(distinct.len() == owners.len(), || format!("{did} was served two key packages of one device"))?;
        }
        Ok(served)
    }
}

/// Returns the people whom a commit adds and removes: those of whom it leaves no leaf from before.
fn declared(members: &[String], staged: &Staged) -> (Vec<String>, Vec<String>) {
    let stays = |did: &str| members.iter().any(|member| person(member) == did && !staged.removed.contains(member));
    let people = |identities: &[String]| {
        let mut people = Vec::new();
        for did in identities.iter().map(|identity| person(identity)) {
            if !stays(did) && !people.iter().any(|one| one == did) {
                people.push(did.to_owned());
            }
        }
        people
    };
    (people(&staged.added), people(&staged.removed))
}
