//! Commits: creating them, and handling their outcome.

use openmls::prelude::{
    KeyPackage, LeafNodeIndex, LeafNodeParameters, MlsGroup, MlsMessageBodyIn, MlsMessageIn, MlsMessageOut,
    OpenMlsProvider, Proposal, ProtocolVersion, QueuedProposal, Sender, tls_codec::Deserialize,
};

use super::{Group, MlsClient, MlsError, is_of};

/// A pending commit, with the messages that go to the server.
#[derive(Debug, Clone, Default)]
pub struct Staged {
    /// The commit, as a serialised MLSMessage.
    pub commit: Vec<u8>,
    /// One Welcome for all members that it adds, with the ratchet tree. Empty if it adds none.
    pub welcome: Vec<u8>,
    /// GroupInfo of the epoch that the commit creates, as a serialised MLSMessage.
    pub group_info: Vec<u8>,
    /// Epoch in which it was made. If it wins, the group is in the next one.
    pub made_in: u64,
    /// Identities of the leaves that it adds and removes, by its own proposals and by those that it refers to.
    pub added: Vec<String>,
    pub removed: Vec<String>,
}

impl MlsClient {
    /// Makes a commit that adds the owners of these key packages.
    pub fn add(&mut self, group_id: &[u8], key_packages: &[Vec<u8>]) -> Result<Staged, MlsError> {
        self.change(group_id, key_packages, &[])
    }

    /// Makes a commit that removes every leaf of these DIDs.
    pub fn remove(&mut self, group_id: &[u8], dids: &[&str]) -> Result<Staged, MlsError> {
        self.change(group_id, &[], dids)
    }

    /// Makes a commit that only updates this client's own keys.
    pub fn self_update(&mut self, group_id: &[u8]) -> Result<Staged, MlsError> {
        self.change(group_id, &[], &[])
    }

    /// Returns the leaves of an identity, or of all devices of a DID.
    pub(super) fn leaves(&self, mls: &MlsGroup, named: &str) -> Result<Vec<LeafNodeIndex>, MlsError> {
        let mut leaves = Vec::new();
        for member in mls.members() {
            if is_of(&self.identity(&member.credential)?, named) {
                leaves.push(member.index);
            }
        }
        if leaves.is_empty() {
            let epoch = mls.epoch().as_u64();
            return Err(MlsError::NoSuchMember { did: self.did.clone(), other: named.to_owned(), epoch });
        }
        Ok(leaves)
    }

    /// Merges the pending commit, which won, and returns the new epoch. Does nothing if none is pending.
    pub fn merge_pending(&mut self, group_id: &[u8]) -> Result<u64, MlsError> {
        if let Some((mls, _)) = self.entering.remove(group_id) {
            self.groups.insert(group_id.to_vec(), Group::new(mls));
            return self.epoch(group_id);
        }
        let Self { did, provider, groups, .. } = self;
        let group = groups.get_mut(group_id).ok_or_else(|| MlsError::unknown(did, group_id))?;
        let epoch = group.mls.epoch().as_u64();
        group
            .mls
            .merge_pending_commit(provider)
            .map_err(|why| MlsError::refused(did, "merge its commit", epoch, why))?;
        group.pending = None;
        group.proposed.clear();
        Ok(group.mls.epoch().as_u64())
    }

    /// Discards the pending commit, which lost; the client can then make another.
    pub fn discard_pending(&mut self, group_id: &[u8]) -> Result<(), MlsError> {
        if self.entering.remove(group_id).is_some() {
            return Ok(());
        }
        let Self { did, provider, groups, .. } = self;
        let group = groups.get_mut(group_id).ok_or_else(|| MlsError::unknown(did, group_id))?;
        let epoch = group.mls.epoch().as_u64();
        group
            .mls
            .clear_pending_commit(provider.storage())
            .map_err(|why| MlsError::refused(did, "discard its commit", epoch, why))?;
        group.pending = None;
        Ok(())
    }

