//! Parsing of MLS (RFC 9420), limited to what the server must see: the group and epoch that a message claims, that a
//! commit is a commit, the plaintext and signature of an unencrypted one, the signatures of a key package, and the tree
//! and signature of a GroupInfo. The server holds no keys and decrypts nothing.

mod group_info;
mod leaf;
mod message;
mod signed;
mod suites;
mod tree;
mod welcome;
mod wire;

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use self::leaf::{KeyPackage, Source, did_of};
use self::message::{Body, Content, MAX_LEAVES, Private, Public, PublicCommit, PublicProposal, Sender};
use self::signed::Signature;
use self::welcome::{Parts, WelcomeError};
use self::wire::Reader;
use crate::clock::LEEWAY_SECONDS;
use crate::config::MlsValidation;
use crate::error::{Code, Error};
use crate::hex;
use crate::ids::Did;
use crate::timing::within;

pub use self::group_info::{EpochState, GroupInfo, Leaves};
pub use self::signed::Signed;
pub use self::suites::{DEFAULT_SUITE, SUITES, Suite, is_signature_key};

/// Maximum size of one commit, Welcome, GroupInfo or application message. In base64 it fits, with its frame, into the 10 MiB of a
/// reply that an AT Protocol PDS forwards, so every accepted message can be read. Earlier versions accepted as much as
/// the lexicons say.
pub const MAX_MLS_BYTES: usize = 7 * 1024 * 1024;
/// Maximum size of one proposal. Group context extensions and the key package of an Add are smaller.
pub const MAX_PROPOSAL_BYTES: usize = 256 * 1024;
/// Maximum size of one key package, as in the lexicon.
pub const MAX_KEY_PACKAGE_BYTES: usize = 65_536;
/// Largest epoch or seq on the wire: the largest integer that JSON carries exactly (RFC 8259, section 6).
pub const MAX_POSITION: i64 = (1 << 53) - 1;

/// Maximum lifetime of a key package, in seconds: a year, as some libraries make them, plus a day for leap years and
/// the hour by which they backdate them. Section 7.2 requires a maximum.
pub const MAX_KEY_PACKAGE_LIFETIME_SECONDS: u64 = 366 * 24 * 3_600 + 3_600;
/// Maximum difference between the clocks of a key package's owner and of the server, in seconds, as for tokens.
const CLOCK_SECONDS: u64 = LEEWAY_SECONDS as u64;

/// First bytes of an MLSMessage of protocol version mls10, and the wire formats that may follow (RFC 9420, section 6).
const MLS10: [u8; 2] = [0, 1];
/// Bytes of the version and the wire format, after which the content of a message begins.
const FRAMING_BYTES: usize = 4;
const PUBLIC_MESSAGE: u16 = 1;
const PRIVATE_MESSAGE: u16 = 2;
const KEY_PACKAGE: u16 = 5;
/// Size from which a message counts as large, number of large ones that are parsed at once, and maximum wait for that.
const LARGE_BYTES: usize = 64 * 1024;
const MAX_LARGE: usize = 2;
const LARGE_WAIT: Duration = Duration::from_secs(5);
/// Largest epoch at which a conversation may start, so far below [`MAX_POSITION`] that its epochs cannot run out.
pub const MAX_INITIAL_EPOCH: i64 = 1 << 40;
/// Reason for refusing bytes that are not an MLS message.
const UNREADABLE: &str = "it does not parse as an MLSMessage (RFC 9420, section 6)";
/// Reason for refusing an MLS message with an epoch above [`MAX_POSITION`].
const EPOCH_TOO_LARGE: &str = "its epoch is larger than a conversation can reach";

/// Returns a group id in the spelling that is stored, lower-case hex. `None` if it is not hex.
pub fn canonical_group_id(text: &str) -> Option<String> {
    hex::is_hex(text).then(|| text.to_ascii_lowercase())
}

/// Plaintext frame of an MLS message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    group_id: Vec<u8>,
    /// The epoch in which it was made.
    pub epoch: i64,
}

impl Frame {
    /// `None` if the epoch is above [`MAX_POSITION`], which no conversation reaches.
    fn of(group_id: &[u8], epoch: u64) -> Option<Self> {
        let epoch = i64::try_from(epoch).ok().filter(|epoch| *epoch <= MAX_POSITION)?;
        Some(Self { group_id: group_id.to_vec(), epoch })
    }

    /// Returns the group's id in lower-case hex.
    pub fn group_id(&self) -> String {
        hex::encode(&self.group_id)
    }

    /// Returns true if `named` is this group in lower-case hex.
    pub fn belongs_to(&self, named: &str) -> bool {
        hex::encode(&self.group_id) == named
    }
}

/// Change of the roster that a request declares for its commit.
#[derive(Debug, Clone)]
pub struct RosterChange<'a> {
    pub added: &'a [Did],
    pub removed: &'a [Did],
    /// Owners of the key packages that the commit uses.
    pub owners: Vec<&'a Did>,
}

