//! Identifiers used in every layer. Each is validated once, on input, and trusted from then on.

use std::fmt;
use std::str::FromStr;

use ring::error::Unspecified;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest, Sha256};
use ulid::Ulid;

/// Maximum length of a DID, in bytes: `did:web:` and the longest host name. AT Protocol allows 2048, but a did:plc has
/// 32.
pub const MAX_DID_BYTES: usize = 8 + 253;

/// Maximum length of a conversation id or entry id, in bytes. The server's own are ULIDs of 26.
pub const MAX_ID_BYTES: usize = 64;

/// Maximum length of an MLS group id in hex digits.
pub const MAX_GROUP_ID_DIGITS: usize = 128;

/// Length of a blob's id in hex digits.
pub const BLOB_ID_DIGITS: usize = 32;

/// Validation errors of identifiers. The text is a sentence for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error(
        "a DID must look like did:plc:abc or did:web:example.com, without a fragment, path or query, and have at most {MAX_DID_BYTES} bytes"
    )]
    Did,
    #[error("an id must have 1 to {MAX_ID_BYTES} letters, digits, hyphens or underscores")]
    Id,
    #[error(
        "a convoId must have 1 to {MAX_ID_BYTES} letters, digits, hyphens or underscores, or be a group id of 2 to {MAX_GROUP_ID_DIGITS} hex digits"
    )]
    Convo,
    #[error("a blob's id must have {BLOB_ID_DIGITS} hex digits in lower case")]
    Blob,
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $malformed:expr, $valid:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = Malformed;
            fn try_from(text: String) -> Result<Self, Malformed> {
                if $valid(&text) { Ok(Self(text)) } else { Err($malformed) }
            }
        }

        impl FromStr for $name {
            type Err = Malformed;
            fn from_str(text: &str) -> Result<Self, Malformed> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

identifier!(
    /// A decentralised identifier, as restricted by <https://atproto.com/specs/did>.
    Did, Malformed::Did, is_did
);
identifier!(
    /// Id of a conversation: a ULID if this server created it, opaque to clients. In a request it may be the group id.
    ConvoId, Malformed::Convo, is_convo
);
identifier!(
    /// Id of one log entry (application message or commit), unique in its conversation. A ULID unless the sender chose
    /// it.
    EntryId, Malformed::Id, is_id
);
identifier!(
    /// Id of a blob: 128 random bits in lower-case hexadecimal, which tell nothing about it.
    BlobId, Malformed::Blob, is_blob
);

/// Name of an incarnation of the database (`serverIncarnation`). Clients compare it for equality and read nothing else from it. It is
/// derived from the incarnation's secret key, because a number may have been used by another incarnation in a time that was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerIncarnation([u8; 8]);

impl ServerIncarnation {
    /// The name of the incarnation with this key.
    pub fn of(key: &[u8; 32]) -> Self {
        let digest = Sha256::new().chain_update("serverIncarnation").chain_update(key).finalize();
        Self(*digest.first_chunk().expect("SHA-256 has 32 bytes"))
    }
}

impl fmt::Display for ServerIncarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl Serialize for ServerIncarnation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
impl Did {
    /// A DID for tests that do not depend on the caller.
    pub fn nobody() -> &'static Did {
        static NOBODY: std::sync::OnceLock<Did> = std::sync::OnceLock::new();
        NOBODY.get_or_init(|| "did:plc:nobody".parse().unwrap())
    }
}

fn is_did(text: &str) -> bool {
    let mut parts = text.splitn(3, ':');
    let (Some("did"), Some(method), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    text.len() <= MAX_DID_BYTES
        && !method.is_empty()
        && method.bytes().all(|b| b.is_ascii_lowercase())
        && !rest.is_empty()
        && !rest.ends_with([':', '%'])
        && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:%-".contains(&b))
}

/// Returns true if a text has the form of an id.
pub fn is_id(text: &str) -> bool {
    (1..=MAX_ID_BYTES).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

fn is_convo(text: &str) -> bool {
    let is_hex = text.len().is_multiple_of(2) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id(text) || (is_hex && (1..=MAX_GROUP_ID_DIGITS).contains(&text.len()))
}

fn is_blob(text: &str) -> bool {
    text.len() == BLOB_ID_DIGITS && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

impl BlobId {
    /// Returns a new id. Errors: the operating system has no random bits.
    pub fn random() -> Result<Self, Unspecified> {
        let mut bits = [0; BLOB_ID_DIGITS / 2];
        SystemRandom::new().fill(&mut bits)?;
        Ok(Self(bits.iter().map(|byte| format!("{byte:02x}")).collect()))
    }
}

/// Identifier that the server creates.
pub trait FromUlid {
    fn from_ulid(ulid: Ulid) -> Self;
}

impl FromUlid for String {
    fn from_ulid(ulid: Ulid) -> Self {
        ulid.to_string()
    }
}

impl FromUlid for ConvoId {
    fn from_ulid(ulid: Ulid) -> Self {
        ulid.to_string().parse().expect("26 letters and digits are an id")
    }
}

impl FromUlid for EntryId {
    fn from_ulid(ulid: Ulid) -> Self {
        ulid.to_string().parse().expect("26 letters and digits are an id")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dids_are_accepted_as_at_protocol_writes_them() {
        for good in ["did:plc:ewvi7nxzyoun6zhxrhs64oiz", "did:web:example.com", "did:web:localhost%3A8080:users:alice"]
        {
            assert!(good.parse::<Did>().is_ok(), "{good}");
        }
    }

    #[test]
    fn near_dids_are_refused() {
        for bad in [
            "",
            "did",
            "did:",
            "did:plc",
            "did:plc:",
            "did:PLC:x",
            "did:plc:x#device",
            "did:plc:x/y",
            "did:plc:x?y",
            "did:web:x:",
            " did:plc:x",
        ] {
            assert_eq!(bad.parse::<Did>(), Err(Malformed::Did), "{bad}");
        }
        assert!(format!("did:plc:{}", "a".repeat(MAX_DID_BYTES)).parse::<Did>().is_err());
    }

    #[test]
    fn a_conversation_may_be_named_by_a_group_id_that_is_longer_than_an_id() {
        assert!("aB".repeat(64).parse::<ConvoId>().is_ok());
        for bad in ["ab".repeat(65), format!("{}a", "ab".repeat(40)), "xy".repeat(40), String::new()] {
            assert_eq!(bad.parse::<ConvoId>(), Err(Malformed::Convo), "{bad}");
        }
        assert!("ab".repeat(40).parse::<EntryId>().is_err());
    }

    #[test]
    fn ids_hold_nothing_that_needs_quoting() {
        assert!("01JB2N0W3E8Z6TQ9K4M5V7X1YA".parse::<ConvoId>().is_ok());
        for bad in ["", "a b", "a/b", "é", "a'b", &"x".repeat(MAX_ID_BYTES + 1)] {
            assert!(bad.parse::<EntryId>().is_err(), "{bad}");
        }
    }
}
