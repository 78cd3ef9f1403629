//! publishKeyPackage: accepts packages that their owner signed, with a supported suite and a valid lifetime.

use catbird_client::mls::{DEFAULT_SUITE, MlsClient};
use catbird_client::persona::sha256_hex;
use catbird_client::random_did;
use catbird_client::xrpc::base64_text;
use catbird_server::clock::Clock;
use catbird_testkit::app::TestApp;
use chrono::TimeDelta;
use openmls::prelude::Ciphersuite;
use serde_json::json;

use super::handmade::Handmade;
use crate::harness::*;

any_serializer! {
    the_reply_names_the_hash_and_others_can_take_it;
    every_spelling_of_base64_and_of_fields_is_the_same_package;
    all_suites_of_the_server_are_taken_and_handed_out_by_name;
    a_package_of_another_suite_than_the_request_is_refused;
    a_package_with_another_did_is_refused;
    a_package_of_one_of_the_owners_devices_is_taken;
    a_package_with_any_byte_of_its_signature_flipped_is_refused;
    a_package_whose_lifetime_is_over_or_has_not_begun_is_refused;
    a_package_may_live_for_a_year_and_no_longer;
    unknown_extensions_of_a_package_are_skipped;
    a_leaf_that_was_made_for_something_else_is_no_package;
    expires_lies_ahead_and_no_further_than_90_days;
    p8_an_issued_package_that_is_published_again_is_never_issued_again;
    p8_another_owners_package_cannot_be_published;
    p8_a_package_in_another_spelling_is_the_same_package;
    p8_another_owners_package_in_another_spelling_is_refused with ("MLS_VALIDATION", "framing");
    a_hundred_may_wait_and_no_more;
    framing_mode_accepts_what_parses_and_ignores_unsigned_markers with ("MLS_VALIDATION", "framing");
}

async fn the_reply_names_the_hash_and_others_can_take_it(app: &TestApp) {
    let (alice, bob) = (app.persona(), app.persona());
    let package = bob.mls.key_package().unwrap();
    let body = json!({
        "keyPackage": base64_text(&package),
        "cipherSuite": bob.mls.suite_name(),
        "expires": (app.app.clock.now() + TimeDelta::days(7)).to_rfc3339(),
        "idempotencyKey": "k",
    });
    let reply = ok(ask(&bob, "publishKeyPackage", &body).await);
    assert_eq!(reply.body, json!({ "success": true, "keyPackageHash": sha256_hex(&package) }));
    let taken = ok(get(&alice, "getKeyPackages", &[("dids", bob.did())]).await);
    assert_eq!(
        taken.body,
        json!({ "keyPackages": [{
            "did": bob.did(), "keyPackage": base64_text(&package), "keyPackageHash": sha256_hex(&package),
            "cipherSuite": bob.mls.suite_name(),
        }] })
    );
}

async fn every_spelling_of_base64_and_of_fields_is_the_same_package(app: &TestApp) {
    let bob = app.persona();
    let package = bob.mls.key_package().unwrap();
    for (n, spelling) in spellings(&package).into_iter().enumerate() {
        let body = match n % 2 {
            0 => json!({ "keyPackage": spelling, "cipherSuite": bob.mls.suite_name(), "colour": null }),
            _ => json!({ "key_package": spelling, "cipher_suite": bob.mls.suite_name() }),
        };
        let reply = ok(ask(&bob, "publishKeyPackage", &body).await);
        assert_eq!(reply.string("keyPackageHash").unwrap(), sha256_hex(&package));
    }
    assert_eq!(contents(app).await.count("key_packages"), 1);
}

async fn all_suites_of_the_server_are_taken_and_handed_out_by_name(app: &TestApp) {
    let (alice, mut bob) = (app.persona(), app.persona());
    let suites = [
        DEFAULT_SUITE,
        Ciphersuite::MLS_128_DHKEMP256_AES128GCM_SHA256_P256,
        Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519,
        Ciphersuite::MLS_256_DHKEMP384_AES256GCM_SHA384_P384,
        Ciphersuite::MLS_256_XWING_CHACHA20POLY1305_SHA256_Ed25519,
        // No library here signs with it.
        Ciphersuite::MLS_256_DHKEMP521_AES256GCM_SHA512_P521,
    ];
    assert_eq!(suites.len(), catbird_server::mls::SUITES.len());
    let now = app.app.clock.now().timestamp().cast_unsigned();
    let mut packages = Vec::new();
    for suite in suites {
        let package = match u16::from(suite) {
            5 => Handmade { suite: 5, ..Handmade::living((now, now + 3_600)) }.make(bob.did(), "P-521"),
            _ => {
                bob.mls = Box::new(MlsClient::with_suite(bob.did(), suite).unwrap());
                bob.mls.key_package().unwrap()
            }
        };
        let body = json!({ "keyPackage": base64_text(&package), "cipherSuite": format!("{suite:?}") });
        for from_the_end in [1, package.len() / 2] {
            let mut flipped = package.clone();
            flipped[package.len() - from_the_end] ^= 1;
            let body = with(&body, json!({ "keyPackage": base64_text(&flipped) }));
            refused(ask(&bob, "publishKeyPackage", &body).await, 400, "InvalidKeyPackage");
        }
        ok(ask(&bob, "publishKeyPackage", &body).await);
        packages.push(package);
    }
    for (suite, package) in suites.iter().zip(packages) {
        for name in ["cipherSuite", "cipher_suite"] {
            let asked = [("dids", bob.did()), (name, &*format!("{suite:?}"))];
            let taken = ok(get(&alice, "getKeyPackages", &asked).await);
            assert_eq!(taken.body["keyPackages"][0]["keyPackageHash"], sha256_hex(&package));
        }
    }
}

