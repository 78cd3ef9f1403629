//! claimKeyPackages for people with several devices.

use std::collections::BTreeSet;

use catbird_client::mls::MlsClient;
use catbird_client::persona::Persona;
use catbird_client::xrpc::Reply;
use catbird_testkit::app::TestApp;
use futures_util::future::join_all;
use serde_json::json;

use super::Device;
use crate::harness::*;

either_serializer! {
    p8_twenty_callers_of_a_person_with_three_devices_get_no_package_twice;
}
any_serializer! {
    one_package_of_each_device_is_issued_and_again_within_the_lease;
    clients_that_register_no_device_are_told_apart_by_their_keys;
    the_last_resort_of_one_device_does_not_hide_the_stock_of_another;
    a_claim_of_ten_devices_counts_once_against_the_quota with ("KEY_PACKAGES_PER_CALLER", "3");
    an_owner_with_many_keys_gives_ten_packages_at_most;
}

async fn claim_all(caller: &Persona, owner: &Persona) -> Reply {
    ok(ask(caller, "claimKeyPackages", &json!({ "dids": [owner.did()] })).await)
}

/// Returns the hashes of a reply by device; unregistered clients have no name.
fn by_device(reply: &Reply) -> Vec<(Option<String>, String)> {
    let packages = reply.list("keyPackages").unwrap().iter();
    let name = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    packages.map(|one| (name(&one["deviceId"]), name(&one["keyPackageHash"]).unwrap())).collect()
}

async fn one_package_of_each_device_is_issued_and_again_within_the_lease(app: &TestApp) {
    let (alice, bob) = (app.persona(), app.persona());
    let phone = Device::registered(&bob, "phone", 2).await;
    let laptop = Device::registered(&bob, "laptop", 2).await;
    bob.publish_key_packages(2).await.unwrap();
    let first = claim_all(&alice, &bob).await;
    let devices: Vec<_> = by_device(&first).into_iter().map(|(device, _)| device).collect();
    assert_eq!(devices, [Some(phone.id), Some(laptop.id), None], "registered devices come first");
    let before = contents(app).await;
    assert_eq!(claim_all(&alice, &bob).await.body, first.body);
    assert_eq!(contents(app).await, before);
    let other = claim_all(&app.persona(), &bob).await;
    let (one, other): (BTreeSet<_>, BTreeSet<_>) =
        (by_device(&first).into_iter().collect(), by_device(&other).into_iter().collect());
    assert_eq!((one.len(), other.len(), one.intersection(&other).count()), (3, 3, 0));
    let none = claim_all(&app.persona(), &bob).await;
    assert_eq!(none.body["missing"], json!([bob.did()]));
}

async fn p8_twenty_callers_of_a_person_with_three_devices_get_no_package_twice(app: &TestApp) {
    let bob = app.persona();
    for name in ["phone", "laptop", "tablet"] {
        Device::registered(&bob, name, 20).await;
    }
    let callers: Vec<_> = (0..20).map(|_| app.persona()).collect();
    // Each asks twice at once.
    let replies = join_all(callers.iter().chain(&callers).map(|caller| claim_all(caller, &bob))).await;
    let mut all = BTreeSet::new();
    for (n, reply) in replies.iter().enumerate() {
        let issued = by_device(reply);
        assert_eq!(issued.iter().map(|(device, _)| device).collect::<BTreeSet<_>>().len(), 3, "{reply}");
        assert_eq!(reply.body, replies[n % 20].body, "a caller gets its own packages again");
        all.extend(issued.into_iter().map(|(_, hash)| hash));
    }
    assert_eq!(all.len(), 60, "each package was issued to one caller");
    assert_eq!(claim_all(&app.persona(), &bob).await.body["missing"], json!([bob.did()]));
}

async fn clients_that_register_no_device_are_told_apart_by_their_keys(app: &TestApp) {
    let (alice, bob) = (app.persona(), app.persona());
    let clients = ["phone", "laptop"].map(|name| MlsClient::new(format!("{}#{name}", bob.did())));
    for client in &clients {
        for _ in 0..2 {
            ok(publish(&bob, &client.key_package().unwrap()).await);
        }
    }
    assert_eq!(claim_all(&alice, &bob).await.list("keyPackages").unwrap().len(), 2);
    // Packages of an earlier build have no key, and count as one client.
    sql(app, "update key_packages set signature_key_hash = null where claimed_by is null", &[]).await;
    assert_eq!(claim_all(&app.persona(), &bob).await.list("keyPackages").unwrap().len(), 1);
}

async fn the_last_resort_of_one_device_does_not_hide_the_stock_of_another(app: &TestApp) {
    let bob = app.persona();
    let phone = Device::registered(&bob, "phone", 1).await;
    let laptop = Device::registered(&bob, "laptop", 2).await;
    let last = phone.mls.last_resort_key_package().unwrap();
    ok(publish(&bob, &last).await);
    let last = catbird_client::persona::sha256_hex(&last);
    let claims = [claim_all(&app.persona(), &bob).await, claim_all(&app.persona(), &bob).await];
    let [first, second] = claims.map(|reply| by_device(&reply));
    assert!(first.iter().all(|(_, hash)| *hash != last), "{first:?}");
    assert_eq!(second[0], (Some(phone.id), last.clone()));
    assert_eq!(second[1].0.as_ref(), Some(&laptop.id));
    assert_eq!(by_device(&claim_all(&app.persona(), &bob).await).len(), 1, "only the last resort is left");
}

async fn a_claim_of_ten_devices_counts_once_against_the_quota(app: &TestApp) {
    let (alice, bob) = (app.persona(), app.persona());
    for n in 0..10 {
        Device::registered(&bob, &n.to_string(), 4).await;
    }
    for n in 1..=3 {
        assert_eq!(by_device(&claim_all(&alice, &bob).await).len(), 10);
        // The leases are over.
        sql(app, "update key_packages set claim_expires_at = claimed_at where claimed_by is not null", &[]).await;
        let left = "select count(*) from key_packages where claimed_by is null";
        let left: i64 = app.database.connect().await.query_one(left, &[]).await.unwrap().get(0);
        assert_eq!(left, 40 - 10 * n);
    }
    refused(ask(&alice, "claimKeyPackages", &json!({ "dids": [bob.did()] })).await, 429, "RateLimitExceeded");
}

async fn an_owner_with_many_keys_gives_ten_packages_at_most(app: &TestApp) {
    let (alice, bob) = (app.persona(), app.persona());
    for n in 0..12 {
        ok(publish(&bob, &MlsClient::new(format!("{}#{n}", bob.did())).key_package().unwrap()).await);
    }
    let registered = Device::registered(&bob, "phone", 1).await;
    let issued = by_device(&claim_all(&alice, &bob).await);
    assert_eq!((issued.len(), &issued[0].0), (10, &Some(registered.id)));
    assert_eq!(by_device(&claim_all(&alice, &bob).await), issued);
}
