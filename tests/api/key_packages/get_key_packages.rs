//! getKeyPackages: one package for each DID, each package for one caller.

use std::collections::BTreeSet;

use catbird_client::persona::{Persona, sha256_hex};
use catbird_client::random_did;
use catbird_client::xrpc::base64_text;
use catbird_testkit::app::TestApp;
use chrono::TimeDelta;
use futures_util::future::join_all;
use serde_json::json;

use catbird_server::clock::Clock;

use crate::harness::*;

either_serializer! {
    p8_fifty_callers_at_once_get_fifty_different_packages;
    p8_with_more_callers_than_packages_no_two_get_the_same;
}
any_serializer! {
    p8_the_same_caller_gets_the_same_package_again;
    p8_one_caller_asking_twenty_times_at_once_takes_one_package;
    p8_a_last_resort_package_serves_all_callers_once_the_others_are_used;
    many_dids_are_a_repeated_parameter_and_each_is_answered_once;
    malformed_or_too_many_dids_are_refused;
    an_unknown_suite_is_refused;
    a_package_is_issued_for_its_own_suite_only;
    p10_one_caller_cannot_exhaust_an_owners_key_packages with ("KEY_PACKAGES_PER_CALLER", "3");
}

async fn p8_fifty_callers_at_once_get_fifty_different_packages(app: &TestApp) {
    let bob = app.persona();
    let published: BTreeSet<_> = bob.publish_key_packages(50).await.unwrap().into_iter().collect();
    let callers: Vec<_> = (0..50).map(|_| app.persona()).collect();
    let taken = join_all(callers.iter().map(|caller| claim(caller, bob.did()))).await;
    let taken: BTreeSet<_> = taken.into_iter().map(|package| sha256_hex(&package.unwrap())).collect();
    assert_eq!(taken, published);
    assert_eq!(claim(&app.persona(), bob.did()).await, None);
}

async fn p8_with_more_callers_than_packages_no_two_get_the_same(app: &TestApp) {
    let bob = app.persona();
    bob.publish_key_packages(10).await.unwrap();
    let callers: Vec<_> = (0..25).map(|_| app.persona()).collect();
    let taken = join_all(callers.iter().map(|caller| claim(caller, bob.did()))).await;
    let packages: Vec<_> = taken.into_iter().flatten().collect();
    assert_eq!(packages.len(), 10, "no caller is refused while a package is left");
    assert_eq!(packages.iter().collect::<BTreeSet<_>>().len(), 10);
}

/// Creates a conversation with `owner` that uses this package, without a Welcome.
async fn use_up(app: &TestApp, caller: &Persona, owner: &Persona, hash: &str) {
    let body = json!({
        "groupId": hash[..32], "cipherSuite": caller.mls.suite_name(), "initialMembers": [owner.did()],
        "keyPackageHashes": [{ "did": owner.did(), "hash": hash }],
    });
    ok(ask(caller, "createConvo", &body).await);
    app.settle().await;
}

async fn p10_one_caller_cannot_exhaust_an_owners_key_packages(app: &TestApp) {
    let (mallory, carol, bob, dave) = (app.persona(), app.persona(), app.persona(), app.persona());
    let last_resort = bob.publish_last_resort().await.unwrap();
    bob.publish_key_packages(6).await.unwrap();
    dave.publish_key_packages(6).await.unwrap();
    for owner in [&bob, &dave] {
        for _ in 0..3 {
            let taken = sha256_hex(&claim(&mallory, owner.did()).await.unwrap());
            assert_ne!(taken, last_resort);
            use_up(app, &mallory, owner, &taken).await;
        }
    }
    for _ in 0..10 {
        assert_eq!(sha256_hex(&claim(&mallory, bob.did()).await.unwrap()), last_resort, "the stock is spared");
    }
    let asked = [("dids", dave.did())];
    let reply = refused(get(&mallory, "getKeyPackages", &asked).await, 429, "RateLimitExceeded");
    assert!(reply.number("retryAfterMs").unwrap() > 60_000, "{reply}");
    let both = ok(get(&mallory, "getKeyPackages", &[("dids", dave.did()), ("dids", bob.did())]).await);
    assert_eq!((both.list("keyPackages").unwrap().len(), &both.body["missing"]), (1, &json!([dave.did()])));
    assert_ne!(sha256_hex(&claim(&carol, bob.did()).await.unwrap()), last_resort, "others are not limited by it");
}

