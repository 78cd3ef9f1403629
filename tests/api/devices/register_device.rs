//! registerDevice: one id for each device, and one device for each id.

use std::collections::BTreeSet;

use catbird_client::persona::{Persona, sha256_hex};
use catbird_client::random_did;
use catbird_client::xrpc::{base64_text, bytes_value};
use catbird_testkit::app::{TestApp, validated};
use catbird_testkit::fleet::{Mode, Replica};
use futures_util::future::join_all;
use serde_json::json;

use super::{Device, devices};
use crate::harness::*;

any_serializer! {
    the_reply_names_the_device_and_joins_nothing;
    a_repetition_with_the_same_uuid_or_key_keeps_the_id_and_replaces_what_was_never_issued;
    a_registration_changes_nothing_of_another_device;
    a_key_of_one_device_under_the_uuid_of_another_is_refused;
    p8_a_package_that_was_issued_stays_issued_when_its_device_registers_again;
    packages_that_were_published_before_belong_to_the_device_afterwards;
    a_package_of_another_key_or_did_refuses_the_whole_registration;
    a_person_has_at_most_ten_devices;
    a_package_that_names_a_device_must_have_its_key;
    a_setting_lowers_the_number_of_devices with ("MAX_DEVICES", "2");
    each_device_may_have_a_hundred_packages;
    names_and_keys_have_a_form;
}

async fn the_reply_names_the_device_and_joins_nothing(app: &TestApp) {
    let bob = app.persona();
    let laptop = Device::new(&bob, "laptop");
    let reply = ok(ask(&bob, "registerDevice", &laptop.registration("  Laptop ", 2)).await);
    let id = reply.string("deviceId").unwrap();
    assert_eq!(id.len(), 26);
    assert_eq!(reply.body, json!({ "deviceId": id, "mlsDid": format!("{}#{id}", bob.did()), "autoJoinedConvos": [] }));
    let listed = devices(&bob).await;
    assert_eq!(listed.len(), 1);
    assert_eq!((&listed[0]["deviceName"], &listed[0]["keyPackageCount"]), (&json!("Laptop"), &json!(2)));
    assert_eq!(listed[0]["credentialDid"], reply.body["mlsDid"]);
}

async fn a_repetition_with_the_same_uuid_or_key_keeps_the_id_and_replaces_what_was_never_issued(app: &TestApp) {
    let (alice, bob) = (app.persona(), app.persona());
    let laptop = Device::new(&bob, "laptop");
    let first = with(&laptop.registration("one", 2), json!({ "deviceUUID": "u" }));
    let id = ok(ask(&bob, "registerDevice", &first).await).body["deviceId"].clone();
    let same_key = laptop.registration("two", 3);
    assert_eq!(ok(ask(&bob, "registerDevice", &same_key).await).body["deviceId"], id);
    let listed = devices(&bob).await;
    assert_eq!((&listed[0]["deviceName"], &listed[0]["deviceUUID"]), (&json!("two"), &json!("u")));
    assert_eq!(listed[0]["keyPackageCount"], 3);
    // Installed again: new keys under the old UUID.
    let again = Device::new(&bob, "laptop");
    let package = again.mls.key_package().unwrap();
    let same_uuid =
        with(&again.registration_with("three", std::slice::from_ref(&package)), json!({ "deviceUUID": "u" }));
    assert_eq!(ok(ask(&bob, "registerDevice", &same_uuid).await).body["deviceId"], id);
    assert_eq!(contents(app).await.count("key_packages"), 1);
    assert_eq!(claim(&alice, bob.did()).await, Some(package));
    // The same request again replaces nothing, and what was issued is not issued again.
    assert_eq!(ok(ask(&bob, "registerDevice", &same_uuid).await).body["deviceId"], id);
    assert_eq!(claim(&app.persona(), bob.did()).await, None);
}

async fn a_registration_changes_nothing_of_another_device(app: &TestApp) {
    let bob = app.persona();
    let phone = Device::registered(&bob, "phone", 3).await;
    bob.publish_key_packages(2).await.unwrap();
    let laptop = Device::new(&bob, "laptop");
    for n in [4, 1] {
        ok(ask(&bob, "registerDevice", &laptop.registration("laptop", n)).await);
        assert_eq!(contents(app).await.count("key_packages"), 5 + n as i64);
    }
    let listed = devices(&bob).await;
    assert_eq!(listed.iter().find(|one| one["deviceId"] == *phone.id).unwrap()["keyPackageCount"], 3);
}

