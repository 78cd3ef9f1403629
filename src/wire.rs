//! Shapes that several methods return, field for field as `blue.catbird.mls.defs` declares them.

use std::sync::OnceLock;

use chrono::{DateTime, Utc};
use hyper::body::Bytes;
use serde::ser::Error as _;
use serde::{Deserialize, Serialize, Serializer};

use crate::bytes::{self, LexBytes};
use crate::ids::{BlobId, ConvoId, Did, EntryId};

/// Writes a datetime as every reply has it: RFC 3339 in UTC with microseconds, which PostgreSQL's precision needs for a
/// round trip.
pub fn datetime<S: serde::Serializer>(at: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true))
}

/// Writes an optional datetime.
pub fn optional_datetime<S: serde::Serializer>(at: &Option<DateTime<Utc>>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => datetime(at, serializer),
        None => serializer.serialize_none(),
    }
}

/// Type of a log entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MessageType {
    /// An application message.
    App,
    /// A commit. Its `epoch` is the one that it creates.
    Commit,
    /// A proposal. Its `epoch` is the one in which it was made, and in which it can be committed.
    Proposal,
    /// The beginning of the next generation, in `epoch`.
    Reset,
}

/// `defs#commitMessage`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CommitMessage {
    pub id: EntryId,
    /// Number of the group that it is of.
    pub generation: i64,
    /// The epoch that the commit creates.
    pub epoch: i64,
    pub seq: i64,
    pub sender: Did,
    pub commit_data: LexBytes,
    #[serde(serialize_with = "datetime")]
    pub created_at: DateTime<Utc>,
    /// The proposals of the epoch that the commit ended, in the order of the log, if they are not too large.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub proposals: Vec<ProposalMessage>,
}

impl CommitMessage {
    /// Returns the number of bytes of MLS messages in it.
    pub fn bytes(&self) -> usize {
        self.commit_data.0.len() + self.proposals.iter().map(|proposal| proposal.proposal.0.len()).sum::<usize>()
    }
}

/// `defs#proposalMessage`.
#[derive(Debug, Clone, Serialize)]
pub struct ProposalMessage {
    pub seq: i64,
    pub sender: Did,
    pub proposal: LexBytes,
}

/// The ciphertext of an entry, from the database or from the blob store.
#[derive(Debug, Clone)]
pub enum Ciphertext {
    Row(LexBytes),
    Body(Body),
}

/// A ciphertext in the blob store. It cannot be written before its bytes were read from there.
#[derive(Debug, Clone)]
pub struct Body {
    pub id: BlobId,
    /// In bytes.
    pub size: usize,
    bytes: OnceLock<Bytes>,
}

impl Body {
    /// A body whose bytes were not read yet.
    pub fn new(id: BlobId, size: usize) -> Self {
        Self { id, size, bytes: OnceLock::new() }
    }

    /// Gives it its bytes.
    pub fn fill(&self, bytes: Bytes) {
        self.bytes.get_or_init(|| bytes);
    }
}

impl Ciphertext {
    /// Size in bytes, also of a body that was not read yet.
    pub fn size(&self) -> usize {
        match self {
            Self::Row(bytes) => bytes.0.len(),
            Self::Body(body) => body.size,
        }
    }

    /// Returns the body if its bytes were not read yet.
    pub fn missing(&self) -> Option<&Body> {
        match self {
            Self::Row(_) => None,
            Self::Body(body) => Some(body).filter(|body| body.bytes.get().is_none()),
        }
    }
}

impl Serialize for Ciphertext {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Row(bytes) => bytes.serialize(serializer),
            Self::Body(Body { bytes, .. }) => {
                let bytes = bytes.get().ok_or_else(|| S::Error::custom("the body was not read from the blob store"))?;
                bytes::serialize(bytes, serializer)
            }
        }
    }
}

/// `defs#messageView`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MessageView {
    pub id: EntryId,
    pub convo_id: ConvoId,
    pub sender: Did,
    pub message_type: MessageType,
    pub ciphertext: Ciphertext,
    /// Number of the group that it was made in.
    pub generation: i64,
    pub epoch: i64,
    pub seq: i64,
    #[serde(serialize_with = "datetime")]
    pub created_at: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embed_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embed_uri: Option<String>,
}

/// `defs#memberView`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberView {
    pub did: Did,
    /// Equal to `did`: version 1 knows users, not devices.
    pub user_did: Did,
    #[serde(serialize_with = "datetime")]
    pub joined_at: DateTime<Utc>,
    /// True if this member may remove others.
    pub is_admin: bool,
}

/// Place of the ciphertexts of a conversation's messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StorageModel {
    /// All are in the database.
    #[default]
    Database,
    /// Those of large messages are in the blob store.
    Blob,
}

/// State of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConvoState {
    Active,
    /// A quorum of the members cannot apply commits.
    Wedged,
}

/// `defs#convoMetadata`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConvoMetadata {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// `defs#convoView`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConvoView {
    pub id: ConvoId,
    pub group_id: String,
    pub creator: Did,
    pub members: Vec<MemberView>,
    pub member_count: i64,
    /// Number of the MLS group, from 1 on.
    pub generation: i64,
    pub epoch: i64,
    /// `seq` of the newest entry; 0 in an empty log.
    pub seq: i64,
    pub cipher_suite: String,
    pub storage_model: StorageModel,
    pub state: ConvoState,
    #[serde(serialize_with = "datetime")]
    pub created_at: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "optional_datetime")]
    pub last_message_at: Option<DateTime<Utc>>,
    /// Number of other members' application messages after the caller's read position.
    pub unread_count: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<ConvoMetadata>,
}
