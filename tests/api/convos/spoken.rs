//! MLS in practice: suites of all kinds, unencrypted commits, and Welcomes restricted to their reader.

use catbird_client::mls::{Handshake, MlsClient};
use catbird_client::persona::Persona;
use catbird_client::random_did;
use catbird_client::xrpc::{Reply, base64_text};
use catbird_testkit::app::TestApp;
use openmls::prelude::tls_codec::Deserialize as _;
use openmls::prelude::{Ciphersuite, MlsMessageBodyIn, MlsMessageIn};
use serde_json::json;

use crate::harness::*;

either_serializer! {
    members_talk_in_suites_that_few_libraries_have;
    a_welcome_or_a_key_package_of_another_suite_is_refused;
    a_public_commit_must_add_the_members_in_the_request;
    a_public_commit_without_a_remove_is_not_a_removal;
    all_that_a_conversation_may_have_are_added_by_one_commit;
}

any_serializer! {
    p15_a_public_commit_agrees_with_the_leaves_of_its_epoch;
    each_recipient_is_given_its_own_part_of_a_welcome_and_joins_with_it;
    a_person_with_two_devices_is_given_both_parts_or_the_one_it_asks_for;
}

async fn members_talk_in_suites_that_few_libraries_have(app: &TestApp) {
    for suite in [
        Ciphersuite::MLS_256_XWING_CHACHA20POLY1305_SHA256_Ed25519,
        Ciphersuite::MLS_256_DHKEMP384_AES256GCM_SHA384_P384,
    ] {
        for handshake in [Handshake::Public, Handshake::Private] {
            let mut members = [app.persona(), app.persona()];
            for member in &mut members {
                member.mls = Box::new(MlsClient::with_suite(member.did(), suite).unwrap());
                member.handshake = handshake;
            }
            let [alice, bob] = &mut members;
            alice.create(random_did().as_bytes(), "test").await.unwrap();
            bob.publish_key_packages(1).await.unwrap();
            let asked = [("dids", bob.did()), ("cipherSuite", &*bob.mls.suite_name())];
            let package = ok(get(alice, "getKeyPackages", &asked).await);
            let package = package.bytes_in(&package.body["keyPackages"][0], "keyPackage").unwrap();
            let offer = offer_with(alice, &[&*bob], std::slice::from_ref(&package));
            let body = with(&offer.body, json!({ "keyPackageHashes": hashes(&[&*bob], &[package]) }));
            ok(ask(alice, "addMembers", &body).await);
            merge(alice);
            bob.join(&convo(alice)).await.unwrap();
            assert_eq!(alice.epoch_authenticator().unwrap(), bob.epoch_authenticator().unwrap(), "{suite:?}");
        }
    }
}

/// Like [`offer_with`], for packages of the member's own suite instead of the conversation's.
async fn a_welcome_or_a_key_package_of_another_suite_is_refused(app: &TestApp) {
    let other = Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519;
    let mut alice = app.persona();
    alice.create(random_did().as_bytes(), "test").await.unwrap();
    let bob = app.published_persona().await;
    // Alice and Bob in another group with another suite.
    let (mut elsewhere, there) = (app.persona(), app.persona());
    elsewhere.mls = Box::new(MlsClient::with_suite(elsewhere.did(), other).unwrap());
    elsewhere.create(random_did().as_bytes(), "test").await.unwrap();
    let theirs = MlsClient::with_suite(there.did(), other).unwrap().key_package().unwrap();
    let foreign = offer_with(&mut elsewhere, &[&there], std::slice::from_ref(&theirs));

    let right = offer(&mut alice, &[&bob]);
    let before = contents(app).await;
    let swapped = with(&right.body, json!({ "welcomeMessage": foreign.body["welcomeMessage"] }));
    refused(ask(&alice, "addMembers", &swapped).await, 400, "InvalidWelcome");
    let created = json!({
        "groupId": catbird_client::persona::hex(random_did().as_bytes()), "cipherSuite": alice.mls.suite_name(),
        "initialMembers": [bob.did()], "welcomeMessage": foreign.body["welcomeMessage"],
    });
    refused(ask(&alice, "createConvo", &created).await, 400, "InvalidWelcome");
    assert_eq!(contents(app).await, before);

    let strange = MlsClient::with_suite(bob.did(), other).unwrap().key_package().unwrap();
    let published = json!({ "keyPackage": base64_text(&strange), "cipherSuite": format!("{other:?}") });
    ok(ask(&bob, "publishKeyPackage", &published).await);
    let before = contents(app).await;
    let named = hashes(&[&bob], &[strange]);
    let named = with(&right.body, json!({ "keyPackageHashes": named, "welcomeMessage": null }));
    refused(ask(&alice, "addMembers", &named).await, 409, "KeyPackageNotFound");
    assert_eq!(contents(app).await, before);
    ok(ask(&alice, "addMembers", &right.body).await);
}

