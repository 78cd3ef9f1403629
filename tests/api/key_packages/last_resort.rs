//! Last-resort packages: a newer one replaces the older, and the owner is told when one is issued.

use catbird_client::persona::{Persona, sha256_hex};
use catbird_client::random_did;
use catbird_client::xrpc::base64_text;
use catbird_testkit::app::TestApp;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::events::follow;
use crate::harness::*;

any_serializer! {
    p8_a_new_last_resort_package_replaces_the_older_one_for_new_claims;
    a_replaced_last_resort_package_still_opens_welcomes;
    of_last_resort_packages_in_one_list_the_last_is_issued;
    last_resort_packages_published_at_once_leave_one;
    a_full_stock_takes_a_last_resort_package;
    the_owner_is_told_once_an_hour_that_its_last_resort_package_was_issued;
}

async fn issued(app: &TestApp, owner: &Persona) -> String {
    sha256_hex(&claim(&app.persona(), owner.did()).await.unwrap())
}

/// Returns how many last-resort packages of all owners can be issued.
async fn in_stock(app: &TestApp) -> i64 {
    let count = "select count(*) from key_packages where last_resort and retired_at is null";
    app.database.connect().await.query_one(count, &[]).await.unwrap().get(0)
}

async fn p8_a_new_last_resort_package_replaces_the_older_one_for_new_claims(app: &TestApp) {
    let (bob, carol) = (app.persona(), app.persona());
    let others = carol.publish_last_resort().await.unwrap();
    let first = bob.publish_last_resort().await.unwrap();
    assert_eq!(issued(app, &bob).await, first);
    let second = bob.mls.last_resort_key_package().unwrap();
    for _ in 0..2 {
        ok(publish(&bob, &second).await);
        assert_eq!(issued(app, &bob).await, sha256_hex(&second));
    }
    assert_eq!(issued(app, &carol).await, others);
    assert_eq!((in_stock(app).await, contents(app).await.count("key_packages")), (2, 3));
}

async fn a_replaced_last_resort_package_still_opens_welcomes(app: &TestApp) {
    let (mut alice, mut bob) = (app.persona(), app.persona());
    alice.create(random_did().as_bytes(), "test").await.unwrap();
    bob.publish_last_resort().await.unwrap();
    let package = claim(&alice, bob.did()).await.unwrap();
    bob.publish_last_resort().await.unwrap();
    let offer = offer_with(&mut alice, &[&bob], std::slice::from_ref(&package));
    let named = with(&offer.body, json!({ "keyPackageHashes": hashes(&[&bob], &[package]) }));
    ok(ask(&alice, "addMembers", &named).await);
    merge(&mut alice);
    bob.join(&convo(&alice)).await.unwrap();
    alice.send("hello").await.unwrap();
    assert_eq!(bob.catch_up().await.unwrap(), ["hello"]);
}

async fn of_last_resort_packages_in_one_list_the_last_is_issued(app: &TestApp) {
    let bob = app.persona();
    bob.publish_last_resort().await.unwrap();
    let packages: Vec<_> = (0..3).map(|_| bob.mls.last_resort_key_package().unwrap()).collect();
    let suite = bob.mls.suite_name();
    let item = |package: &Vec<u8>| json!({ "keyPackage": base64_text(package), "cipherSuite": suite });
    let items: Value = packages.iter().map(item).collect();
    let reply = ok(ask(&bob, "publishKeyPackages", &json!({ "keyPackages": items })).await);
    assert_eq!(reply.body, json!({ "succeeded": 3, "failed": 0 }));
    assert_eq!((in_stock(app).await, issued(app, &bob).await), (1, sha256_hex(&packages[2])));
}

async fn last_resort_packages_published_at_once_leave_one(app: &TestApp) {
    let bob = app.persona();
    let packages: Vec<_> = (0..10).map(|_| bob.mls.last_resort_key_package().unwrap()).collect();
    for reply in join_all(packages.iter().map(|package| publish(&bob, package))).await {
        ok(reply);
    }
    assert_eq!(in_stock(app).await, 1);
}

async fn a_full_stock_takes_a_last_resort_package(app: &TestApp) {
    let bob = app.persona();
    bob.publish_key_packages(100).await.unwrap();
    refused(publish(&bob, &bob.mls.key_package().unwrap()).await, 409, "TooManyKeyPackages");
    for _ in 0..2 {
        bob.publish_last_resort().await.unwrap();
    }
    assert_eq!(in_stock(app).await, 1);
}

async fn the_owner_is_told_once_an_hour_that_its_last_resort_package_was_issued(app: &TestApp) {
    let bob = app.persona();
    let first = bob.publish_last_resort().await.unwrap();
    let mut stream = follow(&bob).await;
    let claimers: Vec<_> = (0..10).map(|_| app.persona()).collect();
    join_all(claimers.iter().map(|claimer| claim(claimer, bob.did()))).await;
    let event = stream.expect("lastResortUsedEvent").await;
    assert_eq!((&event["keyPackageHash"], &event["cipherSuite"]), (&json!(first), &json!(bob.mls.suite_name())));
    let second = bob.publish_last_resort().await.unwrap();
    assert_eq!(issued(app, &bob).await, second);
    assert_eq!(stream.expect("lastResortUsedEvent").await["keyPackageHash"], second, "the others were one event");
    sql(app, "update key_packages set announced_at = announced_at - interval '61 minutes'", &[]).await;
    issued(app, &bob).await;
    assert_eq!(stream.expect("lastResortUsedEvent").await["keyPackageHash"], second);
}
