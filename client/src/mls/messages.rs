//! Messages in and out: encrypting, and taking entries of the log one after the other.

use openmls::prelude::{
    ContentType, MlsMessageIn, OpenMlsProvider, ProcessedMessageContent, ProtocolMessage, tls_codec::Deserialize,
};

use super::{Group, MlsClient, MlsError};

/// What an incoming message turned out to be. A commit has been merged by the time this is returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Processed {
    /// An application message; `sender` is the DID in the sender's credential, not what a server claims.
    Application { sender: String, plaintext: Vec<u8> },
    /// A commit, this client's own or another's. `epoch` is the one it made.
    Commit { epoch: u64, removed_me: bool },
    /// A proposal, kept for the commit that refers to it.
    Proposal,
    /// An application message or proposal that this client sent. MLS gives its sender no key to read it.
    OwnMessage,
}

impl MlsClient {
    /// Encrypts an application message for the current epoch.
    pub fn encrypt(&mut self, group_id: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, MlsError> {
        let Self { did, provider, signer, groups, .. } = self;
        let Group { mls, .. } = groups.get_mut(group_id).ok_or_else(|| MlsError::unknown(did, group_id))?;
        let epoch = mls.epoch().as_u64();
        mls.create_message(provider, signer, plaintext)
            .map_err(|why| MlsError::refused(did, "encrypt a message", epoch, why))?
            .to_bytes()
            .map_err(|why| MlsError::refused(did, "serialise a message", epoch, why))
    }

    /// A standalone proposal to remove oneself: a handshake message that is no commit. Sending it is up to the caller; this
    /// client goes on as if it had never made it, and forgets any proposal it has received.
    pub fn propose_leave(&mut self, group_id: &[u8]) -> Result<Vec<u8>, MlsError> {
        const WHAT: &str = "propose to leave";
        let Self { did, provider, signer, groups, .. } = self;
        let Group { mls, .. } = groups.get_mut(group_id).ok_or_else(|| MlsError::unknown(did, group_id))?;
        let epoch = mls.epoch().as_u64();
        let proposal = mls.leave_group(provider, signer).map_err(|why| MlsError::refused(did, WHAT, epoch, why))?;
        mls.clear_pending_proposals(provider.storage()).map_err(|why| MlsError::refused(did, WHAT, epoch, why))?;
        proposal.to_bytes().map_err(|why| MlsError::refused(did, WHAT, epoch, why))
    }

    /// Takes one entry of the log, whoever sent it: this client's own pending commit is merged, anything else is processed.
    pub fn apply(&mut self, group_id: &[u8], entry: &[u8]) -> Result<Processed, MlsError> {
        if self.group(group_id)?.pending.as_deref() == Some(entry) {
            return Ok(Processed::Commit { epoch: self.merge_pending(group_id)?, removed_me: false });
        }
        self.process(group_id, entry)
    }

    /// Takes one message from another member. A commit is merged at once, and a pending one of this client's own is dropped
    /// with it, since it was made in an epoch that is over.
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
