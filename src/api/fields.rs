//! Fields that several methods share, and their checks. Nothing here reads the database.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, SeqAccess, Unexpected, Visitor};

use crate::bytes::LexBytes;
use crate::error::{Code, Error};
use crate::hex;
use crate::ids::{Did, MAX_GROUP_ID_DIGITS, Malformed, is_id};
use crate::mls::{self, MAX_POSITION, Welcome};
use crate::store::key_packages::Hash;

/// Entries on a page without `limit`.
pub const DEFAULT_PAGE: i64 = 50;
/// Maximum entries on a page.
pub const MAX_PAGE: i64 = 100;
/// Maximum length of an idempotency key, in bytes.
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

/// An epoch or a seq: 0 to the largest integer that JSON carries exactly.
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

/// `generation`: the number of a conversation's MLS group, from 1 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Count")]
pub struct Generation(pub i64);

impl TryFrom<Count> for Generation {
    type Error = &'static str;

    fn try_from(count: Count) -> Result<Self, Self::Error> {
        if count.0 > 0 { Ok(Self(count.0)) } else { Err("a generation must be at least 1") }
    }
}

/// Parses an MLS group id. `what` names the field in the error.
pub fn group_id(text: &str, what: &str) -> Result<String, Error> {
    mls::canonical_group_id(text).filter(|hex| hex.len() <= MAX_GROUP_ID_DIGITS).ok_or_else(|| {
        let message =
            format!("{what} must be the MLS group id in hex: an even number of digits, at most {MAX_GROUP_ID_DIGITS}");
        Code::InvalidRequest.because(message)
    })
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
            false => Err(format!("idempotencyKey must have 1 to {MAX_KEY_BYTES} bytes and no NUL")),
        }
    }
}

/// Returns true if PostgreSQL can store the text: it contains no NUL.
pub fn storable(text: &str) -> bool {
    !text.contains('\0')
}

/// Checks a text against its maximum length in bytes of UTF-8, as lexicons count. `what` names the field in the error.
pub fn text(text: Option<String>, most: usize, code: Code, what: &str) -> Result<Option<String>, Error> {
    match text {
        Some(text) if !storable(&text) || text.len() > most => {
            Err(code.because(format!("{what} must have at most {most} bytes in UTF-8 and no NUL")))
        }
        text => Ok(text),
    }
}

/// Deserializes a list of at most `MOST` elements; null is an empty list. One element more is kept, by which the endpoint sees that
/// there are too many. The rest are skipped, so a list of a million elements takes no memory.
pub fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>, const MOST: usize>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    deserializer.deserialize_any(Bounded::<T, MOST> { takes_null: true, of: PhantomData })
}

/// Deserializes a list as [`list`] does, but refuses null.
pub fn required_list<'de, D: Deserializer<'de>, T: Deserialize<'de>, const MOST: usize>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    deserializer.deserialize_any(Bounded::<T, MOST> { takes_null: false, of: PhantomData })
}

struct Bounded<T, const MOST: usize> {
    takes_null: bool,
    of: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for Bounded<T, MOST> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Vec<T>, E> {
        if self.takes_null { Ok(Vec::new()) } else { Err(E::invalid_type(Unexpected::Other("null"), &self)) }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Vec<T>, A::Error> {
        let mut list = Vec::new();
        while list.len() <= MOST {
            match elements.next_element()? {
                Some(element) => list.push(element),
                None => return Ok(list),
            }
        }
        while elements.next_element::<IgnoredAny>()?.is_some() {}
        Ok(list)
    }
}

/// Maximum characters of a `serverIncarnation`, which is only compared and never stored.
const MAX_INCARNATION: usize = 64;

/// `serverIncarnation`: the last one that the client received.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct ServerIncarnation(pub String);

impl TryFrom<String> for ServerIncarnation {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.chars().count() {
            ..=MAX_INCARNATION => Ok(Self(text)),
            _ => Err(format!("a serverIncarnation has at most {MAX_INCARNATION} characters")),
        }
    }
}

/// Entry of `keyPackageHashes`.
#[derive(Debug, Deserialize)]
pub struct KeyPackageHash {
    did: Did,
    hash: String,
}

/// Checks a list of `keyPackageHashes`, which has at most `most` entries.
pub fn key_package_hashes(entries: Vec<KeyPackageHash>, most: usize) -> Result<Vec<(Did, Hash)>, Error> {
    if entries.len() > most {
        return Err(Code::InvalidRequest.because(format!("keyPackageHashes must have at most {most} entries")));
    }
    entries.into_iter().map(|entry| Ok((entry.did, key_package_hash(&entry.hash)?))).collect()
}

/// Parses the hash of a key package: the SHA-256 of its bytes in hex.
pub fn key_package_hash(text: &str) -> Result<Hash, Error> {
    hex::decode_hash(text).ok_or_else(|| {
        Code::InvalidRequest.because("a key package hash must be 64 hex digits (the SHA-256 of its bytes)")
    })
}

/// Checks a device id, which need not be known.
pub fn device_id(given: String) -> Result<String, Error> {
    id(given, "deviceId")
}

/// Checks the id of a device's addition, which need not be known.
pub fn addition_id(given: String) -> Result<String, Error> {
    id(given, "pendingAdditionId")
}

/// Checks an id of the server. `what` names the field in the error.
fn id(given: String, what: &str) -> Result<String, Error> {
    if is_id(&given) { Ok(given) } else { Err(Code::InvalidRequest.because(format!("{what}: {}", Malformed::Id))) }
}

/// Checks a list of DIDs for duplicates.
pub fn distinct(dids: &[Did], what: &str) -> Result<(), Error> {
    let mut seen = std::collections::HashSet::new();
    match dids.iter().find(|did| !seen.insert(did.as_str())) {
        Some(did) => Err(Code::InvalidRequest.because(format!("{what} names {did} twice"))),
        None => Ok(()),
    }
}

/// Parses the Welcome of a request, on a thread where large ones block no other request.
pub async fn welcome(given: Option<LexBytes>) -> Result<Option<Welcome>, Error> {
    let Some(bytes) = given else { return Ok(None) };
    Ok(Some(mls::parse_large(bytes.0, Welcome::parse).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Two {
        #[serde(deserialize_with = "list::<_, _, 2>")]
        list: Vec<String>,
    }

    #[test]
    fn of_a_list_that_is_too_long_one_more_is_kept_than_there_may_be() {
        let million = format!(r#"{{"list":[{}"end"]}}"#, r#""did:a:b","#.repeat(1_000_000));
        let list = serde_json::from_str::<Two>(&million).unwrap().list;
        assert!(list.len() == 3 && list.capacity() < 10, "{} of {}", list.len(), list.capacity());
        assert_eq!(serde_json::from_str::<Two>(r#"{"list":["a","b"]}"#).unwrap().list, ["a", "b"]);
        assert_eq!(serde_json::from_str::<Two>(r#"{"list":null}"#).unwrap().list, [""; 0]);
        assert!(serde_json::from_str::<Two>(r#"{"list":"a"}"#).is_err());
    }
}
