//! Ratchet trees (RFC 9420, section 7): the leaves of a group, and the hash on which its members agree.

use super::leaf::Leaf;
use super::message::MAX_LEAVES;
use super::suites::Suite;
use super::wire::{Reader, vector};

/// Maximum number of nodes: the leaves, and the parents between them.
const MAX_NODES: usize = 2 * MAX_LEAVES - 1;
/// Bytes of a leaf index in a list of unmerged leaves.
const INDEX_BYTES: usize = 4;

/// A ratchet tree: its nodes in the order of section 12.4.3.3, without blank ones at the end.
#[derive(Debug)]
pub(super) struct Tree<'b>(Vec<Option<Node<'b>>>);

/// A node that is not blank, with its own bytes.
#[derive(Debug)]
enum Node<'b> {
    Leaf(Leaf<'b>, &'b [u8]),
    Parent { unmerged: &'b [u8], bytes: &'b [u8] },
}

/// Reasons for which bytes are not a ratchet tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum TreeError {
    #[error("its ratchet tree does not parse")]
    Unreadable,
    #[error("its ratchet tree has more leaves than a group can have")]
    TooMany,
    #[error("its ratchet tree ends with a blank node or a parent")]
    LastNode,
    #[error("its ratchet tree names unmerged leaves that are not below their parent")]
    Unmerged,
}

impl<'b> Tree<'b> {
    /// Reads the content of a ratchet_tree extension.
    pub fn read(bytes: &'b [u8]) -> Result<Self, TreeError> {
        let (mut bytes, mut nodes) = (Reader::new(bytes), Vec::new());
        let mut too_many = false;
        let listed = bytes.list(|node| {
            // A blank node takes one byte, so millions would fit.
            too_many = nodes.len() == MAX_NODES;
            if too_many {
                return None;
            }
            let is_leaf = nodes.len() % 2 == 0;
            nodes.push(match node.u8()? {
                0 => None,
                1 => Some(Node::read(node, is_leaf)?),
                _ => return None,
            });
            Some(())
        });
        if too_many {
            return Err(TreeError::TooMany);
        }
        listed.filter(|()| bytes.is_empty()).ok_or(TreeError::Unreadable)?;
        // A parent has leaves on both sides (section 7.7), so none is the last node.
        match nodes.last() {
            Some(Some(Node::Leaf(..))) => {}
            _ => return Err(TreeError::LastNode),
        }
        let tree = Self(nodes);
        if tree.has_stray_unmerged_leaves() {
            return Err(TreeError::Unmerged);
        }
        Ok(tree)
    }

    /// Returns the leaf with this index. `None` if it is blank or outside the tree.
    pub fn leaf(&self, index: u32) -> Option<&Leaf<'b>> {
        match self.0.get(usize::try_from(index).ok()?.checked_mul(2)?)? {
            Some(Node::Leaf(leaf, _)) => Some(leaf),
            _ => None,
        }
    }

    /// Returns the leaves by index; `None` for a blank one.
    pub fn leaves(&self) -> impl Iterator<Item = Option<&Leaf<'b>>> {
        (0..self.0.len().div_ceil(2) as u32).map(|index| self.leaf(index))
    }

    /// Computes the tree hash of the root (section 7.8).
    pub fn hash(&self, suite: Suite) -> Vec<u8> {
        let leaves = self.0.len().div_ceil(2).next_power_of_two();
        let leaf_hash = |index: usize| {
            let node = self.content(2 * index);
            suite.digest(&[&[1][..], &(index as u32).to_be_bytes(), &optional(node)].concat())
        };
        let mut hashes: Vec<Vec<u8>> = (0..leaves).map(leaf_hash).collect();
        // The parents of one level are 2^(level + 1) apart, from 2^level - 1 on (appendix C).
        let mut level = 1;
        while hashes.len() > 1 {
            let parent_hash = |(n, children): (usize, &[Vec<u8>])| {
                let node = self.content((1 << level) - 1 + (n << (level + 1)));
                suite.digest(&[&[2][..], &optional(node), &vector(&children[0]), &vector(&children[1])].concat())
            };
            hashes = hashes.chunks(2).enumerate().map(parent_hash).collect();
            level += 1;
        }
        hashes.remove(0)
    }

    /// Counts the unmerged leaves of all parents.
    #[cfg(test)]
    pub fn unmerged(&self) -> usize {
        let unmerged = self.0.iter().flatten().map(|node| match node {
            Node::Leaf(..) => 0,
            Node::Parent { unmerged, .. } => unmerged.len() / INDEX_BYTES,
        });
        unmerged.sum()
    }

    /// Returns the bytes of a node; `None` if it is blank.
    fn content(&self, index: usize) -> Option<&'b [u8]> {
        self.0.get(index)?.as_ref().map(|node| match node {
            Node::Leaf(_, bytes) | Node::Parent { bytes, .. } => *bytes,
        })
    }

    /// Returns true if a parent names an unmerged leaf that is blank or not below it, or names them out of order
    /// (section 7.1).
    fn has_stray_unmerged_leaves(&self) -> bool {
        self.0.iter().enumerate().any(|(index, node)| {
            let Some(Node::Parent { unmerged, .. }) = node else { return false };
            // A parent of level n has n ones at the end of its index, and 2^n leaves below it.
            let reach = (1_usize << index.trailing_ones()) - 1;
            let (first, last) = ((index - reach) / 2, (index + reach) / 2);
            let named = unmerged.chunks_exact(INDEX_BYTES);
            let named = named.map(|leaf| u32::from_be_bytes(leaf.try_into().expect("a chunk has four bytes")));
            let mut next = first;
            named.into_iter().any(|leaf| {
                let is_stray = self.leaf(leaf).is_none() || !(next..=last).contains(&(leaf as usize));
                next = leaf as usize + 1;
                is_stray
            })
        })
    }
}

impl<'b> Node<'b> {
    /// Reads a node, whose type follows from its place.
    fn read(bytes: &mut Reader<'b>, is_leaf: bool) -> Option<Self> {
        match (bytes.u8()?, is_leaf) {
            (1, true) => {
                let (leaf, bytes) = bytes.span(Leaf::read)?;
                Some(Node::Leaf(leaf, bytes))
            }
            (2, false) => {
                let (unmerged, bytes) = bytes.span(|bytes| {
                    let (_encryption_key, _parent_hash) = (bytes.vector()?, bytes.vector()?);
                    bytes.vector().filter(|unmerged| unmerged.len().is_multiple_of(INDEX_BYTES))
                })?;
                Some(Node::Parent { unmerged, bytes })
            }
            _ => None,
        }
    }
}

/// Encodes an `optional<T>` (section 2.1.1).
fn optional(content: Option<&[u8]>) -> Vec<u8> {
    match content {
        Some(bytes) => [&[1], bytes].concat(),
        None => vec![0],
    }
}
