//! syncKeyPackages: no list withdraws a package, except the list of those to withdraw.

use catbird_client::persona::{Persona, sha256_hex};
use catbird_client::xrpc::Reply;
use catbird_testkit::app::TestApp;
use serde_json::{Value, json};

use crate::harness::*;

any_serializer! {
    p8_no_local_list_withdraws_a_package;
    the_lists_show_what_each_side_lacks;
    both_names_of_a_package_are_understood;
    a_withdrawn_package_is_not_issued_and_can_be_published_again;
    p8_a_withdrawn_package_that_was_issued_is_never_issued_again;
    packages_of_others_cannot_be_withdrawn;
    withdrawing_again_changes_nothing;
    lists_have_200_hashes_at_most;
}

async fn sync(owner: &Persona, local: &[String], delete: &[String]) -> Reply {
    ok(ask(owner, "syncKeyPackages", &json!({ "localHashes": local, "deleteHashes": delete })).await)
}

/// Returns the reference of a package that is kept under this hash, in hex.
async fn reference(app: &TestApp, hash: &str) -> String {
    let find = "select encode(reference, 'hex') from key_packages where hash = decode($1, 'hex')";
    app.database.connect().await.query_one(find, &[&hash]).await.unwrap().get(0)
}

fn absent() -> String {
    sha256_hex(b"a package that was never published")
}

async fn p8_no_local_list_withdraws_a_package(app: &TestApp) {
    let bob = app.persona();
    let mut hashes = bob.publish_key_packages(5).await.unwrap();
    hashes.push(bob.publish_last_resort().await.unwrap());
    let before = contents(app).await;
    for local in [&[][..], &hashes[..1], &[absent()]] {
        let reply = sync(&bob, local, &[]).await;
        assert_eq!((reply.number("deletedCount").unwrap(), reply.number("remainingAvailable").unwrap()), (0, 6));
    }
    for body in [json!({ "localHashes": [] }), json!({ "localHashes": [], "deleteHashes": null })] {
        ok(ask(&bob, "syncKeyPackages", &body).await);
    }
    refused(ask(&bob, "syncKeyPackages", &json!({})).await, 400, "InvalidRequest");
    assert_eq!(contents(app).await, before);
}

async fn the_lists_show_what_each_side_lacks(app: &TestApp) {
    let bob = app.persona();
    let hashes = bob.publish_key_packages(4).await.unwrap();
    let issued = sha256_hex(&claim(&app.persona(), bob.did()).await.unwrap());
    let left: Vec<_> = hashes.iter().filter(|hash| **hash != issued).cloned().collect();
    let reply = sync(&bob, &[left[0].clone(), absent(), issued], &[]).await;
    assert_eq!(
        reply.body,
        json!({
            "serverHashes": left, "orphanedHashes": left[1..], "orphanedCount": 2, "missingHashes": [absent()],
            "deletedCount": 0, "remainingAvailable": 3,
        })
    );
}

async fn both_names_of_a_package_are_understood(app: &TestApp) {
    let bob = app.persona();
    let hashes = bob.publish_key_packages(3).await.unwrap();
    let issued = sha256_hex(&claim(&app.persona(), bob.did()).await.unwrap());
    let mut names = Vec::new();
    for hash in &hashes {
        names.push(reference(app, hash).await.to_uppercase());
    }
    let reply = sync(&bob, &names, &[]).await.body;
    assert_eq!((&reply["orphanedHashes"], &reply["missingHashes"]), (&json!([]), &json!([])));
    let free = hashes.iter().position(|hash| *hash != issued).unwrap();
    let reply = sync(&bob, &[], &[names[free].clone()]).await.body;
    assert_eq!((&reply["deletedCount"], &reply["remainingAvailable"]), (&json!(1), &json!(1)));
}

async fn a_withdrawn_package_is_not_issued_and_can_be_published_again(app: &TestApp) {
    let bob = app.persona();
    let package = bob.mls.key_package().unwrap();
    ok(publish(&bob, &package).await);
    let reply = sync(&bob, &[], &[sha256_hex(&package)]).await;
    assert_eq!(reply.number("deletedCount").unwrap(), 1);
    assert_eq!(claim(&app.persona(), bob.did()).await, None);
    assert_eq!(contents(app).await.count("key_packages"), 0);
    ok(publish(&bob, &package).await);
    assert_eq!(claim(&app.persona(), bob.did()).await, Some(package));
}

async fn p8_a_withdrawn_package_that_was_issued_is_never_issued_again(app: &TestApp) {
    let (alice, bob) = (app.persona(), app.persona());
    let package = bob.mls.key_package().unwrap();
    ok(publish(&bob, &package).await);
    let last_resort = bob.publish_last_resort().await.unwrap();
    assert_eq!(claim(&alice, bob.did()).await.as_ref(), Some(&package));
    let both = [sha256_hex(&package), last_resort];
    assert_eq!(sync(&bob, &[], &both).await.number("deletedCount").unwrap(), 2);
    assert_eq!(claim(&alice, bob.did()).await, None, "not within the lease either");
    ok(publish(&bob, &package).await);
    assert_eq!(claim(&app.persona(), bob.did()).await, None);
    assert_eq!(contents(app).await.count("key_packages"), 2);
}

async fn packages_of_others_cannot_be_withdrawn(app: &TestApp) {
    let (bob, mallory) = (app.persona(), app.persona());
    let hashes = bob.publish_key_packages(2).await.unwrap();
    let named = [hashes[0].clone(), reference(app, &hashes[1]).await];
    let before = contents(app).await;
    let reply = sync(&mallory, &named, &named).await.body;
    let none = json!([] as [Value; 0]);
    assert_eq!((&reply["deletedCount"], &reply["serverHashes"]), (&json!(0), &none));
    assert_eq!(reply["missingHashes"], json!(named), "as if they were unknown");
    assert_eq!(contents(app).await, before);
}

async fn withdrawing_again_changes_nothing(app: &TestApp) {
    let bob = app.persona();
    let hashes = bob.publish_key_packages(2).await.unwrap();
    claim(&app.persona(), bob.did()).await.unwrap();
    assert_eq!(sync(&bob, &[], &hashes).await.number("deletedCount").unwrap(), 2);
    let before = contents(app).await;
    assert_eq!(sync(&bob, &[], &hashes).await.number("deletedCount").unwrap(), 0);
    assert_eq!(contents(app).await, before);
}

async fn lists_have_200_hashes_at_most(app: &TestApp) {
    let bob = app.persona();
    for field in ["localHashes", "deleteHashes"] {
        let list = |n| with(&json!({ "localHashes": [] }), json!({ field: vec![absent(); n] }));
        ok(ask(&bob, "syncKeyPackages", &list(200)).await);
        refused(ask(&bob, "syncKeyPackages", &list(201)).await, 400, "InvalidRequest");
    }
    for bad in ["", "0", "zz", &"0".repeat(62), &"0".repeat(130)] {
        refused(ask(&bob, "syncKeyPackages", &json!({ "localHashes": [bad] })).await, 400, "InvalidRequest");
    }
}
