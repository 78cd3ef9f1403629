//! MLS half of a client: one DID with its signature key, its key packages and its groups.
//!
//! All state is in memory. A commit stays pending until the caller reports its outcome ([`MlsClient::merge_pending`],
//! [`MlsClient::discard_pending`]) or applies the winner ([`MlsClient::apply`]); until then the client refuses to make
//! another. It does not talk to a server. [`Mls`] is what a persona needs of it, so that another library can take its place.

mod commits;
mod crypto;
mod error;
mod groups;
mod library;
mod messages;
mod storage;

use std::collections::HashMap;

use openmls::prelude::{
    BasicCredential, Capabilities, CredentialWithKey, ExtensionType, KeyPackage, KeyPackageBuilder, Lifetime, MlsGroup,
    MlsMessageOut, ProposalType,
};
use openmls_basic_credential::SignatureKeyPair;
use storage::Provider;

pub use commits::Staged;
pub use error::MlsError;
pub use groups::Handshake;
pub use library::{Entry, Mls, Proposal, is_of, owner, person};
pub use messages::Processed;
pub use openmls::prelude::Ciphersuite;

/// Cipher suite that every MLS implementation must support (RFC 9420, section 17.1).
pub const DEFAULT_SUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;

/// A DID with the secrets that MLS requires.
pub struct MlsClient {
    did: String,
    suite: Ciphersuite,
    provider: Provider,
    signer: SignatureKeyPair,
    groups: HashMap<Vec<u8>, Group>,
    /// Groups as external commits would make them, with the bytes of these commits.
    entering: HashMap<Vec<u8>, (MlsGroup, Vec<u8>)>,
    padding: usize,
}

/// A group, and the bytes of this client's own pending commit and its proposals of this epoch.
struct Group {
    mls: MlsGroup,
    pending: Option<Vec<u8>>,
    proposed: Vec<Vec<u8>>,
}

impl Group {
    fn new(mls: MlsGroup) -> Self {
        Self { mls, pending: None, proposed: Vec::new() }
    }
}

impl MlsClient {
    /// Creates a client with a fresh Ed25519 key, whose basic credential is the DID.
    pub fn new(did: impl Into<String>) -> Self {
        Self::with_suite(did, DEFAULT_SUITE).expect("the provider implements the mandatory suite")
    }

    /// Like [`MlsClient::new`], for another suite and its signature scheme.
    pub fn with_suite(did: impl Into<String>, suite: Ciphersuite) -> Result<Self, MlsError> {
        let did = did.into();
        let signer = SignatureKeyPair::new(suite.signature_algorithm())
            .map_err(|why| MlsError::outside(&did, "make a signature key", why))?;
        let (groups, entering) = (HashMap::new(), HashMap::new());
        Ok(Self { did, suite, provider: Provider::default(), signer, groups, entering, padding: 0 })
    }

    /// Pads the content of the messages in groups that it enters from now on to a multiple of this many bytes.
    pub fn padded(mut self, padding: usize) -> Self {
        self.padding = padding;
        self
    }

    /// Identity in the client's credential: a DID, or `did#device`.
    pub fn did(&self) -> &str {
        &self.did
    }

    /// Public key with which it signs, by which the server knows a device.
    pub fn signature_key(&self) -> &[u8] {
        self.signer.public()
    }

    /// Name of the suite in the lexicon's spelling.
    pub fn suite_name(&self) -> String {
        format!("{:?}", self.suite)
    }

    /// Creates a one-time key package as a serialised MLSMessage. Its private keys stay here until a Welcome uses it.
    pub fn key_package(&self) -> Result<Vec<u8>, MlsError> {
        self.build(KeyPackage::builder())
    }

    /// Creates a key package with the last_resort extension: it may be issued repeatedly, and opens many Welcomes.
    pub fn last_resort_key_package(&self) -> Result<Vec<u8>, MlsError> {
        self.build(KeyPackage::builder().mark_as_last_resort())
    }

    /// Creates a key package valid between two times, in seconds since 1970.
    pub fn key_package_with_lifetime(&self, not_before: u64, not_after: u64) -> Result<Vec<u8>, MlsError> {
        self.build(KeyPackage::builder().key_package_lifetime(Lifetime::init(not_before, not_after)))
    }

    /// Creates a valid key package that expired in 2001.
    pub fn expired_key_package(&self) -> Result<Vec<u8>, MlsError> {
        self.key_package_with_lifetime(999_990_000, 1_000_000_000)
    }

    fn build(&self, builder: KeyPackageBuilder) -> Result<Vec<u8>, MlsError> {
        const WHAT: &str = "make a key package";
        let bundle = builder
            .leaf_node_capabilities(capabilities())
            .build(self.suite, &self.provider, &self.signer, self.credential())
            .map_err(|why| MlsError::outside(&self.did, WHAT, why))?;
        MlsMessageOut::from(bundle).to_bytes().map_err(|why| MlsError::outside(&self.did, WHAT, why))
    }

    fn credential(&self) -> CredentialWithKey {
        CredentialWithKey {
            credential: BasicCredential::new(self.did.clone().into_bytes()).into(),
            signature_key: self.signer.public().into(),
        }
    }

    fn group(&self, id: &[u8]) -> Result<&Group, MlsError> {
        self.groups.get(id).ok_or_else(|| MlsError::unknown(&self.did, id))
    }
}

/// Capabilities of a leaf beyond the defaults: a leaf must list the extensions of its key package, its suite, and the
/// proposals of MLS extensions that its group may use.
fn capabilities() -> Capabilities {
    let suites = vec![
        DEFAULT_SUITE,
        Ciphersuite::MLS_128_DHKEMP256_AES128GCM_SHA256_P256,
        Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519,
        Ciphersuite::MLS_256_DHKEMP384_AES256GCM_SHA384_P384,
        Ciphersuite::MLS_256_XWING_CHACHA20POLY1305_SHA256_Ed25519,
    ];
    let proposals = vec![ProposalType::SelfRemove];
    Capabilities::builder()
        .ciphersuites(suites)
        .extensions(vec![ExtensionType::LastResort])
        .proposals(proposals)
        .build()
}
