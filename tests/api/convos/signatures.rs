//! Signatures of public messages, which the server verifies where it has the GroupInfo of their epoch (P15): genuine messages of both
//! libraries are accepted, and forged ones are refused.

use catbird_client::mls::{Ciphersuite, Handshake, Proposal};
use catbird_client::persona::Persona;
use catbird_client::random_did;
use catbird_client::xrpc::base64_text;
use catbird_mls_rs::SUITES;
use catbird_testkit::app::TestApp;
use serde_json::{Value, json};

use super::spoken::in_public;
use crate::harness::*;
use crate::interop::{Library, agree};

any_serializer! {
    p15_public_messages_of_both_libraries_are_accepted_in_all_suites;
    p15_forged_public_messages_are_refused;
    p15_a_proposal_of_another_members_leaf_is_refused;
    signatures_are_not_verified_in_framing_mode with ("MLS_VALIDATION", "framing");
}

async fn p15_public_messages_of_both_libraries_are_accepted_in_all_suites(app: &TestApp) {
    for suite in SUITES {
        for library in Library::BOTH {
            play(app, suite, library).await;
        }
    }
}

/// Checks that the server has the GroupInfo of the present epoch, and so verifies messages of it.
async fn is_known(member: &Persona) {
    let served = ok(get(member, "getGroupInfo", &[("convoId", &convo(member))]).await);
    assert_eq!(served.number("epoch").unwrap(), member.epoch().unwrap());
}

async fn play(app: &TestApp, suite: Ciphersuite, library: Library) {
    let of = |library: Library| {
        let mut persona = library.persona(app, suite, Handshake::Public);
        persona.shares_group_info = true;
        persona
    };
    let (mut alice, mut bob, carol) = (of(library), of(library.other()), of(library));
    for one in [&bob, &carol] {
        one.publish_key_packages(1).await.unwrap();
    }
    alice.create(random_did().as_bytes(), "signed").await.unwrap();
    alice.publish_group_info().await.unwrap();
    let id = convo(&alice);
    alice.add(&[bob.did()]).await.unwrap();
    bob.join(&id).await.unwrap();
    for _ in 0..2 {
        is_known(&bob).await;
        bob.propose(&Proposal::Update).await.unwrap();
        alice.catch_up().await.unwrap();
        alice.rotate().await.unwrap();
        bob.catch_up().await.unwrap();
        std::mem::swap(&mut alice, &mut bob);
    }
    bob.add(&[carol.did()]).await.unwrap();
    alice.catch_up().await.unwrap();
    alice.lose_state().unwrap();
    is_known(&bob).await;
    alice.enter(&id).await.unwrap();
    bob.catch_up().await.unwrap();
    is_known(&bob).await;
    alice.remove(carol.did()).await.unwrap();
    bob.catch_up().await.unwrap();
    agree(&[&alice, &bob]).await;
}

/// Length of a tag at the end of a message: its length, and 32 bytes.
const TAG: usize = 33;
/// Length of an Ed25519 signature with its length.
const SIGNATURE: usize = 66;

/// Returns the message with other content and with another signature. `tags` follow the signature.
fn forgeries(message: &[u8], tags: usize) -> Vec<Vec<u8>> {
    let end = message.len() - tags * TAG;
    let changed = |at: usize| {
        let mut forged = message.to_vec();
        forged[at] ^= 1;
        forged
    };
    vec![changed(end - SIGNATURE - 1), changed(end - SIGNATURE + 2), changed(end - 1)]
}

async fn p15_forged_public_messages_are_refused(app: &TestApp) {
    let mut members = in_public(app).await;
    let id = convo(&members[0]);
    members[0].publish_group_info().await.unwrap();
    let [alice, bob, carol] = &mut members[..] else { panic!() };
    let commit = alice.mls.self_update(&alice.group_id).unwrap().commit;
    let proposal = bob.mls.propose(&bob.group_id, &Proposal::Update).unwrap();
    let mut lost = Persona::new(carol.xrpc.clone());
    let entry = lost.mls.enter(&alice.mls.group_info(&alice.group_id).unwrap(), Handshake::Public).unwrap();
    let before = contents(app).await;
    let not_signed = async |caller: &Persona, method: &str, body: Value, error: &str| {
        let reply = refused(ask(caller, method, &body).await, 400, error);
        assert!(reply.text.contains("not signed by its sender's key"), "{reply}");
    };
    for forged in forgeries(&commit, 2) {
        let body = json!({ "convoId": id, "commit": base64_text(&forged) });
        not_signed(alice, "submitCommit", body.clone(), "InvalidCommit").await;
        // Strangers learn nothing of the group.
        refused(ask(&app.persona(), "submitCommit", &body).await, 404, "ConvoNotFound");
    }
    for forged in forgeries(&entry.staged.commit, 1) {
        let body = json!({ "convoId": id, "externalCommit": base64_text(&forged) });
        not_signed(&lost, "processExternalCommit", body, "InvalidCommit").await;
    }
    for forged in forgeries(&proposal, 1) {
        not_signed(bob, "submitProposal", proposal_body(bob, &forged), "InvalidProposal").await;
    }
    assert_eq!(contents(app).await, before);
    ok(ask(bob, "submitProposal", &proposal_body(bob, &proposal)).await);
    let body = json!({ "convoId": id, "externalCommit": base64_text(&entry.staged.commit) });
    ok(ask(&lost, "processExternalCommit", &body).await);
    // The commit lost its epoch, and its signature is not verified in another one.
    let body = json!({ "convoId": id, "commit": base64_text(&commit) });
    refused(ask(alice, "submitCommit", &body).await, 409, "EpochMismatch");
}

async fn p15_a_proposal_of_another_members_leaf_is_refused(app: &TestApp) {
    let mut members = in_public(app).await;
    members[0].publish_group_info().await.unwrap();
    let proposal = propose_leave(&mut members[1]);
    let before = contents(app).await;
    for method in ["submitProposal", "leaveConvo"] {
        let reply = ask(&members[2], method, &proposal_body(&members[2], &proposal)).await;
        let reply = refused(reply, 400, "InvalidProposal");
        assert!(reply.text.contains("does not belong to the caller"), "{reply}");
    }
    assert_eq!(contents(app).await, before);
    ok(ask(&members[1], "leaveConvo", &proposal_body(&members[1], &proposal)).await);
}

async fn signatures_are_not_verified_in_framing_mode(app: &TestApp) {
    let mut members = in_public(app).await;
    members[0].publish_group_info().await.unwrap();
    let Persona { mls, group_id, .. } = &mut members[0];
    let commit = mls.self_update(group_id).unwrap().commit;
    let body = json!({ "convoId": convo(&members[0]), "commit": base64_text(&forgeries(&commit, 2)[1]) });
    ok(ask(&members[0], "submitCommit", &body).await);
}
