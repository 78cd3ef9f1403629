//! getKeyPackageStatus: the caller's consumed key packages, newest first, in pages that neither skip nor repeat.

use catbird_client::persona::sha256_hex;
use catbird_client::random_did;
use catbird_testkit::app::TestApp;
use serde_json::json;

use crate::harness::*;

any_serializer! {
    a_used_package_names_its_conversation_and_an_issued_one_does_not;
    pages_neither_skip_nor_repeat_while_more_are_consumed;
    packages_of_others_are_neither_counted_nor_listed;
    cursors_of_other_forms_are_refused;
}

async fn a_used_package_names_its_conversation_and_an_issued_one_does_not(app: &TestApp) {
    let (mut alice, bob) = (app.persona(), app.persona());
    bob.publish_key_packages(4).await.unwrap();
    alice.create(random_did().as_bytes(), "test").await.unwrap();
    alice.add(&[bob.did()]).await.unwrap();
    let issued = sha256_hex(&claim(&app.persona(), bob.did()).await.unwrap());
    let status = ok(get(&bob, "getKeyPackageStatus", &[]).await).body;
    let counts = ["totalUploaded", "available", "consumed", "reserved"].map(|name| status[name].as_u64().unwrap());
    assert_eq!(counts, [4, 2, 2, 1]);
    let consumed = status["consumedPackages"].as_array().unwrap();
    assert_eq!((consumed.len(), &status["cursor"]), (2, &json!(null)));
    assert_eq!((&consumed[0]["keyPackageHash"], &consumed[0]["usedInGroup"]), (&json!(issued), &json!(null)));
    assert_eq!(consumed[1]["usedInGroup"], convo(&alice));
}

async fn pages_neither_skip_nor_repeat_while_more_are_consumed(app: &TestApp) {
    let bob = app.persona();
    bob.publish_key_packages(12).await.unwrap();
    let mut issued = Vec::new();
    for _ in 0..9 {
        issued.push(sha256_hex(&claim(&app.persona(), bob.did()).await.unwrap()));
    }
    // Three at a time have the same time, and pages end among them.
    let same = "update key_packages set claimed_at = date_trunc('hour', claimed_at) - (('x' || left(encode(hash, 'hex'), 2))::bit(8)::int % 3) * interval '1 hour'
                 where claimed_by is not null";
    assert_eq!(sql(app, same, &[]).await, 9);
    let (mut listed, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let mut asked = vec![("limit", "2")];
        asked.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
        let page = ok(get(&bob, "getKeyPackageStatus", &asked).await).body;
        let hash = |one: &serde_json::Value| one["keyPackageHash"].as_str().unwrap().to_owned();
        listed.extend(page["consumedPackages"].as_array().unwrap().iter().map(hash));
        cursor = page["cursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            break;
        }
        if listed.len() == 4 {
            claim(&app.persona(), bob.did()).await.unwrap();
        }
    }
    issued.sort();
    listed.sort();
    assert_eq!(listed, issued);
}

async fn packages_of_others_are_neither_counted_nor_listed(app: &TestApp) {
    let (alice, bob) = (app.persona(), app.published_persona().await);
    claim(&alice, bob.did()).await.unwrap();
    let status = ok(get(&alice, "getKeyPackageStatus", &[]).await).body;
    assert_eq!(status, json!({ "totalUploaded": 0, "available": 0, "consumed": 0, "reserved": 0 }));
}

async fn cursors_of_other_forms_are_refused(app: &TestApp) {
    let (bob, hash) = (app.persona(), "0".repeat(64));
    for cursor in
        ["", ".", "1", &hash, &format!("-1.{hash}"), &format!("1.{hash}0"), &format!("9223372036854775808.{hash}")]
    {
        refused(get(&bob, "getKeyPackageStatus", &[("cursor", cursor)]).await, 400, "InvalidCursor");
    }
    ok(get(&bob, "getKeyPackageStatus", &[("cursor", &format!("9223372036854.{hash}"))]).await);
}