/// A commit that parsed: its bytes, its frame, and the hash that identifies it for ever.
#[derive(Debug, Clone)]
pub struct Commit {
    pub bytes: Vec<u8>,
    pub hash: [u8; 32],
    pub frame: Frame,
    /// Plaintext of the commit; `None` if it is encrypted.
    public: Option<PublicCommit>,
    /// Signature of its sender; `None` if it is encrypted.
    signature: Option<Signature>,
}

impl Commit {
    /// Parses `bytes` as an MLSMessage with a commit and nothing after it. An unencrypted commit must be one that
    /// members can apply, as far as that can be checked without the group's tree.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, Error> {
        if bytes.len() > MAX_MLS_BYTES {
            return Err(invalid_commit("it has more than 7 MiB"));
        }
        let mut reader = Reader::new(&bytes);
        let (frame, public) = match wire_format(&mut reader) {
            Some(PUBLIC_MESSAGE) => {
                let message = Public::read(&mut reader).ok_or_else(|| invalid_commit(UNREADABLE))?;
                let Body::Commit(public) = &message.body else {
                    return Err(invalid_commit("it is another kind of message"));
                };
                check_public(message.sender, public)?;
                let signature = match public.sender {
                    Some(leaf) => Signature::of_leaf(FRAMING_BYTES, &message, leaf),
                    None => Signature::of_joiner(FRAMING_BYTES, &message, &public.committer_key),
                };
                (Frame::of(message.group_id, message.epoch), Some((public.clone(), signature)))
            }
            Some(PRIVATE_MESSAGE) => {
                let message = Private::read(&mut reader).ok_or_else(|| invalid_commit(UNREADABLE))?;
                if message.content != Content::Commit {
                    return Err(invalid_commit("it is another kind of message"));
                }
                if !message.is_sealed {
                    return Err(invalid_commit("it is empty"));
                }
                (Frame::of(message.group_id, message.epoch), None)
            }
            Some(_) => return Err(invalid_commit("it is another kind of message")),
            None => return Err(invalid_commit(UNREADABLE)),
        };
        if !reader.is_empty() {
            return Err(invalid_commit(UNREADABLE));
        }
        let frame = frame.ok_or_else(|| invalid_commit(EPOCH_TOO_LARGE))?;
        let (public, signature) = public.unzip();
        Ok(Self { frame, hash: Sha256::digest(&bytes).into(), bytes, public, signature })
    }

    /// Returns the part of an unencrypted one that its sender has signed.
    pub fn signed(&self) -> Option<Signed> {
        Some(self.signature.as_ref()?.part(&self.bytes, Code::InvalidCommit))
    }

    /// Checks the cipher suites of the key packages that it adds against the group's.
    pub fn check_suite(&self, group: Suite) -> Result<(), Error> {
        match &self.public {
            Some(public) if public.suites.iter().any(|suite| *suite != group.id) => {
                Err(invalid_commit("it adds a member by a key package of another cipher suite than the group's"))
            }
            _ => Ok(()),
        }
    }

    /// Checks its plaintext against the change of the roster that the request of `caller` declares. It may also add devices of the
    /// caller and of the owners of named key packages, and remove devices of members who stay. A removed leaf can be identified only
    /// with the group's tree.
    pub fn check_roster(&self, caller: &Did, change: &RosterChange<'_>, mode: MlsValidation) -> Result<(), Error> {
        let Some(public) = self.public.as_ref().filter(|_| mode == MlsValidation::Strict) else { return Ok(()) };
        self.check_committer(caller)?;
        let named: HashSet<&str> = change.added.iter().chain(change.owners.iter().copied()).map(Did::as_str).collect();
        let is_named = |did: &str| did == caller.as_str() || named.contains(did);
        if !public.added.iter().all(|did| did.as_deref().is_some_and(is_named)) {
            return Err(invalid_commit("it adds a member that the request does not name"));
        }
        let adds = |did: &Did| public.added.contains(&Some(did.as_str().to_owned()));
        if !public.refers && !change.added.iter().all(adds) {
            return Err(invalid_commit("it does not add every member that the request names"));
        }
        // A commit that takes out its own sender does not exist; leaveConvo with one changes the roster only.
        let others = change.removed.iter().filter(|did| *did != caller).count();
        if !public.refers && !public.removes && others > 0 {
            return Err(invalid_commit("it removes no member"));
        }
        if !public.refers && public.removed.len() < others {
            return Err(invalid_commit("it removes fewer leaves than the request names members"));
        }
        Ok(())
    }

    /// Checks its plaintext against the leaves of the group in its epoch: its sender is a leaf of `caller`, everyone whom the request
    /// removes loses all leaves, and an external commit removes only leaves of `caller`. Returns the people who lose all their leaves and
    /// whom the request does not remove: they must not be members.
    pub fn check_leaves(&self, caller: &Did, change: &RosterChange<'_>, leaves: &Leaves) -> Result<Vec<Did>, Error> {
        let Some(public) = &self.public else { return Ok(Vec::new()) };
        if public.sender.is_some_and(|leaf| leaves.did(leaf) != Some(caller)) {
            return Err(invalid_commit("its sender's leaf does not belong to the caller"));
        }
        let removed: Option<HashSet<&Did>> = public.removed.iter().map(|leaf| leaves.did(*leaf)).collect();
        let removed = removed.ok_or_else(|| invalid_commit("it removes a leaf that the group does not have"))?;
        if public.from_outside && removed.iter().any(|did| *did != caller) {
            return Err(invalid_commit("it comes from outside the group, and removes a leaf of another DID"));
        }
        let keeps_a_leaf = |did: &Did| leaves.of_person(did).any(|leaf| !public.removed.contains(&leaf));
        let is_added = |did: &Did| public.added.contains(&Some(did.as_str().to_owned()));
        let stays = |did: &&Did| *did != caller && !change.added.contains(did) && keeps_a_leaf(did);
        if !public.refers
            && let Some(did) = change.removed.iter().find(stays)
        {
            return Err(invalid_commit(&format!("it does not remove every leaf of {did}, whom the request removes")));
        }
        let named: HashSet<&Did> = change.removed.iter().chain(change.added).collect();
        let lost = removed.into_iter().filter(|did| *did != caller && !named.contains(did));
        Ok(lost.filter(|did| !keeps_a_leaf(did) && !is_added(did)).cloned().collect())
    }

    /// The path of a commit begins with the caller's own leaf. An external commit always has a path.
    fn check_committer(&self, caller: &Did) -> Result<(), Error> {
        let Some(public) = self.public.as_ref().filter(|public| public.has_path) else { return Ok(()) };
        let did = public.committer.as_deref().map(did_of);
        match did == Some(caller.as_str()) {
            true => Ok(()),
            false if public.from_outside => {
                Err(invalid_commit("it comes from outside the group, and its leaf names another DID"))
            }
            false => Err(invalid_commit("the leaf of its path names another DID")),
        }
    }

    /// Returns identity and signature key of the leaf that an external commit brings. The identity is a DID or `did#device`. `None` for any
    /// other commit.
    pub fn external_leaf(&self) -> Option<(String, Vec<u8>)> {
        let public = self.public.as_ref().filter(|public| public.from_outside)?;
        Some((public.committer.clone()?, public.committer_key.clone()))
    }
}