async fn p8_the_same_caller_gets_the_same_package_again(app: &TestApp) {
    let (alice, carol, bob) = (app.persona(), app.persona(), app.persona());
    bob.publish_key_packages(3).await.unwrap();
    let first = claim(&alice, bob.did()).await.unwrap();
    let before = contents(app).await;
    for _ in 0..3 {
        assert_eq!(claim(&alice, bob.did()).await.as_ref(), Some(&first));
    }
    assert_eq!(contents(app).await, before);
    assert_ne!(claim(&carol, bob.did()).await.as_ref(), Some(&first));
}

async fn p8_one_caller_asking_twenty_times_at_once_takes_one_package(app: &TestApp) {
    let (alice, bob) = (app.persona(), app.persona());
    bob.publish_key_packages(20).await.unwrap();
    let taken = join_all((0..20).map(|_| claim(&alice, bob.did()))).await;
    assert_eq!(taken.into_iter().collect::<BTreeSet<_>>().len(), 1);
}

async fn p8_a_last_resort_package_serves_all_callers_once_the_others_are_used(app: &TestApp) {
    let (mut alice, mut carol, mut bob) = (app.persona(), app.persona(), app.persona());
    let last_resort = bob.publish_last_resort().await.unwrap();
    let once = bob.publish_key_packages(1).await.unwrap().remove(0);
    assert_eq!(sha256_hex(&claim(&alice, bob.did()).await.unwrap()), once);
    let (dave, erin) = (app.persona(), app.persona());
    for caller in [&dave, &erin, &dave] {
        assert_eq!(sha256_hex(&claim(caller, bob.did()).await.unwrap()), last_resort);
    }
    // A last-resort package opens Welcomes of several conversations.
    for creator in [&mut alice, &mut carol] {
        creator.create(random_did().as_bytes(), "test").await.unwrap();
        let package = claim(&dave, bob.did()).await.unwrap();
        let offer = offer_with(creator, &[&bob], std::slice::from_ref(&package));
        let hashes = hashes(&[&bob], &[package]);
        ok(ask(creator, "addMembers", &with(&offer.body, json!({ "keyPackageHashes": hashes }))).await);
        bob.join(&convo(creator)).await.unwrap();
    }
}

async fn many_dids_are_a_repeated_parameter_and_each_is_answered_once(app: &TestApp) {
    let alice = app.persona();
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(app.published_persona().await);
    }
    let nobody = random_did();
    let mut asked: Vec<_> = others.iter().map(|other| ("dids", other.did())).collect();
    asked.extend([("dids", &*nobody), ("dids", others[0].did()), ("dids", &*nobody), ("colour", "red")]);
    let reply = ok(get(&alice, "getKeyPackages", &asked).await);
    let owners: BTreeSet<_> =
        reply.list("keyPackages").unwrap().iter().map(|one| one["did"].as_str().unwrap().to_owned()).collect();
    assert_eq!(owners, others.iter().map(|other| other.did().to_owned()).collect());
    assert_eq!(reply.list("keyPackages").unwrap().len(), 3);
    assert_eq!(reply.body["missing"], json!([nobody]));
}

