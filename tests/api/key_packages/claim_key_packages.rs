//! claimKeyPackages: getKeyPackages as a procedure, since it changes state.

use catbird_client::random_did;
use catbird_testkit::app::TestApp;
use serde_json::json;

use crate::harness::*;

any_serializer! {
    both_methods_return_the_same_package_and_only_to_its_caller;
    invalid_or_too_many_dids_and_unknown_suites_are_refused;
}

async fn both_methods_return_the_same_package_and_only_to_its_caller(app: &TestApp) {
    let (alice, mallory, bob, nobody) = (app.persona(), app.persona(), app.published_persona().await, random_did());
    let asked = json!({ "dids": [bob.did(), nobody], "cipher_suite": bob.mls.suite_name() });
    let claimed = ok(ask(&alice, "claimKeyPackages", &asked).await);
    assert_eq!(claimed.list("keyPackages").unwrap().len(), 1, "{claimed}");
    assert_eq!(claimed.body["missing"], json!([nobody]));
    let again = ok(get(&alice, "getKeyPackages", &[("dids", bob.did()), ("dids", &nobody)]).await);
    assert_eq!(again.body, claimed.body);
    let taken = claimed.bytes_in(&claimed.body["keyPackages"][0], "keyPackage").unwrap();
    assert_ne!(claim(&mallory, bob.did()).await.as_ref(), Some(&taken));
}

async fn invalid_or_too_many_dids_and_unknown_suites_are_refused(app: &TestApp) {
    let alice = app.persona();
    let dids = |count: usize| json!({ "dids": (0..count).map(|_| random_did()).collect::<Vec<_>>() });
    ok(ask(&alice, "claimKeyPackages", &dids(100)).await);
    for (body, error) in [
        (dids(101), "TooManyDids"),
        (dids(0), "InvalidRequest"),
        (json!({ "dids": ["alice"] }), "InvalidDid"),
        (json!({ "dids": [alice.did()], "cipherSuite": "none" }), "InvalidCipherSuite"),
    ] {
        refused(ask(&alice, "claimKeyPackages", &body).await, 400, error);
    }
}
