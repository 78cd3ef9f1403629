//! What handshake messages show of themselves (RFC 9420, sections 6 and 12). A PrivateMessage shows its group, its epoch and the kind of
//! its content; a PublicMessage everything but its secrets.

use std::collections::BTreeSet;

use super::leaf::{self, KeyPackage, Leaf, Source};
use super::wire::Reader;

/// Most leaves that a group can have: ten devices of each of the members that a conversation may have.
pub(super) const MAX_LEAVES: usize = 100_000;
/// Bytes of the tag at the end of each ciphertext, in all suites.
const TAG_BYTES: usize = 16;

/// What a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Application,
    Proposal,
    Commit,
}

impl Content {
    fn read(bytes: &mut Reader<'_>) -> Option<Self> {
        match bytes.u8()? {
            1 => Some(Self::Application),
            2 => Some(Self::Proposal),
            3 => Some(Self::Commit),
            _ => None,
        }
    }
}

/// A PrivateMessage (section 6.3).
#[derive(Debug, Clone, Copy)]
pub(super) struct Private<'b> {
    pub group_id: &'b [u8],
    pub epoch: u64,
    pub content: Content,
    /// It has something to decrypt: nobody makes a ciphertext shorter than its tag.
    pub is_sealed: bool,
}

impl<'b> Private<'b> {
    pub fn read(bytes: &mut Reader<'b>) -> Option<Self> {
        let (group_id, epoch, content) = (bytes.vector()?, bytes.u64()?, Content::read(bytes)?);
        let _authenticated_data = bytes.vector()?;
        let (sender, ciphertext) = (bytes.vector()?, bytes.vector()?);
        let is_sealed = sender.len() > TAG_BYTES && ciphertext.len() > TAG_BYTES;
        Some(Self { group_id, epoch, content, is_sealed })
    }
}

/// Who sends a PublicMessage (section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    Member { leaf: u32 },
    External,
    NewMemberProposal,
    NewMemberCommit,
}

/// A PublicMessage (section 6.2).
#[derive(Debug)]
pub(super) struct Public<'b> {
    pub group_id: &'b [u8],
    pub epoch: u64,
    pub sender: Sender,
    /// `None`: it is no commit.
    pub commit: Option<Shown>,
}

/// What a commit shows (section 12.4).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Shown {
    /// Whom it adds: the DID of each Add's credential, if that has one.
    pub added: BTreeSet<Option<String>>,
    /// The numbers of the suites of those key packages.
    pub suites: BTreeSet<u16>,
    /// It takes somebody out.
    pub removes: bool,
    /// It refers to proposals that were sent before, which are not shown.
    pub refers: bool,
    /// One of its proposals cannot do without a path.
    pub needs_path: bool,
    /// It has neither proposals nor a path.
    pub is_empty: bool,
    pub has_path: bool,
    /// Whose leaf its path begins with, if the credential has a DID.
    pub committer: Option<String>,
    /// It is made from outside.
    pub from_outside: bool,
}

impl<'b> Public<'b> {
    /// Reads one to its end. Of proposals and application messages only the framing.
    pub fn read(bytes: &mut Reader<'b>) -> Option<Self> {
        let (group_id, epoch) = (bytes.vector()?, bytes.u64()?);
        let sender = match bytes.u8()? {
            1 => Sender::Member { leaf: bytes.u32()? },
            2 => {
                bytes.u32()?;
                Sender::External
            }
            3 => Sender::NewMemberProposal,
            4 => Sender::NewMemberCommit,
            _ => return None,
        };
        let _authenticated_data = bytes.vector()?;
        if Content::read(bytes)? != Content::Commit {
            return Some(Self { group_id, epoch, sender, commit: None });
        }
        let mut shown = Shown { from_outside: sender == Sender::NewMemberCommit, ..Shown::default() };
        let mut proposals = 0_u32;
        bytes.list(|proposal| {
            proposals += 1;
            match proposal.u8()? {
                1 => shown.proposal(proposal),
                2 => {
                    shown.refers = true;
                    proposal.vector().map(drop)
                }
                _ => None,
            }
        })?;
        shown.has_path = optional(bytes, |bytes| shown.path(bytes))?;
        shown.is_empty = proposals == 0 && !shown.has_path;
        let (_signature, _confirmation_tag) = (bytes.vector()?, bytes.vector()?);
        if let Sender::Member { .. } = sender {
            let _membership_tag = bytes.vector()?;
        }
        Some(Self { group_id, epoch, sender, commit: Some(shown) })
    }
}

/// `optional<T>` (section 2.1.1). Whether it is there.
fn optional<'b>(bytes: &mut Reader<'b>, read: impl FnOnce(&mut Reader<'b>) -> Option<()>) -> Option<bool> {
    match bytes.u8()? {
        0 => Some(false),
        1 => read(bytes).map(|()| true),
        _ => None,
    }
}

impl Shown {
    /// A proposal (section 12.1). One of an unknown type has to be a single vector, as libraries write theirs.
    fn proposal(&mut self, bytes: &mut Reader<'_>) -> Option<()> {
        let kind = bytes.u16()?;
        // Section 17.4: all but Add, PreSharedKey and ReInit.
        self.needs_path |= matches!(kind, 2 | 3 | 6 | 7);
        match kind {
            1 => {
                let package = KeyPackage::read(bytes)?;
                self.added.insert(package.leaf.did().map(str::to_owned));
                self.suites.insert(package.suite);
            }
            2 => _ = Leaf::read(bytes).filter(|leaf| leaf.source == Source::Update)?,
            3 => {
                self.removes = true;
                bytes.u32()?;
            }
            4 => pre_shared_key(bytes)?,
            5 => {
                let _group_id = bytes.vector()?;
                let (_version, _suite) = (bytes.u16()?, bytes.u16()?);
                leaf::extensions(bytes, |_| {})?;
            }
            6 => _ = bytes.vector()?,
            7 => leaf::extensions(bytes, |_| {})?,
            // SelfRemove (draft-ietf-mls-extensions) is its type alone.
            0x000a => self.removes = true,
            _ => _ = bytes.vector()?,
        }
        Some(())
    }

    /// An UpdatePath (section 7.6).
    fn path(&mut self, bytes: &mut Reader<'_>) -> Option<()> {
        let leaf = Leaf::read(bytes).filter(|leaf| leaf.source == Source::Commit)?;
        self.committer = leaf.did().map(str::to_owned);
        bytes.list(|node| {
            node.vector()?;
            node.list(|sealed| {
                sealed.vector()?;
                sealed.vector().map(drop)
            })
        })
    }
}

/// A PreSharedKeyID (section 8.4).
fn pre_shared_key(bytes: &mut Reader<'_>) -> Option<()> {
    match bytes.u8()? {
        1 => _ = bytes.vector()?,
        2 => {
            let (_usage, _group_id, _epoch) = (bytes.u8()?, bytes.vector()?, bytes.u64()?);
        }
        _ => return None,
    }
    bytes.vector().map(drop)
}
