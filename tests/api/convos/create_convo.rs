//! createConvo creates the whole conversation or nothing, at the epoch of its group, once per group.

use catbird_client::mls::DEFAULT_SUITE;
use catbird_client::persona::{Persona, hex, sha256_hex, unique};
use catbird_client::random_did;
use catbird_client::xrpc::base64_text;
use catbird_testkit::app::TestApp;
use serde_json::json;

use crate::harness::*;

either_serializer! {
    everything_that_was_asked_for_is_in_the_reply_and_stays;
    the_first_members_join_with_the_welcome_and_read_each_other;
    a_conversation_starts_at_the_epoch_of_its_group;
    p2_a_refused_creation_leaves_nothing;
    p8_a_key_package_issued_to_another_caller_cannot_be_used;
}
any_serializer! {
    a_group_id_is_taken_once_whatever_the_case_of_its_hex;
    a_member_named_twice_is_refused_and_the_creator_may_name_itself;
    at_most_999_others_come_along;
    a_welcome_in_every_spelling_of_base64_is_the_same_welcome;
    snake_case_is_accepted_and_unknown_fields_are_ignored;
    an_unknown_cipher_suite_is_refused_by_name;
    texts_and_epochs_have_their_limits;
    a_welcome_without_recipients_is_not_stored;
    p2_a_welcome_for_others_than_the_named_key_packages_is_refused;
}

fn minimal() -> serde_json::Value {
    json!({ "groupId": hex(random_did().as_bytes()), "cipherSuite": format!("{DEFAULT_SUITE:?}") })
}

async fn everything_that_was_asked_for_is_in_the_reply_and_stays(app: &TestApp) {
    let (alice, bob) = (app.persona(), app.persona());
    let asked = with(
        &minimal(),
        json!({
            "initialMembers": [bob.did()],
            "metadata": { "name": "Team 🐈", "description": "it's \"quoted\"" },
            "currentEpoch": 3,
            "idempotencyKey": unique(),
        }),
    );
    let created = ok(ask(&alice, "createConvo", &asked).await).body;
    assert_eq!(created["groupId"], asked["groupId"]);
    assert_eq!(created["cipherSuite"], asked["cipherSuite"]);
    assert_eq!(created["metadata"], asked["metadata"]);
    assert_eq!(created["creator"], alice.did());
    assert_eq!((&created["epoch"], &created["seq"], &created["unreadCount"]), (&json!(3), &json!(0), &json!(0)));
    assert_eq!(created["memberCount"], 2);
    let members = created["members"].as_array().unwrap();
    assert_eq!(members[0]["did"], alice.did());
    assert_eq!(members.iter().map(|one| &one["isAdmin"]).collect::<Vec<_>>(), [&json!(true), &json!(false)]);
    assert!(members.iter().all(|one| one["did"] == one["userDid"] && one["joinedAt"] == created["createdAt"]));
    // All members see the same, except for the order of members that joined at the same time.
    for member in [&alice, &bob] {
        let mut listed = only_convo(member).await;
        listed["members"].as_array_mut().unwrap().sort_by_key(|one| one["did"] != alice.did());
        assert_eq!(listed, created);
    }
}

