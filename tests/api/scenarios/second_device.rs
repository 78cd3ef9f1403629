//! A person gets a second device into a conversation by the Welcome of another device.

use catbird_client::persona::Persona;
use catbird_mls_rs::SUITES;
use catbird_testkit::app::TestApp;

use super::{has_members, three};
use crate::harness::*;
use crate::interop::{Library, agree, everyone_is_read};

any_serializer! {
    a_second_device_joins_by_the_welcome_of_the_first;
}

async fn a_second_device_joins_by_the_welcome_of_the_first(app: &TestApp) {
    for library in Library::BOTH {
        let [mut alice, mut bob, mut carol] = three(app, library).await;
        let did = bob.did().to_owned();
        // The two devices of bob use different libraries.
        let mut phone: Persona = bob.device(library.keys(&format!("{did}#phone"), SUITES[0]));
        let (_, packages) = phone.register_device("phone", 2).await.unwrap();
        let landed = bob.add_device(&did, packages[0].clone()).await.unwrap();
        assert_eq!(landed.epoch, 2);
        phone.join(&convo(&bob)).await.unwrap();
        has_members(&alice, &[&alice, &bob, &carol]).await;
        everyone_is_read(&mut [&mut alice, &mut bob, &mut carol, &mut phone]).await;
        agree(&[&alice, &bob, &carol, &phone]).await;

        // Removing the person removes both leaves.
        alice.remove(&did).await.unwrap();
        everyone_is_read(&mut [&mut alice, &mut carol]).await;
        assert_eq!(alice.mls.members(&alice.group_id).unwrap(), [alice.did(), carol.did()]);
    }
}
