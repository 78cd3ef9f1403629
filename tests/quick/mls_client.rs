//! The test client without a server: it follows MLS and reads and writes the wire formats, before it is used to test a
//! server.

use catbird_client::mls::{Handshake, MlsClient, MlsError, Processed, Proposal};
use catbird_client::persona::Persona;
use catbird_client::random_did;
use catbird_client::xrpc::{Event, Xrpc, base64_text, bytes_value, decode_bytes, nsid};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use openmls::prelude::{MlsMessageBodyIn, MlsMessageIn, OpenMlsProvider, ProtocolVersion, tls_codec::Deserialize};
use openmls_rust_crypto::OpenMlsRustCrypto;
use serde_json::{Value, json};

const GROUP: &[u8] = b"group";

/// A client with a random DID.
fn client() -> MlsClient {
    MlsClient::new(random_did())
}

/// Three members of one group at epoch 1; the first one created it.
fn three(handshake: Handshake) -> [MlsClient; 3] {
    let [mut alice, mut bob, mut carol] = [client(), client(), client()];
    alice.create_group(GROUP, handshake).unwrap();
    let packages = [bob.key_package().unwrap(), carol.key_package().unwrap()];
    let staged = alice.add(GROUP, &packages).unwrap();
    assert_eq!(staged.made_in, 0);
    assert_eq!(alice.merge_pending(GROUP).unwrap(), 1);
    for joiner in [&mut bob, &mut carol] {
        assert_eq!(joiner.join(&staged.welcome, handshake).unwrap(), GROUP);
    }
    [alice, bob, carol]
}

#[track_caller]
fn assert_agreed(clients: &[&MlsClient], epoch: u64) {
    let authenticator = clients[0].epoch_authenticator(GROUP).unwrap();
    for client in clients {
        assert_eq!(client.epoch(GROUP).unwrap(), epoch, "{}", client.did());
        assert_eq!(client.epoch_authenticator(GROUP).unwrap(), authenticator, "{}", client.did());
        assert_eq!(client.members(GROUP).unwrap(), clients[0].members(GROUP).unwrap(), "{}", client.did());
    }
}

fn said(sender: &MlsClient, text: &[u8]) -> Processed {
    Processed::Application { sender: sender.did().to_owned(), plaintext: text.to_vec() }
}

#[test]
fn three_clients_read_each_others_messages() {
    for handshake in [Handshake::Public, Handshake::Private] {
        let mut members = three(handshake);
        assert_agreed(&members.each_ref(), 1);
        for sender in 0..3 {
            let text = format!("hello from {sender}").into_bytes();
            let message = members[sender].encrypt(GROUP, &text).unwrap();
            let expected = said(&members[sender], &text);
            for (reader, member) in members.iter_mut().enumerate() {
                let got = member.process(GROUP, &message).unwrap();
                assert_eq!(got, if reader == sender { Processed::OwnMessage } else { expected.clone() });
            }
        }
    }
}

#[test]
fn a_losing_commit_is_discarded_and_made_again_in_the_next_epoch() {
    for handshake in [Handshake::Public, Handshake::Private] {
        let [mut alice, mut bob, mut carol] = three(handshake);
        let dave = client();
        let winner = alice.self_update(GROUP).unwrap();
        let loser = bob.add(GROUP, &[dave.key_package().unwrap()]).unwrap();
        assert_eq!((winner.made_in, loser.made_in), (1, 1));
        assert!(matches!(bob.self_update(GROUP), Err(MlsError::Refused { .. })), "its first commit is undecided");

        bob.discard_pending(GROUP).unwrap();
        let merged = Processed::Commit { epoch: 2, removed_me: false };
        for client in [&mut alice, &mut bob, &mut carol] {
            assert_eq!(client.apply(GROUP, &winner.commit).unwrap(), merged);
        }
        assert!(carol.process(GROUP, &loser.commit).is_err(), "a commit of a past epoch has to be refused");

        let again = bob.self_update(GROUP).unwrap();
        assert_eq!(again.made_in, 2);
        for client in [&mut alice, &mut bob, &mut carol] {
            client.apply(GROUP, &again.commit).unwrap();
        }
        assert_agreed(&[&alice, &bob, &carol], 3);
    }
}