async fn a_key_of_one_device_under_the_uuid_of_another_is_refused(app: &TestApp) {
    let bob = app.persona();
    let (phone, laptop) = (Device::new(&bob, "phone"), Device::new(&bob, "laptop"));
    ok(ask(&bob, "registerDevice", &with(&phone.registration("phone", 1), json!({ "deviceUUID": "p" }))).await);
    ok(ask(&bob, "registerDevice", &with(&laptop.registration("laptop", 1), json!({ "deviceUUID": "l" }))).await);
    let before = contents(app).await;
    let mixed = with(&phone.registration("phone", 1), json!({ "deviceUUID": "l" }));
    refused(ask(&bob, "registerDevice", &mixed).await, 409, "DeviceAlreadyRegistered");
    assert_eq!(contents(app).await, before);
    // Another person's devices do not matter.
    let carol = app.persona();
    ok(ask(
        &carol,
        "registerDevice",
        &with(&Device::new(&carol, "x").registration("x", 1), json!({ "deviceUUID": "l" })),
    )
    .await);
}

async fn p8_a_package_that_was_issued_stays_issued_when_its_device_registers_again(app: &TestApp) {
    let (alice, mallory, bob) = (app.persona(), app.persona(), app.persona());
    let laptop = Device::new(&bob, "laptop");
    let package = laptop.mls.key_package().unwrap();
    let body = laptop.registration_with("laptop", std::slice::from_ref(&package));
    ok(ask(&bob, "registerDevice", &body).await);
    assert_eq!(claim(&alice, bob.did()).await.as_ref(), Some(&package));
    ok(ask(&bob, "registerDevice", &body).await);
    assert_eq!(claim(&mallory, bob.did()).await, None);
    ok(ask(&bob, "registerDevice", &laptop.registration("laptop", 1)).await);
    assert_eq!(claim(&alice, bob.did()).await.as_ref(), Some(&package), "still on lease");
    let other = claim(&mallory, bob.did()).await.unwrap();
    assert_ne!(sha256_hex(&other), sha256_hex(&package));
}

async fn packages_that_were_published_before_belong_to_the_device_afterwards(app: &TestApp) {
    let bob = app.persona();
    let laptop = Device::new(&bob, "laptop");
    let early = laptop.mls.key_package().unwrap();
    ok(publish(&bob, &early).await);
    bob.publish_key_packages(1).await.unwrap();
    ok(ask(&bob, "registerDevice", &laptop.registration("laptop", 1)).await);
    assert_eq!(contents(app).await.count("key_packages"), 2, "it is replaced; that of another client is not");
    let late = laptop.mls.key_package().unwrap();
    ok(publish(&bob, &late).await);
    assert_eq!(devices(&bob).await[0]["keyPackageCount"], 2);
    // Named again, the early one would have been kept.
    ok(ask(&bob, "registerDevice", &laptop.registration_with("laptop", &[late, early])).await);
    assert_eq!(devices(&bob).await[0]["keyPackageCount"], 2);
}

async fn a_package_of_another_key_or_did_refuses_the_whole_registration(app: &TestApp) {
    let (bob, carol) = (app.persona(), app.persona());
    let (laptop, phone) = (Device::new(&bob, "laptop"), Device::new(&bob, "phone"));
    let (good, stolen) = (laptop.mls.key_package().unwrap(), Device::new(&carol, "x").mls.key_package().unwrap());
    let mut damaged = laptop.mls.key_package().unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    for bad in [phone.mls.key_package().unwrap(), stolen, damaged, laptop.mls.expired_key_package().unwrap(), vec![7]] {
        let body = laptop.registration_with("laptop", &[good.clone(), bad]);
        let reply = refused(ask(&bob, "registerDevice", &body).await, 400, "InvalidKeyPackage");
        assert!(reply.string("message").unwrap().contains("keyPackages[1]"), "{reply}");
    }
    // Another DID has published it.
    let theirs = contents(app).await;
    let copied = json!([{ "keyPackage": base64_text(&good), "cipherSuite": "none" }]);
    let reply =
        ask(&bob, "registerDevice", &with(&laptop.registration("laptop", 1), json!({ "keyPackages": copied }))).await;
    refused(reply, 400, "InvalidCipherSuite");
    assert_eq!(contents(app).await, theirs);
    assert_eq!(theirs.count("devices") + theirs.count("key_packages"), 0);
}

async fn a_person_has_at_most_ten_devices(app: &TestApp) {
    let bob = app.persona();
    for n in 0..10 {
        Device::registered(&bob, &n.to_string(), 1).await;
    }
    let before = contents(app).await;
    let body = Device::new(&bob, "eleventh").registration("eleventh", 1);
    refused(ask(&bob, "registerDevice", &body).await, 409, "TooManyDevices");
    assert_eq!(contents(app).await, before);
    Device::registered(&app.persona(), "first", 1).await;
}

