//! Signatures of a real library's public messages, in all suites that it has.

use catbird_client::mls::{Handshake, MlsClient, Proposal as Proposed};
use openmls::prelude::Ciphersuite;

use super::super::{Commit, GroupInfo, Proposal};
use super::*;
use crate::config::MlsValidation;

const GROUP: &[u8] = b"group";
const SUITES: [Ciphersuite; 5] = [
    Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519,
    Ciphersuite::MLS_128_DHKEMP256_AES128GCM_SHA256_P256,
    Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519,
    Ciphersuite::MLS_256_DHKEMP384_AES256GCM_SHA384_P384,
    Ciphersuite::MLS_256_XWING_CHACHA20POLY1305_SHA256_Ed25519,
];

fn state(member: &MlsClient) -> EpochState {
    state_of(&member.group_info(GROUP).unwrap())
}

fn state_of(info: &[u8]) -> EpochState {
    let frame = GroupInfo::parser(MlsValidation::Strict)(info.to_vec()).unwrap().frame;
    GroupInfo::state(info, &frame).unwrap()
}

fn commit(bytes: &[u8]) -> Signed {
    Commit::parse(bytes.to_vec()).unwrap().signed().unwrap()
}

#[test]
fn a_message_is_signed_by_its_sender_in_the_context_of_its_epoch() {
    for suite in SUITES {
        let client = |name: &str| MlsClient::with_suite(format!("did:plc:{name}"), suite).unwrap();
        let (mut alice, mut bob, mut carol) = (client("alice"), client("bob"), client("carol"));
        alice.create_group(GROUP, Handshake::Public).unwrap();
        let first = state(&alice);
        let addition = alice.add(GROUP, &[bob.key_package().unwrap()]).unwrap();
        alice.merge_pending(GROUP).unwrap();
        bob.join(&addition.welcome, Handshake::Public).unwrap();
        let second = state(&alice);
        let update = bob.self_update(GROUP).unwrap();
        let entry = carol.enter(&alice.group_info(GROUP).unwrap(), Handshake::Public).unwrap();
        let proposal = alice.propose(GROUP, &Proposed::Update).unwrap();
        let proposal = Proposal::parse(proposal).unwrap().signed().unwrap();
        assert!(commit(&addition.commit).verify(&first).is_ok());
        assert!(commit(&addition.commit).verify(&second).is_err(), "of another epoch");
        for signed in [commit(&update.commit), commit(&entry.staged.commit), proposal] {
            signed.verify(&second).unwrap();
            assert!(signed.verify(&first).is_err(), "of another epoch");
            let mut other = signed.clone();
            *other.content.last_mut().unwrap() ^= 1;
            assert!(other.verify(&second).is_err(), "other content");
            let mut other = signed.clone();
            other.signature.bytes[10] ^= 1;
            assert!(other.verify(&second).is_err(), "another signature");
            let mut other = signed.clone();
            other.signature.signer = Signer::Leaf(7);
            assert!(other.verify(&second).is_err(), "a leaf that the group does not have");
        }
        let mut of_alice = commit(&update.commit);
        of_alice.signature.signer = Signer::Leaf(0);
        assert_eq!(of_alice.verify(&second).unwrap_err().code, Code::InvalidCommit, "of another member");
    }
}

#[test]
fn an_encrypted_message_shows_no_signature() {
    let mut alice = MlsClient::new("did:plc:alice");
    alice.create_group(GROUP, Handshake::Private).unwrap();
    let update = alice.self_update(GROUP).unwrap();
    assert!(Commit::parse(update.commit).unwrap().signed().is_none());
}
