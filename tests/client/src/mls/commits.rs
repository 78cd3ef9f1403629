//! Commits: creating them, and handling their outcome.

use openmls::prelude::{
    CommitMessageBundle, KeyPackage, LeafNodeIndex, LeafNodeParameters, MlsMessageBodyIn, MlsMessageIn,
    OpenMlsProvider, ProtocolVersion, tls_codec::Deserialize,
};

use super::{Group, MlsClient, MlsError};

/// A pending commit, with the messages that go to the server.
#[derive(Debug, Clone)]
pub struct Staged {
    /// The commit, as a serialised MLSMessage.
    pub commit: Vec<u8>,
    /// One Welcome for all members that it adds, with the ratchet tree. Empty if it adds none.
    pub welcome: Vec<u8>,
    /// GroupInfo of the epoch that the commit creates, as a serialised MLSMessage.
    pub group_info: Vec<u8>,
    /// Epoch in which it was made. If it wins, the group is in the next one.
    pub made_in: u64,
}

impl MlsClient {
    /// Makes a commit that adds the owners of these key packages.
    pub fn add(&mut self, group_id: &[u8], key_packages: &[Vec<u8>]) -> Result<Staged, MlsError> {
        let added = key_packages.iter().map(|bytes| self.read_key_package(bytes)).collect::<Result<Vec<_>, _>>()?;
        self.commit(group_id, "commit an addition", added, Vec::new())
    }

    /// Makes a commit that removes every leaf of these DIDs.
    pub fn remove(&mut self, group_id: &[u8], dids: &[&str]) -> Result<Staged, MlsError> {
        let removed = self.leaves(group_id, dids)?;
        self.commit(group_id, "commit a removal", Vec::new(), removed)
    }

    /// Makes a commit that removes every leaf of these DIDs and adds the owners of these key packages, who may be the same people.
    pub fn change(&mut self, group_id: &[u8], key_packages: &[Vec<u8>], dids: &[&str]) -> Result<Staged, MlsError> {
        let added = key_packages.iter().map(|bytes| self.read_key_package(bytes)).collect::<Result<Vec<_>, _>>()?;
        let removed = self.leaves(group_id, dids)?;
        self.commit(group_id, "commit additions and removals", added, removed)
    }

    fn leaves(&self, group_id: &[u8], dids: &[&str]) -> Result<Vec<LeafNodeIndex>, MlsError> {
        let mls = &self.group(group_id)?.mls;
        let mut removed = Vec::new();
        for did in dids {
            let before = removed.len();
            for member in mls.members() {
                if self.identity(&member.credential)? == *did {
                    removed.push(member.index);
                }
            }
            if removed.len() == before {
                let epoch = mls.epoch().as_u64();
                return Err(MlsError::NoSuchMember { did: self.did.clone(), other: (*did).to_owned(), epoch });
            }
        }
        Ok(removed)
    }

    /// Makes a commit that only updates this client's own keys.
    pub fn self_update(&mut self, group_id: &[u8]) -> Result<Staged, MlsError> {
        self.commit(group_id, "commit an update of its keys", Vec::new(), Vec::new())
    }

    /// Merges the pending commit, which won, and returns the new epoch. Does nothing if none is pending.
    pub fn merge_pending(&mut self, group_id: &[u8]) -> Result<u64, MlsError> {
        let Self { did, provider, groups, .. } = self;
        let group = groups.get_mut(group_id).ok_or_else(|| MlsError::unknown(did, group_id))?;
        let epoch = group.mls.epoch().as_u64();
        group
            .mls
            .merge_pending_commit(provider)
            .map_err(|why| MlsError::refused(did, "merge its commit", epoch, why))?;
        group.pending = None;
        Ok(group.mls.epoch().as_u64())
    }

    /// Discards the pending commit, which lost; the client can then make another.
    pub fn discard_pending(&mut self, group_id: &[u8]) -> Result<(), MlsError> {
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

    /// Each commit has an update path, so two commits in one epoch always exclude each other.
    fn commit(
        &mut self,
        group_id: &[u8],
        what: &'static str,
        added: Vec<KeyPackage>,
        removed: Vec<LeafNodeIndex>,
    ) -> Result<Staged, MlsError> {
        let Self { did, provider, signer, groups, .. } = self;
        let Group { mls, pending } = groups.get_mut(group_id).ok_or_else(|| MlsError::unknown(did, group_id))?;
        let made_in = mls.epoch().as_u64();
        let refused = |why: Box<dyn std::error::Error + Send + Sync>| MlsError::Refused {
            did: did.clone(),
            what,
            epoch: made_in,
            why,
        };
        if pending.is_some() {
            return Err(refused("its previous commit is still undecided".into()));
        }
        let bundle: CommitMessageBundle = mls
            .commit_builder()
            .propose_adds(added)
            .propose_removals(removed)
            .leaf_node_parameters(LeafNodeParameters::default())
            .force_self_update(true)
            .load_psks(provider.storage())
            .map_err(|why| refused(why.into()))?
            .build(provider.rand(), provider.crypto(), signer, |_| true)
            .map_err(|why| refused(why.into()))?
            .stage_commit(provider)
            .map_err(|why| refused(why.into()))?;
        let (commit, welcome, group_info) = bundle.into_messages();
        let commit = commit.to_bytes().map_err(|why| refused(why.into()))?;
        let welcome = match welcome {
            Some(welcome) => welcome.to_bytes().map_err(|why| refused(why.into()))?,
            None => Vec::new(),
        };
        let group_info = group_info.ok_or_else(|| refused("a commit came without a GroupInfo".into()))?;
        let group_info = group_info.to_bytes().map_err(|why| refused(why.into()))?;
        *pending = Some(commit.clone());
        Ok(Staged { commit, welcome, group_info, made_in })
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