async fn a_package_that_names_a_device_must_have_its_key(app: &TestApp) {
    let (bob, carol) = (app.persona(), app.persona());
    let (phone, laptop) = (Device::registered(&bob, "phone", 1).await, Device::registered(&bob, "laptop", 1).await);
    let item = |device: &Device, id: &str| {
        let package = base64_text(&device.mls.key_package().unwrap());
        json!({ "keyPackage": package, "cipherSuite": device.mls.suite_name(), "deviceId": id })
    };
    ok(ask(&bob, "publishKeyPackage", &item(&phone, &phone.id)).await);
    let before = contents(app).await;
    refused(ask(&bob, "publishKeyPackage", &item(&phone, &laptop.id)).await, 404, "DeviceNotFound");
    refused(ask(&bob, "publishKeyPackage", &item(&phone, "unknown")).await, 404, "DeviceNotFound");
    let theirs = Device::new(&carol, "phone");
    refused(ask(&carol, "publishKeyPackage", &item(&theirs, &phone.id)).await, 404, "DeviceNotFound");
    assert_eq!(contents(app).await, before);
    let both = json!({ "keyPackages": [item(&laptop, &phone.id), item(&laptop, &laptop.id)] });
    let reply = ok(ask(&bob, "publishKeyPackages", &both).await);
    assert_eq!((reply.number("succeeded").unwrap(), &reply.body["errors"][0]["index"]), (1, &json!(0)), "{reply}");
    assert_eq!(reply.body["errors"][0]["error"], "DeviceNotFound");
}

async fn a_setting_lowers_the_number_of_devices(app: &TestApp) {
    let bob = app.persona();
    let (phone, laptop) = (Device::registered(&bob, "phone", 1).await, Device::registered(&bob, "laptop", 1).await);
    let third = Device::new(&bob, "third").registration("third", 1);
    refused(ask(&bob, "registerDevice", &third).await, 409, "TooManyDevices");
    ok(ask(&bob, "registerDevice", &phone.registration("phone", 1)).await);
    ok(ask(&bob, "deleteDevice", &json!({ "deviceId": laptop.id })).await);
    ok(ask(&bob, "registerDevice", &third).await);
}

async fn each_device_may_have_a_hundred_packages(app: &TestApp) {
    let bob = app.persona();
    let (laptop, phone) = (Device::registered(&bob, "laptop", 100).await, Device::registered(&bob, "phone", 99).await);
    refused(publish(&bob, &laptop.mls.key_package().unwrap()).await, 409, "TooManyKeyPackages");
    ok(publish(&bob, &phone.mls.key_package().unwrap()).await);
    ok(publish(&bob, &bob.mls.key_package().unwrap()).await);
    refused(ask(&bob, "registerDevice", &laptop.registration("laptop", 101)).await, 400, "InvalidRequest");
}

async fn names_and_keys_have_a_form(app: &TestApp) {
    let bob = app.persona();
    let body = Device::new(&bob, "laptop").registration("laptop", 1);
    for changes in [
        json!({ "deviceName": " \t" }),
        json!({ "deviceName": "é".repeat(51) }),
        json!({ "signaturePublicKey": bytes_value(&[7; 33]) }),
        json!({ "signaturePublicKey": bytes_value(&[7; 64]) }),
        json!({ "keyPackages": [] }),
        json!({ "deviceUUID": "x".repeat(65) }),
    ] {
        refused(ask(&bob, "registerDevice", &with(&body, changes)).await, 400, "InvalidRequest");
    }
    assert_eq!(contents(app).await.count("devices"), 0);
    ok(ask(&bob, "registerDevice", &with(&body, json!({ "deviceName": "é".repeat(50) }))).await);
}

/// A person's registrations at three replicas of both kinds.
#[tokio::test(flavor = "multi_thread")]
async fn registrations_with_one_uuid_at_three_replicas_at_once_make_one_device() {
    let app = TestApp::start().await;
    let url = &app.database.url;
    let replicas = [Replica::start(Mode::Advisory, url, &[]).await, Replica::start(Mode::Actors, url, &[]).await];
    let did = random_did();
    let bases: Vec<String> =
        std::iter::once(app.base.clone()).chain(replicas.iter().map(|one| one.base.clone())).collect();
    for round in 0..3 {
        let uuid = format!("uuid-{round}");
        // Each has keys of its own: without the lock, each would be a device.
        let requests = (0..12).map(|n| {
            let owner = Persona::new(validated(&bases[n % bases.len()], &did));
            let body = with(&Device::new(&owner, "laptop").registration("laptop", 2), json!({ "deviceUUID": uuid }));
            async move { ok(ask(&owner, "registerDevice", &body).await).body["deviceId"].as_str().unwrap().to_owned() }
        });
        let ids: BTreeSet<String> = join_all(requests).await.into_iter().collect();
        assert_eq!(ids.len(), 1, "{ids:?}");
    }
    let contents = contents(&app).await;
    assert_eq!(
        (contents.count("devices"), contents.count("key_packages")),
        (3, 6),
        "the packages of the last ones are left"
    );
    app.finish().await;
}
