//! validateDeviceState: groups and key packages that a device lacks.

use catbird_client::mls::MlsClient;
use catbird_client::persona::Persona;
use catbird_testkit::app::TestApp;
use serde_json::{Value, json};

use super::Device;
use crate::harness::*;

any_serializer! {
    a_device_is_valid_once_it_is_in_all_groups_and_has_key_packages;
    only_the_owner_sees_the_state_of_a_device;
}

async fn state(owner: &Persona, device: &str) -> Value {
    ok(get(owner, "validateDeviceState", &[("deviceId", device)]).await).body
}

async fn a_device_is_valid_once_it_is_in_all_groups_and_has_key_packages(app: &TestApp) {
    let members = app.conversation(2).await;
    let (alice, bob) = (&members[0], &members[1]);
    alice.publish_group_info().await.unwrap();
    let mut laptop = bob.device(Box::new(MlsClient::new(format!("{}#laptop", bob.did()))));
    let (id, _) = laptop.register_device("laptop", 4).await.unwrap();
    let before = state(bob, &id).await;
    assert_eq!(
        (&before["isValid"], &before["expectedConvos"], &before["actualConvos"]),
        (&json!(false), &json!(1), &json!(0))
    );
    assert_eq!(before["issues"].as_array().unwrap().len(), 2, "{before}");
    let inventory = json!({ "available": 4, "target": 100, "needsReplenishment": true, "perDeviceCount": 4 });
    assert_eq!(before["keyPackageInventory"], inventory);

    ok(ask(bob, "readdition", &json!({ "convoId": convo(alice) })).await);
    assert_eq!(state(bob, &id).await["pendingRejoinRequests"], json!([convo(alice)]));
    laptop.enter(&convo(alice)).await.unwrap();
    laptop.publish_key_packages(1).await.unwrap();
    laptop.publish_last_resort().await.unwrap();
    let after = state(bob, &id).await;
    assert_eq!((&after["isValid"], &after["issues"], &after["actualConvos"]), (&json!(true), &json!([]), &json!(1)));
    assert_eq!(after["keyPackageInventory"]["available"], 5, "the last resort does not count");
    let person = ok(get(bob, "validateDeviceState", &[]).await).body;
    assert_eq!((&person["expectedConvos"], person["keyPackageInventory"].get("perDeviceCount")), (&json!(1), None));
}

async fn only_the_owner_sees_the_state_of_a_device(app: &TestApp) {
    let (bob, carol) = (app.persona(), app.persona());
    let laptop = Device::registered(&bob, "laptop", 1).await;
    refused(get(&carol, "validateDeviceState", &[("deviceId", &*laptop.id)]).await, 404, "DeviceNotFound");
    refused(get(&bob, "validateDeviceState", &[("deviceId", "unknown")]).await, 404, "DeviceNotFound");
}