/// A proposal that parsed: its bytes, its frame, and the hash by which it is recognised.
#[derive(Debug, Clone)]
pub struct Proposal {
    pub bytes: Vec<u8>,
    pub hash: [u8; 32],
    pub frame: Frame,
    /// Plaintext of the proposal; `None` if it is encrypted.
    public: Option<PublicProposal>,
    /// Signature of its sender; `None` if it is encrypted.
    signature: Option<Signature>,
}

impl Proposal {
    /// Parses `bytes` as an MLSMessage with a member's proposal and nothing after it.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, Error> {
        if bytes.len() > MAX_PROPOSAL_BYTES {
            return Err(invalid_proposal("it has more than 256 KiB"));
        }
        let mut reader = Reader::new(&bytes);
        let (frame, public) = match wire_format(&mut reader) {
            Some(PUBLIC_MESSAGE) => {
                let message = Public::read(&mut reader).ok_or_else(|| invalid_proposal(UNREADABLE))?;
                let Body::Proposal(public) = &message.body else {
                    return Err(invalid_proposal("it is another kind of message"));
                };
                let leaf = match message.sender {
                    Sender::Member { leaf } if (leaf as usize) < MAX_LEAVES => leaf,
                    Sender::Member { .. } => return Err(invalid_proposal("its sender is not a leaf of the group")),
                    _ => return Err(invalid_proposal("its sender is not in the group")),
                };
                let signature = Signature::of_leaf(FRAMING_BYTES, &message, leaf);
                (Frame::of(message.group_id, message.epoch), Some((public.clone(), signature)))
            }
            Some(PRIVATE_MESSAGE) => {
                let message = Private::read(&mut reader).ok_or_else(|| invalid_proposal(UNREADABLE))?;
                if message.content != Content::Proposal {
                    return Err(invalid_proposal("it is another kind of message"));
                }
                if !message.is_sealed {
                    return Err(invalid_proposal("it is empty"));
                }
                (Frame::of(message.group_id, message.epoch), None)
            }
            Some(_) => return Err(invalid_proposal("it is another kind of message")),
            None => return Err(invalid_proposal(UNREADABLE)),
        };
        if !reader.is_empty() {
            return Err(invalid_proposal(UNREADABLE));
        }
        let frame = frame.ok_or_else(|| invalid_proposal(EPOCH_TOO_LARGE))?;
        let (public, signature) = public.unzip();
        Ok(Self { frame, hash: Sha256::digest(&bytes).into(), bytes, public, signature })
    }

    /// Returns the part of an unencrypted one that its sender has signed.
    pub fn signed(&self) -> Option<Signed> {
        Some(self.signature.as_ref()?.part(&self.bytes, Code::InvalidProposal))
    }

    /// Checks that its sender is a leaf of `caller`, if it is not encrypted.
    pub fn check_leaf(&self, caller: &Did, leaves: &Leaves) -> Result<(), Error> {
        match self.signature.as_ref().and_then(Signature::leaf) {
            Some(leaf) if leaves.did(leaf) != Some(caller) => {
                Err(invalid_proposal("its sender's leaf does not belong to the caller"))
            }
            _ => Ok(()),
        }
    }

    /// Checks its plaintext against its sender and the group's suite: an Update carries the sender's own leaf.
    pub fn check(&self, caller: &Did, group: Suite, mode: MlsValidation) -> Result<(), Error> {
        match self.public.as_ref().filter(|_| mode == MlsValidation::Strict) {
            Some(PublicProposal::Update(did)) if did.as_deref() != Some(caller.as_str()) => {
                Err(invalid_proposal("it updates a leaf, and the new leaf names another DID"))
            }
            Some(PublicProposal::Add { suite }) if *suite != group.id => {
                Err(invalid_proposal("it adds a member by a key package of another cipher suite than the group's"))
            }
            _ => Ok(()),
        }
    }

    /// Checks that it proposes that its sender leaves, as far as its plaintext shows.
    pub fn check_departure(&self, mode: MlsValidation) -> Result<(), Error> {
        match self.public.as_ref().filter(|_| mode == MlsValidation::Strict) {
            Some(PublicProposal::Remove) | None => Ok(()),
            Some(_) => Err(invalid_proposal("it is neither a Remove nor a SelfRemove")),
        }
    }
}