#[test]
fn the_winner_replaces_a_commit_that_was_never_discarded() {
    let [mut alice, mut bob, mut carol] = three(Handshake::Private);
    let winner = alice.self_update(GROUP).unwrap();
    bob.self_update(GROUP).unwrap();
    for client in [&mut alice, &mut bob, &mut carol] {
        client.apply(GROUP, &winner.commit).unwrap();
    }
    assert_agreed(&[&alice, &bob, &carol], 2);
    assert_eq!(bob.self_update(GROUP).unwrap().made_in, 2);
}

#[test]
fn a_discarded_commit_of_ones_own_is_not_taken_for_a_message() {
    let [mut alice, ..] = three(Handshake::Private);
    let staged = alice.self_update(GROUP).unwrap();
    alice.discard_pending(GROUP).unwrap();
    assert!(matches!(alice.apply(GROUP, &staged.commit), Err(MlsError::Discarded { epoch: 2, .. })));
}

#[test]
fn a_removed_member_can_be_added_again() {
    let [mut alice, mut bob, mut carol] = three(Handshake::Private);
    let removal = alice.remove(GROUP, &[carol.did()]).unwrap();
    assert!(removal.welcome.is_empty());
    alice.merge_pending(GROUP).unwrap();
    assert_eq!(bob.process(GROUP, &removal.commit).unwrap(), Processed::Commit { epoch: 2, removed_me: false });
    let seen = carol.process(GROUP, &removal.commit).unwrap();
    assert!(matches!(seen, Processed::Commit { removed_me: true, .. }), "{seen:?}");
    assert!(carol.encrypt(GROUP, b"still here").is_err());
    assert_eq!(alice.members(GROUP).unwrap(), [alice.did(), bob.did()]);

    carol.forget(GROUP).unwrap();
    assert!(matches!(carol.epoch(GROUP), Err(MlsError::UnknownGroup { .. })));
    let addition = bob.add(GROUP, &[carol.key_package().unwrap()]).unwrap();
    bob.merge_pending(GROUP).unwrap();
    alice.process(GROUP, &addition.commit).unwrap();
    carol.join(&addition.welcome, Handshake::Private).unwrap();
    assert_agreed(&[&alice, &bob, &carol], 3);
    let message = carol.encrypt(GROUP, b"back").unwrap();
    assert_eq!(alice.process(GROUP, &message).unwrap(), said(&carol, b"back"));
}

#[test]
fn a_member_that_lost_its_state_joins_over_the_old_group() {
    let [mut alice, mut bob, mut carol] = three(Handshake::Private);
    let removal = alice.remove(GROUP, &[carol.did()]).unwrap();
    alice.merge_pending(GROUP).unwrap();
    bob.process(GROUP, &removal.commit).unwrap();
    let addition = alice.add(GROUP, &[carol.key_package().unwrap()]).unwrap();
    alice.merge_pending(GROUP).unwrap();
    bob.process(GROUP, &addition.commit).unwrap();
    carol.join(&addition.welcome, Handshake::Private).unwrap();
    assert_agreed(&[&alice, &bob, &carol], 3);
}

#[test]
fn a_fork_shows_in_the_epoch_authenticator() {
    let [mut alice, mut bob, _] = three(Handshake::Private);
    alice.self_update(GROUP).unwrap();
    bob.self_update(GROUP).unwrap();
    assert_eq!(alice.merge_pending(GROUP).unwrap(), bob.merge_pending(GROUP).unwrap());
    assert_ne!(alice.epoch_authenticator(GROUP).unwrap(), bob.epoch_authenticator(GROUP).unwrap());
}