async fn a_package_of_another_suite_than_the_request_is_refused(app: &TestApp) {
    let bob = app.persona();
    let package = base64_text(&bob.mls.key_package().unwrap());
    for suite in ["MLS_128_DHKEMP256_AES128GCM_SHA256_P256", "MLS_256_DHKEMX448_AES256GCM_SHA512_Ed448", "x", ""] {
        let body = json!({ "keyPackage": package, "cipherSuite": suite });
        refused(ask(&bob, "publishKeyPackage", &body).await, 400, "InvalidCipherSuite");
    }
    assert_eq!(contents(app).await.count("key_packages"), 0);
}

async fn a_package_with_another_did_is_refused(app: &TestApp) {
    let bob = app.persona();
    for other in [random_did(), format!("{}x", bob.did()), bob.did()[..bob.did().len() - 1].to_owned()] {
        let package = MlsClient::new(other).key_package().unwrap();
        refused(publish(&bob, &package).await, 400, "InvalidKeyPackage");
    }
    assert_eq!(contents(app).await.count("key_packages"), 0);
}

async fn a_package_of_one_of_the_owners_devices_is_taken(app: &TestApp) {
    let bob = app.persona();
    let device = MlsClient::new(format!("{}#phone", bob.did()));
    ok(publish(&bob, &device.key_package().unwrap()).await);
}

async fn a_package_with_any_byte_of_its_signature_flipped_is_refused(app: &TestApp) {
    let bob = app.persona();
    let package = bob.mls.key_package().unwrap();
    // The outer signature comes last: its length, then 64 bytes of Ed25519.
    for from_the_end in [1, 2, 32, 64, 65, 100, package.len() / 2] {
        let mut flipped = package.clone();
        let at = flipped.len() - from_the_end;
        flipped[at] ^= 1;
        refused(publish(&bob, &flipped).await, 400, "InvalidKeyPackage");
    }
    assert_eq!(contents(app).await.count("key_packages"), 0);
    ok(publish(&bob, &package).await);
}

async fn a_package_whose_lifetime_is_over_or_has_not_begun_is_refused(app: &TestApp) {
    let bob = app.persona();
    let now = app.app.clock.now().timestamp().cast_unsigned();
    refused(publish(&bob, &MlsClient::new(bob.did()).expired_key_package().unwrap()).await, 400, "InvalidKeyPackage");
    let later = MlsClient::new(bob.did()).key_package_with_lifetime(now + 86_400, now + 2 * 86_400).unwrap();
    refused(publish(&bob, &later).await, 400, "InvalidKeyPackage");
    assert_eq!(contents(app).await.count("key_packages"), 0);
}

/// Clocks differ by some seconds, and a library may date a package to the second of its creation.
async fn a_package_may_live_for_a_year_and_no_longer(app: &TestApp) {
    let bob = app.persona();
    let now = app.app.clock.now().timestamp().cast_unsigned();
    let longest = catbird_server::mls::MAX_KEY_PACKAGE_LIFETIME_SECONDS;
    assert!(longest >= 365 * 86_400 + 3_600);
    for (not_before, not_after, outcome) in [
        (now, now + 60, None),
        (now + 8, now + 3_600, None),
        (now + 60, now + 3_600, Some("InvalidKeyPackage")),
        (now - 3_600, now + 365 * 86_400, None),
        (now - 3_600, now - 3_600 + longest, None),
        (now - 3_600, now - 3_600 + longest + 1, Some("ExpirationTooFar")),
        (now - 20 * 365 * 86_400, now + 60, Some("ExpirationTooFar")),
        (0, u64::MAX, Some("ExpirationTooFar")),
        (now, u64::MAX, Some("ExpirationTooFar")),
        (u64::MAX, u64::MAX, Some("InvalidKeyPackage")),
        (now, now - 10, Some("InvalidKeyPackage")),
    ] {
        let reply =
            publish(&bob, &MlsClient::new(bob.did()).key_package_with_lifetime(not_before, not_after).unwrap()).await;
        assert_eq!(reply.error(), outcome, "{not_before} {not_after}: {reply}");
    }
}