fn invalid_proposal(why: &str) -> Error {
    Code::InvalidProposal.because(format!("proposal must be an MLSMessage with a proposal of a member: {why}"))
}

fn invalid_commit(why: &str) -> Error {
    Code::InvalidCommit.because(format!("commit must be an MLSMessage with a commit: {why}"))
}

/// Refuses commits that no member would accept (RFC 9420, sections 6 and 12.4).
fn check_public(sender: Sender, public: &PublicCommit) -> Result<(), Error> {
    match sender {
        Sender::Member { leaf } if leaf as usize >= MAX_LEAVES => {
            return Err(invalid_commit("its sender is not a leaf of the group"));
        }
        Sender::External | Sender::NewMemberProposal => {
            return Err(invalid_commit("its sender is neither in the group nor joining it"));
        }
        Sender::NewMemberCommit if !public.has_path => {
            return Err(invalid_commit("it comes from outside the group and has no path"));
        }
        Sender::NewMemberCommit if public.external_inits != 1 || public.is_for_members || public.removed.len() > 1 => {
            return Err(invalid_commit(
                "it comes from outside the group; such a commit has one ExternalInit, at most one Remove, and pre-shared keys",
            ));
        }
        Sender::Member { .. } if public.external_inits > 0 => {
            return Err(invalid_commit("it has an ExternalInit, and its sender is in the group"));
        }
        Sender::Member { .. } | Sender::NewMemberCommit => {}
    }
    if public.is_empty {
        return Err(invalid_commit("it has neither proposals nor a path"));
    }
    if public.needs_path && !public.has_path {
        return Err(invalid_commit("it has no path, and one of its proposals needs one"));
    }
    Ok(())
}

/// Reads the wire format of an MLSMessage (RFC 9420, section 6); `None` if it is not one.
fn wire_format(bytes: &mut Reader<'_>) -> Option<u16> {
    let version = bytes.take(MLS10.len())?;
    bytes.u16().filter(|format| version == MLS10 && (1..=5).contains(format))
}

/// A Welcome that parsed.
#[derive(Debug, Clone)]
pub struct Welcome {
    pub bytes: Vec<u8>,
    pub suite: WelcomeSuite,
}

/// Cipher suite of a Welcome.
#[derive(Debug, Clone, Copy)]
pub struct WelcomeSuite(u16);

impl WelcomeSuite {
    /// Checks that it is the group's suite.
    pub fn check(self, group: Suite) -> Result<(), Error> {
        if self.0 == group.id { Ok(()) } else { Err(invalid_welcome("its cipher suite is not the group's")) }
    }
}

impl Welcome {
    /// Parses `bytes` as a Welcome, framed as an MLSMessage or bare, with at least one recipient and one part for each.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, Error> {
        if bytes.len() > MAX_MLS_BYTES {
            return Err(invalid_welcome("it has more than 7 MiB"));
        }
        let parts = Parts::read(&bytes).map_err(|why| match why {
            WelcomeError::TooMany => invalid_welcome("it is for more devices than a conversation can have"),
            WelcomeError::Unreadable if begins_as_mls(&bytes) && !bytes.starts_with(&welcome::FRAMED) => {
                invalid_welcome("it is another kind of message")
            }
            WelcomeError::Unreadable => invalid_welcome("it does not parse as an MLSMessage or a Welcome (RFC 9420)"),
        })?;
        // A framed Welcome that is truncated at the right place reads as a bare one without recipients.
        if parts.recipients() == 0 {
            return Err(invalid_welcome("it is for no member"));
        }
        if parts.has_duplicates() {
            return Err(invalid_welcome("it has two parts for one key package"));
        }
        let suite = WelcomeSuite(parts.suite);
        Ok(Self { bytes, suite })
    }
}

