//! Fields that several methods share, and their checks.

use serde::Deserialize;
use serde::de::{self, Deserializer};

use crate::app::App;
use crate::error::{Code, Error};
use crate::ids::{ConvoId, Did};
use crate::mls::{self, Commit, Frame, MAX_POSITION};
use crate::store::key_packages::Hash;
use crate::xrpc::Caller;
use crate::xrpc::bytes::LexBytes;

/// Entries on a page when the request does not say.
pub const DEFAULT_PAGE: i64 = 50;
/// Most entries on a page.
pub const MAX_PAGE: i64 = 100;
/// Longest idempotency key, in bytes.
pub const MAX_KEY_BYTES: usize = 128;

/// `limit`: 1 to [`MAX_PAGE`], [`DEFAULT_PAGE`] when absent.
#[derive(Debug, Clone, Copy)]
pub struct Limit(pub i64);

impl Default for Limit {
    fn default() -> Self {
        Self(DEFAULT_PAGE)
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match i64::deserialize(deserializer)? {
            limit @ 1..=MAX_PAGE => Ok(Self(limit)),
            _ => Err(de::Error::custom(format_args!("limit must be from 1 to {MAX_PAGE}"))),
        }
    }
}

/// An epoch or a seq: 0 up to what JSON carries exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count(pub i64);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match i64::deserialize(deserializer)? {
            count @ 0..=MAX_POSITION => Ok(Self(count)),
            _ => Err(de::Error::custom(format_args!("must be from 0 to {MAX_POSITION}"))),
        }
    }
}

/// `idempotencyKey`: any text of 1 to [`MAX_KEY_BYTES`] bytes.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct Key(pub String);

impl TryFrom<String> for Key {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match storable(&text) && (1..=MAX_KEY_BYTES).contains(&text.len()) {
            true => Ok(Self(text)),
            false => Err(format!("an idempotencyKey has 1 to {MAX_KEY_BYTES} bytes and no NUL")),
        }
    }
}

/// Whether PostgreSQL can store a text: it has no NUL.
pub fn storable(text: &str) -> bool {
    !text.contains('\0')
}

/// A text of a limited number of bytes in UTF-8, as lexicons count; `what` names it in the error.
pub fn text(text: Option<String>, most: usize, code: Code, what: &str) -> Result<Option<String>, Error> {
    match text {
        Some(text) if !storable(&text) || text.len() > most => {
            Err(code.because(format!("{what} has at most {most} bytes in UTF-8 and no NUL")))
        }
        text => Ok(text),
    }
}

/// A list that may be absent, or null as some clients write it.
pub fn optional_list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// One entry of `keyPackageHashes`.
#[derive(Debug, Deserialize)]
pub struct KeyPackageHash {
    did: Did,
    hash: String,
}

/// Checks a list of `keyPackageHashes`.
pub fn key_package_hashes(entries: Vec<KeyPackageHash>) -> Result<Vec<(Did, Hash)>, Error> {
    entries.into_iter().map(|entry| Ok((entry.did, key_package_hash(&entry.hash)?))).collect()
}

/// Checks one hash: the hex SHA-256 of a key package's bytes.
pub fn key_package_hash(text: &str) -> Result<Hash, Error> {
    mls::hash_from_hex(text)
        .ok_or_else(|| Code::InvalidRequest.because("a key package hash is 64 hex digits, the SHA-256 of its bytes"))
}

/// Checks a list of DIDs for duplicates.
pub fn distinct(dids: &[Did], what: &str) -> Result<(), Error> {
    let mut seen = std::collections::HashSet::new();
    match dids.iter().find(|did| !seen.insert(did.as_str())) {
        Some(did) => Err(Code::InvalidRequest.because(format!("{what} names {did} twice"))),
        None => Ok(()),
    }
}

/// Parses a request's commit and checks that it belongs to the conversation's group.
pub async fn commit(
    app: &App,
    caller: &Caller,
    convo: &ConvoId,
    bytes: Option<LexBytes>,
) -> Result<Option<Commit>, Error> {
    let Some(bytes) = bytes else { return Ok(None) };
    let commit = Commit::parse(bytes.0)?;
    same_group(app, caller, convo, &commit.frame, Code::InvalidCommit).await?;
    Ok(Some(commit))
}

/// Checks that an MLS message belongs to the conversation's group. Only members are told that it does not.
pub async fn same_group(app: &App, caller: &Caller, convo: &ConvoId, frame: &Frame, code: Code) -> Result<(), Error> {
    // First of all, since what is remembered of a conversation would tell strangers by its time.
    app.store.refuse_stranger(convo, &caller.did).await?;
    if app.store.group_id(convo).await?.is_some_and(|named| frame.belongs_to(&named)) {
        return Ok(());
    }
    app.store.reader().await?.membership(convo, &caller.did).await?;
    Err(code.because("the message belongs to another MLS group than this conversation"))
}