#[test]
fn a_message_overtaken_by_commits_is_still_read() {
    let [mut alice, mut bob, mut carol] = three(Handshake::Private);
    let early = alice.encrypt(GROUP, b"early").unwrap();
    for _ in 0..8 {
        let staged = bob.self_update(GROUP).unwrap();
        for client in [&mut alice, &mut bob, &mut carol] {
            client.apply(GROUP, &staged.commit).unwrap();
        }
    }
    assert_eq!(carol.process(GROUP, &early).unwrap(), said(&alice, b"early"));
}

#[test]
fn a_last_resort_key_package_is_marked_and_opens_more_than_one_welcome() {
    let mut bob = client();
    let package = bob.last_resort_key_package().unwrap();
    let marked = |bytes: &[u8]| match MlsMessageIn::tls_deserialize_exact(bytes).unwrap().extract() {
        MlsMessageBodyIn::KeyPackage(package) => {
            package.validate(OpenMlsRustCrypto::default().crypto(), ProtocolVersion::Mls10).unwrap().last_resort()
        }
        other => panic!("not a key package: {other:?}"),
    };
    assert!(marked(&package));
    assert!(!marked(&bob.key_package().unwrap()));
    for group in [b"one", b"two"] {
        let mut alice = client();
        alice.create_group(group, Handshake::Private).unwrap();
        let staged = alice.add(group, std::slice::from_ref(&package)).unwrap();
        alice.merge_pending(group).unwrap();
        bob.join(&staged.welcome, Handshake::Private).unwrap();
        assert_eq!(bob.epoch_authenticator(group).unwrap(), alice.epoch_authenticator(group).unwrap());
    }
}

#[test]
fn a_one_time_key_package_opens_one_welcome() {
    let mut bob = client();
    let package = bob.key_package().unwrap();
    let mut welcomes = Vec::new();
    for group in [b"one", b"two"] {
        let mut alice = client();
        alice.create_group(group, Handshake::Private).unwrap();
        welcomes.push(alice.add(group, std::slice::from_ref(&package)).unwrap().welcome);
    }
    bob.join(&welcomes[0], Handshake::Private).unwrap();
    assert!(bob.join(&welcomes[1], Handshake::Private).is_err());
}

#[test]
fn an_expired_key_package_is_not_added() {
    let mut alice = client();
    alice.create_group(GROUP, Handshake::Private).unwrap();
    let refused = alice.add(GROUP, &[client().expired_key_package().unwrap()]).unwrap_err();
    assert!(matches!(refused, MlsError::Unreadable { .. }), "{refused}");
}

#[test]
fn a_proposal_to_leave_has_no_effect_before_a_commit_of_another_member() {
    for (handshake, proposal) in [
        (Handshake::Public, Proposal::Leave),
        (Handshake::Private, Proposal::Leave),
        (Handshake::Public, Proposal::SelfRemove),
    ] {
        let [mut alice, mut bob, mut carol] = three(handshake);
        let leave = carol.propose(GROUP, &proposal).unwrap();
        assert_eq!(carol.apply(GROUP, &leave).unwrap(), Processed::OwnMessage);
        for other in [&mut alice, &mut bob] {
            assert_eq!(other.process(GROUP, &leave).unwrap(), Processed::Proposal);
            assert!(other.commit_is_due(GROUP).unwrap());
        }
        assert_agreed(&[&alice, &bob, &carol], 1);

        let own = carol.self_update(GROUP).unwrap();
        assert_eq!(own.removed, Vec::<String>::new(), "a member cannot commit its own removal");
        carol.discard_pending(GROUP).unwrap();
        let staged = bob.self_update(GROUP).unwrap();
        assert_eq!(staged.removed, [carol.did()]);
        bob.merge_pending(GROUP).unwrap();
        alice.process(GROUP, &staged.commit).unwrap();
        let seen = carol.process(GROUP, &staged.commit).unwrap();
        assert_eq!(seen, Processed::Commit { epoch: 2, removed_me: true });
        assert_agreed(&[&alice, &bob], 2);
        assert!(!alice.commit_is_due(GROUP).unwrap());
    }
}

