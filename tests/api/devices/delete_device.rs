//! deleteDevice: nothing of a deleted device can be used, and members are told; also beside commits and confirmations.

use std::time::Duration;

use catbird_client::persona::{Persona, sha256_hex};
use catbird_client::random_did;
use catbird_client::xrpc::base64_text;
use catbird_testkit::app::TestApp;
use serde_json::{Value, json};

use super::additions::pending;
use super::{Device, devices};
use crate::harness::*;

either_serializer! {
    p2_a_deletion_beside_confirmations_leaves_no_bytes_behind;
    p2_a_deletion_beside_a_commit_that_uses_the_device_leaves_no_welcome_for_it;
}
any_serializer! {
    a_deleted_device_leaves_nothing_that_can_be_used;
    a_deleted_device_can_be_registered_again_as_another_one;
}

async fn a_deleted_device_leaves_nothing_that_can_be_used(app: &TestApp) {
    let members = app.conversation(2).await;
    let (alice, bob) = (&members[0], &members[1]);
    let mut events = alice.xrpc.follow("streamConvoEvents", &[], None).await.unwrap().unwrap();
    let laptop = Device::registered(bob, "laptop", 3).await;
    ok(publish(bob, &laptop.mls.last_resort_key_package().unwrap()).await);
    let phone = Device::registered(bob, "phone", 1).await;
    ok(ask(alice, "claimKeyPackages", &json!({ "dids": [bob.did()] })).await);
    let deleted = ok(ask(bob, "deleteDevice", &json!({ "deviceId": laptop.id })).await);
    assert_eq!(deleted.body, json!({ "deleted": true, "keyPackagesDeleted": 4 }));
    refused(ask(bob, "deleteDevice", &json!({ "deviceId": laptop.id })).await, 404, "DeviceNotFound");
    refused(ask(alice, "deleteDevice", &json!({ "deviceId": phone.id })).await, 404, "DeviceNotFound");
    assert_eq!(devices(bob).await.len(), 1);
    let issued = ok(ask(&app.persona(), "claimKeyPackages", &json!({ "dids": [bob.did()] })).await);
    assert!(issued.list("keyPackages").unwrap_or_default().iter().all(|one| one["deviceId"] != *laptop.id));
    assert_eq!(pending(alice).await.len(), 1, "that of the phone");
    let mut told = Vec::new();
    while told.len() < 3 {
        let event = tokio::time::timeout(Duration::from_secs(20), events.next()).await.unwrap().unwrap().unwrap();
        if ["newDeviceEvent", "deviceDeletedEvent"].contains(&&*event.name) {
            told.push((event.name.clone(), event.data["deviceId"].as_str().unwrap().to_owned()));
        }
    }
    let expected = [("newDeviceEvent", &laptop.id), ("newDeviceEvent", &phone.id), ("deviceDeletedEvent", &laptop.id)];
    assert_eq!(told, expected.map(|(name, id)| (name.to_owned(), id.clone())));
    assert_eq!(contents(app).await.count("devices"), 1, "members were told");
}

async fn a_deleted_device_can_be_registered_again_as_another_one(app: &TestApp) {
    let members = app.conversation(2).await;
    let laptop = Device::registered(&members[1], "laptop", 1).await;
    ok(ask(&members[1], "deleteDevice", &json!({ "deviceId": laptop.id })).await);
    let body = laptop.registration("laptop", 1);
    let again = ok(ask(&members[1], "registerDevice", &body).await).string("deviceId").unwrap().to_owned();
    assert_ne!(again, laptop.id);
    assert_eq!(pending(&members[0]).await[0]["deviceId"], *again);
}

/// A commit that adds a person with packages of its devices, which was not sent yet.
async fn invitation(alice: &mut Persona, owner: &Persona, packages: &[Vec<u8>]) -> Value {
    let staged = alice.mls.add(&alice.group_id, packages).unwrap();
    let hash = |package: &Vec<u8>| json!({ "did": owner.did(), "hash": sha256_hex(package) });
    json!({
        "convoId": convo(alice), "didList": [owner.did()], "commit": base64_text(&staged.commit),
        "welcomeMessage": base64_text(&staged.welcome), "keyPackageHashes": packages.iter().map(hash).collect::<Vec<_>>(),
    })
}

/// Makes each statement that changes a table hold what it has locked for a while.
async fn slow(app: &TestApp, table: &str) {
    let trigger = format!(
        "create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.2); return null; end $$;
         create trigger slow after insert or update or delete on {table} for each statement execute function slow()"
    );
    app.database.connect().await.batch_execute(&trigger).await.unwrap();
}

async fn p2_a_deletion_beside_confirmations_leaves_no_bytes_behind(app: &TestApp) {
    slow(app, "welcome_messages").await;
    for _ in 0..2 {
        let (mut alice, bob) = (app.persona(), app.persona());
        let (phone, laptop) = (Device::registered(&bob, "phone", 1).await, Device::registered(&bob, "laptop", 1).await);
        alice.create(random_did().as_bytes(), "test").await.unwrap();
        let claimed = ok(ask(&alice, "claimKeyPackages", &json!({ "dids": [bob.did()] })).await);
        let packages = claimed.list("keyPackages").unwrap().iter();
        let packages: Vec<_> = packages.map(|one| claimed.bytes_in(one, "keyPackage").unwrap()).collect();
        let body = invitation(&mut alice, &bob, &packages).await;
        ok(ask(&alice, "addMembers", &body).await);
        let confirmation = json!({ "convoId": convo(&alice), "success": true, "deviceId": phone.id });
        let deletion = json!({ "deviceId": laptop.id });
        let (deleted, confirmed) =
            tokio::join!(ask(&bob, "deleteDevice", &deletion), ask(&bob, "confirmWelcome", &confirmation));
        ok(deleted);
        ok(confirmed);
        let left = contents(app).await;
        assert_eq!((left.count("welcomes"), left.count("devices")), (0, 1));
        ok(ask(&bob, "deleteDevice", &json!({ "deviceId": phone.id })).await);
    }
}

async fn p2_a_deletion_beside_a_commit_that_uses_the_device_leaves_no_welcome_for_it(app: &TestApp) {
    slow(app, "welcome_messages").await;
    for (round, last_resort) in [false, true, false, true].into_iter().enumerate() {
        let (mut alice, bob) = (app.persona(), app.persona());
        let laptop = Device::registered(&bob, "laptop", 1).await;
        alice.create(random_did().as_bytes(), "test").await.unwrap();
        let package = match last_resort {
            true => {
                let package = laptop.mls.last_resort_key_package().unwrap();
                ok(publish(&bob, &package).await);
                package
            }
            false => claim(&alice, bob.did()).await.unwrap(),
        };
        let body = invitation(&mut alice, &bob, &[package]).await;
        let deletion = json!({ "deviceId": laptop.id });
        let pause = Duration::from_millis(100 * (round as u64 % 4 / 2));
        let delete = async {
            tokio::time::sleep(pause).await;
            ask(&bob, "deleteDevice", &deletion).await
        };
        let (added, deleted) = tokio::join!(ask(&alice, "addMembers", &body), delete);
        ok(deleted);
        match added.status {
            200 => {}
            _ => _ = refused(added, 409, "KeyPackageNotFound"),
        }
        let left = contents(app).await;
        let rows = ["welcomes", "devices", "device_memberships"].map(|table| left.count(table));
        assert_eq!(rows, [0, 0, 0], "round {round}");
    }
}