fn invalid_welcome(why: &str) -> Error {
    Code::InvalidWelcome.because(format!("welcomeMessage must be an MLS Welcome: {why}"))
}

/// Checks that a Welcome is for exactly the key packages with these references.
pub fn check_recipients(welcome: &[u8], references: &[Vec<u8>]) -> Result<(), Error> {
    let Ok(parts) = Parts::read(welcome) else { return Err(invalid_welcome("it does not parse")) };
    match parts.is_for(references) {
        true => Ok(()),
        false => {
            Err(invalid_welcome("its recipients are not the owners of the key packages that keyPackageHashes names"))
        }
    }
}

/// Returns a Welcome with the parts of these key packages only, so that their owner does not download the other
/// recipients' parts. A Welcome without a part for each of them is returned unchanged.
pub fn restrict_welcome(welcome: Vec<u8>, references: &[&[u8]]) -> Vec<u8> {
    let cut = Parts::read(&welcome).ok().and_then(|parts| parts.restrict_to(references));
    cut.unwrap_or(welcome)
}

/// Parses bytes that may be large. Reading and hashing seven megabytes blocks a thread for some hundredths of a second,
/// so large ones are parsed on separate threads, [`MAX_LARGE`] at a time.
///
/// Errors: those of `parse`, and `Overloaded` after [`LARGE_WAIT`].
pub async fn parse_large<T: Send + 'static>(
    bytes: Vec<u8>,
    parse: impl FnOnce(Vec<u8>) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    read_large(bytes.len(), move || parse(bytes)).await
}

/// Runs work on this many bytes as [`parse_large`] does.
pub async fn read_large<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    static LARGE: Semaphore = Semaphore::const_new(MAX_LARGE);
    if bytes <= LARGE_BYTES {
        return work();
    }
    let Ok(place) = within(LARGE_WAIT, LARGE.acquire()).await else {
        return Err(Code::Overloaded.because("too many large MLS messages are being read; nothing was changed"));
    };
    let parsed = tokio::task::spawn_blocking(move || {
        let _place = place;
        work()
    });
    parsed.await.unwrap_or_else(|_| Err(Error::internal("the parser of a large MLS message panicked")))
}

/// Returns true if bytes start like an MLSMessage.
fn begins_as_mls(bytes: &[u8]) -> bool {
    wire_format(&mut Reader::new(bytes)).is_some()
}

/// Checks an application message as far as it is visible. Opaque bytes pass, since clients may wrap and pad. Bytes that
/// start like an MLS message must be a PrivateMessage with application content made in `epoch`, so that no commit
/// bypasses the compare-and-swap. Returns the frame for the check of the group.
pub fn check_application(bytes: &[u8], epoch: i64) -> Result<Option<Frame>, Error> {
    let refused =
        |why: &str| Err(Code::InvalidMessage.because(format!("ciphertext must be an MLS application message: {why}")));
    if !begins_as_mls(bytes) {
        return Ok(None);
    }
    let mut reader = Reader::new(bytes);
    match wire_format(&mut reader) {
        Some(PUBLIC_MESSAGE) => {
            // Application content is always encrypted (RFC 9420, section 6).
            return refused(
                "it is not encrypted, so it is a commit or a proposal; they go through submitCommit and submitProposal",
            );
        }
        Some(PRIVATE_MESSAGE) => {}
        _ => return refused("it is a Welcome, a GroupInfo or a key package"),
    }
    let Some(message) = Private::read(&mut reader) else {
        return refused("it starts like an MLSMessage but does not parse as one");
    };
    if message.content != Content::Application {
        return refused("it is a commit or a proposal; they go through submitCommit and submitProposal");
    }
    if !message.is_sealed {
        return refused("it is empty");
    }
    let Some(frame) = Frame::of(message.group_id, message.epoch) else { return refused(EPOCH_TOO_LARGE) };
    if frame.epoch != epoch {
        return refused("its epoch is not the one in the request");
    }
    Ok(Some(frame))
}

/// Properties of a key package that passed the check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPackageFacts {
    /// SHA-256 of the bytes as they were sent.
    pub hash: [u8; 32],
    /// SHA-256 of the HPKE init key, which is the same for the bare package and its MLSMessage.
    pub init_key_hash: [u8; 32],
    /// Public key of its leaf, which signed it.
    pub signature_key: Vec<u8>,
    /// Reference by which a Welcome names it; `None` if its suite is not in the table.
    pub reference: Option<Vec<u8>>,
    pub last_resort: bool,
    /// Expiry of its leaf; `None` if that was not checked.
    pub not_after: Option<DateTime<Utc>>,
}

