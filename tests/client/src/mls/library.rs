//! Interface of an MLS library, and the proposals that it makes.

use openmls::prelude::{BasicCredential, MlsMessageBodyIn, MlsMessageIn, tls_codec::Deserialize};

use super::{Handshake, MlsClient, MlsError, Processed, Staged};

/// Content of a standalone proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proposal {
    /// Addition of the owner of a key package.
    Add(Vec<u8>),
    /// Removal of another leaf, by its identity.
    Remove(String),
    /// Removal of the proposer, by an ordinary Remove proposal.
    Leave,
    /// Removal of the proposer, by the SelfRemove proposal of the MLS extensions. It is always a PublicMessage.
    SelfRemove,
    /// New keys for the proposer's leaf.
    Update,
}

/// One identity (a DID, or `did#device`) with its signature key, its key packages and its groups, in any MLS library.
pub trait Mls: Send + Sync {
    /// Identity in the credential.
    fn identity(&self) -> &str;

    /// Name of the suite in the lexicon's spelling.
    fn suite_name(&self) -> String;

    /// Public signature key.
    fn signature_key(&self) -> &[u8];

    /// Creates a one-time key package as a serialised MLSMessage.
    fn key_package(&self) -> Result<Vec<u8>, MlsError>;

    /// Creates a key package with the last_resort extension.
    fn last_resort_key_package(&self) -> Result<Vec<u8>, MlsError>;

    /// Creates a valid key package that expired in 2001.
    fn expired_key_package(&self) -> Result<Vec<u8>, MlsError>;

    /// Signs any bytes with the signature key, for tests that forge messages.
    fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, MlsError>;

    /// Creates a group at epoch 0 with this client as its only member.
    fn create_group(&mut self, group_id: &[u8], handshake: Handshake) -> Result<(), MlsError>;

    /// Joins with a Welcome and returns the group id. State of an earlier membership in the group is replaced.
    fn join(&mut self, welcome: &[u8], handshake: Handshake) -> Result<Vec<u8>, MlsError>;

    /// Makes an external commit into the group of this GroupInfo. It removes the leaf that this client had before. State
    /// of the group is replaced once the commit is merged.
    fn enter(&mut self, group_info: &[u8], handshake: Handshake) -> Result<Entry, MlsError>;

    /// Drops all state of the group.
    fn forget(&mut self, group_id: &[u8]) -> Result<(), MlsError>;

    /// Returns the client's epoch.
    fn epoch(&self, group_id: &[u8]) -> Result<u64, MlsError>;

    /// Returns a secret that two clients share exactly if they agree on the group's whole history (RFC 9420, section
    /// 8.7).
    fn epoch_authenticator(&self, group_id: &[u8]) -> Result<Vec<u8>, MlsError>;

    /// Returns the identities in the ratchet tree, in leaf order.
    fn members(&self, group_id: &[u8]) -> Result<Vec<String>, MlsError>;

    /// Returns a GroupInfo of the present epoch with the ratchet tree and the key for external commits.
    fn group_info(&self, group_id: &[u8]) -> Result<Vec<u8>, MlsError>;

    /// Makes a commit that adds the owners of key packages, removes every leaf of identities or DIDs, and includes the
    /// proposals of this epoch. It has an update path, so that it rotates the committer's keys. It stays pending.
    fn change(&mut self, group_id: &[u8], key_packages: &[Vec<u8>], dids: &[&str]) -> Result<Staged, MlsError>;

    /// Creates a standalone proposal. It stays with this client until the epoch ends.
    fn propose(&mut self, group_id: &[u8], proposal: &Proposal) -> Result<Vec<u8>, MlsError>;

    /// Returns true if there are proposals of this epoch, which a commit has to precede application messages for.
    fn commit_is_due(&self, group_id: &[u8]) -> Result<bool, MlsError>;

    /// Merges the pending commit, which won, and returns the new epoch. Does nothing if none is pending.
    fn merge_pending(&mut self, group_id: &[u8]) -> Result<u64, MlsError>;

    /// Discards the pending commit, which lost; the client can then make another.
    fn discard_pending(&mut self, group_id: &[u8]) -> Result<(), MlsError>;

