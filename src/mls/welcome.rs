//! Welcomes (RFC 9420, section 12.4.3.1): whom they are for, and each recipient's own part.

use std::collections::HashSet;

use super::message::MAX_LEAVES;
use super::wire::{Reader, vector};

/// How an MLSMessage with a Welcome begins: protocol version mls10, wire format mls_welcome (section 6).
pub(super) const FRAMED: [u8; 4] = [0, 1, 0, 3];

/// A Welcome's parts. None of it is copied.
#[derive(Debug)]
pub(super) struct Parts<'b> {
    /// The number of its suite.
    pub suite: u16,
    /// What it has for each recipient, whole, and what that calls the recipient's key package by.
    secrets: Vec<(&'b [u8], &'b [u8])>,
    sealed_group_info: &'b [u8],
    is_framed: bool,
}

/// Why bytes are no Welcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoWelcome {
    Unreadable,
    /// More recipients than a group can have.
    TooMany,
}

impl<'b> Parts<'b> {
    /// Reads a Welcome, as an MLSMessage or bare.
    pub fn read(bytes: &'b [u8]) -> Result<Self, NoWelcome> {
        let framed = bytes.strip_prefix(&FRAMED).map(|bare| Self::bare(bare, true));
        match framed {
            Some(Err(NoWelcome::Unreadable)) | None => Self::bare(bytes, false),
            Some(framed) => framed,
        }
    }

    fn bare(bytes: &'b [u8], is_framed: bool) -> Result<Self, NoWelcome> {
        let (mut bytes, mut secrets) = (Reader::new(bytes), Vec::new());
        let suite = bytes.u16().ok_or(NoWelcome::Unreadable)?;
        let mut too_many = false;
        let listed = bytes.list(|recipient| {
            // Who counts millions keeps a thread for a tenth of a second.
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
            return Err(NoWelcome::TooMany);
        }
        let sealed_group_info = listed.and_then(|()| bytes.vector()).filter(|_| bytes.is_empty());
        let sealed_group_info = sealed_group_info.ok_or(NoWelcome::Unreadable)?;
        Ok(Self { suite, secrets, sealed_group_info, is_framed })
    }

    /// How many it is for.
    pub fn recipients(&self) -> usize {
        self.secrets.len()
    }

    /// Whether it has two parts for one key package.
    pub fn repeats_itself(&self) -> bool {
        let mut seen = HashSet::with_capacity(self.secrets.len());
        !self.secrets.iter().all(|(_, reference)| seen.insert(reference))
    }

    /// The same Welcome with what it has for these key packages and for nobody else. `None` unless it has a part for each of them.
    pub fn cut_to(&self, references: &[&[u8]]) -> Option<Vec<u8>> {
        let own: Vec<&[u8]> =
            self.secrets.iter().filter(|(_, of)| references.contains(of)).map(|(whole, _)| *whole).collect();
        if own.len() != references.len() {
            return None;
        }
        let frame: &[u8] = if self.is_framed { &FRAMED } else { &[] };
        Some([frame, &self.suite.to_be_bytes(), &vector(&own.concat()), &vector(self.sealed_group_info)].concat())
    }
}
