//! What the server must see of MLS (RFC 9420), and no more: which group and epoch a message claims, that a commit is a commit,
//! and that a key package is what its owner signed. It holds no keys and opens nothing.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use openmls::prelude::tls_codec::{self, Deserialize as _, Serialize as _, VLBytes, vlen};
use openmls::prelude::{
    BasicCredential, Ciphersuite, ContentType, KeyPackageIn, MlsMessageBodyIn, MlsMessageIn, ProtocolMessage,
    ProtocolVersion, Welcome,
};
use openmls_rust_crypto::RustCrypto;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use crate::config::MlsValidation;
use crate::error::{Code, Error};
use crate::ids::Did;

/// Most bytes of one commit, Welcome or application message. In base64 it fits into the 10 MiB of a reply that an AT Protocol PDS passes on,
/// with its frame, so that whatever was accepted can be read. Earlier versions have accepted as much as the lexicons say.
pub const MAX_MLS_BYTES: usize = 7 * 1024 * 1024;
/// Most bytes of one key package, as the lexicon has it.
pub const MAX_KEY_PACKAGE_BYTES: usize = 65_536;
/// The highest epoch or seq that travels: what JSON carries exactly (RFC 8259, section 6).
pub const MAX_POSITION: i64 = (1 << 53) - 1;

/// Wire formats (RFC 9420, section 6, WireFormat), whose first byte is 0 so far.
const PUBLIC_MESSAGE: u8 = 1;
const PRIVATE_MESSAGE: u8 = 2;
/// How an MLSMessage with a Welcome begins: protocol version mls10, wire format mls_welcome (RFC 9420, section 6).
const FRAMED_WELCOME: [u8; 4] = [0, 1, 0, 3];
/// Most that one Welcome may be for: ten devices of each of the members that a conversation may have.
const MAX_RECIPIENTS: usize = 100_000;
/// From how many bytes on a message counts as large, how many of those are parsed at once, and how long others wait for that.
const LARGE_BYTES: usize = 64 * 1024;
const MOST_LARGE: usize = 2;
const LARGE_WAIT: Duration = Duration::from_secs(5);
/// The highest epoch that a conversation may start at, so far below [`MAX_POSITION`] that its epochs cannot run out.
pub const MAX_INITIAL_EPOCH: i64 = 1 << 40;
/// Why bytes are refused that are no MLS message at all.
const UNREADABLE: &str = "it does not parse as an MLSMessage (RFC 9420, section 6)";
/// Why an MLS message is refused whose epoch does not travel.
const BEYOND: &str = "its epoch is larger than any that a conversation can reach";

/// The suites that key packages and conversations may have, by their names in RFC 9420, section 17.1.
const SUITES: [(&str, Ciphersuite); 3] = [
    (DEFAULT_SUITE, Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519),
    ("MLS_128_DHKEMP256_AES128GCM_SHA256_P256", Ciphersuite::MLS_128_DHKEMP256_AES128GCM_SHA256_P256),
    (
        "MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519",
        Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519,
    ),
];
/// The suite that every client must support, and that `getKeyPackages` assumes.
pub const DEFAULT_SUITE: &str = "MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519";

/// The suite of this name, or `InvalidCipherSuite`.
pub fn suite(name: &str) -> Result<(&'static str, Ciphersuite), Error> {
    SUITES.iter().find(|(known, _)| *known == name).copied().ok_or_else(|| {
        let known: Vec<&str> = SUITES.iter().map(|(name, _)| *name).collect();
        Code::InvalidCipherSuite.because(format!("cipherSuite must be one of {}", known.join(", ")))
    })
}

/// A group id as clients name it, in the one spelling that is stored: hex in lower case. `None`: it is no hex.
pub fn canonical_group_id(text: &str) -> Option<String> {
    is_hex(text).then(|| text.to_ascii_lowercase())
}

fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.len().is_multiple_of(2) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// What an MLS message says about itself in the clear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    group_id: Vec<u8>,
    /// The epoch in which it was made.
    pub epoch: i64,
}

impl Frame {
    /// `None`: its epoch is beyond [`MAX_POSITION`], so no conversation is or will be in it.
    fn of(message: &ProtocolMessage) -> Option<Self> {
        let epoch = i64::try_from(message.epoch().as_u64()).ok().filter(|epoch| *epoch <= MAX_POSITION)?;
        Some(Self { group_id: message.group_id().as_slice().to_vec(), epoch })
    }

