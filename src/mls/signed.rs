//! Signatures of PublicMessages (RFC 9420, section 6.1). A sender signs its message together with the group's context in that epoch, which a
//! GroupInfo shows.

use super::group_info::EpochState;
use super::message::Public;
use crate::error::{Code, Error};

/// Signature of a PublicMessage.
#[derive(Debug, Clone)]
pub(super) struct Signature {
    /// Number of bytes that it covers, from the beginning of the message on.
    covers: usize,
    bytes: Vec<u8>,
    signer: Signer,
}

/// Owner of the key that must have signed a message.
#[derive(Debug, Clone)]
enum Signer {
    /// A leaf of the group.
    Leaf(u32),
    /// A device that joins by this commit, with the key in its path.
    Joiner(Vec<u8>),
}

impl Signature {
    /// Returns the signature of a leaf's message, `start` bytes after whose beginning the content begins.
    pub fn of_leaf(start: usize, message: &Public<'_>, leaf: u32) -> Self {
        Self::of(start, message, Signer::Leaf(leaf))
    }

    /// Returns the signature of an external commit with this key in its path.
    pub fn of_joiner(start: usize, message: &Public<'_>, key: &[u8]) -> Self {
        Self::of(start, message, Signer::Joiner(key.to_vec()))
    }

    fn of(start: usize, message: &Public<'_>, signer: Signer) -> Self {
        Self { covers: start + message.content.len(), bytes: message.signature.to_vec(), signer }
    }

    /// Returns the leaf of a sender that is in the group.
    pub fn leaf(&self) -> Option<u32> {
        match self.signer {
            Signer::Leaf(leaf) => Some(leaf),
            Signer::Joiner(_) => None,
        }
    }

    /// Returns the signed part of `message`, to be verified apart from it.
    pub fn part(&self, message: &[u8], code: Code) -> Signed {
        Signed { content: message[..self.covers].to_vec(), signature: self.clone(), code }
    }
}

/// Signed part of a PublicMessage: protocol version, wire format and FramedContent.
#[derive(Debug, Clone)]
pub struct Signed {
    content: Vec<u8>,
    signature: Signature,
    /// Code of the refusal.
    code: Code,
}

impl Signed {
    /// Number of bytes to verify.
    pub fn size(&self) -> usize {
        self.content.len()
    }

    /// Checks the signature in the state of the message's epoch.
    pub fn verify(&self, state: &EpochState) -> Result<(), Error> {
        let key = match &self.signature.signer {
            Signer::Leaf(leaf) => state.leaves.signature_key(*leaf),
            Signer::Joiner(key) => Some(key.as_slice()),
        };
        let signed = [self.content.as_slice(), &state.context].concat();
        match key.is_some_and(|key| state.suite.verifies(key, "FramedContentTBS", &signed, &self.signature.bytes)) {
            true => Ok(()),
            false => Err(self.code.because(
                "the message is not signed by its sender's key in the group of the stored GroupInfo; if that GroupInfo is wrong, replace \
                 it with updateGroupInfo",
            )),
        }
    }
}

#[cfg(test)]
#[path = "signed_tests.rs"]
mod tests;