#[test]
fn a_commit_includes_the_proposals_of_other_members() {
    let [mut alice, mut bob, mut carol] = three(Handshake::Private);
    let mut dave = client();
    let addition = carol.propose(GROUP, &Proposal::Add(dave.key_package().unwrap())).unwrap();
    let update = bob.propose(GROUP, &Proposal::Update).unwrap();
    for (client, entry) in [(0, &addition), (0, &update), (1, &addition), (1, &update), (2, &addition), (2, &update)] {
        let client = [&mut alice, &mut bob, &mut carol][client].apply(GROUP, entry).unwrap();
        assert!(matches!(client, Processed::Proposal | Processed::OwnMessage));
    }
    let staged = alice.self_update(GROUP).unwrap();
    assert_eq!((&staged.added[..], &staged.removed[..]), (&[dave.did().to_owned()][..], &[][..]));
    for client in [&mut alice, &mut bob, &mut carol] {
        client.apply(GROUP, &staged.commit).unwrap();
    }
    dave.join(&staged.welcome, Handshake::Private).unwrap();
    assert_agreed(&[&alice, &bob, &carol, &dave], 2);
}

#[test]
fn one_commit_removes_and_adds() {
    let [mut alice, mut bob, carol] = three(Handshake::Private);
    let mut dave = client();
    let staged = alice.change(GROUP, &[dave.key_package().unwrap()], &[carol.did()]).unwrap();
    assert_eq!((&staged.added[..], &staged.removed[..]), (&[dave.did().to_owned()][..], &[carol.did().to_owned()][..]));
    alice.merge_pending(GROUP).unwrap();
    bob.apply(GROUP, &staged.commit).unwrap();
    dave.join(&staged.welcome, Handshake::Private).unwrap();
    assert_agreed(&[&alice, &bob, &dave], 2);
}

#[test]
fn a_client_that_lost_its_state_comes_back_by_an_external_commit() {
    for handshake in [Handshake::Public, Handshake::Private] {
        let [mut alice, mut bob, mut carol] = three(handshake);
        let staged = alice.self_update(GROUP).unwrap();
        for client in [&mut alice, &mut bob] {
            client.apply(GROUP, &staged.commit).unwrap();
        }
        carol.forget(GROUP).unwrap();
        let lost = carol.enter(&staged.group_info, handshake).unwrap();
        carol.discard_pending(GROUP).unwrap();
        let entry = carol.enter(&bob.group_info(GROUP).unwrap(), handshake).unwrap();
        assert_eq!((&entry.group_id[..], entry.staged.made_in), (GROUP, 2));
        for client in [&mut alice, &mut bob] {
            client.apply(GROUP, &entry.staged.commit).unwrap();
            assert!(client.apply(GROUP, &lost.staged.commit).is_err(), "its epoch is over");
        }
        assert_eq!(carol.merge_pending(GROUP).unwrap(), 3);
        assert_agreed(&[&alice, &bob, &carol], 3);
        let mut dave = client();
        let entry = dave.enter(&entry.staged.group_info, handshake).unwrap();
        for client in [&mut alice, &mut bob, &mut carol] {
            client.apply(GROUP, &entry.staged.commit).unwrap();
        }
        dave.merge_pending(GROUP).unwrap();
        assert_agreed(&[&alice, &bob, &carol, &dave], 4);
        let message = carol.encrypt(GROUP, b"back").unwrap();
        assert_eq!(alice.process(GROUP, &message).unwrap(), said(&carol, b"back"));
    }
}

#[test]
fn a_did_stands_for_all_its_devices() {
    let [mut alice, mut bob, carol] = three(Handshake::Private);
    let mut phone = MlsClient::new(format!("{}#phone", carol.did()));
    let staged = alice.add(GROUP, &[phone.key_package().unwrap()]).unwrap();
    alice.merge_pending(GROUP).unwrap();
    bob.apply(GROUP, &staged.commit).unwrap();
    phone.join(&staged.welcome, Handshake::Private).unwrap();
    let message = phone.encrypt(GROUP, b"from the phone").unwrap();
    assert_eq!(alice.process(GROUP, &message).unwrap(), said(&phone, b"from the phone"));
    let mut staged = bob.remove(GROUP, &[carol.did()]).unwrap();
    staged.removed.sort_unstable();
    assert_eq!(staged.removed, [carol.did(), phone.did()]);
}

