//! Commits: making one, sending it, and rebasing it when another one has won.

use serde_json::{Value, json};

use super::super::mls::{Processed, Staged, is_of};
use super::super::xrpc::{Reply, base64_text};
use super::{Call, Landed, Persona, PersonaError, sha256_hex, unique};

/// Maximum number of attempts for one change. In a race of n members the last one loses n - 1 times.
pub(super) const MAX_ATTEMPTS: u32 = 100;

/// Change of a commit, independent of its epoch.
enum Change {
    Add(Vec<Served>),
    Remove(String),
}

/// A key package as the server issued it.
struct Served {
    did: String,
    bytes: Vec<u8>,
}

impl Persona {
    /// Adds members: claims a key package for each, and sends commit and Welcome in one request.
    pub async fn add(&mut self, dids: &[&str]) -> Result<Landed, PersonaError> {
        let change = Change::Add(self.claim(dids).await?);
        self.commit("addMembers", change).await
    }

    /// Removes a member, or commits the removal of one that has left.
    pub async fn remove(&mut self, did: &str) -> Result<Landed, PersonaError> {
        self.commit("leaveConvo", Change::Remove(did.to_owned())).await
    }

    /// Sends the change until it wins, rebuilt in each new epoch.
    async fn commit(&mut self, method: &str, change: Change) -> Result<Landed, PersonaError> {
        let mut conflicts = 0;
        loop {
            let (staged, body) = self.stage(&change)?;
            let reply = self.patient(Call::Procedure(method, &body)).await?;
            if reply.is_ok() {
                let merged = self.mls.merge_pending(&self.group_id)?;
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
    fn stage(&mut self, change: &Change) -> Result<(Staged, Value), PersonaError> {
        let convo = self.convo()?.to_owned();
        let members = self.mls.members(&self.group_id)?;
        let overtaken = || PersonaError::Overtaken { did: self.did().to_owned() };
        match change {
            Change::Add(served) => {
                let served: Vec<_> =
                    served.iter().filter(|package| !members.iter().any(|member| is_of(member, &package.did))).collect();
                if served.is_empty() {
                    return Err(overtaken());
                }
                let packages: Vec<_> = served.iter().map(|package| package.bytes.clone()).collect();
                let staged = self.mls.add(&self.group_id, &packages)?;
                let hash = |package: &&Served| json!({ "did": package.did, "hash": sha256_hex(&package.bytes) });
                let body = json!({
                    "convoId": convo,
                    "didList": served.iter().map(|package| &package.did).collect::<Vec<_>>(),
                    "commit": base64_text(&staged.commit),
                    "welcomeMessage": base64_text(&staged.welcome),
                    "keyPackageHashes": served.iter().map(hash).collect::<Vec<_>>(),
                    "idempotencyKey": unique(),
                });
                Ok((staged, body))
            }
            Change::Remove(did) => {
                if !members.iter().any(|member| is_of(member, did)) {
                    return Err(overtaken());
                }
                let staged = self.mls.remove(&self.group_id, &[did])?;
                let body = json!({ "convoId": convo, "targetDid": did, "commit": base64_text(&staged.commit) });
                Ok((staged, body))
            }
        }
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
        let is_own = reply.string_in(proposal, "sender")? == self.did();
        if is_own || reply.number_in(proposal, "seq")? <= self.last_seq {
            return Ok(());
        }
        match self.mls.process(&self.group_id, &reply.bytes_in(proposal, "proposal")?)? {
            Processed::Proposal => Ok(()),
            other => Err(self.broken(format!("an entry that is no proposal was served as one: {other:?}"))),
        }
    }

    /// Applies a commit from the log. An epoch that this persona has passed is skipped.
    pub(super) fn take_commit(&mut self, makes: u64, bytes: &[u8]) -> Result<(), PersonaError> {
        if makes <= self.epoch()? {
            return Ok(());
        }
        match self.mls.apply(&self.group_id, bytes)? {
            Processed::Commit { removed_me: true, .. } => {
                Err(PersonaError::Removed { did: self.did().to_owned(), epoch: makes })
            }
            Processed::Commit { epoch, .. } => self
                .expect(epoch == makes, || format!("a commit that makes epoch {epoch} was served as one for {makes}")),
            other => Err(self.broken(format!("an entry that is no commit was served as one: {other:?}"))),
        }
    }

    /// Claims one key package per DID.
    async fn claim(&self, dids: &[&str]) -> Result<Vec<Served>, PersonaError> {
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
            let count = served.iter().filter(|package| package.did == *did).count();
            if count == 0 {
                return Err(PersonaError::NoKeyPackage { did: self.did().to_owned(), of: (*did).to_owned() });
            }
            self.expect(count == 1, || format!("{count} key packages were served for {did} at once"))?;
        }
        Ok(served)
    }
}
