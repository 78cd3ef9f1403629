//! Why a persona could not do what it was told.

use super::super::mls::MlsError;
use super::super::xrpc::{Reply, XrpcError};

/// Who failed, and at what. The text is one sentence and fits a line of a report.
#[derive(Debug, thiserror::Error)]
pub enum PersonaError {
    #[error(transparent)]
    Mls(#[from] MlsError),

    /// The call has no readable answer. A commit stays pending then, since it may have been accepted; the log tells.
    #[error(transparent)]
    Xrpc(#[from] XrpcError),

    #[error("{did} was refused: {reply}")]
    Refused { did: String, reply: Box<Reply> },

    #[error("{did} was refused {attempts} times, each time after catching up: {reply}")]
    NeverFirst { did: String, attempts: u32, reply: Box<Reply> },

    /// The answer was a success, and yet not what the server promises.
    #[error("{did} caught the server breaking a promise: {how}")]
    Broken { did: String, how: String },

    #[error("{did} found no key package of {of}")]
    NoKeyPackage { did: String, of: String },

    /// While this persona was catching up, somebody else did what it had in mind.
    #[error("{did} has nothing left to do: another member's commit did it first")]
    Overtaken { did: String },

    #[error("{did} was removed from the conversation by the commit of epoch {epoch}")]
    Removed { did: String, epoch: u64 },

    #[error("{did} is in no conversation")]
    NoConversation { did: String },
}

impl PersonaError {
    /// The reply that was a refusal, if one was.
    pub fn reply(&self) -> Option<&Reply> {
        match self {
            Self::Refused { reply, .. } | Self::NeverFirst { reply, .. } => Some(reply),
            _ => None,
        }
    }
}