/// A conversation of three with unencrypted commits.
pub async fn in_public(app: &TestApp) -> Vec<Persona> {
    let mut alice = app.persona();
    alice.handshake = Handshake::Public;
    alice.create(random_did().as_bytes(), "test").await.unwrap();
    let mut members = vec![alice];
    for _ in 0..2 {
        let mut other = app.published_persona().await;
        other.handshake = Handshake::Public;
        let id = convo(&members[0]);
        members[0].add(&[other.did()]).await.unwrap();
        other.join(&id).await.unwrap();
        members.push(other);
    }
    members[1].catch_up().await.unwrap();
    members
}

async fn a_public_commit_must_add_the_members_in_the_request(app: &TestApp) {
    let mut members = in_public(app).await;
    let (erin, frank) = (app.persona(), app.persona());
    let alice = &mut members[0];
    let before = contents(app).await;
    let no = |reply: Reply| refused(reply, 400, "InvalidCommit");
    // Another member, one too many, one too few, none at all.
    let one = offer(alice, &[&erin]);
    for named in [json!([frank.did()]), json!([erin.did(), frank.did()])] {
        no(ask(alice, "addMembers", &with(&one.body, json!({ "didList": named }))).await);
    }
    discard(alice);
    let both = offer(alice, &[&erin, &frank]);
    no(ask(alice, "addMembers", &with(&both.body, json!({ "didList": [erin.did()] }))).await);
    discard(alice);
    let update = alice.mls.self_update(&alice.group_id).unwrap();
    let body = json!({ "convoId": convo(alice), "didList": [erin.did()], "commit": base64_text(&update.commit) });
    no(ask(alice, "addMembers", &body).await);
    discard(alice);
    assert_eq!(contents(app).await, before);
    // Strangers learn nothing from the refusal.
    refused(ask(&app.persona(), "addMembers", &body).await, 404, "ConvoNotFound");
    // The right members, together with a device of Alice's.
    let device = MlsClient::new(format!("{}#phone", alice.did()));
    let packages = [erin.mls.key_package().unwrap(), frank.mls.key_package().unwrap(), device.key_package().unwrap()];
    let right = offer_with(alice, &[&erin, &frank], &packages);
    ok(ask(alice, "addMembers", &right.body).await);
    merge(alice);
    assert_eq!(roster(alice).await.len(), 5);
}

async fn a_public_commit_without_a_remove_is_not_a_removal(app: &TestApp) {
    let mut members = in_public(app).await;
    let gone = members[2].did().to_owned();
    let alice = &mut members[0];
    let before = contents(app).await;
    let update = alice.mls.self_update(&alice.group_id).unwrap();
    discard(alice);
    let addition = offer(alice, &[&app.persona()]);
    discard(alice);
    for commit in [&update.commit, &addition.staged.commit] {
        let body = json!({ "convoId": convo(alice), "targetDid": gone, "commit": base64_text(commit) });
        refused(ask(alice, "leaveConvo", &body).await, 400, "InvalidCommit");
    }
    // A leaving member cannot add anyone either.
    let leaving = json!({ "convoId": convo(alice), "commit": base64_text(&addition.staged.commit) });
    refused(ask(alice, "leaveConvo", &leaving).await, 400, "InvalidCommit");
    assert_eq!(contents(app).await, before);
    let removal = alice.mls.remove(&alice.group_id, &[&gone]).unwrap();
    let body = json!({ "convoId": convo(alice), "targetDid": gone, "commit": base64_text(&removal.commit) });
    ok(ask(alice, "leaveConvo", &body).await);
}

async fn all_that_a_conversation_may_have_are_added_by_one_commit(app: &TestApp) {
    let mut members = app.conversation(1).await;
    let alice = &mut members[0];
    let staged = alice.mls.self_update(&alice.group_id).unwrap();
    let dids: Vec<String> = (0..1_000).map(|_| random_did()).collect();
    let body = json!({ "convoId": convo(alice), "didList": dids, "commit": base64_text(&staged.commit) });
    refused(ask(alice, "addMembers", &body).await, 400, "TooManyMembers");
    ok(ask(alice, "addMembers", &with(&body, json!({ "didList": dids[1..] }))).await);
    assert_eq!(only_convo(alice).await["memberCount"], 1_000);
}

/// Counts the recipients of a Welcome.
fn parts(welcome: &[u8]) -> usize {
    let Ok(MlsMessageBodyIn::Welcome(welcome)) =
        MlsMessageIn::tls_deserialize_exact(welcome).map(MlsMessageIn::extract)
    else {
        panic!("a Welcome is served that is none");
    };
    welcome.secrets().len()
}

