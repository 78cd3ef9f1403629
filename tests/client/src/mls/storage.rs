//! Storage of openmls: only the secrets that it reads back, in memory.
//!
//! openmls stores a group's whole state after every step, so that it survives a restart. These clients do not restart:
//! their groups are values. Serialising that state took four fifths of the time of a commit in a group of 64, so it is
//! dropped. A group cannot be loaded again, and [`super::MlsClient`] never tries.

use super::crypto::Crypto;
use openmls_rust_crypto::{MemoryStorage, MemoryStorageError, RustCrypto};
use openmls_traits::OpenMlsProvider;
use openmls_traits::storage::{CURRENT_VERSION, StorageProvider, traits};

/// Cryptography of openmls' own provider, with the smaller storage.
#[derive(Default)]
pub struct Provider {
    crypto: Crypto,
    storage: Storage,
}

impl OpenMlsProvider for Provider {
    type CryptoProvider = Crypto;
    type RandProvider = RustCrypto;
    type StorageProvider = Storage;

    fn storage(&self) -> &Storage {
        &self.storage
    }

    fn crypto(&self) -> &Crypto {
        &self.crypto
    }

    fn rand(&self) -> &RustCrypto {
        &self.crypto.0
    }
}

/// Private keys outside group values: those of key packages, path nodes and proposed leaves.
#[derive(Default)]
pub struct Storage {
    kept: MemoryStorage,
}

/// Methods that pass their arguments to the memory storage.
macro_rules! kept {
    ($($name:ident [$($bound:ident),+] ($($argument:ident: $type:ty),+) -> $answer:ty;)+) => {$(
        fn $name<$($bound: traits::$bound<CURRENT_VERSION>),+>(
            &self, $($argument: $type),+
        ) -> Result<$answer, Self::Error> {
            self.kept.$name($($argument),+)
        }
    )+};
}

/// Methods that do nothing and answer like an empty storage.
macro_rules! dropped {
    ($($name:ident [$($bound:ident),+] ($($type:ty),+) -> $answer:ty;)+) => {$(
        fn $name<$($bound: traits::$bound<CURRENT_VERSION>),+>(&self, $(_: $type),+) -> Result<$answer, Self::Error> {
            Ok(Default::default())
        }
    )+};
}

impl StorageProvider<CURRENT_VERSION> for Storage {
    type Error = MemoryStorageError;

    kept! {
        write_signature_key_pair[SignaturePublicKey, SignatureKeyPair](key: &SignaturePublicKey, pair: &SignatureKeyPair) -> ();
        signature_key_pair[SignaturePublicKey, SignatureKeyPair](key: &SignaturePublicKey) -> Option<SignatureKeyPair>;
        delete_signature_key_pair[SignaturePublicKey](key: &SignaturePublicKey) -> ();

        write_encryption_key_pair[EncryptionKey, HpkeKeyPair](key: &EncryptionKey, pair: &HpkeKeyPair) -> ();
        encryption_key_pair[HpkeKeyPair, EncryptionKey](key: &EncryptionKey) -> Option<HpkeKeyPair>;
        delete_encryption_key_pair[EncryptionKey](key: &EncryptionKey) -> ();

        write_encryption_epoch_key_pairs[GroupId, EpochKey, HpkeKeyPair](
            group: &GroupId, epoch: &EpochKey, leaf: u32, pairs: &[HpkeKeyPair]) -> ();
        encryption_epoch_key_pairs[GroupId, EpochKey, HpkeKeyPair](
            group: &GroupId, epoch: &EpochKey, leaf: u32) -> Vec<HpkeKeyPair>;
        delete_encryption_epoch_key_pairs[GroupId, EpochKey](group: &GroupId, epoch: &EpochKey, leaf: u32) -> ();

        write_key_package[HashReference, KeyPackage](reference: &HashReference, package: &KeyPackage) -> ();
        key_package[HashReference, KeyPackage](reference: &HashReference) -> Option<KeyPackage>;
        delete_key_package[HashReference](reference: &HashReference) -> ();

        write_psk[PskId, PskBundle](id: &PskId, bundle: &PskBundle) -> ();
        psk[PskBundle, PskId](id: &PskId) -> Option<PskBundle>;
        delete_psk[PskId](id: &PskId) -> ();
    }

