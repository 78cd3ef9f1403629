//! Decoders accept any input without failing: base64 in every spelling, ids, hashes, query strings, and the MLS parsers
//! on arbitrary bytes and on damaged messages.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use catbird_client::mls::{Handshake, MlsClient, Proposal};
use catbird_client::random_did;
use catbird_server::bytes::{LexBytes, from_base64, to_base64};
use catbird_server::clock::Clock;
use catbird_server::config::MlsValidation;
use catbird_server::error::Code;
use catbird_server::ids::{ConvoId, Did, EntryId, MAX_DID_BYTES, MAX_ID_BYTES};
use catbird_server::mls::{self, Commit, MAX_POSITION, Suite, Welcome};
use catbird_server::xrpc::decode;
use proptest::prelude::*;
use proptest::sample::Index;
use serde::Deserialize;
use serde_json::json;

/// Real messages of every kind, and the owner of the key package.
struct Real {
    owner: Did,
    commits: [Vec<u8>; 2],
    welcome: Vec<u8>,
    key_package: Vec<u8>,
    application: Vec<u8>,
    proposal: Vec<u8>,
}

static REAL: LazyLock<Real> = LazyLock::new(|| {
    let joiner = MlsClient::new(random_did());
    let key_package = joiner.key_package().unwrap();
    let make = |handshake| {
        let mut client = MlsClient::new(random_did());
        client.create_group(b"group", handshake).unwrap();
        let application = client.encrypt(b"group", b"hello").unwrap();
        let proposal = client.propose(b"group", &Proposal::Leave).unwrap();
        (client.add(b"group", std::slice::from_ref(&key_package)).unwrap(), application, proposal)
    };
    let ((public, _, _), (private, application, proposal)) = (make(Handshake::Public), make(Handshake::Private));
    Real {
        owner: joiner.did().parse().unwrap(),
        commits: [public.commit, private.commit],
        welcome: private.welcome,
        key_package,
        application,
        proposal,
    }
});

fn suite() -> Suite {
    Suite::named(mls::DEFAULT_SUITE).unwrap()
}

impl Real {
    fn all(&self) -> [&Vec<u8>; 6] {
        [&self.commits[0], &self.commits[1], &self.welcome, &self.key_package, &self.application, &self.proposal]
    }
}

/// Kind of damage to a message.
#[derive(Debug, Clone)]
enum Damage {
    Flip(Index, u8),
    Cut(Index),
    Insert(Index, Vec<u8>),
    Remove(Index, u8),
    /// Replaces the rest by that of another message.
    Splice(Index, Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        4 => (any::<Index>(), 1u8..).prop_map(|(at, mask)| Damage::Flip(at, mask)),
        1 => any::<Index>().prop_map(Damage::Cut),
        1 => (any::<Index>(), prop::collection::vec(any::<u8>(), 1..20)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        1 => (any::<Index>(), 1u8..).prop_map(|(at, n)| Damage::Remove(at, n)),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(at, other)| Damage::Splice(at, other)),
    ]
}

/// Arbitrary bytes, or a real message with up to five defects.
fn hostile_bytes() -> impl Strategy<Value = Vec<u8>> {
    let damaged = (any::<Index>(), prop::collection::vec(damage(), 1..6)).prop_map(|(which, damages)| {
        let real = REAL.all();
        let mut bytes = which.get(&real).to_vec();
        for damage in damages {
            if bytes.is_empty() {
                break;
            }
            let length = bytes.len();
            match damage {
                Damage::Flip(at, mask) => bytes[at.index(length)] ^= mask,
                Damage::Cut(at) => bytes.truncate(at.index(length)),
                Damage::Insert(at, more) => _ = bytes.splice(at.index(length)..at.index(length), more),
                Damage::Remove(at, n) => {
                    let start = at.index(length);
                    bytes.drain(start..length.min(start + usize::from(n)));
                }
                Damage::Splice(at, other) => {
                    let other = other.get(&real);
                    bytes.truncate(at.index(length));
                    bytes.extend_from_slice(&other[other.len().min(bytes.len())..]);
                }
            }
        }
        bytes
    });
    prop_oneof![1 => prop::collection::vec(any::<u8>(), 0..300), 4 => damaged]
}