    /// Whether this is the group that `named` names in lower-case hex.
    pub fn belongs_to(&self, named: &str) -> bool {
        hex(&self.group_id) == named
    }
}

/// A commit that parsed: its bytes, its frame, and the hash by which it is known for ever.
#[derive(Debug, Clone)]
pub struct Commit {
    pub bytes: Vec<u8>,
    pub hash: [u8; 32],
    pub frame: Frame,
}

impl Commit {
    /// Parses `bytes` as an MLSMessage that carries a commit, and nothing after it.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, Error> {
        let refused =
            |why: &str| Code::InvalidCommit.because(format!("commit must be an MLSMessage with a commit: {why}"));
        if bytes.len() > MAX_MLS_BYTES {
            return Err(refused("it has more than 7 MiB"));
        }
        let message = MlsMessageIn::tls_deserialize_exact(&bytes).map_err(|_| refused(UNREADABLE))?;
        let message = message.try_into_protocol_message().map_err(|_| refused("it is something else"))?;
        match message.content_type() {
            ContentType::Commit => {
                let hash = Sha256::digest(&bytes).into();
                let frame = Frame::of(&message).ok_or_else(|| refused(BEYOND))?;
                Ok(Self { frame, hash, bytes })
            }
            _ => Err(refused("it is another kind of message")),
        }
    }
}

/// Checks that `bytes` are a Welcome, as an MLSMessage or bare.
pub fn check_welcome(bytes: &[u8]) -> Result<(), Error> {
    let refused = |why: &str| Error::new(Code::InvalidWelcome, format!("welcomeMessage must be an MLS Welcome: {why}"));
    if bytes.len() > MAX_MLS_BYTES {
        return Err(refused("it has more than 7 MiB"));
    }
    match recipients(bytes) {
        None if begins_as_mls(bytes) && !bytes.starts_with(&FRAMED_WELCOME) => {
            return Err(refused("it is something else"));
        }
        None => return Err(refused("it does not parse as an MLSMessage or a Welcome (RFC 9420)")),
        Some(recipients) if recipients > MAX_RECIPIENTS => {
            return Err(refused("it is for more devices than a conversation can have"));
        }
        Some(_) => {}
    }
    let welcome = match MlsMessageIn::tls_deserialize_exact(bytes).map(MlsMessageIn::extract) {
        Ok(MlsMessageBodyIn::Welcome(welcome)) => welcome,
        Ok(_) => return Err(refused("it is something else")),
        Err(_) => Welcome::tls_deserialize_exact(bytes)
            .map_err(|_| refused("it does not parse as an MLSMessage or a Welcome (RFC 9420)"))?,
    };
    // The beginning of a framed Welcome, cut off in the right place, reads as a bare one without recipients.
    match welcome.secrets().is_empty() {
        true => Err(refused("it lets nobody in")),
        false => Ok(()),
    }
}

/// Parses what may be large. The structures of a PublicMessage may take 25 times the bytes that they are read from, and parsing them keeps
/// a thread for a tenth of a second, so large ones are parsed by threads of their own, [`MOST_LARGE`] at a time.
///
/// Errors: those of `parse`, and `Overloaded` after [`LARGE_WAIT`].
pub async fn apart<T: Send + 'static>(bytes: Vec<u8>, parse: fn(Vec<u8>) -> Result<T, Error>) -> Result<T, Error> {
    static LARGE: Semaphore = Semaphore::const_new(MOST_LARGE);
    if bytes.len() <= LARGE_BYTES {
        return parse(bytes);
    }
    let Ok(place) = tokio::time::timeout(LARGE_WAIT, LARGE.acquire()).await else {
        return Err(Code::Overloaded.because("too many large MLS messages are being read; nothing was changed"));
    };
    let parsed = tokio::task::spawn_blocking(move || {
        let _place = place;
        parse(bytes)
    });
    parsed.await.unwrap_or_else(|_| Err(Error::internal("the parser of a large MLS message panicked")))
}