/// Checks a key package, framed as an MLSMessage or bare: that it parses, and in strict mode also its signatures, suite
/// and lifetime, and that its credential names `owner` or one of the owner's devices (`did#device`).
pub fn check_key_package(
    bytes: &[u8],
    owner: &Did,
    wanted: Suite,
    mode: MlsValidation,
    now: DateTime<Utc>,
) -> Result<KeyPackageFacts, Error> {
    let refused = |why: &str| Error::new(Code::InvalidKeyPackage, format!("keyPackage is not acceptable: {why}"));
    if bytes.len() > MAX_KEY_PACKAGE_BYTES {
        return Err(refused("it has more than 64 KiB"));
    }
    let (package, bare) = read_key_package(bytes).ok_or_else(|| match begins_as_mls(bytes) {
        true => {
            refused("it is another kind of MLS message, or does not parse as an MLSMessage or a KeyPackage (RFC 9420)")
        }
        false => refused("it does not parse as an MLSMessage or a KeyPackage (RFC 9420)"),
    })?;
    let suite = package.suite();
    let mut facts = KeyPackageFacts {
        hash: Sha256::digest(bytes).into(),
        init_key_hash: Sha256::digest(package.init_key).into(),
        signature_key: package.leaf.signature_key.to_vec(),
        reference: suite.map(|suite| KeyPackage::reference(suite, bare)),
        last_resort: package.last_resort,
        not_after: None,
    };
    if mode == MlsValidation::Framing {
        // The last-resort marker counts only if the signature is valid; any other package is used once.
        facts.last_resort &= suite.is_some_and(|suite| package.check(suite).is_ok());
        return Ok(facts);
    }
    let suite = suite
        .filter(|suite| *suite == wanted)
        .ok_or_else(|| Code::InvalidCipherSuite.because("cipherSuite is not the key package's own suite"))?;
    package.check(suite).map_err(|wrong| refused(&wrong.to_string()))?;
    if let Source::KeyPackage { not_before, not_after } = package.leaf.source {
        let now = u64::try_from(now.timestamp()).unwrap_or_default();
        if not_after <= now {
            return Err(refused("its lifetime has ended"));
        }
        if not_before > now + CLOCK_SECONDS {
            return Err(refused("its lifetime has not begun"));
        }
        if not_after.saturating_sub(not_before) > MAX_KEY_PACKAGE_LIFETIME_SECONDS {
            let longest = MAX_KEY_PACKAGE_LIFETIME_SECONDS;
            return Err(
                Code::ExpirationTooFar.because(format!("the key package lives longer than {longest} seconds in all"))
            );
        }
        let not_after = i64::try_from(not_after).ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
        facts.not_after = Some(not_after.unwrap_or(DateTime::<Utc>::MAX_UTC));
    }
    match package.leaf.did() {
        Some(did) if did == owner.as_str() => Ok(facts),
        Some(_) => Err(refused("its credential names another DID")),
        None => Err(refused("its credential is not basic, or is not a DID")),
    }
}

/// Returns the identity of a key package's leaf, a DID or `did#device`. `None` if its credential is not basic, or is not text.
pub fn key_package_identity(bytes: &[u8]) -> Option<String> {
    read_key_package(bytes)?.0.leaf.identity().map(str::to_owned)
}

/// Reads a key package, and returns its own bytes without the MLSMessage around it.
fn read_key_package(bytes: &[u8]) -> Option<(KeyPackage<'_>, &[u8])> {
    let mut reader = Reader::new(bytes);
    // A bare package whose suite number equals this wire format starts in the same way.
    let framed = (wire_format(&mut reader) == Some(KEY_PACKAGE)).then(|| &bytes[4..]);
    let read = |bytes| KeyPackage::read_whole(bytes).map(|package| (package, bytes));
    framed.and_then(read).or_else(|| read(bytes))
}

#[cfg(test)]
mod tests {
    use catbird_client::mls::{Handshake, MlsClient};

    use super::*;

    #[test]
    fn a_welcome_for_millions_is_refused_before_it_takes_their_memory() {
        let for_so_many = |recipients: usize| {
            let part = |n: usize| [&[4][..], &(n as u32).to_be_bytes(), &[0, 0]].concat();
            let secrets = wire::vector(&(0..recipients).flat_map(part).collect::<Vec<u8>>());
            [&welcome::FRAMED[..], &[0, 1], &secrets, &[0]].concat()
        };
        for (recipients, why) in [(1_000_000, "more devices"), (MAX_LEAVES + 1, "more devices"), (0, "no member")] {
            for skip in [0, welcome::FRAMED.len()] {
                let welcome = for_so_many(recipients);
                let refused = Welcome::parse(welcome[skip..].to_vec()).unwrap_err();
                assert!(refused.message.contains(why), "{recipients}: {refused}");
            }
            let cut = for_so_many(recipients.max(1));
            assert!(Welcome::parse(cut[..cut.len() - 2].to_vec()).unwrap_err().message.contains("does not parse"));
        }
        assert!(Welcome::parse(for_so_many(MAX_LEAVES)).is_ok());
    }

