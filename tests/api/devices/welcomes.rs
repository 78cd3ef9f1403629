//! Welcomes for several devices of one person.

use catbird_client::mls::Handshake;
use catbird_client::persona::sha256_hex;
use catbird_client::random_did;
use catbird_client::xrpc::base64_text;
use catbird_testkit::app::TestApp;
use serde_json::json;

use super::Device;
use crate::harness::*;

either_serializer! {
    each_device_gets_its_own_welcome_and_destroys_no_other;
}

async fn each_device_gets_its_own_welcome_and_destroys_no_other(app: &TestApp) {
    let (mut alice, bob) = (app.persona(), app.persona());
    let mut devices = [Device::registered(&bob, "phone", 1).await, Device::registered(&bob, "laptop", 1).await];
    alice.create(random_did().as_bytes(), "test").await.unwrap();
    let claimed = ok(ask(&alice, "claimKeyPackages", &json!({ "dids": [bob.did()] })).await);
    let packages: Vec<_> =
        claimed.list("keyPackages").unwrap().iter().map(|one| claimed.bytes_in(one, "keyPackage").unwrap()).collect();
    let staged = alice.mls.add(&alice.group_id, &packages).unwrap();
    let hash = |package: &Vec<u8>| json!({ "did": bob.did(), "hash": sha256_hex(package) });
    let body = json!({
        "convoId": convo(&alice), "didList": [bob.did()], "commit": base64_text(&staged.commit),
        "welcomeMessage": base64_text(&staged.welcome), "keyPackageHashes": packages.iter().map(hash).collect::<Vec<_>>(),
    });
    ok(ask(&alice, "addMembers", &body).await);
    merge(&mut alice);
    let id = convo(&alice);
    let blind = json!({ "convoId": id, "success": true });
    refused(ask(&bob, "confirmWelcome", &blind).await, 400, "InvalidRequest");
    for (n, device) in devices.iter_mut().enumerate() {
        let asked = [("convoId", &*id), ("deviceId", &*device.id)];
        let welcome = ok(get(&bob, "getWelcome", &asked).await);
        let group = device.mls.join(&welcome.bytes("welcome").unwrap(), Handshake::default()).unwrap();
        assert_eq!(device.mls.epoch(&group).unwrap(), 1);
        assert_eq!(
            device.mls.epoch_authenticator(&group).unwrap(),
            alice.mls.epoch_authenticator(&alice.group_id).unwrap()
        );
        ok(ask(&bob, "confirmWelcome", &with(&blind, json!({ "deviceId": device.id, "epoch": 1 }))).await);
        refused(get(&bob, "getWelcome", &asked).await, 410, "WelcomeConsumed");
        assert_eq!(contents(app).await.count("welcomes"), 1 - n as i64, "the other device's Welcome stays");
    }
    refused(get(&bob, "getWelcome", &[("convoId", &*id), ("deviceId", "unknown")]).await, 404, "WelcomeNotFound");
    let recorded = "select count(*) from device_memberships where epoch = 1 and addition_id is null";
    assert_eq!(app.database.connect().await.query_one(recorded, &[]).await.unwrap().get::<_, i64>(0), 2);
}