    /// Encrypts an application message for the present epoch.
    fn encrypt(&mut self, group_id: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, MlsError>;

    /// Processes one message of another member. A commit is merged at once, and ends a pending commit of this client.
    fn process(&mut self, group_id: &[u8], message: &[u8]) -> Result<Processed, MlsError>;

    /// Processes one entry of the log from any sender: this client's own pending commit is merged, all others are
    /// processed.
    fn apply(&mut self, group_id: &[u8], entry: &[u8]) -> Result<Processed, MlsError>;

    /// Makes a commit that adds the owners of these key packages.
    fn add(&mut self, group_id: &[u8], key_packages: &[Vec<u8>]) -> Result<Staged, MlsError> {
        self.change(group_id, key_packages, &[])
    }

    /// Makes a commit that removes every leaf of these DIDs.
    fn remove(&mut self, group_id: &[u8], dids: &[&str]) -> Result<Staged, MlsError> {
        self.change(group_id, &[], dids)
    }

    /// Makes a commit that rotates this client's keys.
    fn self_update(&mut self, group_id: &[u8]) -> Result<Staged, MlsError> {
        self.change(group_id, &[], &[])
    }

    /// Creates a proposal to remove oneself.
    fn propose_leave(&mut self, group_id: &[u8]) -> Result<Vec<u8>, MlsError> {
        self.propose(group_id, &Proposal::Leave)
    }

    /// Creates a proposal to add the owner of a key package.
    fn propose_add(&mut self, group_id: &[u8], key_package: &[u8]) -> Result<Vec<u8>, MlsError> {
        self.propose(group_id, &Proposal::Add(key_package.to_vec()))
    }
}

/// An external commit, with the group that it leads into.
#[derive(Debug, Clone)]
pub struct Entry {
    pub group_id: Vec<u8>,
    pub staged: Staged,
}

/// Returns the identity in a serialised key package, if it is one.
pub fn owner(key_package: &[u8]) -> Option<String> {
    let MlsMessageBodyIn::KeyPackage(package) = MlsMessageIn::tls_deserialize_exact(key_package).ok()?.extract() else {
        return None;
    };
    let credential = package.unverified_credential().credential;
    String::from_utf8(BasicCredential::try_from(credential).ok()?.identity().to_vec()).ok()
}

/// Returns the DID of an identity, which may name a device.
pub fn person(identity: &str) -> &str {
    identity.split_once('#').map_or(identity, |(did, _)| did)
}

/// Returns true if an identity is the named one, or a device of the named DID.
pub fn is_of(identity: &str, named: &str) -> bool {
    identity == named || person(identity) == named
}

impl Mls for MlsClient {
    fn identity(&self) -> &str {
        self.did()
    }

    fn suite_name(&self) -> String {
        MlsClient::suite_name(self)
    }

    fn signature_key(&self) -> &[u8] {
        MlsClient::signature_key(self)
    }

    fn key_package(&self) -> Result<Vec<u8>, MlsError> {
        MlsClient::key_package(self)
    }

    fn last_resort_key_package(&self) -> Result<Vec<u8>, MlsError> {
        MlsClient::last_resort_key_package(self)
    }

    fn expired_key_package(&self) -> Result<Vec<u8>, MlsError> {
        MlsClient::expired_key_package(self)
    }

    fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, MlsError> {
        MlsClient::sign(self, bytes)
    }

    fn create_group(&mut self, group_id: &[u8], handshake: Handshake) -> Result<(), MlsError> {
        MlsClient::create_group(self, group_id, handshake)
    }

    fn join(&mut self, welcome: &[u8], handshake: Handshake) -> Result<Vec<u8>, MlsError> {
        MlsClient::join(self, welcome, handshake)
    }

    fn enter(&mut self, group_info: &[u8], handshake: Handshake) -> Result<Entry, MlsError> {
        MlsClient::enter(self, group_info, handshake)
    }

    fn forget(&mut self, group_id: &[u8]) -> Result<(), MlsError> {
        MlsClient::forget(self, group_id)
    }

    fn epoch(&self, group_id: &[u8]) -> Result<u64, MlsError> {
        MlsClient::epoch(self, group_id)
    }

    fn epoch_authenticator(&self, group_id: &[u8]) -> Result<Vec<u8>, MlsError> {
        MlsClient::epoch_authenticator(self, group_id)
    }

    fn members(&self, group_id: &[u8]) -> Result<Vec<String>, MlsError> {
        MlsClient::members(self, group_id)
    }

    fn group_info(&self, group_id: &[u8]) -> Result<Vec<u8>, MlsError> {
        MlsClient::group_info(self, group_id)
    }

    fn change(&mut self, group_id: &[u8], key_packages: &[Vec<u8>], dids: &[&str]) -> Result<Staged, MlsError> {
        MlsClient::change(self, group_id, key_packages, dids)
    }

    fn propose(&mut self, group_id: &[u8], proposal: &Proposal) -> Result<Vec<u8>, MlsError> {
        MlsClient::propose(self, group_id, proposal)
    }

    fn commit_is_due(&self, group_id: &[u8]) -> Result<bool, MlsError> {
        MlsClient::commit_is_due(self, group_id)
    }

    fn merge_pending(&mut self, group_id: &[u8]) -> Result<u64, MlsError> {
        MlsClient::merge_pending(self, group_id)
    }

    fn discard_pending(&mut self, group_id: &[u8]) -> Result<(), MlsError> {
        MlsClient::discard_pending(self, group_id)
    }

    fn encrypt(&mut self, group_id: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, MlsError> {
        MlsClient::encrypt(self, group_id, plaintext)
    }

    fn process(&mut self, group_id: &[u8], message: &[u8]) -> Result<Processed, MlsError> {
        MlsClient::process(self, group_id, message)
    }

    fn apply(&mut self, group_id: &[u8], entry: &[u8]) -> Result<Processed, MlsError> {
        MlsClient::apply(self, group_id, entry)
    }
}