/// A body or query with the fields that methods have.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "only that it can be decoded counts")]
struct Input {
    convo_id: ConvoId,
    #[serde(default)]
    dids: Vec<Did>,
    limit: Option<i64>,
    peek: Option<bool>,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes_survive_every_spelling_of_base64(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for engine in [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD] {
            let text = engine.encode(&bytes);
            prop_assert_eq!(&from_base64(&text).unwrap(), &bytes);
            for value in [json!(text), json!({ "$bytes": text })] {
                prop_assert_eq!(&serde_json::from_value::<LexBytes>(value).unwrap().0, &bytes);
            }
        }
        prop_assert_eq!(&from_base64(&to_base64(&bytes)).unwrap(), &bytes);
        let written = serde_json::to_value(LexBytes(bytes.clone())).unwrap();
        prop_assert_eq!(&written, &json!({ "$bytes": STANDARD_NO_PAD.encode(&bytes) }));
        prop_assert_eq!(serde_json::from_value::<LexBytes>(written).unwrap().0, bytes);
    }

    #[test]
    fn no_two_texts_of_one_alphabet_without_padding_mean_the_same_bytes(text in "[A-Za-z0-9+/]{0,12}") {
        if let Ok(bytes) = from_base64(&text) {
            prop_assert_eq!(STANDARD_NO_PAD.encode(bytes), text);
        }
    }

    #[test]
    fn base64_refuses_or_decodes_any_text(text in any::<String>()) {
        let decoded = from_base64(&text);
        if text.bytes().any(|byte| !byte.is_ascii_alphanumeric() && !b"+/-_=".contains(&byte)) {
            prop_assert!(decoded.is_err());
        }
    }

    #[test]
    fn query_strings_and_bodies_are_decoded_or_refused_as_invalid(text in any::<String>(), bytes in any::<Vec<u8>>()) {
        for result in [decode::query::<Input>(&text), decode::body::<Input>(text.as_bytes()), decode::body::<Input>(&bytes)] {
            if let Err(error) = result {
                prop_assert_eq!(error.code, Code::InvalidRequest);
            }
        }
    }

    #[test]
    fn repeated_parameters_arrive_in_order(dids in prop::collection::vec("did:plc:[a-z2-7]{24}", 0..20), limit in any::<i64>()) {
        let mut query = format!("convoId=x&limit={limit}");
        for did in &dids {
            query.push_str(&format!("&dids={did}"));
        }
        let input = decode::query::<Input>(&query).unwrap();
        prop_assert_eq!(input.dids.iter().map(|did| did.as_str().to_owned()).collect::<Vec<_>>(), dids);
        prop_assert_eq!(input.limit, Some(limit));
    }

    #[test]
    fn ids_are_what_their_alphabet_allows(text in prop_oneof![any::<String>(), "[A-Za-z0-9_-]{0,70}", "did:[a-z]{0,4}:[ -~]{0,20}"]) {
        let fits = (1..=MAX_ID_BYTES).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        prop_assert_eq!(text.parse::<ConvoId>().is_ok(), fits);
        prop_assert_eq!(text.parse::<EntryId>().is_ok(), fits);
        if let Ok(did) = text.parse::<Did>() {
            prop_assert!(text.starts_with("did:") && text.len() <= MAX_DID_BYTES && text.is_ascii());
            prop_assert!(!text.contains(['#', '?', '/', ' ', '\'', '"', '\0']));
            prop_assert_eq!(did.to_string(), text);
        }
    }

