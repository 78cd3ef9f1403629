//! Plaintext parts of handshake messages (RFC 9420, sections 6 and 12). A PrivateMessage shows its group, its epoch and
//! its content type; a PublicMessage shows everything but its secrets.

use std::collections::BTreeSet;

use super::leaf::{self, KeyPackage, Leaf, Source};
use super::wire::Reader;

/// Maximum number of leaves in a group: ten devices for each member that a conversation may have.
pub(super) const MAX_LEAVES: usize = 100_000;
/// Bytes of the tag at the end of each ciphertext, in all suites.
const TAG_BYTES: usize = 16;

/// Content type of a message.
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
    /// True if it has something to decrypt: no ciphertext is shorter than its tag.
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

/// Sender of a PublicMessage (section 6).
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
    pub body: Body,
    /// Its FramedContent, which follows the version and the wire format.
    pub content: &'b [u8],
    /// Signature of that; empty for an application message.
    pub signature: &'b [u8],
}

/// Content of a PublicMessage.
#[derive(Debug)]
pub(super) enum Body {
    /// Never valid in a PublicMessage; only its framing was read.
    Application,
    Proposal(PublicProposal),
    Commit(PublicCommit),
}

/// Plaintext of a proposal (section 12.1), as far as it is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PublicProposal {
    Add {
        suite: u16,
    },
    /// DID of the new leaf, if its credential has one.
    Update(Option<String>),
    /// Remove or SelfRemove.
    Remove,
    Other,
}

/// Plaintext of a commit (section 12.4).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PublicCommit {
    /// DIDs of the members that it adds: from the credential of each Add, if it has one.
    pub added: BTreeSet<Option<String>>,
    /// Numbers of the suites of those key packages.
    pub suites: BTreeSet<u16>,
    /// It removes a member.
    pub removes: bool,
    /// Leaves that its Removes name.
    pub removed: BTreeSet<u32>,
    /// It refers to earlier proposals, which it does not contain.
    pub refers: bool,
    /// One of its proposals requires a path.
    pub needs_path: bool,
    /// It has neither proposals nor a path.
    pub is_empty: bool,
    pub has_path: bool,
    /// Identity of the leaf at the beginning of its path, a DID or `did#device`, if the credential has one.
    pub committer: Option<String>,
    /// Signature key of that leaf, with which an external commit is signed.
    pub committer_key: Vec<u8>,
    /// Leaf of the member that sent it; `None` for an external commit.
    pub sender: Option<u32>,
    /// It is an external commit.
    pub from_outside: bool,
    /// Number of its ExternalInits, of which an external commit has one and any other none.
    pub external_inits: u32,
    /// It has a proposal by value that an external commit cannot have (section 12.2).
    pub is_for_members: bool,
}

impl<'b> Public<'b> {
    /// Reads a message to its end; for application messages only the framing.
    pub fn read(bytes: &mut Reader<'b>) -> Option<Self> {
        let (mut message, content) = bytes.span(|bytes| {
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
            let body = match Content::read(bytes)? {
                Content::Application => Body::Application,
                Content::Proposal => Body::Proposal(PublicProposal::read(bytes)?),
                Content::Commit => Body::Commit(PublicCommit::read(bytes, sender)?),
            };
            Some(Self { group_id, epoch, sender, body, content: &[], signature: &[] })
        })?;
        if let Body::Application = message.body {
            return Some(message);
        }
        (message.content, message.signature) = (content, bytes.vector()?);
        if let Body::Commit(_) = message.body {
            let _confirmation_tag = bytes.vector()?;
        }
        if let Sender::Member { .. } = message.sender {
            let _membership_tag = bytes.vector()?;
        }
        Some(message)
    }
}

impl PublicProposal {
    fn read(bytes: &mut Reader<'_>) -> Option<Self> {
        let mut rest = *bytes;
        let (kind, mut read) = (bytes.u16()?, PublicCommit::default());
        read.proposal(&mut rest)?;
        let update = |bytes: &mut Reader<'_>| Some(Leaf::read(bytes)?.did().map(str::to_owned));
        let proposal = match kind {
            1 => Self::Add { suite: *read.suites.first()? },
            2 => Self::Update(update(bytes)?),
            _ if read.removes => Self::Remove,
            _ => Self::Other,
        };
        *bytes = rest;
        Some(proposal)
    }
}

impl PublicCommit {
    fn read(bytes: &mut Reader<'_>, sender: Sender) -> Option<Self> {
        let leaf = if let Sender::Member { leaf } = sender { Some(leaf) } else { None };
        let from_outside = sender == Sender::NewMemberCommit;
        let mut public = Self { sender: leaf, from_outside, ..Self::default() };
        let mut proposals = 0_u32;
        bytes.list(|proposal| {
            proposals += 1;
            match proposal.u8()? {
                1 => public.proposal(proposal),
                2 => {
                    public.refers = true;
                    proposal.vector().map(drop)
                }
                _ => None,
            }
        })?;
        public.has_path = optional(bytes, |bytes| public.path(bytes))?;
        public.is_empty = proposals == 0 && !public.has_path;
        Some(public)
    }
}

/// Reads an `optional<T>` (section 2.1.1) and returns whether it is present.
fn optional<'b>(bytes: &mut Reader<'b>, read: impl FnOnce(&mut Reader<'b>) -> Option<()>) -> Option<bool> {
    match bytes.u8()? {
        0 => Some(false),
        1 => read(bytes).map(|()| true),
        _ => None,
    }
}

impl PublicCommit {
    /// Reads a proposal (section 12.1). An unknown type must be a single vector, as libraries write theirs.
    fn proposal(&mut self, bytes: &mut Reader<'_>) -> Option<()> {
        let kind = bytes.u16()?;
        // Section 17.4: all but Add, PreSharedKey and ReInit.
        self.needs_path |= matches!(kind, 2 | 3 | 6 | 7);
        // Remove, PreSharedKey and ExternalInit.
        self.is_for_members |= !matches!(kind, 3 | 4 | 6);
        self.external_inits += u32::from(kind == 6);
        match kind {
            1 => {
                let package = KeyPackage::read(bytes)?;
                self.added.insert(package.leaf.did().map(str::to_owned));
                self.suites.insert(package.suite);
            }
            2 => _ = Leaf::read(bytes).filter(|leaf| leaf.source == Source::Update)?,
            3 => {
                self.removes = true;
                self.removed.insert(bytes.u32()?);
            }
            4 => pre_shared_key(bytes)?,
            5 => {
                let _group_id = bytes.vector()?;
                let (_version, _suite) = (bytes.u16()?, bytes.u16()?);
                leaf::extensions(bytes, |_| {})?;
            }
            6 => _ = bytes.vector()?,
            7 => leaf::extensions(bytes, |_| {})?,
            // SelfRemove (draft-ietf-mls-extensions) consists of its type alone.
            0x000a => self.removes = true,
            _ => _ = bytes.vector()?,
        }
        Some(())
    }

    /// Reads an UpdatePath (section 7.6).
    fn path(&mut self, bytes: &mut Reader<'_>) -> Option<()> {
        let leaf = Leaf::read(bytes).filter(|leaf| leaf.source == Source::Commit)?;
        self.committer = leaf.identity().map(str::to_owned);
        self.committer_key = leaf.signature_key.to_vec();
        bytes.list(|node| {
            node.vector()?;
            node.list(|sealed| {
                sealed.vector()?;
                sealed.vector().map(drop)
            })
        })
    }
}

/// Reads a PreSharedKeyID (section 8.4).
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
