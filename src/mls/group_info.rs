//! GroupInfo (RFC 9420, section 12.4.3): the state of a group in one epoch, signed by a member, with which a member that
//! lost its own state joins by an external commit.
//!
//! The signature and the tree hash show that the parts belong together and who put them together. They do not show that
//! the other members agree: only members know the secrets of the epoch.

use super::leaf::list_extensions;
use super::suites::Suite;
use super::tree::Tree;
use super::wire::Reader;
use super::{EPOCH_TOO_LARGE, Frame, MAX_MLS_BYTES, MLS10, begins_as_mls};
use crate::config::MlsValidation;
use crate::error::{Code, Error};
use crate::ids::Did;

/// Beginning of an MLSMessage with a GroupInfo: protocol version mls10, wire format mls_group_info (section 6). A bare
/// one that begins so would have the suite 4, which is not accepted.
const FRAMED: [u8; 4] = [0, 1, 0, 4];
/// Extension type `ratchet_tree` (section 17.3).
const RATCHET_TREE: u16 = 2;
/// Extension type `external_pub`.
const EXTERNAL_PUB: u16 = 4;

/// A GroupInfo that parsed.
#[derive(Debug, Clone)]
pub struct GroupInfo {
    pub bytes: Vec<u8>,
    /// The group and its epoch.
    pub frame: Frame,
    suite: u16,
    /// DID of the leaf that signed it; `None` if it was only parsed.
    signer: Option<Did>,
}

/// State of a group in one epoch, as a stored GroupInfo shows it.
#[derive(Debug)]
pub struct EpochState {
    pub(super) suite: Suite,
    /// Its GroupContext (section 8.1), which members sign with each message.
    pub(super) context: Vec<u8>,
    pub leaves: Leaves,
}

/// Leaves of a group by index; a blank one is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaves(Vec<Option<Holder>>);

/// Owner of a leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Holder {
    did: Did,
    signature_key: Vec<u8>,
}

impl Leaves {
    /// Returns the DID of a leaf. `None` if the leaf is blank or outside the tree.
    pub fn did(&self, leaf: u32) -> Option<&Did> {
        self.holder(leaf).map(|holder| &holder.did)
    }

    /// Returns the signature key of a leaf. `None` if the leaf is blank or outside the tree.
    pub(super) fn signature_key(&self, leaf: u32) -> Option<&[u8]> {
        self.holder(leaf).map(|holder| holder.signature_key.as_slice())
    }

    /// Returns the leaves of a person.
    pub fn of_person<'a>(&'a self, did: &'a Did) -> impl Iterator<Item = u32> + 'a {
        let is_theirs = move |holder: &Option<Holder>| holder.as_ref().is_some_and(|holder| holder.did == *did);
        let named = self.0.iter().enumerate().filter(move |(_, holder)| is_theirs(holder));
        named.filter_map(|(leaf, _)| u32::try_from(leaf).ok())
    }

    /// Returns whether a leaf with this signature key names the person.
    pub fn has(&self, did: &str, signature_key: &[u8]) -> bool {
        self.0.iter().flatten().any(|holder| holder.did.as_str() == did && holder.signature_key == signature_key)
    }

    fn holder(&self, leaf: u32) -> Option<&Holder> {
        self.0.get(leaf as usize)?.as_ref()
    }

    fn of(tree: &Tree<'_>) -> Result<Self, Error> {
        let holder = |leaf: &super::leaf::Leaf<'_>| {
            Some(Holder { did: leaf.did()?.parse().ok()?, signature_key: leaf.signature_key.to_vec() })
        };
        let named = tree.leaves().map(|leaf| match leaf {
            Some(leaf) => holder(leaf).map(Some).ok_or(()),
            None => Ok(None),
        });
        let named: Result<Vec<_>, ()> = named.collect();
        Ok(Self(named.map_err(|()| invalid("the credential of a leaf is not basic, or is not a DID"))?))
    }
}

impl GroupInfo {
    /// Returns the parser for a mode.
    pub fn parser(mode: MlsValidation) -> fn(Vec<u8>) -> Result<Self, Error> {
        match mode {
            MlsValidation::Strict => Self::verify,
            MlsValidation::Framing => Self::parse,
        }
    }

    /// Parses `bytes` as a GroupInfo, framed as an MLSMessage or bare, with nothing after it.
    fn parse(bytes: Vec<u8>) -> Result<Self, Error> {
        let parts = Parts::read_whole(&bytes)?;
        let frame = Frame::of(parts.group_id, parts.epoch).ok_or_else(|| invalid(EPOCH_TOO_LARGE))?;
        let suite = parts.suite;
        Ok(Self { bytes, frame, suite, signer: None })
    }

    /// Parses it, and verifies that an external commit can be made with it: it has its tree and its external key, the
    /// tree is the one of its context, and one of the tree's members has signed it.
    fn verify(bytes: Vec<u8>) -> Result<Self, Error> {
        let parsed = Self::parse(bytes)?;
        let signer = Parts::read_whole(&parsed.bytes)?.verify()?;
        Ok(Self { signer: Some(signer), ..parsed })
    }

    /// Checks that it has the group's suite, that it is of this epoch, and that `caller` has signed it, if it was verified.
    pub fn check(&self, group: Suite, epoch: i64, caller: &Did) -> Result<(), Error> {
        if self.suite != group.id {
            return Err(invalid("its cipher suite is not the group's"));
        }
        if self.frame.epoch != epoch {
            return Err(invalid(&format!("it is of epoch {}, not of epoch {epoch}", self.frame.epoch)));
        }
        match &self.signer {
            Some(signer) if signer != caller => Err(invalid("its signer's leaf names another DID")),
            _ => Ok(()),
        }
    }

