//! Errors of MLS operations. Each names the client and the operation, since a test runs dozens of clients at once.

use std::fmt::Write;

/// An operation that a [`super::MlsClient`] refused; its state is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum MlsError {
    #[error("{did} has no group {group}")]
    UnknownGroup { did: String, group: String },

    #[error("{did} finds no {other} in the group at epoch {epoch}")]
    NoSuchMember { did: String, other: String, epoch: u64 },

    #[error("{did} expected {expected} and got {bytes} bytes that are something else: {why}")]
    Unreadable { did: String, expected: &'static str, bytes: usize, why: String },

    /// A commit by this client that it has discarded: its keys are gone, and only a new Welcome helps.
    #[error("{did} is shown its own commit for epoch {epoch}, which it discarded")]
    Discarded { did: String, epoch: u64 },

    /// MLS refused it, for instance because the message belongs to another epoch.
    #[error("{did} could not {what} at epoch {epoch}: {why}")]
    Refused { did: String, what: &'static str, epoch: u64, why: Box<dyn std::error::Error + Send + Sync> },

    /// Like [`MlsError::Refused`], before there is a group and an epoch.
    #[error("{did} could not {what}: {why}")]
    Outside { did: String, what: &'static str, why: Box<dyn std::error::Error + Send + Sync> },
}

impl MlsError {
    pub(super) fn unknown(did: &str, group: &[u8]) -> Self {
        let group = group.iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("a String takes all that is written to it");
            hex
        });
        Self::UnknownGroup { did: did.to_owned(), group }
    }

    pub(super) fn outside(did: &str, what: &'static str, why: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Outside { did: did.to_owned(), what, why: Box::new(why) }
    }

    pub(super) fn refused(
        did: &str,
        what: &'static str,
        epoch: u64,
        why: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self::Refused { did: did.to_owned(), what, epoch, why: Box::new(why) }
    }
}
