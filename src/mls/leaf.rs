//! Key packages and their leaves (RFC 9420, sections 7.2 and 10), as far as a delivery service reads them.
//!
//! Unknown extensions and capabilities are skipped, GREASE among them, as section 13.4 requires of readers. The member
//! that adds a leaf checks that the leaf supports what the group needs.

use super::suites::Suite;
use super::wire::Reader;

/// Credential type `basic` (section 17.5), whose identity is a DID here.
const BASIC: u16 = 1;
/// Extension type `last_resort` (draft-ietf-mls-extensions).
const LAST_RESORT: u16 = 0x000a;

/// Origin of a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// A key package with its lifetime, in seconds since 1970.
    KeyPackage { not_before: u64, not_after: u64 },
    /// An Update proposal.
    Update,
    /// A commit's path.
    Commit,
}

/// A leaf of a ratchet tree.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leaf<'b> {
    encryption_key: &'b [u8],
    pub signature_key: &'b [u8],
    /// `None`: the credential is not basic.
    identity: Option<&'b [u8]>,
    pub source: Source,
    signed: &'b [u8],
    signature: &'b [u8],
}

impl<'b> Leaf<'b> {
    pub fn read(bytes: &mut Reader<'b>) -> Option<Self> {
        let (mut leaf, signed) = bytes.span(|bytes| {
            let (encryption_key, signature_key) = (bytes.vector()?, bytes.vector()?);
            let (kind, credential) = (bytes.u16()?, bytes.vector()?);
            // Supported versions, suites, extensions, proposals and credentials.
            for _ in 0..5 {
                bytes.list(|value| value.u16().map(drop))?;
            }
            let source = match bytes.u8()? {
                1 => Source::KeyPackage { not_before: bytes.u64()?, not_after: bytes.u64()? },
                2 => Source::Update,
                3 => {
                    bytes.vector()?;
                    Source::Commit
                }
                _ => return None,
            };
            extensions(bytes, |_| {})?;
            let identity = (kind == BASIC).then_some(credential);
            Some(Self { encryption_key, signature_key, identity, source, signed: &[], signature: &[] })
        })?;
        (leaf.signed, leaf.signature) = (signed, bytes.vector()?);
        Some(leaf)
    }

    /// Returns the identity of its basic credential. `None` for another kind of credential or if it is not text.
    pub fn identity(&self) -> Option<&'b str> {
        std::str::from_utf8(self.identity?).ok()
    }

    /// Returns the DID of its basic credential, which names an account or one of its devices (`did#device`). `None` for
    /// another kind of credential or if it is not text.
    pub fn did(&self) -> Option<&'b str> {
        self.identity().map(did_of)
    }
}

/// Returns the DID of an identity, which names an account or one of its devices (`did#device`).
pub(super) fn did_of(identity: &str) -> &str {
    identity.split_once('#').map_or(identity, |(did, _)| did)
}

/// A key package.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeyPackage<'b> {
    /// Number of its suite.
    pub suite: u16,
    pub init_key: &'b [u8],
    pub leaf: Leaf<'b>,
    pub last_resort: bool,
    signed: &'b [u8],
    signature: &'b [u8],
}

/// Defects of a key package that parses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeyPackageError {
    #[error("its leaf is not a key package's leaf")]
    Leaf,
    #[error("its leaf is not signed by its own key")]
    LeafSignature,
    #[error("it is not signed by its own key")]
    Signature,
    #[error("its init key equals its encryption key")]
    Keys,
}

impl<'b> KeyPackage<'b> {
    /// Reads a key package of protocol version mls10 (section 10).
    pub fn read(bytes: &mut Reader<'b>) -> Option<Self> {
        let (mut package, signed) = bytes.span(|bytes| {
            let mls10 = bytes.u16()? == 1;
            let (suite, init_key) = (bytes.u16().filter(|_| mls10)?, bytes.vector()?);
            let leaf = Leaf::read(bytes)?;
            let mut last_resort = false;
            extensions(bytes, |kind| last_resort |= kind == LAST_RESORT)?;
            Some(Self { suite, init_key, leaf, last_resort, signed: &[], signature: &[] })
        })?;
        (package.signed, package.signature) = (signed, bytes.vector()?);
        Some(package)
    }

    /// Reads a key package that takes up all bytes.
    pub fn read_whole(bytes: &'b [u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        Self::read(&mut reader).filter(|_| reader.is_empty())
    }

    /// Returns the suite if the table has it.
    pub fn suite(&self) -> Option<Suite> {
        Suite::numbered(self.suite)
    }

    /// Checks the signatures and keys (section 10.1, except for the checks that need the group).
    pub fn check(&self, suite: Suite) -> Result<(), KeyPackageError> {
        let leaf = &self.leaf;
        if !matches!(leaf.source, Source::KeyPackage { .. }) {
            return Err(KeyPackageError::Leaf);
        }
        if leaf.encryption_key == self.init_key {
            return Err(KeyPackageError::Keys);
        }
        if !suite.verifies(leaf.signature_key, "LeafNodeTBS", leaf.signed, leaf.signature) {
            return Err(KeyPackageError::LeafSignature);
        }
        match suite.verifies(leaf.signature_key, "KeyPackageTBS", self.signed, self.signature) {
            true => Ok(()),
            false => Err(KeyPackageError::Signature),
        }
    }

    /// Returns the reference by which a Welcome names it (section 5.2, KeyPackageRef). `bytes` are the package's own.
    pub fn reference(suite: Suite, bytes: &[u8]) -> Vec<u8> {
        suite.reference("MLS 1.0 KeyPackage Reference", bytes)
    }
}

/// Skips a list of extensions and reports each type.
pub(super) fn extensions(bytes: &mut Reader<'_>, mut tell: impl FnMut(u16)) -> Option<()> {
    list_extensions(bytes, |kind, _| tell(kind))
}

/// Reads a list of extensions and reports the type and the content of each. A list must not repeat a type (section
/// 13.4).
pub(super) fn list_extensions<'b>(bytes: &mut Reader<'b>, mut tell: impl FnMut(u16, &'b [u8])) -> Option<()> {
    let mut seen = Vec::new();
    bytes.list(|extension| {
        let (kind, content) = (extension.u16()?, extension.vector()?);
        tell(kind, content);
        seen.push(kind);
        Some(())
    })?;
    seen.sort_unstable();
    seen.windows(2).all(|pair| pair[0] != pair[1]).then_some(())
}