    /// Returns the state that a GroupInfo shows which was verified before it was stored. `None` if it has no tree, or is of another group or
    /// epoch than `frame`.
    pub fn state(bytes: &[u8], frame: &Frame) -> Option<EpochState> {
        let parts = Parts::read_whole(bytes).ok()?;
        Frame::of(parts.group_id, parts.epoch).filter(|own| own == frame)?;
        Some(EpochState {
            suite: Suite::numbered(parts.suite)?,
            context: parts.context.to_vec(),
            leaves: parts.leaves()?,
        })
    }

    /// Returns the leaves of the group that a GroupInfo shows which was verified before it was stored. `None` if it has no tree.
    pub fn leaves(bytes: &[u8]) -> Option<Leaves> {
        Parts::read_whole(bytes).ok()?.leaves()
    }
}

/// Parts of a GroupInfo, borrowed from its bytes.
#[derive(Debug)]
struct Parts<'b> {
    /// The whole GroupContext.
    context: &'b [u8],
    suite: u16,
    group_id: &'b [u8],
    epoch: u64,
    tree_hash: &'b [u8],
    ratchet_tree: Option<&'b [u8]>,
    external_pub: Option<&'b [u8]>,
    signer: u32,
    signed: &'b [u8],
    signature: &'b [u8],
}

impl<'b> Parts<'b> {
    /// Reads a GroupInfo that takes up all bytes.
    fn read_whole(bytes: &'b [u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_MLS_BYTES {
            return Err(invalid("it has more than 7 MiB"));
        }
        let is_framed = bytes.starts_with(&FRAMED);
        let mut reader = Reader::new(bytes.strip_prefix(&FRAMED).unwrap_or(bytes));
        Self::read(&mut reader).filter(|_| reader.is_empty()).ok_or_else(|| match begins_as_mls(bytes) && !is_framed {
            true => invalid("it is another kind of message, or does not parse as a GroupInfo (RFC 9420)"),
            false => invalid("it does not parse as an MLSMessage or a GroupInfo (RFC 9420)"),
        })
    }

    /// Returns the leaves of its tree. `None` if it has no tree that can be read.
    fn leaves(&self) -> Option<Leaves> {
        Leaves::of(&Tree::read(self.ratchet_tree?).ok()?).ok()
    }

    fn read(bytes: &mut Reader<'b>) -> Option<Self> {
        let (mut parts, signed) = bytes.span(|bytes| {
            // Section 8.1.
            let ((suite, group_id, epoch, tree_hash), context) = bytes.span(|bytes| {
                let is_mls10 = bytes.take(MLS10.len())? == MLS10;
                let suite = bytes.u16().filter(|_| is_mls10)?;
                let (group_id, epoch, tree_hash) = (bytes.vector()?, bytes.u64()?, bytes.vector()?);
                let _confirmed_transcript_hash = bytes.vector()?;
                list_extensions(bytes, |_, _| {})?;
                Some((suite, group_id, epoch, tree_hash))
            })?;
            let (mut ratchet_tree, mut external_pub) = (None, None);
            list_extensions(bytes, |kind, content| match kind {
                RATCHET_TREE => ratchet_tree = Some(content),
                EXTERNAL_PUB => external_pub = Some(content),
                _ => {}
            })?;
            let _confirmation_tag = bytes.vector()?;
            let signer = bytes.u32()?;
            Some(Self {
                context,
                suite,
                group_id,
                epoch,
                tree_hash,
                ratchet_tree,
                external_pub,
                signer,
                signed: &[],
                signature: &[],
            })
        })?;
        (parts.signed, parts.signature) = (signed, bytes.vector()?);
        Some(parts)
    }

    /// Verifies the tree and the signature, and returns the DID of the leaf that signed.
    fn verify(&self) -> Result<Did, Error> {
        let suite = Suite::numbered(self.suite).ok_or_else(|| invalid("its cipher suite is unknown to this server"))?;
        let tree =
            self.ratchet_tree.ok_or_else(|| invalid("it has no ratchet tree, without which no client can join"))?;
        let key =
            self.external_pub.ok_or_else(|| invalid("it has no external_pub, without which no client can join"))?;
        let mut key = Reader::new(key);
        if key.vector().is_none_or(<[u8]>::is_empty) || !key.is_empty() {
            return Err(invalid("its external_pub does not parse"));
        }
        let tree = Tree::read(tree).map_err(|wrong| invalid(&wrong.to_string()))?;
        let signer = tree.leaf(self.signer).ok_or_else(|| invalid("its signer is not a leaf of its ratchet tree"))?;
        if !suite.verifies(signer.signature_key, "GroupInfoTBS", self.signed, self.signature) {
            return Err(invalid("it is not signed by its signer's key"));
        }
        if tree.hash(suite) != self.tree_hash {
            return Err(invalid("its ratchet tree has another hash than its group context"));
        }
        let leaves = Leaves::of(&tree)?;
        leaves.did(self.signer).cloned().ok_or_else(|| invalid("its signer has no DID"))
    }
}

fn invalid(why: &str) -> Error {
    Code::InvalidGroupInfo.because(format!("groupInfo must be an MLS GroupInfo: {why}"))
}

#[cfg(test)]
#[path = "group_info_tests.rs"]
mod tests;
