//! getWelcome: can be fetched repeatedly, by each recipient, until it is confirmed.

use catbird_client::persona::{Persona, sha256_hex};
use catbird_client::xrpc::base64_text;
use catbird_testkit::app::TestApp;
use serde_json::json;

use crate::harness::*;

either_serializer! {
    a_welcome_is_fetched_any_number_of_times;
    each_key_package_has_a_line_of_its_own;
    a_member_without_a_welcome_is_told_to_wait;
    a_member_that_lost_its_state_recovers_by_being_added_again;
    a_member_added_again_without_a_welcome_is_told_to_wait;
    an_addition_replaces_the_welcome_that_was_still_waiting;
}
any_serializer! {
    hashes_are_64_hex_digits_in_either_case;
}

/// Adds `joiner` with the Welcome, under the hashes of these key packages.
async fn invite(member: &mut Persona, joiner: &Persona, packages: &[Vec<u8>]) -> Vec<u8> {
    let offer = offer_with(member, &[joiner], packages);
    let owners = vec![joiner; packages.len()];
    let asked = with(&offer.body, json!({ "keyPackageHashes": hashes(&owners, packages) }));
    ok(ask(member, "addMembers", &asked).await);
    merge(member);
    offer.staged.welcome
}

async fn published(owner: &Persona) -> Vec<u8> {
    let package = owner.mls.key_package().unwrap();
    ok(publish(owner, &package).await);
    package
}

async fn a_welcome_is_fetched_any_number_of_times(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let carol = app.persona();
    let package = published(&carol).await;
    let welcome = invite(&mut members[0], &carol, std::slice::from_ref(&package)).await;
    let id = convo(&members[0]);
    for _ in 0..3 {
        let reply = ok(get(&carol, "getWelcome", &[("convoId", &id)]).await);
        let whole = json!({
            "convoId": id, "welcome": base64_text(&welcome), "keyPackageHash": sha256_hex(&package), "generation": 1, "epoch": 2, "seq": 2,
        });
        assert_eq!(reply.body, whole);
        ok(get(&carol, "getKeyPackages", &[("dids", members[1].did())]).await);
    }
    // Other members have no part in it.
    refused(get(&members[0], "getWelcome", &[("convoId", &id)]).await, 404, "WelcomeNotFound");
}

async fn each_key_package_has_a_line_of_its_own(app: &TestApp) {
    let mut members = app.conversation(1).await;
    let carol = app.persona();
    // One of each device, because a group takes no signature key twice.
    let tablet = Persona::new(carol.xrpc.clone());
    let packages = [published(&carol).await, published(&tablet).await];
    invite(&mut members[0], &carol, &packages).await;
    let id = convo(&members[0]);
    let fetch = async |package: &[u8]| {
        let hash = sha256_hex(package);
        get(&carol, "getWelcome", &[("convoId", &id), ("keyPackageHash", &hash)]).await
    };
    for package in &packages {
        assert_eq!(ok(fetch(package).await).body["keyPackageHash"], sha256_hex(package));
    }
    refused(fetch(b"another").await, 404, "WelcomeNotFound");
    let confirmed = json!({ "convoId": id, "success": true, "keyPackageHash": sha256_hex(&packages[0]) });
    ok(ask(&carol, "confirmWelcome", &confirmed).await);
    refused(fetch(&packages[0]).await, 410, "WelcomeConsumed");
    ok(fetch(&packages[1]).await);
    let any = ok(get(&carol, "getWelcome", &[("convoId", &id)]).await);
    assert_eq!(any.body["keyPackageHash"], sha256_hex(&packages[1]), "what waits goes before what is consumed");
}

async fn a_member_without_a_welcome_is_told_to_wait(app: &TestApp) {
    let members = app.conversation(1).await;
    let carol = app.persona();
    let id = convo(&members[0]);
    ok(ask(&members[0], "addMembers", &json!({ "convoId": id, "didList": [carol.did()] })).await);
    let reply = refused(get(&carol, "getWelcome", &[("convoId", &id)]).await, 404, "WelcomeNotFound");
    assert_eq!(reply.body["recovery"], "waitForWelcome");
}

async fn a_member_that_lost_its_state_recovers_by_being_added_again(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let id = convo(&members[0]);
    let mut bob = members.pop().unwrap();
    let reply = refused(get(&bob, "getWelcome", &[("convoId", &id)]).await, 410, "WelcomeConsumed");
    assert_eq!(reply.body["recovery"], "rejoin");
    members[0].remove(bob.did()).await.unwrap();
    let package = published(&bob).await;
    invite(&mut members[0], &bob, &[package]).await;
    bob.join(&id).await.unwrap();
    bob.send("here again").await.unwrap();
    refused(get(&bob, "getWelcome", &[("convoId", &id)]).await, 410, "WelcomeConsumed");
}

async fn a_member_added_again_without_a_welcome_is_told_to_wait(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let id = convo(&members[0]);
    let bob = members.pop().unwrap();
    refused(get(&bob, "getWelcome", &[("convoId", &id)]).await, 410, "WelcomeConsumed");
    members[0].remove(bob.did()).await.unwrap();
    ok(ask(&members[0], "addMembers", &json!({ "convoId": id, "didList": [bob.did()] })).await);
    refused(get(&bob, "getWelcome", &[("convoId", &id)]).await, 404, "WelcomeNotFound");
}

async fn an_addition_replaces_the_welcome_that_was_still_waiting(app: &TestApp) {
    let mut members = app.conversation(1).await;
    let mut carol = app.persona();
    let id = convo(&members[0]);
    let first = published(&carol).await;
    invite(&mut members[0], &carol, &[first]).await;
    members[0].remove(carol.did()).await.unwrap();
    let second = published(&carol).await;
    let welcome = invite(&mut members[0], &carol, std::slice::from_ref(&second)).await;
    let reply = ok(get(&carol, "getWelcome", &[("convoId", &id)]).await);
    assert_eq!(
        (reply.bytes("welcome").unwrap(), reply.body["keyPackageHash"].clone()),
        (welcome, json!(sha256_hex(&second)))
    );
    carol.join(&id).await.unwrap();
    assert_eq!(contents(app).await.count("welcomes"), 0, "bytes without a waiting recipient are deleted");
}

async fn hashes_are_64_hex_digits_in_either_case(app: &TestApp) {
    let mut members = app.conversation(1).await;
    let carol = app.persona();
    let package = published(&carol).await;
    invite(&mut members[0], &carol, std::slice::from_ref(&package)).await;
    let id = convo(&members[0]);
    let upper = sha256_hex(&package).to_uppercase();
    ok(get(&carol, "getWelcome", &[("convo_id", &id), ("key_package_hash", &upper)]).await);
    for hash in ["", "ab", &"g".repeat(64), &"a".repeat(63), &"a".repeat(65), &"é".repeat(32)] {
        let asked = [("convoId", &*id), ("keyPackageHash", hash)];
        refused(get(&carol, "getWelcome", &asked).await, 400, "InvalidRequest");
    }
}
