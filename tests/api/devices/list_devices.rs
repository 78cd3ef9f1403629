//! listDevices: the caller's own devices.

use catbird_testkit::app::TestApp;

use super::{Device, devices};
use crate::harness::*;

any_serializer! {
    a_person_sees_its_own_devices_the_last_seen_first;
    issued_and_expired_packages_are_not_counted;
}

async fn a_person_sees_its_own_devices_the_last_seen_first(app: &TestApp) {
    let (bob, carol) = (app.persona(), app.persona());
    assert!(devices(&bob).await.is_empty());
    let phone = Device::registered(&bob, "phone", 1).await;
    let laptop = Device::registered(&bob, "laptop", 1).await;
    Device::registered(&carol, "tablet", 1).await;
    let names = async || {
        devices(&bob).await.iter().map(|one| one["deviceName"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names().await, ["laptop", "phone"]);
    ok(publish(&bob, &phone.mls.key_package().unwrap()).await);
    assert_eq!(names().await, ["phone", "laptop"]);
    assert_ne!(phone.id, laptop.id);
}

async fn issued_and_expired_packages_are_not_counted(app: &TestApp) {
    let bob = app.persona();
    Device::registered(&bob, "phone", 3).await;
    claim(&app.persona(), bob.did()).await.unwrap();
    sql(app, "update key_packages set expires_at = now() - interval '1 s' where hash = (select hash from key_packages where claimed_by is null limit 1)", &[]).await;
    assert_eq!(devices(&bob).await[0]["keyPackageCount"], 1);
}