/// How many a Welcome is for, counted until they are too many and without keeping any of it: the structures of the library take many times the bytes that they are
/// read from. `None`: it is no Welcome, or it is cut off. (RFC 9420, section 12.4.3.1)
fn recipients(bytes: &[u8]) -> Option<usize> {
    let bare = bytes.strip_prefix(&FRAMED_WELCOME).unwrap_or(bytes);
    let (_suite, mut rest) = bare.split_at_checked(2)?;
    let (mut secrets, mut recipients) = (vector(&mut rest)?, 0);
    while !secrets.is_empty() {
        // The reference to the key package, and the two halves of the HPKE ciphertext.
        for _ in 0..3 {
            vector(&mut secrets)?;
        }
        recipients += 1;
        // Who counts millions keeps a thread for a tenth of a second.
        if recipients > MAX_RECIPIENTS {
            break;
        }
    }
    Some(recipients)
}

/// Takes a vector of variable size off the beginning of `bytes` (RFC 9420, section 2.1.2).
fn vector<'b>(bytes: &mut &'b [u8]) -> Option<&'b [u8]> {
    let (length, _) = vlen::read_length(bytes).ok()?;
    let (vector, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(vector)
}

/// Whether bytes begin as an MLSMessage does: protocol version mls10, then one of the five wire formats (RFC 9420, section 6).
fn begins_as_mls(bytes: &[u8]) -> bool {
    matches!(bytes, [0, 1, 0, 1..=5, ..])
}

/// Checks an application message as far as it can be seen. Opaque bytes pass, since clients may wrap and pad; what begins as
/// an MLS message, whatever follows it, has to be a PrivateMessage with application content made in `epoch`, so that no
/// commit gets past the compare-and-swap. Returns the frame for the check of the group.
pub fn check_application(bytes: &[u8], epoch: i64) -> Result<Option<Frame>, Error> {
    let refused =
        |why: &str| Err(Code::InvalidMessage.because(format!("ciphertext must be an MLS application message: {why}")));
    if !begins_as_mls(bytes) {
        return Ok(None);
    }
    // By the wire format alone, since the structures of the others may take many times the bytes that they are read from.
    match bytes[3] {
        PUBLIC_MESSAGE => {
            // Application content is always encrypted (RFC 9420, section 6).
            return refused(
                "it is not encrypted, so it is a commit or a proposal; commits go through addMembers and leaveConvo",
            );
        }
        PRIVATE_MESSAGE => {}
        _ => return refused("it is a Welcome, a GroupInfo or a key package"),
    }
    let Ok(message) = MlsMessageIn::tls_deserialize(&mut &*bytes) else {
        return refused("it begins as an MLSMessage and does not parse as one");
    };
    let Ok(message) = message.try_into_protocol_message() else {
        return refused("it is something else");
    };
    if message.content_type() != ContentType::Application {
        return refused("it is a commit or a proposal; commits go through addMembers and leaveConvo");
    }
    let Some(frame) = Frame::of(&message) else { return refused(BEYOND) };
    if frame.epoch != epoch {
        return refused("its epoch is not the one in the request");
    }
    Ok(Some(frame))
}

/// What is worth keeping of a key package that passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPackageFacts {
    /// SHA-256 of the bytes as they were sent.
    pub hash: [u8; 32],
    /// SHA-256 of the HPKE init key: the same for the bare package and its MLSMessage.
    pub init_key_hash: [u8; 32],
    pub last_resort: bool,
    /// When its leaf expires; `None` if that was not checked.
    pub not_after: Option<DateTime<Utc>>,
}

