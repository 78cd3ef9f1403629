//! Encryption of messages, and processing of log entries in order.

use openmls::prelude::{
    ContentType, LeafNodeParameters, MlsMessageIn, OpenMlsProvider, ProcessedMessageContent, ProtocolMessage,
    tls_codec::Deserialize,
};

use super::{Group, MlsClient, MlsError, Proposal};

/// Result of an incoming message. A commit is already merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Processed {
    /// An application message; `sender` is the identity in the sender's credential, not the server's claim.
    Application { sender: String, plaintext: Vec<u8> },
    /// A commit of this or another client. `epoch` is the new one.
    Commit { epoch: u64, removed_me: bool },
    /// A proposal, stored for the commit that refers to it.
    Proposal,
    /// A message or proposal of this client. MLS gives its sender no key to read it.
    OwnMessage,
}

impl MlsClient {
    /// Encrypts an application message for the present epoch.
    pub fn encrypt(&mut self, group_id: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, MlsError> {
        let Self { did, provider, signer, groups, .. } = self;
        let Group { mls, .. } = groups.get_mut(group_id).ok_or_else(|| MlsError::unknown(did, group_id))?;
        let epoch = mls.epoch().as_u64();
        mls.create_message(provider, signer, plaintext)
            .map_err(|why| MlsError::refused(did, "encrypt a message", epoch, why))?
            .to_bytes()
            .map_err(|why| MlsError::refused(did, "serialise a message", epoch, why))
    }

    /// Creates a standalone proposal, which stays with this client until the epoch ends.
    pub fn propose(&mut self, group_id: &[u8], proposal: &Proposal) -> Result<Vec<u8>, MlsError> {
        const WHAT: &str = "make a proposal";
        let added = match proposal {
            Proposal::Add(key_package) => Some(self.read_key_package(key_package)?),
            _ => None,
        };
        let removed = match proposal {
            Proposal::Remove(named) => self.leaves(&self.group(group_id)?.mls, named)?.first().copied(),
            _ => None,
        };
        let Self { did, provider, signer, groups, .. } = self;
        let Group { mls, proposed, .. } = groups.get_mut(group_id).ok_or_else(|| MlsError::unknown(did, group_id))?;
        let epoch = mls.epoch().as_u64();
        let refused = |why: Box<dyn std::error::Error + Send + Sync>| MlsError::Refused {
            did: did.clone(),
            what: WHAT,
            epoch,
            why,
        };
        let message = match (proposal, added, removed) {
            (Proposal::Add(_), Some(package), _) => {
                mls.propose_add_member(provider, signer, &package).map_err(|why| refused(why.into()))?.0
            }
            (Proposal::Remove(_), _, Some(leaf)) => {
                mls.propose_remove_member(provider, signer, leaf).map_err(|why| refused(why.into()))?.0
            }
            (Proposal::SelfRemove, ..) => {
                mls.leave_group_via_self_remove(provider, signer).map_err(|why| refused(why.into()))?
            }
            (Proposal::Update, ..) => {
                mls.propose_self_update(provider, signer, LeafNodeParameters::default())
                    .map_err(|why| refused(why.into()))?
                    .0
            }
            _ => mls.leave_group(provider, signer).map_err(|why| refused(why.into()))?,
        };
        let bytes = message.to_bytes().map_err(|why| refused(why.into()))?;
        proposed.push(bytes.clone());
        Ok(bytes)
    }

    /// Returns true if there are proposals of this epoch.
    pub fn commit_is_due(&self, group_id: &[u8]) -> Result<bool, MlsError> {
        Ok(self.group(group_id)?.mls.has_pending_proposals())
    }

    /// Processes one entry of the log from any sender: this client's own pending commit is merged, all others are
    /// processed.
    pub fn apply(&mut self, group_id: &[u8], entry: &[u8]) -> Result<Processed, MlsError> {
        let entered = self.entering.get(group_id).is_some_and(|(_, commit)| commit == entry);
        if entered || self.group(group_id)?.pending.as_deref() == Some(entry) {
            return Ok(Processed::Commit { epoch: self.merge_pending(group_id)?, removed_me: false });
        }
        if self.group(group_id)?.proposed.iter().any(|own| own == entry) {
            return Ok(Processed::OwnMessage);
        }
        self.process(group_id, entry)
    }

    /// Processes one message of another member. A commit is merged at once, and a pending commit of this client is
    /// dropped with it, since its epoch is over.
    pub fn process(&mut self, group_id: &[u8], message: &[u8]) -> Result<Processed, MlsError> {
        let message = self.read_message(message)?;
        let content_type = message.content_type();
        let Self { did, provider, groups, .. } = self;
        let Group { mls, pending, proposed } =
            groups.get_mut(group_id).ok_or_else(|| MlsError::unknown(did, group_id))?;
        let epoch = mls.epoch().as_u64();
        let processed = mls
            .process_message(provider, message)
            .map_err(|why| MlsError::refused(did, "process a message", epoch, why))?;
        let credential = processed.credential().clone();
        match processed.into_content() {
            ProcessedMessageContent::ApplicationMessage(message) => {
                Ok(Processed::Application { sender: self.identity(&credential)?, plaintext: message.into_bytes() })
            }
            ProcessedMessageContent::StagedCommitMessage(commit) => {
                let removed_me = commit.self_removed();
                mls.merge_staged_commit(provider, *commit)
                    .map_err(|why| MlsError::refused(did, "merge a commit", epoch, why))?;
                *pending = None;
                proposed.clear();
                Ok(Processed::Commit { epoch: mls.epoch().as_u64(), removed_me })
            }
            ProcessedMessageContent::OwnPendingCommit => {
                Ok(Processed::Commit { epoch: self.merge_pending(group_id)?, removed_me: false })
            }
            ProcessedMessageContent::ProposalMessage(proposal)
            | ProcessedMessageContent::ExternalJoinProposalMessage(proposal) => {
                mls.store_pending_proposal(provider.storage(), *proposal)
                    .map_err(|why| MlsError::refused(did, "keep a proposal", epoch, why))?;
                Ok(Processed::Proposal)
            }
            ProcessedMessageContent::OwnPrivateMessage if content_type == ContentType::Commit => {
                Err(MlsError::Discarded { did: did.clone(), epoch: epoch + 1 })
            }
            ProcessedMessageContent::OwnPrivateMessage => Ok(Processed::OwnMessage),
        }
    }

    fn read_message(&self, bytes: &[u8]) -> Result<ProtocolMessage, MlsError> {
        let unreadable = |why: String| MlsError::Unreadable {
            did: self.did.clone(),
            expected: "a PublicMessage or PrivateMessage",
            bytes: bytes.len(),
            why,
        };
        MlsMessageIn::tls_deserialize_exact(bytes)
            .map_err(|why| unreadable(why.to_string()))?
            .try_into_protocol_message()
            .map_err(|why| unreadable(why.to_string()))
    }
}