async fn each_recipient_is_given_its_own_part_of_a_welcome_and_joins_with_it(app: &TestApp) {
    let mut alice = app.persona();
    alice.create(random_did().as_bytes(), "test").await.unwrap();
    let mut joiners = Vec::new();
    for _ in 0..5 {
        joiners.push(app.published_persona().await);
    }
    let dids: Vec<String> = joiners.iter().map(|one| one.did().to_owned()).collect();
    alice.add(&dids.iter().map(String::as_str).collect::<Vec<_>>()).await.unwrap();
    let id = convo(&alice);
    let mut served = Vec::new();
    for joiner in &mut joiners {
        let reply = ok(get(joiner, "getWelcome", &[("convoId", &id)]).await);
        served.push(reply.bytes("welcome").unwrap());
        assert_eq!(parts(served.last().unwrap()), 1);
        joiner.join(&id).await.unwrap();
        assert_eq!(joiner.epoch_authenticator().unwrap(), alice.epoch_authenticator().unwrap());
    }
    served.sort();
    served.dedup();
    assert_eq!(served.len(), 5, "no recipient gets another's part");
    // The Welcome stays whole if the inviter does not say which key packages it used.
    let (bob, carol) = (app.persona(), app.persona());
    let quiet = offer(&mut alice, &[&bob, &carol]);
    ok(ask(&alice, "addMembers", &quiet.body).await);
    let whole = ok(get(&bob, "getWelcome", &[("convoId", &id)]).await).bytes("welcome").unwrap();
    assert_eq!(whole, quiet.staged.welcome);
}

async fn a_person_with_two_devices_is_given_both_parts_or_the_one_it_asks_for(app: &TestApp) {
    let mut alice = app.persona();
    alice.create(random_did().as_bytes(), "test").await.unwrap();
    let (bob, carol) = (app.persona(), app.published_persona().await);
    let mut devices = ["laptop", "phone"].map(|name| MlsClient::new(format!("{}#{name}", bob.did())));
    let mut packages = devices.each_ref().map(|device| device.key_package().unwrap()).to_vec();
    for package in &packages {
        ok(publish(&bob, package).await);
    }
    packages.push(carol.mls.key_package().unwrap());
    ok(publish(&carol, &packages[2]).await);
    let staged = offer_with(&mut alice, &[&bob, &carol], &packages);
    let named = hashes(&[&bob, &bob, &carol], &packages);
    ok(ask(&alice, "addMembers", &with(&staged.body, json!({ "keyPackageHashes": named }))).await);
    merge(&mut alice);
    let id = convo(&alice);
    let welcome = ok(get(&bob, "getWelcome", &[("convoId", &id)]).await).bytes("welcome").unwrap();
    assert_eq!(parts(&welcome), 2, "which of the devices asks is not known");
    devices[0].join(&welcome, Handshake::Private).unwrap();
    let hash = catbird_client::persona::sha256_hex(&packages[1]);
    let asked = [("convoId", &*id), ("keyPackageHash", &*hash)];
    let welcome = ok(get(&bob, "getWelcome", &asked).await).bytes("welcome").unwrap();
    assert_eq!(parts(&welcome), 1);
    devices[1].join(&welcome, Handshake::Private).unwrap();
}

async fn p15_a_public_commit_agrees_with_the_leaves_of_its_epoch(app: &TestApp) {
    let mut members = in_public(app).await;
    let id = convo(&members[0]);
    let info = members[0].mls.group_info(&members[0].group_id).unwrap();
    let stored = json!({ "convoId": id, "groupInfo": base64_text(&info), "epoch": members[0].epoch().unwrap() });
    ok(ask(&members[0], "updateGroupInfo", &stored).await);
    let (bob, carol) = (members[1].did().to_owned(), members[2].did().to_owned());
    let Persona { mls, group_id, .. } = &mut members[0];
    let commit = json!({ "convoId": id, "commit": base64_text(&mls.remove(group_id, &[&carol]).unwrap().commit) });
    let before = contents(app).await;
    for (changes, why) in [
        (json!({ "removedDids": [bob] }), "does not remove every leaf"),
        (json!({ "removedDids": [bob, carol] }), "fewer leaves"),
        (json!({}), "whom the request does not remove"),
    ] {
        let reply = refused(ask(&members[0], "submitCommit", &with(&commit, changes)).await, 400, "InvalidCommit");
        assert!(reply.body["message"].as_str().unwrap().contains(why), "{reply}");
    }
    // It is of a leaf of another member than its sender.
    refused(ask(&members[1], "submitCommit", &commit).await, 400, "InvalidCommit");
    assert_eq!(contents(app).await, before);
    ok(ask(&members[0], "submitCommit", &with(&commit, json!({ "removedDids": [carol] }))).await);
}