async fn the_first_members_join_with_the_welcome_and_read_each_other(app: &TestApp) {
    let (mut alice, mut bob, mut carol) = (app.persona(), app.persona(), app.persona());
    let group = random_did().into_bytes();
    alice.mls.create_group(&group, alice.handshake).unwrap();
    let mut packages = Vec::new();
    for other in [&bob, &carol] {
        other.publish_key_packages(1).await.unwrap();
        packages.push(claim(&alice, other.did()).await.unwrap());
    }
    let staged = alice.mls.add(&group, &packages).unwrap();
    alice.mls.merge_pending(&group).unwrap();
    let body = json!({
        "groupId": hex(&group),
        "cipherSuite": alice.mls.suite_name(),
        "initialMembers": [bob.did(), carol.did()],
        "welcomeMessage": base64_text(&staged.welcome),
        "keyPackageHashes": hashes(&[&bob, &carol], &packages),
    });
    let created = ok(ask(&alice, "createConvo", &body).await);
    assert_eq!(landed(&created), (1, 0), "a Welcome only exists after a commit");
    alice.convo_id = Some(created.string("id").unwrap().to_owned());
    alice.group_id = group;
    for joiner in [&mut bob, &mut carol] {
        joiner.join(&convo(&alice)).await.unwrap();
    }
    alice.send("welcome").await.unwrap();
    assert_eq!(bob.catch_up().await.unwrap(), ["welcome"]);
    bob.send("thank you").await.unwrap();
    assert_eq!(carol.catch_up().await.unwrap(), ["welcome", "thank you"]);
    assert_eq!(claim(&app.persona(), bob.did()).await, None, "the key package is used up");
}

async fn a_conversation_starts_at_the_epoch_of_its_group(app: &TestApp) {
    let mut alice = app.persona();
    let welcome = base64_text(&welcome(&mut alice, &app.persona()));
    for (changes, epoch) in [
        (json!({}), 0),
        (json!({ "currentEpoch": 0 }), 0),
        (json!({ "currentEpoch": 7 }), 7),
        (json!({ "currentEpoch": 1_u64 << 40 }), 1 << 40),
        (json!({ "welcomeMessage": welcome, "initialMembers": [random_did()] }), 1),
        (json!({ "welcomeMessage": welcome, "initialMembers": [random_did()], "currentEpoch": 5 }), 5),
    ] {
        let created = ok(ask(&alice, "createConvo", &with(&minimal(), changes)).await);
        assert_eq!(landed(&created), (epoch, 0));
        let asked = ok(get(&alice, "getEpoch", &[("convoId", created.string("id").unwrap())]).await);
        assert_eq!(asked.number("currentEpoch").unwrap(), epoch);
    }
}

/// A real Welcome of a group that the server does not know.
fn welcome(creator: &mut Persona, joiner: &Persona) -> Vec<u8> {
    welcome_for(creator, &[joiner.mls.key_package().unwrap()])
}

/// A real Welcome for the owners of these key packages.
fn welcome_for(creator: &mut Persona, packages: &[Vec<u8>]) -> Vec<u8> {
    let group = random_did().into_bytes();
    creator.mls.create_group(&group, creator.handshake).unwrap();
    creator.mls.add(&group, packages).unwrap().welcome
}

async fn p2_a_refused_creation_leaves_nothing(app: &TestApp) {
    let (mut alice, bob) = (app.persona(), app.persona());
    let package = bob.mls.key_package().unwrap();
    ok(publish(&bob, &package).await);
    let good = sha256_hex(&package);
    let never_seen = sha256_hex(&bob.mls.key_package().unwrap());
    let welcome = base64_text(&welcome_for(&mut alice, &[package]));
    let before = contents(app).await;
    let asked =
        with(&minimal(), json!({ "initialMembers": [bob.did()], "welcomeMessage": welcome, "idempotencyKey": "k" }));
    let entry = |hash: &str| json!({ "did": bob.did(), "hash": hash });
    let bad = with(&asked, json!({ "keyPackageHashes": [entry(&good), entry(&never_seen)] }));
    refused(ask(&alice, "createConvo", &bad).await, 409, "KeyPackageNotFound");
    assert_eq!(contents(app).await, before);
    let better = with(&asked, json!({ "keyPackageHashes": [entry(&good)] }));
    ok(ask(&alice, "createConvo", &better).await);
}