/// Checks a key package, as an MLSMessage or bare: that it parses, and in strict mode also its signatures, its suite, its
/// lifetime and that its credential names `owner` or one of the owner's devices (`did#device`).
pub fn check_key_package(
    bytes: &[u8],
    owner: &Did,
    wanted: Ciphersuite,
    mode: MlsValidation,
    now: DateTime<Utc>,
) -> Result<KeyPackageFacts, Error> {
    let refused = |why: &str| Error::new(Code::InvalidKeyPackage, format!("keyPackage is not acceptable: {why}"));
    if bytes.len() > MAX_KEY_PACKAGE_BYTES {
        return Err(refused("it has more than 7 MiB"));
    }
    let package = match MlsMessageIn::tls_deserialize_exact(bytes).map(MlsMessageIn::extract) {
        Ok(MlsMessageBodyIn::KeyPackage(package)) => package,
        Ok(_) => return Err(refused("it is another kind of MLS message")),
        Err(_) => KeyPackageIn::tls_deserialize_exact(bytes)
            .map_err(|_| refused("it does not parse as an MLSMessage or a KeyPackage (RFC 9420)"))?,
    };
    let hash = Sha256::digest(bytes).into();
    let init_key_hash = init_key_hash(&package).map_err(|_| refused(UNREADABLE))?;
    let package = match (package.validate(&RustCrypto::default(), ProtocolVersion::Mls10), mode) {
        (Ok(package), MlsValidation::Strict) => package,
        (Err(e), MlsValidation::Strict) => return Err(refused(&e.to_string())),
        // The last-resort marker is only believed where the signature holds; any other package is used once.
        (checked, MlsValidation::Framing) => {
            let last_resort = checked.is_ok_and(|package| package.last_resort());
            return Ok(KeyPackageFacts { hash, init_key_hash, last_resort, not_after: None });
        }
    };
    if package.ciphersuite() != wanted {
        return Err(Code::InvalidCipherSuite.because("cipherSuite is not the key package's own suite"));
    }
    let lifetime = package.life_time();
    lifetime.validate_with_time(SystemTime::from(now)).map_err(|e| refused(&e.to_string()))?;
    let credential = BasicCredential::try_from(package.leaf_node().credential().clone())
        .map_err(|_| refused("its credential is not a basic one"))?;
    let identity = String::from_utf8_lossy(credential.identity());
    if identity.split_once('#').map_or(identity.as_ref(), |(did, _)| did) != owner.as_str() {
        return Err(refused("its credential names somebody else"));
    }
    let not_after = i64::try_from(lifetime.not_after())
        .ok()
        .and_then(|seconds| DateTime::from_timestamp(seconds, 0))
        .unwrap_or(DateTime::<Utc>::MAX_UTC);
    Ok(KeyPackageFacts { hash, init_key_hash, last_resort: package.last_resort(), not_after: Some(not_after) })
}

/// SHA-256 of a key package's HPKE init key, signed or not: what follows version and suite (RFC 9420, section 10).
fn init_key_hash(package: &KeyPackageIn) -> Result<[u8; 32], tls_codec::Error> {
    const VERSION_AND_SUITE: usize = 4;
    let bare = package.tls_serialize_detached()?;
    let init_key = VLBytes::tls_deserialize(&mut bare.get(VERSION_AND_SUITE..).unwrap_or_default())?;
    Ok(Sha256::digest(init_key.as_slice()).into())
}

/// Lower-case hex, as hashes travel.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A SHA-256 hash from its hex in either case.
pub fn hash_from_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !is_hex(text) {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_welcome_for_millions_is_refused_before_it_takes_their_memory() {
        let for_so_many = |recipients: usize| {
            let secrets = VLBytes::new(vec![0; 3 * recipients]).tls_serialize_detached().unwrap();
            [&FRAMED_WELCOME[..], &[0, 1], &secrets, &[0]].concat()
        };
        for (recipients, why) in [(3_000_000, "more devices"), (MAX_RECIPIENTS + 1, "more devices"), (0, "nobody")] {
            for skip in [0, FRAMED_WELCOME.len()] {
                let welcome = for_so_many(recipients);
                let refused = check_welcome(&welcome[skip..]).unwrap_err();
                assert!(refused.message.contains(why), "{recipients}: {refused}");
            }
            let cut = for_so_many(recipients.max(1));
            assert!(check_welcome(&cut[..cut.len() - 2]).unwrap_err().message.contains("does not parse"));
        }
        assert!(check_welcome(&for_so_many(MAX_RECIPIENTS)).is_ok());
    }

    #[test]
    fn bytes_that_are_no_mls_are_refused_in_words_for_whoever_sent_them() {
        let owner = "did:plc:bob".parse().unwrap();
        let (_, suite) = suite(DEFAULT_SUITE).unwrap();
        let package = check_key_package(b"lll", &owner, suite, MlsValidation::Strict, DateTime::UNIX_EPOCH);
        for refused in [
            Commit::parse(b"lll".to_vec()).map(drop).unwrap_err(),
            check_welcome(b"lll").unwrap_err(),
            package.map(drop).unwrap_err(),
        ] {
            assert!(refused.message.contains("it does not parse as an MLSMessage"), "{refused}");
            assert!(refused.message.contains("RFC 9420"), "{refused}");
        }
    }
}
