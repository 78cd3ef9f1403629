//! Welcomes (RFC 9420, section 12.4.3.1): their recipients, and each recipient's own part.

use std::collections::HashSet;

use super::message::MAX_LEAVES;
use super::wire::{Reader, vector};

/// Beginning of an MLSMessage with a Welcome: protocol version mls10, wire format mls_welcome (section 6).
pub(super) const FRAMED: [u8; 4] = [0, 1, 0, 3];

/// Parts of a Welcome, borrowed from its bytes.
#[derive(Debug)]
pub(super) struct Parts<'b> {
    /// Number of its suite.
    pub suite: u16,
    /// Encrypted secrets of each recipient, whole, and the reference of the recipient's key package.
    secrets: Vec<(&'b [u8], &'b [u8])>,
    sealed_group_info: &'b [u8],
    is_framed: bool,
}

/// Reasons for which bytes are not a Welcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WelcomeError {
    Unreadable,
    /// More recipients than a group can have.
    TooMany,
}

impl<'b> Parts<'b> {
    /// Reads a Welcome, framed as an MLSMessage or bare.
    pub fn read(bytes: &'b [u8]) -> Result<Self, WelcomeError> {
        let framed = bytes.strip_prefix(&FRAMED).map(|bare| Self::bare(bare, true));
        match framed {
            Some(Err(WelcomeError::Unreadable)) | None => Self::bare(bytes, false),
            Some(framed) => framed,
        }
    }

    fn bare(bytes: &'b [u8], is_framed: bool) -> Result<Self, WelcomeError> {
        let (mut bytes, mut secrets) = (Reader::new(bytes), Vec::new());
        let suite = bytes.u16().ok_or(WelcomeError::Unreadable)?;
        let mut too_many = false;
        let listed = bytes.list(|recipient| {
            // Counting millions of recipients would block a thread for a tenth of a second.
            too_many = secrets.len() == MAX_LEAVES;
            let (reference, whole) = recipient.span(|recipient| {
                let reference = recipient.vector()?;
                // The two halves of the HPKE ciphertext.
                recipient.vector()?;
                recipient.vector()?;
                Some(reference)
            })?;
            secrets.push((whole, reference));
            (!too_many).then_some(())
        });
        if too_many {
            return Err(WelcomeError::TooMany);
        }
        let sealed_group_info = listed.and_then(|()| bytes.vector()).filter(|_| bytes.is_empty());
        let sealed_group_info = sealed_group_info.ok_or(WelcomeError::Unreadable)?;
        Ok(Self { suite, secrets, sealed_group_info, is_framed })
    }

    /// Number of recipients.
    pub fn recipients(&self) -> usize {
        self.secrets.len()
    }

    /// Returns true if it has two parts for one key package.
    pub fn has_duplicates(&self) -> bool {
        let mut seen = HashSet::with_capacity(self.secrets.len());
        !self.secrets.iter().all(|(_, reference)| seen.insert(reference))
    }

    /// Returns true if it has one part for each of these key packages, and no others.
    pub fn is_for(&self, references: &[Vec<u8>]) -> bool {
        let named: HashSet<&[u8]> = references.iter().map(Vec::as_slice).collect();
        self.secrets.len() == named.len() && self.secrets.iter().all(|(_, of)| named.contains(of))
    }

    /// Returns this Welcome with the parts of these key packages only. `None` unless it has a part for each of them.
    pub fn restrict_to(&self, references: &[&[u8]]) -> Option<Vec<u8>> {
        let own: Vec<&[u8]> =
            self.secrets.iter().filter(|(_, of)| references.contains(of)).map(|(whole, _)| *whole).collect();
        if own.len() != references.len() {
            return None;
        }
        let frame: &[u8] = if self.is_framed { &FRAMED } else { &[] };
        Some([frame, &self.suite.to_be_bytes(), &vector(&own.concat()), &vector(self.sealed_group_info)].concat())
    }
}
