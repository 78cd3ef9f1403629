//! publishKeyPackages: each item is accepted or refused for itself, as publishKeyPackage would.

use catbird_client::mls::MlsClient;
use catbird_client::persona::Persona;
use catbird_client::random_did;
use catbird_client::xrpc::{Reply, base64_text};
use catbird_testkit::app::TestApp;
use chrono::TimeDelta;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::*;

any_serializer! {
    every_package_of_a_list_can_be_claimed_by_another_caller;
    a_bad_item_is_named_by_its_place_and_does_not_drop_the_others;
    a_list_without_a_good_item_succeeds_in_nothing;
    p8_a_package_that_is_published_or_issued_already_succeeds_and_is_never_issued_again;
    one_package_twice_in_a_list_is_one_package;
    a_stock_that_becomes_full_takes_the_first_items;
    two_lists_at_once_do_not_overfill_a_stock;
    p4_a_key_of_an_item_is_a_key_of_publish_key_package;
    p4_a_list_that_succeeds_in_nothing_is_judged_anew;
    a_list_has_1_to_100_items;
    p10_a_list_counts_as_many_requests with ("RATE_LIMIT_PER_DID", "10");
    p10_a_list_counts_as_many_rows_of_the_quota with ("STORED_BYTES_PER_DAY", "5000");
}

fn item(owner: &Persona) -> Value {
    given(owner, &owner.mls.key_package().unwrap())
}

fn given(owner: &Persona, package: &[u8]) -> Value {
    json!({ "keyPackage": base64_text(package), "cipherSuite": owner.mls.suite_name() })
}

async fn publish_all(owner: &Persona, items: &[Value]) -> Reply {
    ask(owner, "publishKeyPackages", &json!({ "keyPackages": items })).await
}

/// Returns the places and names of the errors of a reply.
fn errors(reply: &Reply) -> Vec<(u64, &str)> {
    let errors = reply.body["errors"].as_array().map_or(&[][..], Vec::as_slice);
    errors.iter().map(|one| (one["index"].as_u64().unwrap(), one["error"].as_str().unwrap())).collect()
}

async fn every_package_of_a_list_can_be_claimed_by_another_caller(app: &TestApp) {
    let bob = app.persona();
    let packages: Vec<_> = (0..5).map(|_| bob.mls.key_package().unwrap()).collect();
    let items: Vec<_> = packages.iter().map(|package| given(&bob, package)).collect();
    assert_eq!(ok(publish_all(&bob, &items).await).body, json!({ "succeeded": 5, "failed": 0 }));
    let mut claimed = Vec::new();
    for _ in 0..5 {
        claimed.push(claim(&app.persona(), bob.did()).await.unwrap());
    }
    assert_eq!(claim(&app.persona(), bob.did()).await, None);
    let sorted = |mut list: Vec<Vec<u8>>| {
        list.sort();
        list
    };
    assert_eq!(sorted(claimed), sorted(packages));
}

async fn a_bad_item_is_named_by_its_place_and_does_not_drop_the_others(app: &TestApp) {
    let (bob, mallory) = (app.persona(), app.persona());
    let (taken, good) = (mallory.mls.key_package().unwrap(), item(&bob));
    ok(publish(&mallory, &taken).await);
    let mut flipped = bob.mls.key_package().unwrap();
    *flipped.last_mut().unwrap() ^= 1;
    let far = (app.app.clock.now() + TimeDelta::days(91)).to_rfc3339();
    let items = [
        given(&bob, b""),
        item(&bob),
        with(&item(&bob), json!({ "cipherSuite": "MLS_128_DHKEMP256_AES128GCM_SHA256_P256" })),
        given(&bob, &MlsClient::new(random_did()).key_package().unwrap()),
        given(&bob, &flipped),
        with(&item(&bob), json!({ "expires": far })),
        given(&bob, &bob.mls.expired_key_package().unwrap()),
        given(&bob, &taken),
        good,
    ];
    let reply = ok(publish_all(&bob, &items).await);
    let found = [
        (0, "InvalidKeyPackage"),
        (2, "InvalidCipherSuite"),
        (3, "InvalidKeyPackage"),
        (4, "InvalidKeyPackage"),
        (5, "ExpirationTooFar"),
        (6, "InvalidKeyPackage"),
        (7, "InvalidKeyPackage"),
    ];
    assert_eq!(errors(&reply), found, "{reply}");
    assert_eq!((reply.number("succeeded").unwrap(), reply.number("failed").unwrap()), (2, 7));
    assert_eq!(contents(app).await.count("key_packages"), 3);
}

async fn a_list_without_a_good_item_succeeds_in_nothing(app: &TestApp) {
    let (bob, before) = (app.persona(), contents(app).await);
    let reply = ok(publish_all(&bob, &[given(&bob, b"x"), given(&bob, b"y")]).await);
    assert_eq!((reply.number("succeeded").unwrap(), errors(&reply).len()), (0, 2), "{reply}");
    assert_eq!(contents(app).await, before);
}

async fn p8_a_package_that_is_published_or_issued_already_succeeds_and_is_never_issued_again(app: &TestApp) {
    let (alice, bob) = (app.persona(), app.persona());
    let items = [item(&bob), item(&bob)];
    ok(publish_all(&bob, &items[..1]).await);
    assert!(claim(&alice, bob.did()).await.is_some());
    assert_eq!(ok(publish_all(&bob, &items).await).body, json!({ "succeeded": 2, "failed": 0 }));
    assert!(claim(&app.persona(), bob.did()).await.is_some());
    assert_eq!(claim(&app.persona(), bob.did()).await, None, "the first one belongs to Alice");
}

