//! MLS half of a client, on mls-rs instead of OpenMLS.
//!
//! The tests play conversations in which members use different libraries, so that the server is not fitted to one of them.
//! All state is in memory.

mod commits;
mod groups;

use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

use catbird_client::mls::{Ciphersuite, Entry, Handshake, Mls, MlsError, Processed, Proposal, Staged};
use mls_rs::client_builder::{BaseConfig, PaddingMode, WithCryptoProvider, WithIdentityProvider};
use mls_rs::crypto::{SignaturePublicKey, SignatureSecretKey};
use mls_rs::extension::ExtensionType;
use mls_rs::extension::recommended::LastResortKeyPackageExt;
use mls_rs::identity::SigningIdentity;
use mls_rs::identity::basic::{BasicCredential, BasicIdentityProvider};
use mls_rs::mls_rules::{CommitOptions, DefaultMlsRules, EncryptionOptions};
use mls_rs::storage_provider::in_memory::InMemoryKeyPackageStorage;
use mls_rs::time::MlsTime;
use mls_rs::{CipherSuite, CipherSuiteProvider, Client, CryptoProvider, ExtensionList, MlsMessage};
use mls_rs_crypto_rustcrypto::RustCryptoProvider;

/// Suites that both libraries have.
pub const SUITES: [Ciphersuite; 4] = [
    Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519,
    Ciphersuite::MLS_128_DHKEMP256_AES128GCM_SHA256_P256,
    Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519,
    Ciphersuite::MLS_256_DHKEMP384_AES256GCM_SHA384_P384,
];

/// Lifetime of key packages.
const LIFETIME: Duration = Duration::from_secs(30 * 86_400);

type Config = WithIdentityProvider<BasicIdentityProvider, WithCryptoProvider<RustCryptoProvider, BaseConfig>>;

/// One identity with its signature key, its key packages and its groups.
pub struct MlsRsClient {
    identity: String,
    suite: Ciphersuite,
    padding: PaddingMode,
    signing_identity: SigningIdentity,
    signer: SignatureSecretKey,
    key_packages: InMemoryKeyPackageStorage,
    groups: HashMap<Vec<u8>, Group>,
    /// Groups as external commits would make them.
    entering: HashMap<Vec<u8>, Group>,
}

/// A group, and the bytes of this client's own pending commit and its proposals of this epoch.
struct Group {
    mls: mls_rs::Group<Config>,
    pending: Option<Vec<u8>>,
    proposed: Vec<Vec<u8>>,
}

impl MlsRsClient {
    /// Creates a client with a fresh signature key, for one of [`SUITES`].
    pub fn new(identity: impl Into<String>, suite: Ciphersuite) -> Result<Self, MlsError> {
        let identity = identity.into();
        let made = RustCryptoProvider::new()
            .cipher_suite_provider(number(suite))
            .ok_or("the library does not have this suite".into())
            .and_then(|provider| provider.signature_key_generate().map_err(Into::into));
        let (signer, public): (SignatureSecretKey, SignaturePublicKey) =
            made.map_err(|why: Box<dyn Error + Send + Sync>| MlsError::Outside {
                did: identity.clone(),
                what: "make a signature key",
                why,
            })?;
        let credential = BasicCredential::new(identity.clone().into_bytes()).into_credential();
        Ok(Self {
            signing_identity: SigningIdentity::new(credential, public),
            identity,
            suite,
            padding: PaddingMode::None,
            signer,
            key_packages: InMemoryKeyPackageStorage::new(),
            groups: HashMap::new(),
            entering: HashMap::new(),
        })
    }

    /// Pads messages in steps that depend on their length.
    pub fn padded(mut self) -> Self {
        self.padding = PaddingMode::StepFunction;
        self
    }

    /// The library's client, whose rules are fixed for each of its groups.
    fn client(&self, handshake: Handshake) -> Client<Config> {
        let encrypted = handshake == Handshake::Private;
        let rules = DefaultMlsRules::new()
            .with_commit_options(CommitOptions::new().with_path_required(true).with_allow_external_commit(true))
            .with_encryption_options(EncryptionOptions::new(encrypted, self.padding));
        Client::builder()
            .crypto_provider(RustCryptoProvider::new())
            .identity_provider(BasicIdentityProvider::new())
            .key_package_repo(self.key_packages.clone())
            .mls_rules(rules)
            .extension_type(ExtensionType::LAST_RESORT_KEY_PACKAGE)
            .key_package_lifetime(LIFETIME)
            .signing_identity(self.signing_identity.clone(), self.signer.clone(), number(self.suite))
            .build()
    }

    fn new_key_package(&self, extensions: ExtensionList, made: Option<MlsTime>) -> Result<Vec<u8>, MlsError> {
        self.client(Handshake::default())
            .generate_key_package_message(extensions, ExtensionList::new(), made)
            .and_then(|message| message.to_bytes())
            .map_err(|why| self.outside("make a key package", why))
    }

    fn group(&self, id: &[u8]) -> Result<&Group, MlsError> {
        self.groups.get(id).ok_or_else(|| self.unknown(id))
    }

    fn unknown(&self, id: &[u8]) -> MlsError {
        MlsError::UnknownGroup { did: self.identity.clone(), group: catbird_client::persona::hex(id) }
    }

    fn outside(&self, what: &'static str, why: impl Into<Box<dyn Error + Send + Sync>>) -> MlsError {
        MlsError::Outside { did: self.identity.clone(), what, why: why.into() }
    }

    fn refused(&self, what: &'static str, epoch: u64, why: impl Into<Box<dyn Error + Send + Sync>>) -> MlsError {
        MlsError::Refused { did: self.identity.clone(), what, epoch, why: why.into() }
    }

