//! getKeyPackageStats: the caller's own stock, counted as it is.

use catbird_client::random_did;
use catbird_testkit::app::TestApp;
use serde_json::{Value, json};

use crate::harness::*;

any_serializer! {
    a_caller_without_key_packages_needs_some;
    packages_that_were_issued_are_consumed_and_last_resort_ones_are_not_counted;
    consumption_is_counted_by_its_age;
    suites_are_counted_apart;
    the_stock_of_another_did_is_refused_alike_for_all;
    counts_are_found_by_indexes;
}

async fn a_caller_without_key_packages_needs_some(app: &TestApp) {
    let stats = ok(get(&app.persona(), "getKeyPackageStats", &[]).await).body;
    let empty = json!({
        "available": 0, "threshold": 5, "needsReplenish": true, "lastResort": false, "total": 0, "consumed": 0,
        "consumedLast24h": 0, "consumedLast7d": 0, "averageDailyConsumption": 0,
    });
    assert_eq!(stats, empty);
}

async fn packages_that_were_issued_are_consumed_and_last_resort_ones_are_not_counted(app: &TestApp) {
    let bob = app.persona();
    bob.publish_key_packages(8).await.unwrap();
    bob.publish_last_resort().await.unwrap();
    claim(&app.persona(), bob.did()).await.unwrap();
    let stats = ok(get(&bob, "getKeyPackageStats", &[("did", bob.did())]).await).body;
    let suite = json!([{ "cipherSuite": bob.mls.suite_name(), "available": 7, "consumed": 1 }]);
    let left = stats["oldestExpiresIn"].as_str().unwrap();
    assert!(left.ends_with('h') && left.contains("d "), "{left}");
    let found = with(&stats, json!({ "oldestExpiresIn": null }));
    assert_eq!(
        found,
        json!({
            "available": 7, "threshold": 5, "needsReplenish": false, "lastResort": true, "total": 8, "consumed": 1,
            "consumedLast24h": 1, "consumedLast7d": 1, "averageDailyConsumption": 1, "predictedDepletionDays": 49,
            "byCipherSuite": suite,
        })
    );
}

/// Sets when each package of a list was issued, in days before now, in any order.
async fn age(app: &TestApp, days: &[f64]) {
    let statement = "with issued as (select hash, row_number() over () as n from key_packages where claimed_by is not null)
        update key_packages k set claimed_at = now() - ($1::float8[])[n] * interval '1 day' from issued where k.hash = issued.hash";
    assert_eq!(sql(app, statement, &[&days]).await, days.len() as u64);
}

async fn consumption_is_counted_by_its_age(app: &TestApp) {
    let bob = app.persona();
    bob.publish_key_packages(20).await.unwrap();
    for _ in 0..12 {
        claim(&app.persona(), bob.did()).await.unwrap();
    }
    age(app, &[0.1, 0.9, 1.1, 2.0, 3.0, 4.0, 5.0, 6.0, 6.5, 6.9, 7.1, 30.0]).await;
    let stats = ok(get(&bob, "getKeyPackageStats", &[]).await).body;
    let counts =
        ["available", "consumedLast24h", "consumedLast7d", "averageDailyConsumption", "predictedDepletionDays"];
    assert_eq!(counts.map(|name| &stats[name]), [8, 2, 10, 2, 5].map(Value::from).each_ref());
    assert_eq!(stats["needsReplenish"], false);
    // Half of the rest is gone: it lasts for less than three days.
    bob.publish_key_packages(1).await.unwrap();
    for _ in 0..4 {
        claim(&app.persona(), bob.did()).await.unwrap();
    }
    let stats = ok(get(&bob, "getKeyPackageStats", &[]).await).body;
    assert_eq!((&stats["available"], &stats["predictedDepletionDays"]), (&json!(5), &json!(2)));
    assert_eq!(stats["needsReplenish"], true);
}

async fn suites_are_counted_apart(app: &TestApp) {
    let bob = app.persona();
    bob.publish_key_packages(3).await.unwrap();
    let other = "MLS_128_DHKEMP256_AES128GCM_SHA256_P256";
    sql(
        app,
        "update key_packages set cipher_suite = $1 where hash = (select hash from key_packages order by hash limit 1)",
        &[&other],
    )
    .await;
    let stats = ok(get(&bob, "getKeyPackageStats", &[]).await).body;
    assert_eq!((&stats["available"], stats["byCipherSuite"].as_array().unwrap().len()), (&json!(3), 2));
    for (suite, available) in [(other, 1), (&*bob.mls.suite_name(), 2)] {
        let stats = ok(get(&bob, "getKeyPackageStats", &[("cipherSuite", suite)]).await).body;
        assert_eq!(stats["available"], available);
        assert_eq!(stats["byCipherSuite"], json!([{ "cipherSuite": suite, "available": available, "consumed": 0 }]));
    }
    refused(get(&bob, "getKeyPackageStats", &[("cipherSuite", "x")]).await, 400, "InvalidCipherSuite");
}

async fn the_stock_of_another_did_is_refused_alike_for_all(app: &TestApp) {
    let (alice, bob) = (app.persona(), app.published_persona().await);
    let mut replies = Vec::new();
    for did in [bob.did(), &random_did()] {
        let mut reply = refused(get(&alice, "getKeyPackageStats", &[("did", did)]).await, 403, "NotAuthorized").body;
        for field in ["requestId", "message"] {
            let text = reply[field].as_str().unwrap().split(" [").next().unwrap().to_owned();
            reply[field] = if field == "message" { json!(text) } else { json!("") };
        }
        replies.push(reply);
    }
    assert_eq!(replies[0], replies[1]);
    refused(get(&alice, "getKeyPackageStats", &[("did", "bob")]).await, 400, "InvalidDid");
}

async fn counts_are_found_by_indexes(app: &TestApp) {
    let db = app.database.connect().await;
    db.batch_execute(
        "insert into key_packages (hash, init_key_hash, owner_did, cipher_suite, last_resort, expires_at, claimed_by, claimed_at, claim_expires_at)
         select sha256(n::text::bytea), sha256(n::text::bytea), 'did:plc:x' || n % 1000, 's', false, now() + interval '1 day',
                '', case when n % 2 = 0 then 'epoch' else now() end, 'epoch'
           from generate_series(1, 50000) n;
         analyze key_packages; set plan_cache_mode = force_generic_plan",
    )
    .await
    .unwrap();
    for (name, parameters) in [
        ("stats", "'did:plc:x1', null, now(), now() - interval '7 days', now() - interval '1 day', 10000"),
        ("list_taken", "'did:plc:x1', now() - interval '7 days', null, null, 21"),
        ("list_available", "'did:plc:x1', now(), 1000"),
        ("find_named", "'did:plc:x1', array[sha256('1')]"),
    ] {
        let path = format!("{}/sql/queries/key_packages/{name}.sql", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let prepare = format!("prepare {name} as {text}; ");
        db.batch_execute(&prepare).await.unwrap();
        let rows = db.query(&format!("explain execute {name}({parameters})"), &[]).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let plan = plan.join("\n");
        assert!(!plan.contains("Seq Scan on key_packages"), "{name}:\n{plan}");
    }
}
