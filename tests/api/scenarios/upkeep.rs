//! A client keeps its stock of key packages: it withdraws those whose keys are lost, and publishes those that are missing.

use catbird_client::persona::{Persona, sha256_hex};
use catbird_testkit::app::TestApp;

use super::person;
use crate::harness::*;
use crate::interop::Library;

any_serializer! {
    p8_a_client_withdraws_packages_whose_keys_it_has_lost;
}

async fn p8_a_client_withdraws_packages_whose_keys_it_has_lost(app: &TestApp) {
    for library in Library::BOTH {
        let dave = person(app, library).await;
        // Both packages of its first start are lost with their keys.
        let fresh = Persona::with(dave.xrpc.clone(), library.keys(dave.did(), catbird_mls_rs::SUITES[0]));
        let mut own = fresh.publish_key_packages(2).await.unwrap();
        let unpublished = fresh.mls.key_package().unwrap();
        own.push(sha256_hex(&unpublished));

        let found = fresh.sync_key_packages(&own, &[]).await.unwrap();
        assert_eq!((found.orphaned.len(), found.available), (2, 4), "nothing is withdrawn without being named");
        assert_eq!(found.missing, own[2..]);
        ok(publish(&fresh, &unpublished).await);
        let found = fresh.sync_key_packages(&own, &found.orphaned).await.unwrap();
        assert_eq!((found.orphaned.len(), found.missing.len(), found.available), (0, 0, 3));

        // Only packages that it can open are issued.
        for _ in 0..3 {
            let package = claim(&app.persona(), fresh.did()).await.unwrap();
            assert!(own.contains(&sha256_hex(&package)));
        }
    }
}