async fn malformed_or_too_many_dids_are_refused(app: &TestApp) {
    let alice = app.persona();
    refused(get(&alice, "getKeyPackages", &[]).await, 400, "InvalidRequest");
    for did in ["", "alice", "did:plc:", "did:plc:a#b", "did:plc:a,did:plc:b", "\0", "did:plc:é"] {
        refused(get(&alice, "getKeyPackages", &[("dids", did)]).await, 400, "InvalidDid");
    }
    let dids: Vec<String> = (0..101).map(|n| format!("did:plc:many{n}")).collect();
    let asked: Vec<_> = dids.iter().map(|did| ("dids", &**did)).collect();
    refused(get(&alice, "getKeyPackages", &asked).await, 400, "TooManyDids");
    assert_eq!(ok(get(&alice, "getKeyPackages", &asked[..100]).await).list("missing").unwrap().len(), 100);
}

async fn an_unknown_suite_is_refused(app: &TestApp) {
    let (alice, bob) = (app.persona(), app.published_persona().await);
    for suite in ["", "1", "MLS_256_DHKEMX448_AES256GCM_SHA512_Ed448"] {
        let asked = [("dids", bob.did()), ("cipherSuite", suite)];
        refused(get(&alice, "getKeyPackages", &asked).await, 400, "InvalidCipherSuite");
    }
}

async fn a_package_is_issued_for_its_own_suite_only(app: &TestApp) {
    let (alice, bob) = (app.persona(), app.published_persona().await);
    let asked = [("dids", bob.did()), ("cipherSuite", "MLS_128_DHKEMP256_AES128GCM_SHA256_P256")];
    assert_eq!(ok(get(&alice, "getKeyPackages", &asked).await).body["missing"], json!([bob.did()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn p8_a_package_is_free_after_its_lease_and_never_issued_after_its_expiry() {
    let clock = Clock::manual(Clock::system().now());
    let app = TestApp::at(clock.clone(), &[]).await;
    let (alice, bob) = (app.persona(), app.persona());
    for days in [1, 2] {
        let body = json!({
            "keyPackage": base64_text(&bob.mls.key_package().unwrap()),
            "cipherSuite": bob.mls.suite_name(),
            "expires": (clock.now() + TimeDelta::days(days)).to_rfc3339(),
        });
        ok(ask(&bob, "publishKeyPackage", &body).await);
    }
    let first = claim(&alice, bob.did()).await.unwrap();
    clock.advance(TimeDelta::minutes(9));
    assert_eq!(claim(&alice, bob.did()).await.as_ref(), Some(&first));
    clock.advance(TimeDelta::minutes(2));
    let second = claim(&alice, bob.did()).await.unwrap();
    assert_ne!(second, first);
    clock.advance(TimeDelta::minutes(11));
    assert_eq!(claim(&alice, bob.did()).await, None, "both were issued, and neither comes back");

    let body = json!({
        "keyPackage": base64_text(&bob.mls.key_package().unwrap()),
        "cipherSuite": bob.mls.suite_name(),
        "expires": (clock.now() + TimeDelta::hours(1)).to_rfc3339(),
    });
    ok(ask(&bob, "publishKeyPackage", &body).await);
    clock.advance(TimeDelta::minutes(61));
    assert_eq!(claim(&alice, bob.did()).await, None, "it is out of date");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_last_resort_package_is_found_by_the_index_of_free_packages() {
    let app = TestApp::start().await;
    let db = app.database.connect().await;
    let query = include_str!("../../../sql/queries/key_packages/last_resort.sql");
    let filled = query.lines().filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join(" ");
    let filled = filled.replace("$1", "array['did:plc:bob']").replace("$2", "array['n']").replace("$3", "'suite'");
    let filled = filled.replace("$4", "now()");
    db.batch_execute("set enable_seqscan = off").await.unwrap();
    let plan = db.query(&format!("explain {filled}"), &[]).await.unwrap();
    let plan: Vec<&str> = plan.iter().map(|row| row.get(0)).collect();
    assert!(plan.iter().any(|line| line.contains("using key_packages_")), "{plan:#?}");
    app.finish().await;
}