    #[test]
    fn bytes_that_are_not_mls_are_refused_with_a_clear_sentence() {
        let owner = "did:plc:bob".parse().unwrap();
        let suite = Suite::named(DEFAULT_SUITE).unwrap();
        let package = check_key_package(b"lll", &owner, suite, MlsValidation::Strict, DateTime::UNIX_EPOCH);
        for refused in [
            Commit::parse(b"lll".to_vec()).map(drop).unwrap_err(),
            Welcome::parse(b"lll".to_vec()).map(drop).unwrap_err(),
            package.map(drop).unwrap_err(),
        ] {
            assert!(refused.message.contains("it does not parse as an MLSMessage"), "{refused}");
            assert!(refused.message.contains("RFC 9420"), "{refused}");
        }
    }

    /// A PublicMessage with a commit (RFC 9420, sections 6.2 and 12.4).
    fn public(sender: &[u8], proposals: &[u8], path: bool) -> Vec<u8> {
        let leaf = [
            wire::vector(b"encryption key"),
            wire::vector(b"signature key"),
            [&[0, 1][..], &wire::vector(b"did:plc:alice#phone")].concat(),
            vec![0; 5],
            [&[3][..], &wire::vector(b"parent hash")].concat(),
            wire::vector(b""),
            wire::vector(b"signature"),
        ]
        .concat();
        let node =
            [wire::vector(b"key"), wire::vector(&[wire::vector(b"kem"), wire::vector(b"sealed")].concat())].concat();
        let path = if path { [vec![1], leaf, wire::vector(&node)].concat() } else { vec![0] };
        let membership_tag = if sender[0] == 1 { wire::vector(b"membership") } else { Vec::new() };
        [
            &[0, 1, 0, 1][..],
            &wire::vector(b"group"),
            &7_u64.to_be_bytes(),
            sender,
            &wire::vector(b"authenticated"),
            &[3],
            &wire::vector(proposals),
            &path,
            &wire::vector(b"signature"),
            &wire::vector(b"confirmation"),
            &membership_tag,
        ]
        .concat()
    }

    #[test]
    fn a_public_commit_that_no_group_would_accept_is_refused() {
        const MEMBER: &[u8] = &[1, 0, 0, 0, 2];
        const REMOVE: &[u8] = &[1, 0, 3, 0, 0, 0, 1];
        let pre_shared_key = [&[1, 0, 4, 1][..], &wire::vector(b"id"), &wire::vector(b"nonce")].concat();
        let resumption = [&[1, 0, 4, 2, 1][..], &wire::vector(b"g"), &[0; 8], &wire::vector(b"nonce")].concat();
        let reinit = [&[1, 0, 5][..], &wire::vector(b"next"), &[0, 1, 0, 1], &wire::vector(b"")].concat();
        let (context, external) = ([1, 0, 7, 0], [&[1, 0, 6][..], &wire::vector(b"kem")].concat());
        let (own, earlier) = ([1, 0xf0, 0xf1, 1, 0], [&[2][..], &wire::vector(b"reference")].concat());
        let all = [REMOVE, &pre_shared_key, &resumption, &reinit, &context, &own, &earlier, &[1, 0, 10]].concat();
        for (sender, proposals, path, why) in [
            (MEMBER, REMOVE, true, None),
            (MEMBER, &all, true, None),
            (MEMBER, &[][..], true, None),
            (MEMBER, &pre_shared_key, false, None),
            (MEMBER, &resumption, false, None),
            (MEMBER, &reinit, false, None),
            (MEMBER, &own, false, None),
            (MEMBER, &earlier, false, None),
            (&[1, 0, 1, 0x86, 0x9f], REMOVE, true, None),
            (&[4], &external, true, None),
            (MEMBER, &[], false, Some("neither proposals nor a path")),
            (MEMBER, REMOVE, false, Some("one of its proposals needs one")),
            (MEMBER, &context, false, Some("one of its proposals needs one")),
            (&[1, 0, 1, 0x86, 0xa0], REMOVE, true, Some("not a leaf of the group")),
            (&[1, 0xff, 0xff, 0xff, 0xff], REMOVE, true, Some("not a leaf of the group")),
            (&[2, 0, 0, 0, 0], REMOVE, true, Some("neither in the group")),
            (&[3], REMOVE, true, Some("neither in the group")),
            (&[4], &external, false, Some("has no path")),
            (&[4], REMOVE, true, Some("one ExternalInit")),
            (&[4], &[&external[..], &external].concat(), true, Some("one ExternalInit")),
            (&[4], &[&external[..], REMOVE].concat(), true, None),
            (&[4], &[&external[..], REMOVE, &[1, 0, 3, 0, 0, 0, 2]].concat(), true, Some("at most one Remove")),
            (&[4], &[&external[..], &pre_shared_key].concat(), true, None),
            (&[4], &[&external[..], &context].concat(), true, Some("one ExternalInit")),
            (MEMBER, &external, true, Some("its sender is in the group")),
            (&[5], REMOVE, true, Some("does not parse")),
            (MEMBER, &[1, 0, 3, 0, 0], true, Some("does not parse")),
            (MEMBER, &[3, 0, 3, 0, 0, 0, 1], true, Some("does not parse")),
        ] {
            let bytes = public(sender, proposals, path);
            match (Commit::parse(bytes.clone()), why) {
                (Ok(commit), None) => {
                    assert_eq!((commit.frame.epoch, commit.frame.belongs_to("67726f7570")), (7, true));
                }
                (Err(error), Some(why)) => {
                    assert!(error.message.contains(why), "{sender:?} {proposals:?} {path}: {error}");
                }
                (outcome, _) => panic!("{sender:?} {proposals:?} {path}: {outcome:?}, not {why:?}"),
            }
            let longer = [bytes.as_slice(), &[0]].concat();
            assert!(Commit::parse(longer).is_err());
            assert!(Commit::parse(bytes[..bytes.len() - 1].to_vec()).is_err());
        }
    }

