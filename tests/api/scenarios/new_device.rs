//! A new device is added by another device of its owner, or by another member; and a deleted device is taken out.

use catbird_client::persona::{Events, Persona};
use catbird_mls_rs::SUITES;
use catbird_testkit::app::TestApp;

use super::three;
use crate::harness::*;
use crate::interop::{Library, agree, everyone_is_read};

any_serializer! {
    a_new_device_is_added_by_another_device_and_a_deleted_one_is_taken_out;
    another_member_adds_a_new_device_whose_owner_is_away;
}

/// Follows as a device until an event of this type comes, and returns a field of it.
async fn told(events: &mut Events, name: &str, field: &str) -> String {
    loop {
        let event = events.next().await.unwrap().unwrap();
        if event.name == name {
            return event.data[field].as_str().unwrap().to_owned();
        }
    }
}

async fn a_new_device_is_added_by_another_device_and_a_deleted_one_is_taken_out(app: &TestApp) {
    for library in Library::BOTH {
        let [mut alice, mut bob, mut carol] = three(app, library).await;
        let server = bob.xrpc.base.clone();
        let mut events = Events::follow(&bob.xrpc, vec![server], 0).await;
        let identity = format!("{}#phone", bob.did());
        let mut phone: Persona = bob.device(library.keys(&identity, SUITES[0]));
        let (id, _) = phone.register_device("phone", 2).await.unwrap();
        let addition = told(&mut events, "newDeviceEvent", "pendingAdditionId").await;
        let landed = bob.add_pending_device(&addition).await.unwrap().unwrap();
        assert_eq!(landed.epoch, 2);
        phone.join(&convo(&bob)).await.unwrap();
        everyone_is_read(&mut [&mut alice, &mut bob, &mut carol, &mut phone]).await;
        agree(&[&alice, &bob, &carol, &phone]).await;
        assert!(alice.pending_devices().await.unwrap().is_empty());

        bob.delete_device(&id).await.unwrap();
        assert_eq!(told(&mut events, "deviceDeletedEvent", "deviceId").await, id);
        // The leaf of the device, which each member knows from the package that brought it in.
        carol.remove_device(&identity).await.unwrap();
        everyone_is_read(&mut [&mut alice, &mut bob, &mut carol]).await;
        agree(&[&alice, &bob, &carol]).await;
        assert!(!alice.mls.members(&alice.group_id).unwrap().contains(&identity));
    }
}

async fn another_member_adds_a_new_device_whose_owner_is_away(app: &TestApp) {
    for library in Library::BOTH {
        let [mut alice, mut bob, mut carol] = three(app, library).await;
        let mut phone: Persona = bob.device(library.keys(&format!("{}#phone", bob.did()), SUITES[0]));
        phone.register_device("phone", 2).await.unwrap();
        let addition = alice.pending_devices().await.unwrap().remove(0);
        // In the first seconds it is left to the owner's own devices.
        sql(app, "update device_memberships set created_at = created_at - interval '1 minute'", &[]).await;
        let (by_alice, by_carol) =
            tokio::join!(alice.add_pending_device(&addition), carol.add_pending_device(&addition));
        let added = [by_alice.unwrap(), by_carol.unwrap()];
        assert_eq!(added.iter().flatten().count(), 1, "one of them adds it: {added:?}");
        phone.join(&convo(&alice)).await.unwrap();
        everyone_is_read(&mut [&mut alice, &mut bob, &mut carol, &mut phone]).await;
        agree(&[&alice, &bob, &carol, &phone]).await;
    }
}