async fn p8_a_key_package_issued_to_another_caller_cannot_be_used(app: &TestApp) {
    let (alice, bob, mallory) = (app.persona(), app.published_persona().await, app.persona());
    let package = claim(&alice, bob.did()).await.unwrap();
    let before = contents(app).await;
    let asked =
        json!({ "initialMembers": [bob.did()], "keyPackageHashes": hashes(&[&bob], std::slice::from_ref(&package)) });
    refused(ask(&mallory, "createConvo", &with(&minimal(), asked.clone())).await, 409, "KeyPackageNotFound");
    let stolen = json!({ "initialMembers": [mallory.did()], "keyPackageHashes": hashes(&[&mallory], &[package]) });
    refused(ask(&alice, "createConvo", &with(&minimal(), stolen)).await, 409, "KeyPackageNotFound");
    assert_eq!(contents(app).await, before);
    ok(ask(&alice, "createConvo", &with(&minimal(), asked)).await);
}

async fn a_group_id_is_taken_once_whatever_the_case_of_its_hex(app: &TestApp) {
    let (alice, bob) = (app.persona(), app.persona());
    let asked = with(&minimal(), json!({ "groupId": "C0FFEE00aa" }));
    let created = ok(ask(&alice, "createConvo", &asked).await);
    assert_eq!(created.body["groupId"], "c0ffee00aa");
    let before = contents(app).await;
    for (caller, group_id) in [(&alice, "C0FFEE00aa"), (&bob, "c0ffee00AA")] {
        let again = with(&asked, json!({ "groupId": group_id }));
        refused(ask(caller, "createConvo", &again).await, 409, "ConvoAlreadyExists");
    }
    assert_eq!(contents(app).await, before);
}

async fn a_member_named_twice_is_refused_and_the_creator_may_name_itself(app: &TestApp) {
    let (alice, bob) = (app.persona(), random_did());
    let twice = with(&minimal(), json!({ "initialMembers": [bob, random_did(), bob] }));
    refused(ask(&alice, "createConvo", &twice).await, 400, "InvalidRequest");
    let itself = with(&minimal(), json!({ "initialMembers": [bob, alice.did()] }));
    assert_eq!(ok(ask(&alice, "createConvo", &itself).await).body["memberCount"], 2);
}

async fn at_most_999_others_come_along(app: &TestApp) {
    let alice = app.persona();
    let dids = |n: usize| (0..n).map(|n| format!("did:plc:member{n}")).collect::<Vec<_>>();
    let many = with(&minimal(), json!({ "initialMembers": dids(1_000) }));
    refused(ask(&alice, "createConvo", &many).await, 400, "TooManyMembers");
    let most = with(&minimal(), json!({ "initialMembers": dids(999) }));
    assert_eq!(ok(ask(&alice, "createConvo", &most).await).body["memberCount"], 1_000);
}

async fn a_welcome_in_every_spelling_of_base64_is_the_same_welcome(app: &TestApp) {
    let (mut alice, bob) = (app.persona(), app.persona());
    let bytes = welcome(&mut alice, &bob);
    for spelling in spellings(&bytes) {
        let asked = with(&minimal(), json!({ "initialMembers": [bob.did()], "welcomeMessage": spelling }));
        let created = ok(ask(&alice, "createConvo", &asked).await);
        let fetched = ok(get(&bob, "getWelcome", &[("convoId", created.string("id").unwrap())]).await);
        assert_eq!(fetched.string("welcome").unwrap(), base64_text(&bytes));
    }
}

async fn snake_case_is_accepted_and_unknown_fields_are_ignored(app: &TestApp) {
    let (mut alice, bob) = (app.persona(), app.persona());
    let package = bob.mls.key_package().unwrap();
    ok(publish(&bob, &package).await);
    let hash = sha256_hex(&package);
    let asked = json!({
        "group_id": hex(random_did().as_bytes()),
        "cipher_suite": alice.mls.suite_name(),
        "initial_members": [bob.did()],
        "welcome_message": base64_text(&welcome_for(&mut alice, &[package])),
        "key_package_hashes": [{ "did": bob.did(), "hash": hash, "colour": "red" }],
        "current_epoch": 4,
        "idempotency_key": "k",
        "metadata": { "name": "n", "avatar": null },
        "colour": { "deep": ["red"] },
    });
    let created = ok(ask(&alice, "createConvo", &asked).await);
    assert_eq!(landed(&created), (4, 0));
    let welcome = ok(get(&bob, "getWelcome", &[("convo_id", created.string("id").unwrap())]).await);
    assert_eq!((welcome.number("epoch").unwrap(), welcome.string("keyPackageHash").unwrap()), (4, hash.as_str()));
    assert_eq!(ok(ask(&alice, "createConvo", &asked).await).body, created.body, "the key was understood");
}