    dropped! {
        write_mls_join_config[GroupId, MlsGroupJoinConfig](&GroupId, &MlsGroupJoinConfig) -> ();
        mls_group_join_config[GroupId, MlsGroupJoinConfig](&GroupId) -> Option<MlsGroupJoinConfig>;
        delete_group_config[GroupId](&GroupId) -> ();

        append_own_leaf_node[GroupId, LeafNode](&GroupId, &LeafNode) -> ();
        own_leaf_nodes[GroupId, LeafNode](&GroupId) -> Vec<LeafNode>;
        delete_own_leaf_nodes[GroupId](&GroupId) -> ();

        queue_proposal[GroupId, ProposalRef, QueuedProposal](&GroupId, &ProposalRef, &QueuedProposal) -> ();
        queued_proposal_refs[GroupId, ProposalRef](&GroupId) -> Vec<ProposalRef>;
        queued_proposals[GroupId, ProposalRef, QueuedProposal](&GroupId) -> Vec<(ProposalRef, QueuedProposal)>;
        remove_proposal[GroupId, ProposalRef](&GroupId, &ProposalRef) -> ();
        clear_proposal_queue[GroupId, ProposalRef](&GroupId) -> ();

        write_tree[GroupId, TreeSync](&GroupId, &TreeSync) -> ();
        tree[GroupId, TreeSync](&GroupId) -> Option<TreeSync>;
        delete_tree[GroupId](&GroupId) -> ();

        write_interim_transcript_hash[GroupId, InterimTranscriptHash](&GroupId, &InterimTranscriptHash) -> ();
        interim_transcript_hash[GroupId, InterimTranscriptHash](&GroupId) -> Option<InterimTranscriptHash>;
        delete_interim_transcript_hash[GroupId](&GroupId) -> ();

        write_context[GroupId, GroupContext](&GroupId, &GroupContext) -> ();
        group_context[GroupId, GroupContext](&GroupId) -> Option<GroupContext>;
        delete_context[GroupId](&GroupId) -> ();

        write_confirmation_tag[GroupId, ConfirmationTag](&GroupId, &ConfirmationTag) -> ();
        confirmation_tag[GroupId, ConfirmationTag](&GroupId) -> Option<ConfirmationTag>;
        delete_confirmation_tag[GroupId](&GroupId) -> ();

        write_group_state[GroupState, GroupId](&GroupId, &GroupState) -> ();
        group_state[GroupState, GroupId](&GroupId) -> Option<GroupState>;
        delete_group_state[GroupId](&GroupId) -> ();

        write_message_secrets[GroupId, MessageSecrets](&GroupId, &MessageSecrets) -> ();
        message_secrets[GroupId, MessageSecrets](&GroupId) -> Option<MessageSecrets>;
        delete_message_secrets[GroupId](&GroupId) -> ();

        write_resumption_psk_store[GroupId, ResumptionPskStore](&GroupId, &ResumptionPskStore) -> ();
        resumption_psk_store[GroupId, ResumptionPskStore](&GroupId) -> Option<ResumptionPskStore>;
        delete_all_resumption_psk_secrets[GroupId](&GroupId) -> ();

        write_own_leaf_index[GroupId, LeafNodeIndex](&GroupId, &LeafNodeIndex) -> ();
        own_leaf_index[GroupId, LeafNodeIndex](&GroupId) -> Option<LeafNodeIndex>;
        delete_own_leaf_index[GroupId](&GroupId) -> ();

        write_group_epoch_secrets[GroupId, GroupEpochSecrets](&GroupId, &GroupEpochSecrets) -> ();
        group_epoch_secrets[GroupId, GroupEpochSecrets](&GroupId) -> Option<GroupEpochSecrets>;
        delete_group_epoch_secrets[GroupId](&GroupId) -> ();
    }
}
