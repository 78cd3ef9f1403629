//! Errors of a persona.

use super::super::mls::MlsError;
use super::super::xrpc::{Reply, XrpcError};

/// The persona and the failed step, as one sentence that fits a line of a report.
#[derive(Debug, thiserror::Error)]
pub enum PersonaError {
    #[error(transparent)]
    Mls(#[from] MlsError),

    /// The call has no readable answer. A commit then stays pending, since it may have been accepted; the log shows it.
    #[error(transparent)]
    Xrpc(#[from] XrpcError),

    #[error("{did} was refused: {reply}")]
    Refused { did: String, reply: Box<Reply> },

    #[error("{did} was refused {attempts} times, each time after catching up: {reply}")]
    NeverFirst { did: String, attempts: u32, reply: Box<Reply> },

    /// The answer was a success that breaks a promise of the server.
    #[error("{did} caught the server breaking a promise: {how}")]
    Broken { did: String, how: String },

    #[error("{did} found no key package of {of}")]
    NoKeyPackage { did: String, of: String },

    /// While this persona was catching up, another member made the same change.
    #[error("{did} has nothing left to do: another member's commit did it first")]
    Overtaken { did: String },

    #[error("{did} was removed from the conversation by the commit of epoch {epoch}")]
    Removed { did: String, epoch: u64 },

    /// Another commit has led to this epoch in the server's log, so the one that this persona merged is lost.
    #[error("{did} is in an epoch {epoch} that the server has lost")]
    Lost { did: String, epoch: u64 },

    #[error("{did} is in no conversation")]
    NoConversation { did: String },
}

impl PersonaError {
    /// Returns the reply if it was a refusal.
    pub fn reply(&self) -> Option<&Reply> {
        match self {
            Self::Refused { reply, .. } | Self::NeverFirst { reply, .. } => Some(reply),
            _ => None,
        }
    }
}