#[test]
fn clients_can_move_between_threads() {
    fn moves<T: Send>() {}
    moves::<MlsClient>();
}

#[test]
fn personas_can_work_in_spawned_tasks() {
    fn moves<T: Send>(_: &T) {}
    let check = |mut persona: Persona| {
        moves(&persona);
        moves(&persona.add(&["did:plc:bob"]));
        moves(&persona.remove("did:plc:bob"));
        moves(&persona.send("hello"));
        moves(&persona.catch_up());
        moves(&persona.join("convo"));
        moves(&persona.take_event(&Event { name: String::new(), data: Value::Null, id: String::new() }));
        moves(&persona.create(b"group", "name"));
        moves(&persona.publish_key_packages(1));
    };
    let _ = check;
}

#[test]
fn a_client_goes_by_the_names_that_the_wire_uses() {
    let client = client();
    let id = client.did().strip_prefix("did:plc:").unwrap();
    assert!(id.len() == 24 && id.bytes().all(|c| matches!(c, b'a'..=b'z' | b'2'..=b'7')), "{id}");
    assert_eq!(client.suite_name(), "MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519");
}

#[test]
fn bytes_are_read_in_every_spelling() {
    let bytes = [0xfb, 0xff, 0xfe, 0x00];
    for text in ["+//+AA==", "+//+AA", "-__-AA==", "-__-AA"] {
        assert_eq!(decode_bytes(&json!(text)).as_deref(), Some(&bytes[..]), "{text}");
        assert_eq!(decode_bytes(&json!({ "$bytes": text })).as_deref(), Some(&bytes[..]), "{text}");
    }
    assert_eq!(bytes_value(&bytes), json!({ "$bytes": "+//+AA" }));
    assert_eq!(base64_text(&bytes), "+//+AA==");
    for wrong in [json!(null), json!(7), json!("+_"), json!({ "bytes": "AA" })] {
        assert_eq!(decode_bytes(&wrong), None, "{wrong}");
    }
}

#[test]
fn every_token_is_for_one_method_and_for_one_use() {
    let xrpc = Xrpc::new("http://127.0.0.1:3000", "did:plc:alice", "secret", "did:web:server").unwrap();
    catbird_server::auth::hs256::install();
    let read = |token: String| {
        let mut wanted = Validation::new(Algorithm::HS256);
        wanted.set_audience(&["did:web:server"]);
        wanted.set_issuer(&["did:plc:alice"]);
        jsonwebtoken::decode::<Value>(&token, &DecodingKey::from_secret(b"secret"), &wanted).unwrap().claims
    };
    let nsid = nsid("getEpoch");
    let (first, second) = (read(xrpc.token(&nsid)), read(xrpc.token(&nsid)));
    assert_eq!(first["lxm"], "blue.catbird.mls.getEpoch");
    assert_eq!(first["exp"].as_i64().unwrap() - first["iat"].as_i64().unwrap(), 3 * 3_600);
    assert_ne!(first["jti"], second["jti"]);
}

#[test]
fn a_parameter_may_come_several_times() {
    let xrpc = Xrpc::new("http://127.0.0.1:3000/", "did:plc:alice", "secret", "did:web:server").unwrap();
    let parameters = [("dids", "did:plc:b".to_owned()), ("dids", "did:plc:c".to_owned())];
    let url = xrpc.url(&nsid("getKeyPackages"), &parameters);
    let expected = "http://127.0.0.1:3000/xrpc/blue.catbird.mls.getKeyPackages?dids=did%3Aplc%3Ab&dids=did%3Aplc%3Ac";
    assert_eq!(url.as_str(), expected);
}