/// RFC 9420, sections 13.4 and 13.5.
async fn unknown_extensions_of_a_package_are_skipped(app: &TestApp) {
    let (alice, bob) = (app.persona(), app.persona());
    let now = app.app.clock.now().timestamp().cast_unsigned();
    let plain = || Handmade::living((now - 60, now + 3_600));
    for (n, package) in [
        Handmade {
            supported: vec![0x4a4a, 0x8a8a],
            leaf_extensions: vec![0x4a4a],
            extensions: vec![0x8a8a],
            ..plain()
        },
        // The member that adds it decides.
        Handmade { extensions: vec![0x8a8a, 0xf00d], ..plain() },
        Handmade { leaf_extensions: vec![0x4a4a], ..plain() },
        Handmade { extensions: vec![0x000a], ..plain() },
    ]
    .iter()
    .enumerate()
    {
        let package = package.make(bob.did(), &n.to_string());
        ok(publish(&bob, &package).await);
        if n < 3 {
            assert_eq!(claim(&alice, bob.did()).await.as_ref(), Some(&package));
            sql(app, "update key_packages set claim_expires_at = claimed_at", &[]).await;
        }
    }
    let both = [claim(&alice, bob.did()).await, claim(&app.persona(), bob.did()).await];
    assert!(both[0].is_some() && both[0] == both[1], "the last one is a last resort");
    for twice in [
        Handmade { extensions: vec![0x8a8a, 0x8a8a], ..plain() },
        Handmade { leaf_extensions: vec![0x4a4a, 0x4a4a], ..plain() },
    ] {
        refused(publish(&bob, &twice.make(bob.did(), "twice")).await, 400, "InvalidKeyPackage");
    }
}

async fn a_leaf_that_was_made_for_something_else_is_no_package(app: &TestApp) {
    let bob = app.persona();
    let now = app.app.clock.now().timestamp().cast_unsigned();
    for source in [0, 2, 3, 4] {
        let package = Handmade { source, ..Handmade::living((now, now + 3_600)) }.make(bob.did(), "other");
        refused(publish(&bob, &package).await, 400, "InvalidKeyPackage");
    }
}

async fn expires_lies_ahead_and_no_further_than_90_days(app: &TestApp) {
    let bob = app.persona();
    let package = base64_text(&bob.mls.key_package().unwrap());
    let body =
        |expires: String| json!({ "keyPackage": package, "cipherSuite": bob.mls.suite_name(), "expires": expires });
    let ahead = |by: TimeDelta| (app.app.clock.now() + by).to_rfc3339();
    for too_far in [ahead(TimeDelta::days(91)), "9999-12-31T23:59:59Z".to_owned()] {
        refused(ask(&bob, "publishKeyPackage", &body(too_far)).await, 400, "ExpirationTooFar");
    }
    for past in [ahead(TimeDelta::seconds(-1)), "1970-01-01T00:00:00Z".to_owned()] {
        refused(ask(&bob, "publishKeyPackage", &body(past)).await, 400, "InvalidKeyPackage");
    }
    assert_eq!(contents(app).await.count("key_packages"), 0);
    ok(ask(&bob, "publishKeyPackage", &body(ahead(TimeDelta::days(89)))).await);
}

async fn p8_an_issued_package_that_is_published_again_is_never_issued_again(app: &TestApp) {
    let (alice, mallory, bob) = (app.persona(), app.persona(), app.persona());
    let package = bob.mls.key_package().unwrap();
    ok(publish(&bob, &package).await);
    assert_eq!(claim(&alice, bob.did()).await.as_ref(), Some(&package));
    ok(publish(&bob, &package).await);
    assert_eq!(claim(&mallory, bob.did()).await, None);
    // Nor after it was used.
    let mut alice = alice;
    alice.create(random_did().as_bytes(), "test").await.unwrap();
    let offer = offer_with(&mut alice, &[&bob], std::slice::from_ref(&package));
    let used = with(&offer.body, json!({ "keyPackageHashes": hashes(&[&bob], std::slice::from_ref(&package)) }));
    ok(ask(&alice, "addMembers", &used).await);
    ok(publish(&bob, &package).await);
    for caller in [&alice, &mallory] {
        assert_eq!(claim(caller, bob.did()).await, None);
    }
}