    #[test]
    fn hashes_survive_hex_in_either_case_and_nothing_else_is_one(hash in any::<[u8; 32]>(), text in any::<String>()) {
        let hex = catbird_server::hex::encode(&hash);
        prop_assert_eq!(catbird_server::hex::decode_hash(&hex), Some(hash));
        prop_assert_eq!(catbird_server::hex::decode_hash(&hex.to_uppercase()), Some(hash));
        prop_assert_eq!(catbird_server::hex::decode_hash(&hex[1..]), None);
        if text.len() != 64 {
            prop_assert_eq!(catbird_server::hex::decode_hash(&text), None);
        }
    }

    #[test]
    fn commits_are_parsed_or_refused(bytes in hostile_bytes()) {
        match Commit::parse(bytes.clone()) {
            Ok(commit) => {
                prop_assert!((0..=MAX_POSITION).contains(&commit.frame.epoch));
                prop_assert_eq!(commit.bytes, bytes);
            }
            Err(error) => prop_assert_eq!(error.code, Code::InvalidCommit),
        }
    }

    #[test]
    fn welcomes_are_parsed_or_refused(bytes in hostile_bytes()) {
        match Welcome::parse(bytes.clone()) {
            Ok(welcome) => prop_assert_eq!(welcome.bytes, bytes),
            Err(error) => prop_assert_eq!(error.code, Code::InvalidWelcome),
        }
    }

    #[test]
    fn ciphertexts_are_looked_into_or_refused(bytes in hostile_bytes(), epoch in 0i64..3) {
        match mls::check_application(&bytes, epoch) {
            Ok(Some(frame)) => prop_assert_eq!(frame.epoch, epoch),
            Ok(None) => prop_assert!(Commit::parse(bytes).is_err(), "a commit is not opaque"),
            Err(error) => prop_assert_eq!(error.code, Code::InvalidMessage),
        }
    }

    #[test]
    fn damaged_key_packages_never_pass(bytes in hostile_bytes()) {
        for mode in [MlsValidation::Strict, MlsValidation::Framing] {
            match mls::check_key_package(&bytes, &REAL.owner, suite(), mode, Clock::system().now()) {
                // Without the MLSMessage around it, it is still complete.
                Ok(_) => prop_assert!(mode == MlsValidation::Framing || bytes == REAL.key_package || bytes == REAL.key_package[4..]),
                Err(error) => prop_assert!([Code::InvalidKeyPackage, Code::InvalidCipherSuite, Code::ExpirationTooFar].contains(&error.code)),
            }
        }
    }
}

#[test]
fn real_messages_pass_where_they_belong() {
    let Real { owner, commits, welcome, key_package, application, proposal } = &*REAL;
    for commit in commits {
        let parsed = Commit::parse(commit.clone()).unwrap();
        assert_eq!(parsed.frame.epoch, 0);
        assert!(parsed.frame.belongs_to(&catbird_server::hex::encode(b"group")) && !parsed.frame.belongs_to("group"));
        assert!(!parsed.frame.belongs_to("groupie") && !parsed.frame.belongs_to(""));
    }
    Welcome::parse(welcome.clone()).unwrap();
    // Also without the MLSMessage around it, which adds version and wire format.
    Welcome::parse(welcome[4..].to_vec()).unwrap();
    for bytes in [&key_package[..], &key_package[4..]] {
        mls::check_key_package(bytes, owner, suite(), MlsValidation::Strict, Clock::system().now()).unwrap();
    }
    let p256 = Suite::named("MLS_128_DHKEMP256_AES128GCM_SHA256_P256").unwrap();
    let other =
        mls::check_key_package(key_package, owner, p256, MlsValidation::Strict, Clock::system().now()).unwrap_err();
    assert_eq!(other.code, Code::InvalidCipherSuite);
    assert!(mls::check_application(application, 0).unwrap().is_some());
    assert_eq!(mls::check_application(application, 1).unwrap_err().code, Code::InvalidMessage);
    assert_eq!(mls::check_application(proposal, 0).unwrap_err().code, Code::InvalidMessage);
}