async fn one_package_twice_in_a_list_is_one_package(app: &TestApp) {
    let bob = app.persona();
    let package = bob.mls.key_package().unwrap();
    // Framed as an MLSMessage, and bare.
    let items = [given(&bob, &package), item(&bob), given(&bob, &package[4..]), given(&bob, &package)];
    assert_eq!(ok(publish_all(&bob, &items).await).body, json!({ "succeeded": 4, "failed": 0 }));
    assert_eq!(contents(app).await.count("key_packages"), 2);
}

async fn a_stock_that_becomes_full_takes_the_first_items(app: &TestApp) {
    let bob = app.persona();
    let old: Vec<_> = (0..98).map(|_| item(&bob)).collect();
    ok(publish_all(&bob, &old).await);
    let mut items = vec![old[0].clone(), item(&bob)];
    items.extend([items[1].clone(), item(&bob), item(&bob), items[1].clone(), item(&bob)]);
    let reply = ok(publish_all(&bob, &items).await);
    assert_eq!(errors(&reply), [(4, "TooManyKeyPackages"), (6, "TooManyKeyPackages")], "{reply}");
    assert_eq!(contents(app).await.count("key_packages"), 100);
    refused(publish(&bob, &bob.mls.key_package().unwrap()).await, 409, "TooManyKeyPackages");
}

async fn two_lists_at_once_do_not_overfill_a_stock(app: &TestApp) {
    let bob = app.persona();
    let lists: Vec<Vec<_>> = (0..4).map(|_| (0..40).map(|_| item(&bob)).collect()).collect();
    let replies = join_all(lists.iter().map(|items| publish_all(&bob, items))).await;
    let succeeded: u64 = replies.into_iter().map(|reply| ok(reply).number("succeeded").unwrap()).sum();
    assert_eq!((succeeded, contents(app).await.count("key_packages")), (100, 100));
}

async fn p4_a_key_of_an_item_is_a_key_of_publish_key_package(app: &TestApp) {
    let bob = app.persona();
    let keyed = |item: &Value, key: &str| with(item, json!({ "idempotencyKey": key }));
    let (first, second) = (item(&bob), item(&bob));
    ok(ask(&bob, "publishKeyPackage", &keyed(&first, "k")).await);
    let reply = ok(publish_all(&bob, &[keyed(&first, "k"), keyed(&second, "l")]).await);
    assert_eq!(reply.body, json!({ "succeeded": 2, "failed": 0 }));
    let reply = ok(publish_all(&bob, &[keyed(&second, "k"), item(&bob), keyed(&first, "l")]).await);
    assert_eq!(errors(&reply), [(0, "IdempotencyConflict"), (2, "IdempotencyConflict")], "{reply}");
    refused(ask(&bob, "publishKeyPackage", &keyed(&first, "l")).await, 409, "IdempotencyConflict");
    let before = contents(app).await;
    refused(publish_all(&bob, &[keyed(&item(&bob), "m"), keyed(&item(&bob), "m")]).await, 400, "InvalidRequest");
    assert_eq!(contents(app).await, before);
}

async fn p4_a_list_that_succeeds_in_nothing_is_judged_anew(app: &TestApp) {
    let bob = app.persona();
    let full: Vec<_> = (0..100).map(|_| item(&bob)).collect();
    ok(publish_all(&bob, &full).await);
    let body = json!({ "keyPackages": [item(&bob)], "idempotencyKey": "k" });
    assert_eq!(errors(&ok(ask(&bob, "publishKeyPackages", &body).await)), [(0, "TooManyKeyPackages")]);
    claim(&app.persona(), bob.did()).await.unwrap();
    assert_eq!(ok(ask(&bob, "publishKeyPackages", &body).await).number("succeeded").unwrap(), 1);
}

async fn a_list_has_1_to_100_items(app: &TestApp) {
    let (bob, before) = (app.persona(), contents(app).await);
    refused(publish_all(&bob, &[]).await, 400, "InvalidRequest");
    let items = vec![item(&bob); 101];
    refused(publish_all(&bob, &items).await, 400, "InvalidRequest");
    assert_eq!(contents(app).await, before);
    ok(publish_all(&bob, &items[1..]).await);
}

async fn p10_a_list_counts_as_many_requests(app: &TestApp) {
    let bob = app.persona();
    // A burst is two seconds' worth, and charges may run ahead of that.
    ok(publish_all(&bob, &(0..60).map(|_| item(&bob)).collect::<Vec<_>>()).await);
    let reply = refused(publish_all(&bob, &[item(&bob)]).await, 429, "RateLimitExceeded");
    assert!(reply.number("retryAfterMs").unwrap() > 1_000, "{reply}");
}

async fn p10_a_list_counts_as_many_rows_of_the_quota(app: &TestApp) {
    let bob = app.persona();
    let items: Vec<_> = (0..8).map(|_| item(&bob)).collect();
    ok(publish_all(&bob, &items).await);
    let before = contents(app).await;
    refused(publish_all(&bob, &[items[0].clone(), item(&bob), item(&bob)]).await, 429, "RateLimitExceeded");
    // What is published already costs nothing.
    ok(publish_all(&bob, &items).await);
    assert_eq!(contents(app).await, before);
}