async fn an_unknown_cipher_suite_is_refused_by_name(app: &TestApp) {
    let alice = app.persona();
    for suite in ["", "1", "mls_128_dhkemx25519_aes128gcm_sha256_ed25519", "MLS_256_DHKEMX448_AES256GCM_SHA512_Ed448"] {
        let asked = with(&minimal(), json!({ "cipherSuite": suite }));
        refused(ask(&alice, "createConvo", &asked).await, 400, "InvalidCipherSuite");
    }
}

async fn texts_and_epochs_have_their_limits(app: &TestApp) {
    let alice = app.persona();
    for changes in [
        json!({ "groupId": "" }),
        json!({ "currentEpoch": (1_u64 << 40) + 1 }),
        json!({ "groupId": "ab".repeat(65) }),
        json!({ "groupId": "abc" }),
        json!({ "groupId": "team" }),
        json!({ "groupId": "a\0bc" }),
        json!({ "metadata": { "name": "n".repeat(129) } }),
        json!({ "metadata": { "description": "d".repeat(513) } }),
        json!({ "metadata": { "name": "\0" } }),
    ] {
        refused(ask(&alice, "createConvo", &with(&minimal(), changes)).await, 400, "InvalidRequest");
    }
    let longest =
        json!({ "groupId": "ab".repeat(64), "metadata": { "name": "n".repeat(128), "description": "d".repeat(512) } });
    ok(ask(&alice, "createConvo", &with(&minimal(), longest)).await);
}

async fn a_welcome_without_recipients_is_not_stored(app: &TestApp) {
    let mut alice = app.persona();
    let welcome = base64_text(&welcome(&mut alice, &app.persona()));
    ok(ask(&alice, "createConvo", &with(&minimal(), json!({ "welcomeMessage": welcome }))).await);
    assert_eq!(contents(app).await.count("welcomes"), 0);
}

async fn p2_a_welcome_for_others_than_the_named_key_packages_is_refused(app: &TestApp) {
    let (mut alice, bob, carol) = (app.persona(), app.persona(), app.persona());
    let packages = [bob.mls.key_package().unwrap(), carol.mls.key_package().unwrap()];
    for (owner, package) in [(&bob, &packages[0]), (&carol, &packages[1])] {
        ok(publish(owner, package).await);
    }
    let named = hashes(&[&bob, &carol], &packages);
    let asked = with(&minimal(), json!({ "initialMembers": [bob.did(), carol.did()], "keyPackageHashes": named }));
    let none = welcome(&mut alice, &app.persona());
    let one = welcome_for(&mut alice, &packages[..1]);
    let both = welcome_for(&mut alice, &packages);
    let before = contents(app).await;
    for other in [none, one] {
        let body = with(&asked, json!({ "welcomeMessage": base64_text(&other) }));
        refused(ask(&alice, "createConvo", &body).await, 400, "InvalidWelcome");
    }
    let fewer = json!({ "welcomeMessage": base64_text(&both), "keyPackageHashes": [named[0]] });
    refused(ask(&alice, "createConvo", &with(&asked, fewer)).await, 400, "InvalidWelcome");
    assert_eq!(contents(app).await, before);
    ok(ask(&alice, "createConvo", &with(&asked, json!({ "welcomeMessage": base64_text(&both) }))).await);
}
