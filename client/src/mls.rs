//! The MLS half of a client: one DID with its signature key, its key packages and the groups it is a member of.
//!
//! All state is in memory and dies with the value. A commit that this client makes stays pending until the caller says what
//! became of it ([`MlsClient::merge_pending`], [`MlsClient::discard_pending`]) or shows it the winner ([`MlsClient::apply`]);
//! meanwhile it refuses to make another. Nothing here talks to a server.

mod commits;
mod crypto;
mod error;
mod groups;
mod messages;
mod storage;

use std::collections::HashMap;

use openmls::prelude::{
    BasicCredential, Capabilities, Ciphersuite, CredentialWithKey, ExtensionType, KeyPackage, KeyPackageBuilder,
    Lifetime, MlsGroup, MlsMessageOut,
};
use openmls_basic_credential::SignatureKeyPair;
use storage::Provider;

pub use commits::Staged;
pub use error::MlsError;
pub use groups::Handshake;
pub use messages::Processed;

/// The suite every MLS implementation has to support (RFC 9420, section 17.1).
pub const DEFAULT_SUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;

/// One member-to-be: a DID and all the secrets that MLS wants it to keep.
pub struct MlsClient {
    did: String,
    suite: Ciphersuite,
    provider: Provider,
    signer: SignatureKeyPair,
    groups: HashMap<Vec<u8>, Group>,
}

/// A group, and the bytes of this client's own commit while it is undecided.
struct Group {
    mls: MlsGroup,
    pending: Option<Vec<u8>>,
}

impl MlsClient {
    /// A client with a fresh Ed25519 key whose basic credential is the DID.
    pub fn new(did: impl Into<String>) -> Self {
        Self::with_suite(did, DEFAULT_SUITE).expect("the provider implements the mandatory suite")
    }

    /// As [`MlsClient::new`], for another suite and the signature scheme that goes with it.
    pub fn with_suite(did: impl Into<String>, suite: Ciphersuite) -> Result<Self, MlsError> {
        let did = did.into();
        let signer = SignatureKeyPair::new(suite.signature_algorithm())
            .map_err(|why| MlsError::outside(&did, "make a signature key", why))?;
        Ok(Self { did, suite, provider: Provider::default(), signer, groups: HashMap::new() })
    }

    /// The DID, which is also the identity in the credential.
    pub fn did(&self) -> &str {
        &self.did
    }

    /// The suite's name as the lexicon spells it.
    pub fn suite_name(&self) -> String {
        format!("{:?}", self.suite)
    }

    /// A new one-time key package, as a serialised MLSMessage. Its private half stays here until a Welcome uses it.
    pub fn key_package(&self) -> Result<Vec<u8>, MlsError> {
        self.build(KeyPackage::builder())
    }

    /// A key package with the last_resort extension: it may be handed out many times, and opens many Welcomes.
    pub fn last_resort_key_package(&self) -> Result<Vec<u8>, MlsError> {
        self.build(KeyPackage::builder().mark_as_last_resort())
    }

    /// A key package valid between two instants, in seconds since 1970.
    pub fn key_package_with_lifetime(&self, not_before: u64, not_after: u64) -> Result<Vec<u8>, MlsError> {
        self.build(KeyPackage::builder().key_package_lifetime(Lifetime::init(not_before, not_after)))
    }

    /// A well-made key package that went out of date in 2001.
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

/// What each leaf says it understands beyond the defaults: an extension in a key package has to be listed by its leaf, and so has a suite.
fn capabilities() -> Capabilities {
    let suites = vec![
        DEFAULT_SUITE,
        Ciphersuite::MLS_128_DHKEMP256_AES128GCM_SHA256_P256,
        Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519,
        Ciphersuite::MLS_256_DHKEMP384_AES256GCM_SHA384_P384,
        Ciphersuite::MLS_256_XWING_CHACHA20POLY1305_SHA256_Ed25519,
    ];
    Capabilities::builder().ciphersuites(suites).extensions(vec![ExtensionType::LastResort]).build()
}
