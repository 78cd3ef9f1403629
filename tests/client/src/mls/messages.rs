//! Encryption of messages, and processing of log entries in order.

use openmls::prelude::{
    ContentType, MlsMessageIn, OpenMlsProvider, ProcessedMessageContent, ProtocolMessage, tls_codec::Deserialize,
};

use super::{Group, MlsClient, MlsError};

/// Result of an incoming message. A commit is already merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Processed {
    /// An application message; `sender` is the DID in the sender's credential, not the server's claim.
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

    /// Creates a standalone proposal to remove oneself: a handshake message that is not a commit. The caller may send
    /// it; this client ignores it afterwards, and forgets received proposals.
    pub fn propose_leave(&mut self, group_id: &[u8]) -> Result<Vec<u8>, MlsError> {
        const WHAT: &str = "propose to leave";
        let Self { did, provider, signer, groups, .. } = self;
        let Group { mls, .. } = groups.get_mut(group_id).ok_or_else(|| MlsError::unknown(did, group_id))?;
        let epoch = mls.epoch().as_u64();
        let proposal = mls.leave_group(provider, signer).map_err(|why| MlsError::refused(did, WHAT, epoch, why))?;
        mls.clear_pending_proposals(provider.storage()).map_err(|why| MlsError::refused(did, WHAT, epoch, why))?;
        proposal.to_bytes().map_err(|why| MlsError::refused(did, WHAT, epoch, why))
    }

    /// Creates a standalone proposal to add the owner of a key package. This client keeps it for the commit that refers to it.
    pub fn propose_add(&mut self, group_id: &[u8], key_package: &[u8]) -> Result<Vec<u8>, MlsError> {
        const WHAT: &str = "propose an addition";
        let package = self.read_key_package(key_package)?;
        let Self { did, provider, signer, groups, .. } = self;
        let Group { mls, .. } = groups.get_mut(group_id).ok_or_else(|| MlsError::unknown(did, group_id))?;
        let epoch = mls.epoch().as_u64();
        let (proposal, _) = mls
            .propose_add_member(provider, signer, &package)
            .map_err(|why| MlsError::refused(did, WHAT, epoch, why))?;
        proposal.to_bytes().map_err(|why| MlsError::refused(did, WHAT, epoch, why))
    }

    /// Processes one entry of the log from any sender: this client's own pending commit is merged, all others are
    /// processed.
    pub fn apply(&mut self, group_id: &[u8], entry: &[u8]) -> Result<Processed, MlsError> {
        if self.group(group_id)?.pending.as_deref() == Some(entry) {
            return Ok(Processed::Commit { epoch: self.merge_pending(group_id)?, removed_me: false });
        }
        self.process(group_id, entry)
    }

    /// Processes one message of another member. A commit is merged at once, and a pending commit of this client is
    /// dropped with it, since its epoch is over.
    pub fn process(&mut self, group_id: &[u8], message: &[u8]) -> Result<Processed, MlsError> {
        let message = self.read_message(message)?;
        let content_type = message.content_type();
        let Self { did, provider, groups, .. } = self;
        let Group { mls, pending } = groups.get_mut(group_id).ok_or_else(|| MlsError::unknown(did, group_id))?;
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