    fn read(&self, expected: &'static str, bytes: &[u8]) -> Result<MlsMessage, MlsError> {
        MlsMessage::from_bytes(bytes).map_err(|why| MlsError::Unreadable {
            did: self.identity.clone(),
            expected,
            bytes: bytes.len(),
            why: why.to_string(),
        })
    }
}

/// The suite's number as the library's own type.
fn number(suite: Ciphersuite) -> CipherSuite {
    CipherSuite::from(u16::from(suite))
}

/// Returns the identity in a basic credential.
fn identity(of: &SigningIdentity) -> String {
    let basic = of.credential.as_basic().map(|basic| basic.identifier().to_vec()).unwrap_or_default();
    String::from_utf8_lossy(&basic).into_owned()
}

impl Mls for MlsRsClient {
    fn identity(&self) -> &str {
        &self.identity
    }

    fn suite_name(&self) -> String {
        format!("{:?}", self.suite)
    }

    fn signature_key(&self) -> &[u8] {
        &self.signing_identity.signature_key
    }

    fn key_package(&self) -> Result<Vec<u8>, MlsError> {
        self.new_key_package(ExtensionList::new(), None)
    }

    fn last_resort_key_package(&self) -> Result<Vec<u8>, MlsError> {
        let mut extensions = ExtensionList::new();
        extensions.set_from(LastResortKeyPackageExt).map_err(|why| self.outside("mark a key package", why))?;
        self.new_key_package(extensions, None)
    }

    fn expired_key_package(&self) -> Result<Vec<u8>, MlsError> {
        self.new_key_package(ExtensionList::new(), Some(MlsTime::from(1_000_000_000)))
    }

    fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, MlsError> {
        const WHAT: &str = "sign";
        let provider = RustCryptoProvider::new().cipher_suite_provider(number(self.suite));
        let provider = provider.ok_or_else(|| self.outside(WHAT, "the library does not have this suite"))?;
        provider.sign(&self.signer, bytes).map_err(|why| self.outside(WHAT, why))
    }

    fn create_group(&mut self, group_id: &[u8], handshake: Handshake) -> Result<(), MlsError> {
        self.create(group_id, handshake)
    }

    fn join(&mut self, welcome: &[u8], handshake: Handshake) -> Result<Vec<u8>, MlsError> {
        self.join_by_welcome(welcome, handshake)
    }

    fn enter(&mut self, group_info: &[u8], handshake: Handshake) -> Result<Entry, MlsError> {
        self.enter_by_commit(group_info, handshake)
    }

    fn forget(&mut self, group_id: &[u8]) -> Result<(), MlsError> {
        self.entering.remove(group_id);
        self.groups.remove(group_id).map(drop).ok_or_else(|| self.unknown(group_id))
    }

    fn epoch(&self, group_id: &[u8]) -> Result<u64, MlsError> {
        Ok(self.group(group_id)?.mls.current_epoch())
    }

    fn epoch_authenticator(&self, group_id: &[u8]) -> Result<Vec<u8>, MlsError> {
        let secret = self.group(group_id)?.mls.epoch_authenticator();
        secret.map(|secret| secret.to_vec()).map_err(|why| self.outside("read the epoch authenticator", why))
    }

    fn members(&self, group_id: &[u8]) -> Result<Vec<String>, MlsError> {
        let roster = self.group(group_id)?.mls.roster();
        Ok(roster.members_iter().map(|member| identity(&member.signing_identity)).collect())
    }

    fn group_info(&self, group_id: &[u8]) -> Result<Vec<u8>, MlsError> {
        self.exported(&self.group(group_id)?.mls)
    }

    fn change(&mut self, group_id: &[u8], key_packages: &[Vec<u8>], dids: &[&str]) -> Result<Staged, MlsError> {
        self.make_commit(group_id, key_packages, dids)
    }

    fn propose(&mut self, group_id: &[u8], proposal: &Proposal) -> Result<Vec<u8>, MlsError> {
        self.make_proposal(group_id, proposal)
    }

    fn commit_is_due(&self, group_id: &[u8]) -> Result<bool, MlsError> {
        Ok(self.group(group_id)?.mls.commit_required())
    }

    fn merge_pending(&mut self, group_id: &[u8]) -> Result<u64, MlsError> {
        self.merge(group_id)
    }

    fn discard_pending(&mut self, group_id: &[u8]) -> Result<(), MlsError> {
        if self.entering.remove(group_id).is_some() {
            return Ok(());
        }
        match self.groups.get_mut(group_id) {
            Some(group) => {
                group.mls.clear_pending_commit();
                group.pending = None;
                Ok(())
            }
            None => Err(self.unknown(group_id)),
        }
    }

    fn encrypt(&mut self, group_id: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, MlsError> {
        let epoch = self.epoch(group_id)?;
        let made = self.groups.get_mut(group_id).map(|group| {
            group.mls.encrypt_application_message(plaintext, Vec::new()).and_then(|message| message.to_bytes())
        });
        made.unwrap_or_else(|| unreachable!("the epoch is known"))
            .map_err(|why| self.refused("encrypt a message", epoch, why))
    }

    fn process(&mut self, group_id: &[u8], message: &[u8]) -> Result<Processed, MlsError> {
        self.take(group_id, message)
    }

    fn apply(&mut self, group_id: &[u8], entry: &[u8]) -> Result<Processed, MlsError> {
        let is_own = |group: &Group| group.pending.as_deref() == Some(entry);
        if self.entering.get(group_id).is_some_and(is_own) || is_own(self.group(group_id)?) {
            return Ok(Processed::Commit { epoch: self.merge(group_id)?, removed_me: false });
        }
        if self.group(group_id)?.proposed.iter().any(|own| own == entry) {
            return Ok(Processed::OwnMessage);
        }
        self.take(group_id, entry)
    }
}