    #[test]
    fn an_external_commit_must_carry_the_callers_did() {
        let external = [&[1, 0, 6][..], &wire::vector(b"kem")].concat();
        let commit = Commit::parse(public(&[4], &external, true)).unwrap();
        let (alice, mallory) = ("did:plc:alice".parse().unwrap(), "did:plc:mallory".parse().unwrap());
        let change = RosterChange { added: &[], removed: &[], owners: Vec::new() };
        let check = |caller| commit.check_roster(caller, &change, MlsValidation::Strict);
        assert!(check(&alice).is_ok());
        assert!(check(&mallory).unwrap_err().message.contains("another DID"));
        assert!(commit.check_roster(&mallory, &change, MlsValidation::Framing).is_ok());
    }

    #[test]
    fn an_external_commit_must_not_remove_a_leaf_of_another_person() {
        let [mut bob, alice] = ["did:plc:bob", "did:plc:alice"].map(MlsClient::new);
        bob.create_group(b"group", Handshake::Public).unwrap();
        bob.add(b"group", &[alice.key_package().unwrap()]).unwrap();
        bob.merge_pending(b"group").unwrap();
        let info = GroupInfo::parser(MlsValidation::Strict)(bob.group_info(b"group").unwrap()).unwrap();
        let leaves = GroupInfo::state(&info.bytes, &info.frame).unwrap().leaves;
        let change = RosterChange { added: &[], removed: &[], owners: Vec::new() };
        let remove = |leaf: u8| {
            let proposals = [&[1, 0, 6][..], &wire::vector(b"kem"), &[1, 0, 3, 0, 0, 0, leaf]].concat();
            let commit = Commit::parse(public(&[4], &proposals, true)).unwrap();
            commit.check_leaves(&"did:plc:alice".parse().unwrap(), &change, &leaves)
        };
        assert!(remove(0).unwrap_err().message.contains("removes a leaf of another DID"));
        assert_eq!(remove(1).unwrap(), []);
        assert!(remove(2).unwrap_err().message.contains("a leaf that the group does not have"));
    }

    #[test]
    fn a_private_message_with_nothing_in_it_is_refused() {
        let private = |content: u8, sender: usize, sealed: usize| {
            [
                &[0, 1, 0, 2][..],
                &wire::vector(b"group"),
                &7_u64.to_be_bytes(),
                &[content],
                &wire::vector(b""),
                &wire::vector(&vec![1; sender]),
                &wire::vector(&vec![1; sealed]),
            ]
            .concat()
        };
        for (sender, sealed, is_something) in [(28, 40, true), (0, 40, false), (28, 0, false), (28, 16, false)] {
            assert_eq!(Commit::parse(private(3, sender, sealed)).is_ok(), is_something);
            assert_eq!(check_application(&private(1, sender, sealed), 7).is_ok(), is_something);
            assert!(Commit::parse(private(1, sender, sealed)).is_err());
            assert!(check_application(&private(3, sender, sealed), 7).is_err());
        }
        assert!(check_application(&private(1, 28, 40), 8).is_err());
        assert!(check_application(&[private(1, 28, 40), vec![0; 9]].concat(), 7).unwrap().is_some(), "padded");
    }

    /// Each length has only one valid form (section 2.1.2).
    #[test]
    fn a_length_in_a_longer_form_is_refused() {
        let right = public(&[1, 0, 0, 0, 0], &[], true);
        let at = 4;
        assert_eq!(right[at], 5, "the length of the group's id");
        let longer = [&right[..at], &[0x40, 5], &right[at + 1..]].concat();
        assert!(Commit::parse(right).is_ok());
        assert!(Commit::parse(longer).unwrap_err().message.contains("does not parse"));
    }
}