    /// Makes a commit that adds the owners of key packages, removes every leaf of identities or DIDs, and includes the
    /// proposals of this epoch that it can include. Each commit has an update path, so two commits in one epoch always
    /// exclude each other.
    pub fn change(&mut self, group_id: &[u8], key_packages: &[Vec<u8>], dids: &[&str]) -> Result<Staged, MlsError> {
        const WHAT: &str = "make a commit";
        let added = key_packages.iter().map(|bytes| self.read_key_package(bytes)).collect::<Result<Vec<_>, _>>()?;
        let mls = &self.group(group_id)?.mls;
        let mut removed = Vec::new();
        for named in dids {
            removed.extend(self.leaves(mls, named)?);
        }
        let Self { did, provider, signer, groups, .. } = self;
        let Group { mls, pending, .. } = groups.get_mut(group_id).ok_or_else(|| MlsError::unknown(did, group_id))?;
        let made_in = mls.epoch().as_u64();
        let refused = |why: Box<dyn std::error::Error + Send + Sync>| MlsError::Refused {
            did: did.clone(),
            what: WHAT,
            epoch: made_in,
            why,
        };
        if pending.is_some() {
            return Err(refused("its previous commit is still undecided".into()));
        }
        let own = mls.own_leaf_index();
        let bundle = mls
            .commit_builder()
            .propose_adds(added)
            .propose_removals(removed)
            .leaf_node_parameters(LeafNodeParameters::default())
            .force_self_update(true)
            .load_psks(provider.storage())
            .map_err(|why| refused(why.into()))?
            .build(provider.rand(), provider.crypto(), signer, |proposal| !removes(proposal, own))
            .map_err(|why| refused(why.into()))?
            .stage_commit(provider)
            .map_err(|why| refused(why.into()))?;
        let bytes = |message: Option<MlsMessageOut>| match message {
            Some(message) => message.to_bytes().map_err(|why| refused(why.into())),
            None => Ok(Vec::new()),
        };
        let (commit, welcome, group_info) = bundle.into_messages();
        let (commit, welcome) = (bytes(Some(commit))?, bytes(welcome)?);
        let group_info = bytes(group_info)?;
        *pending = Some(commit.clone());
        let (added, removed) = self.effect(group_id)?;
        Ok(Staged { commit, welcome, group_info, made_in, added, removed })
    }

    /// Returns the identities that the pending commit adds and removes.
    fn effect(&self, group_id: &[u8]) -> Result<(Vec<String>, Vec<String>), MlsError> {
        let mls = &self.group(group_id)?.mls;
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        for queued in mls.pending_commit().into_iter().flat_map(|staged| staged.queued_proposals()) {
            match (queued.proposal(), queued.sender()) {
                (Proposal::Add(add), _) => {
                    added.push(self.identity(add.key_package().leaf_node().credential())?);
                }
                (Proposal::Remove(remove), _) => {
                    removed.extend(mls.member(remove.removed()).map(|one| self.identity(one)).transpose()?);
                }
                (Proposal::SelfRemove, Sender::Member(leaf)) => {
                    removed.extend(mls.member(*leaf).map(|one| self.identity(one)).transpose()?);
                }
                _ => {}
            }
        }
        Ok((added, removed))
    }

    pub(super) fn read_key_package(&self, bytes: &[u8]) -> Result<KeyPackage, MlsError> {
        let unreadable = |why: String| MlsError::Unreadable {
            did: self.did.clone(),
            expected: "a valid key package",
            bytes: bytes.len(),
            why,
        };
        let message = MlsMessageIn::tls_deserialize_exact(bytes).map_err(|why| unreadable(why.to_string()))?;
        let MlsMessageBodyIn::KeyPackage(package) = message.extract() else {
            return Err(unreadable("another kind of MLS message".to_owned()));
        };
        package.validate(self.provider.crypto(), ProtocolVersion::Mls10).map_err(|why| unreadable(why.to_string()))
    }
}

/// Returns true if a proposal removes this leaf, which its owner cannot commit.
fn removes(proposal: &QueuedProposal, leaf: LeafNodeIndex) -> bool {
    match proposal.proposal() {
        Proposal::Remove(remove) => remove.removed() == leaf,
        Proposal::SelfRemove => *proposal.sender() == Sender::Member(leaf),
        _ => false,
    }
}