async fn p8_another_owners_package_cannot_be_published(app: &TestApp) {
    let (bob, mallory) = (app.persona(), app.persona());
    let package = bob.mls.key_package().unwrap();
    ok(publish(&bob, &package).await);
    let before = contents(app).await;
    let body = json!({ "keyPackage": base64_text(&package), "cipherSuite": bob.mls.suite_name() });
    refused(ask(&mallory, "publishKeyPackage", &body).await, 400, "InvalidKeyPackage");
    assert_eq!(contents(app).await, before);
}

/// Returns the bare key package inside an MLSMessage: without version and wire format (RFC 9420, section 6).
fn bare(message: &[u8]) -> &[u8] {
    &message[4..]
}

async fn p8_a_package_in_another_spelling_is_the_same_package(app: &TestApp) {
    let (alice, mallory, bob) = (app.persona(), app.persona(), app.persona());
    for wrapped_first in [true, false] {
        let package = bob.mls.key_package().unwrap();
        let (first, second) = match wrapped_first {
            true => (&*package, bare(&package)),
            false => (bare(&package), &*package),
        };
        for spelling in [first, second] {
            let named = ok(publish(&bob, spelling).await);
            assert_eq!(named.string("keyPackageHash").unwrap(), sha256_hex(first), "the hash that it is kept under");
        }
        assert_eq!(claim(&alice, bob.did()).await.as_deref(), Some(first));
        assert_eq!(claim(&mallory, bob.did()).await, None);
        ok(publish(&bob, second).await);
        assert_eq!(claim(&mallory, bob.did()).await, None);
        sql(app, "update key_packages set claim_expires_at = claimed_at", &[]).await;
    }
}

async fn p8_another_owners_package_in_another_spelling_is_refused(app: &TestApp) {
    let (bob, mallory) = (app.persona(), app.persona());
    let package = bob.mls.key_package().unwrap();
    ok(publish(&bob, &package).await);
    let before = contents(app).await;
    refused(publish(&mallory, bare(&package)).await, 400, "InvalidKeyPackage");
    assert_eq!(contents(app).await, before);
}

async fn a_hundred_may_wait_and_no_more(app: &TestApp) {
    let (alice, bob) = (app.persona(), app.persona());
    let hashes = bob.publish_key_packages(100).await.unwrap();
    assert_eq!(hashes.len(), 100);
    let one_more = bob.mls.key_package().unwrap();
    refused(publish(&bob, &one_more).await, 409, "TooManyKeyPackages");
    let first = claim(&alice, bob.did()).await.unwrap();
    assert_eq!(sha256_hex(&first), hashes[0], "the oldest goes first");
    ok(publish(&bob, &one_more).await);
    refused(publish(&bob, &bob.mls.key_package().unwrap()).await, 409, "TooManyKeyPackages");
    // A package that is already stored does not count again.
    ok(publish(&bob, &one_more).await);
}

async fn framing_mode_accepts_what_parses_and_ignores_unsigned_markers(app: &TestApp) {
    let (alice, carol, bob) = (app.persona(), app.persona(), app.persona());
    let mut unsigned = bob.mls.last_resort_key_package().unwrap();
    *unsigned.last_mut().unwrap() ^= 1;
    ok(publish(&bob, &unsigned).await);
    ok(publish(&app.persona(), &MlsClient::new(bob.did()).expired_key_package().unwrap()).await);
    ok(publish(&app.persona(), &MlsClient::new(random_did()).key_package().unwrap()).await);
    for garbage in [b"".as_slice(), b"garbage", &unsigned[..100]] {
        refused(publish(&bob, garbage).await, 400, "InvalidKeyPackage");
    }
    assert_eq!(claim(&alice, bob.did()).await, Some(unsigned.clone()));
    assert_ne!(claim(&carol, bob.did()).await, Some(unsigned), "it is not a last resort and is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_a_repetition_gets_the_first_reply_after_the_package_has_expired() {
    let clock = Clock::manual(Clock::system().now());
    let app = TestApp::at(clock.clone(), &[]).await;
    let bob = app.persona();
    let body = json!({
        "keyPackage": base64_text(&bob.mls.key_package().unwrap()),
        "cipherSuite": bob.mls.suite_name(),
        "expires": (clock.now() + TimeDelta::minutes(30)).to_rfc3339(),
        "idempotencyKey": "once",
    });
    let first = ok(ask(&bob, "publishKeyPackage", &body).await);
    clock.advance(TimeDelta::minutes(31));
    let before = contents(&app).await;
    assert_eq!(ok(ask(&bob, "publishKeyPackage", &body).await).body, first.body);
    refused(
        ask(&bob, "publishKeyPackage", &with(&body, json!({ "idempotencyKey": "new" }))).await,
        400,
        "InvalidKeyPackage",
    );
    assert_eq!(contents(&app).await, before);
    app.finish().await;
}
