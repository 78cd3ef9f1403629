//! Tables that are swept page by page: old rows are deleted, and their neighbours stay.

use std::time::Duration;

use catbird_testkit::app::TestApp;

use crate::retention::{KEPT, column, pass, sweeps};

#[tokio::test(flavor = "multi_thread")]
async fn used_tokens_are_deleted_by_slot_and_slots_in_use_are_retried() {
    let app = TestApp::start().await;
    let db = app.database.connect().await;
    db.batch_execute(
        "insert into used_tokens select token_slot(now() + n * interval '10 minutes'), 't' from generate_series(-4, 1) n",
    )
    .await
    .unwrap();
    let other = app.database.connect().await;
    other.batch_execute("begin; select count(*) from used_tokens").await.unwrap();
    let (_stop, mut stopped) = tokio::sync::watch::channel(false);
    let runner = catbird_server::jobs::Runner::new(
        app.app.store.clone(),
        catbird_server::clock::Clock::system(),
        KEPT,
        app.app.objects.clone(),
        app.app.metrics.jobs.clone(),
    );
    assert!(runner.pass(crate::retention::job("used_tokens"), &mut stopped).await.is_err());
    assert_eq!(column::<i64>(&db, "select count(*) from used_tokens").await, [6]);
    other.batch_execute("commit").await.unwrap();
    // Another replica takes over after a long silence, according to the table.
    db.batch_execute("update sweeps set started_at = now() - interval '1 hour', moved_at = now() - interval '1 hour'")
        .await
        .unwrap();
    assert!(matches!(pass(&app.app.store, KEPT, "used_tokens").await, catbird_server::jobs::SweepOutcome::Made(2..=3)));
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_remembered_an_hour_longer_than_they_live() {
    let app = TestApp::start().await;
    let db = app.database.connect().await;
    db.batch_execute(
        "insert into auth_nonces (issuer_did, jti, expires_at)
         select 'did:x:a', age, now() - age::interval from unnest(array['3 days', '61 minutes', '59 minutes', '-1 minute']) age",
    )
    .await
    .unwrap();
    sweeps(&app, "nonces", 2).await;
    assert_eq!(column::<String>(&db, "select jti from auth_nonces order by jti").await, ["-1 minute", "59 minutes"]);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn quota_usage_is_deleted_after_its_window() {
    let app = TestApp::start().await;
    let db = app.database.connect().await;
    db.batch_execute(
        "insert into allowances (quota, key, used, ends_at)
         select age, 'k', 1, now() - age::interval from unnest(array['11 minutes', '9 minutes', '-1 hour']) age",
    )
    .await
    .unwrap();
    sweeps(&app, "allowances", 1).await;
    let kept = async || column::<String>(&db, "select quota from allowances order by quota").await;
    assert_eq!(kept().await, ["-1 hour", "9 minutes"]);

    // A row in use is left to the next sweep, which holds no lock that its user may need.
    db.batch_execute("update allowances set ends_at = now() - interval '11 minutes'").await.unwrap();
    let user = app.database.connect().await;
    user.batch_execute("begin; update allowances set used = 2 where quota = '9 minutes'").await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), sweeps(&app, "allowances", 1)).await.expect("it does not wait");
    assert_eq!(kept().await, ["9 minutes"]);
    user.batch_execute("rollback").await.unwrap();
    sweeps(&app, "allowances", 1).await;
    assert!(kept().await.is_empty());
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dids_that_have_not_called_for_a_month_are_forgotten() {
    let app = TestApp::start().await;
    let db = app.database.connect().await;
    db.batch_execute(
        "insert into did_documents (did, account_key, fetched_at)
         select age, 'z', now() - age::interval from unnest(array['31 days', '29 days', '0 days']) age",
    )
    .await
    .unwrap();
    sweeps(&app, "did_documents", 1).await;
    assert_eq!(column::<String>(&db, "select did from did_documents order by did").await, ["0 days", "29 days"]);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_requests_are_kept_as_long_as_messages() {
    let app = TestApp::start().await;
    let mut members = app.conversation(2).await;
    members[0].send("hello").await.unwrap();
    let db = app.database.connect().await;
    let count = "select count(*) from idempotency_records";
    let recorded = column::<i64>(&db, count).await[0];
    assert!(recorded >= 3);
    db.batch_execute(
        "update idempotency_records set created_at = now() - case when method = 'sendMessage' then interval '31 days'
                                                                  else interval '29 days' end",
    )
    .await
    .unwrap();
    sweeps(&app, "records", 1).await;
    assert_eq!(column::<i64>(&db, count).await, [recorded - 1]);
    assert!(
        column::<String>(&db, "select method from idempotency_records where method = 'sendMessage'").await.is_empty()
    );
    let forever = catbird_server::config::Retention { messages: None, ..KEPT };
    assert_eq!(pass(&app.app.store, forever, "records").await, catbird_server::jobs::SweepOutcome::Off);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_whose_message_went_first_is_no_violation_but_one_of_a_young_message_is() {
    let app = TestApp::start().await;
    let mut members = app.conversation(2).await;
    members[0].send("one").await.unwrap();
    members[0].send("two").await.unwrap();
    // The commit is deleted once it is recorded that all members have read it.
    app.settle().await;
    let db = app.database.connect().await;
    db.batch_execute(
        "update messages set created_at = created_at - interval '31 days';
         update idempotency_records set created_at = created_at - interval '31 days'",
    )
    .await
    .unwrap();
    sweeps(&app, "messages", 2).await;
    let check = async || catbird_server::check::run(&app.database.config).await.unwrap();
    let report = check().await;
    assert!(report.is_clean(), "{report}");
    db.batch_execute("update idempotency_records set created_at = now()").await.unwrap();
    assert_eq!(check().await.violated(), ["replies"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_kept_for_a_week() {
    let app = TestApp::start().await;
    let db = app.database.connect().await;
    db.batch_execute(
        "insert into event_stream (convo_id, event_type, payload, emitted_at)
         select 'c', 'left', to_jsonb(age), now() - age::interval from unnest(array['8 days', '6 days', '0 days']) age",
    )
    .await
    .unwrap();
    sweeps(&app, "events", 1).await;
    let left = "select payload #>> '{}' from event_stream order by 1";
    assert_eq!(column::<String>(&db, left).await, ["0 days", "6 days"]);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn key_packages_that_are_of_no_use_go_and_issued_ones_leave_their_hash() {
    let app = TestApp::start().await;
    let db = app.database.connect().await;
    db.batch_execute(
        "insert into key_packages (hash, init_key_hash, owner_did, cipher_suite, key_package, last_resort, expires_at,
                                   claimed_by, claimed_at, claim_expires_at, consumed_at, consumed_convo)
         select name::bytea, name::bytea, 'did:x:a', 'suite', 'bytes', last_resort, now() + expires::interval,
                case when lease is not null then 'did:x:b' end, now() + lease::interval, now() + lease::interval,
                now() + consumed::interval, case when consumed is not null then 'c' end
           from (values ('expired',           false, '-2 days',    null,         null),
                        ('expired just now',  false, '-2 hours',   null,         null),
                        ('fresh',             false, '30 days',    null,         null),
                        ('issued, expired',   false, '-2 days',    '-3 days',    null),
                        ('issued, lost',      false, '30 days',    '-2 days',    null),
                        ('issued just now',   false, '30 days',    '10 minutes', null),
                        ('used',              false, '30 days',    '-3 days',    '-2 days'),
                        ('used, unissued',    false, '-2 days',    null,         '-3 days'),
                        ('used long ago',     false, '30 days',    '-9 days',    '-9 days'),
                        ('used just now',     false, '30 days',    '-1 minute',  '-1 minute'),
                        ('last, expired',     true,  '-2 days',    null,         null),
                        ('last, fresh',       true,  '30 days',    null,         null))
                k (name, last_resort, expires, lease, consumed)",
    )
    .await
    .unwrap();
    sweeps(&app, "key_packages", 7).await;
    let left = "select convert_from(hash, 'utf8') || case when key_package is null then ' -' else '' end
        from key_packages order by 1";
    assert_eq!(
        column::<String>(&db, left).await,
        [
            "expired just now",
            "fresh",
            "issued just now",
            "issued, expired -",
            "issued, lost -",
            "last, fresh",
            "used just now",
            "used -",
            "used long ago -",
            "used, unissued -",
        ]
        .map(str::to_owned)
        .into_iter()
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect::<Vec<_>>()
    );
    sweeps(&app, "key_packages", 0).await;
    let named = "select convert_from(hash, 'utf8') from key_packages
        where claimed_by <> '' or consumed_convo <> '' order by 1";
    // A claimer that lost its lease may still use its package.
    assert_eq!(column::<String>(&db, named).await, ["issued just now", "issued, lost", "used just now"]);
    let dated = "select convert_from(hash, 'utf8') from key_packages
        where coalesce(claimed_at, consumed_at) > 'epoch' order by 1";
    let counted = ["issued just now", "issued, expired", "issued, lost", "used", "used just now", "used, unissued"];
    assert_eq!(column::<String>(&db, dated).await, counted);
    let still = "select count(*) from key_packages where claimed_by is null and consumed_at is null";
    assert_eq!(column::<i64>(&db, still).await, [3], "an issued one does not look as if it had not been");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opened_welcome_is_forgotten_and_one_that_waits_is_not() {
    let app = TestApp::start().await;
    let mut members = app.conversation(3).await;
    let invited = app.published_persona().await;
    members[0].add(&[invited.did()]).await.unwrap();
    let db = app.database.connect().await;
    db.batch_execute(
        "update welcome_messages set created_at = now() - interval '90 days';
         update welcome_messages set confirmed_at = now() - interval '31 days'
          where id = (select min(id) from welcome_messages where state = 'consumed')",
    )
    .await
    .unwrap();
    sweeps(&app, "welcomes", 1).await;
    let left = "select state from welcome_messages order by state";
    assert_eq!(column::<String>(&db, left).await, ["available", "consumed"]);
    let convo = members[0].convo().unwrap().to_owned();
    let mut invited = invited;
    invited.join(&convo).await.unwrap();
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unopened_welcome_ends_and_its_recipient_can_be_added_again() {
    let app = TestApp::start().await;
    let mut members = app.conversation(1).await;
    let (mut early, late) = (app.published_persona().await, app.published_persona().await);
    // One Welcome for two members, one of whom opens it just when it expires, and another for one.
    members[0].add(&[early.did(), late.did()]).await.unwrap();
    let mut third = app.published_persona().await;
    members[0].add(&[third.did()]).await.unwrap();
    let db = app.database.connect().await;
    let older = "update welcomes set created_at = created_at - interval '1 day' * $1;";
    let age = async |days: f64| db.execute(older, &[&days]).await.unwrap();
    age(89.0).await;
    sweeps(&app, "unopened_welcomes", 0).await;
    age(2.0).await;
    db.batch_execute(&format!(
        "begin; update welcome_messages set state = 'consumed', confirmed_at = now(), welcome_id = null where recipient_did = '{}'",
        early.did()
    ))
    .await
    .unwrap();
    let store = app.app.store.clone();
    let sweep = tokio::spawn(async move { pass(&store, KEPT, "unopened_welcomes").await });
    let waiting =
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
    let other = app.database.connect().await;
    while column::<i64>(&other, waiting).await == [0] {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    db.batch_execute("commit").await.unwrap();
    assert_eq!(sweep.await.unwrap(), catbird_server::jobs::SweepOutcome::Made(2));
    assert_eq!(column::<i64>(&db, "select count(*) from welcomes").await, [0]);
    let report = catbird_server::check::run(&app.database.config).await.unwrap();
    assert!(report.is_clean(), "{report}");

    let convo = members[0].convo().unwrap().to_owned();
    let asked = [("convoId", convo.clone())];
    let reply = third.xrpc.query("getWelcome", &asked).await.unwrap();
    assert_eq!((reply.status, reply.error()), (404, Some("WelcomeNotFound")), "{reply}");
    let left = third.xrpc.procedure("leaveConvo", &serde_json::json!({ "convoId": convo })).await.unwrap();
    assert_eq!(left.status, 200, "{left}");
    members[0].remove(third.did()).await.unwrap();
    third.publish_key_packages(1).await.unwrap();
    members[0].add(&[third.did()]).await.unwrap();
    third.join(&convo).await.unwrap();
    early.convo_id = Some(convo);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn envelopes_go_a_month_after_their_end_and_those_that_wait_stay() {
    let app = TestApp::start().await;
    let db = app.database.connect().await;
    db.batch_execute(
        "insert into envelopes (id, convo_id, recipient_did, message_id, seq, host, created_at, state, delivered_at, last_error)
         select name, 'c', 'did:x:a', name, 1, 'h', now() - age::interval, state,
                case when state = 'delivered' then now() - ended::interval end, case when state = 'dead' then 'why' end
           from (values ('delivered long ago', '90 days', 'delivered', '31 days'),
                        ('delivered lately',   '90 days', 'delivered', '29 days'),
                        ('dead for long',      '31 days', 'dead',      null),
                        ('dead',               '29 days', 'dead',      null),
                        ('waits',              '90 days', 'pending',   null)) e (name, age, state, ended)",
    )
    .await
    .unwrap();
    sweeps(&app, "envelopes", 2).await;
    let left = column::<String>(&db, "select id from envelopes order by id").await;
    assert_eq!(left, ["dead", "delivered lately", "waits"]);
}
