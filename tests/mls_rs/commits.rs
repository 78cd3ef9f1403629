//! Commits and proposals.

use catbird_client::mls::{MlsError, Proposal, Staged, is_of};
use mls_rs::MlsMessage;
use mls_rs::error::MlsError as Refusal;
use mls_rs::group::proposal::Proposal as Made;

use super::{Config, MlsRsClient, identity};

impl MlsRsClient {
    pub(super) fn make_commit(
        &mut self,
        group_id: &[u8],
        key_packages: &[Vec<u8>],
        dids: &[&str],
    ) -> Result<Staged, MlsError> {
        const WHAT: &str = "make a commit";
        let mls = &self.group(group_id)?.mls;
        let made_in = mls.current_epoch();
        let packages =
            key_packages.iter().map(|bytes| self.read("a key package", bytes)).collect::<Result<Vec<_>, _>>()?;
        let mut added: Vec<String> = packages
            .iter()
            .filter_map(MlsMessage::as_key_package)
            .map(|one| identity(one.signing_identity()))
            .collect();
        let mut leaves = Vec::new();
        for named in dids {
            leaves.extend(self.leaves(mls, named)?);
        }
        let cached: Vec<Made> = mls.get_cached_proposals().iter().map(|one| one.proposal().clone()).collect();
        let roster = mls.roster().members();
        let named = |leaf: u32| roster.iter().find(|one| one.index == leaf).map(|one| identity(&one.signing_identity));
        let mut removed: Vec<String> = leaves.iter().filter_map(|leaf| named(*leaf)).collect();
        let Some(group) = self.groups.get_mut(group_id) else { return Err(self.unknown(group_id)) };
        let built = build(&mut group.mls, packages, &leaves);
        let (output, commit, welcome) = built.map_err(|why| self.refused(WHAT, made_in, why))?;
        for proposal in cached {
            if output.unused_proposals().iter().any(|unused| unused.proposal == proposal) {
                continue;
            }
            match proposal {
                Made::Add(add) => added.push(identity(add.signing_identity())),
                Made::Remove(remove) => removed.extend(named(remove.to_remove())),
                _ => {}
            }
        }
        let group_info = match output.external_commit_group_info() {
            Some(info) => info.to_bytes().map_err(|why| self.refused(WHAT, made_in, why))?,
            None => Vec::new(),
        };
        if let Some(group) = self.groups.get_mut(group_id) {
            group.pending = Some(commit.clone());
        }
        Ok(Staged { commit, welcome, group_info, made_in, added, removed })
    }

    pub(super) fn make_proposal(&mut self, group_id: &[u8], proposal: &Proposal) -> Result<Vec<u8>, MlsError> {
        const WHAT: &str = "make a proposal";
        let mls = &self.group(group_id)?.mls;
        let epoch = mls.current_epoch();
        let leaf = match proposal {
            Proposal::Remove(named) => self.leaves(mls, named)?.first().copied().unwrap_or_default(),
            _ => mls.current_member_index(),
        };
        let package = match proposal {
            Proposal::Add(bytes) => Some(self.read("a key package", bytes)?),
            _ => None,
        };
        let Some(group) = self.groups.get_mut(group_id) else { return Err(self.unknown(group_id)) };
        let made = match (proposal, package) {
            (Proposal::Add(_), Some(package)) => group.mls.propose_add(package, Vec::new()),
            (Proposal::Update, _) => group.mls.propose_update(Vec::new()),
            (Proposal::SelfRemove, _) => {
                // The library's number for it is another than OpenMLS's: that of an earlier draft.
                return Err(self.refused(WHAT, epoch, "no SelfRemove that both libraries know"));
            }
            _ => group.mls.propose_remove(leaf, Vec::new()),
        };
        let bytes = made.and_then(|message| message.to_bytes()).map_err(|why| self.refused(WHAT, epoch, why))?;
        if let Some(group) = self.groups.get_mut(group_id) {
            group.proposed.push(bytes.clone());
        }
        Ok(bytes)
    }

    pub(super) fn merge(&mut self, group_id: &[u8]) -> Result<u64, MlsError> {
        if let Some(mut group) = self.entering.remove(group_id) {
            group.pending = None;
            let epoch = group.mls.current_epoch();
            self.groups.insert(group_id.to_vec(), group);
            return Ok(epoch);
        }
        let Some(group) = self.groups.get_mut(group_id) else { return Err(self.unknown(group_id)) };
        let epoch = group.mls.current_epoch();
        if !group.mls.has_pending_commit() {
            return Ok(epoch);
        }
        group.pending = None;
        group.proposed.clear();
        match group.mls.apply_pending_commit() {
            Ok(_) => Ok(group.mls.current_epoch()),
            Err(why) => Err(self.refused("merge its commit", epoch, why)),
        }
    }

    /// Returns the leaves of an identity, or of all devices of a DID.
    fn leaves(&self, mls: &mls_rs::Group<Config>, named: &str) -> Result<Vec<u32>, MlsError> {
        let members = mls.roster().members();
        let of = members.iter().filter(|member| is_of(&identity(&member.signing_identity), named));
        let leaves: Vec<u32> = of.map(|member| member.index).collect();
        if leaves.is_empty() {
            let (did, epoch) = (self.identity.clone(), mls.current_epoch());
            return Err(MlsError::NoSuchMember { did, other: named.to_owned(), epoch });
        }
        Ok(leaves)
    }
}

type Built = (mls_rs::group::CommitOutput, Vec<u8>, Vec<u8>);

/// Builds a commit and serialises it, with the one Welcome that it may have.
fn build(mls: &mut mls_rs::Group<Config>, packages: Vec<MlsMessage>, leaves: &[u32]) -> Result<Built, Refusal> {
    let mut builder = mls.commit_builder();
    for package in packages {
        builder = builder.add_member(package)?;
    }
    for leaf in leaves {
        builder = builder.remove_member(*leaf)?;
    }
    let output = builder.build()?;
    let commit = output.commit_message().to_bytes()?;
    let welcome = output.welcome_messages().first().map(MlsMessage::to_bytes).transpose()?.unwrap_or_default();
    Ok((output, commit, welcome))
}
