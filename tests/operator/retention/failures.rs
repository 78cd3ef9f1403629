//! Failures stop nothing else: the work is retried in smaller parts, then skipped and retried later, and a pass
//! continues from its position.

use catbird_client::persona::Persona;
use catbird_server::clock::Clock;
use catbird_server::jobs::{Runner, SweepOutcome};
use catbird_testkit::app::TestApp;
use chrono::TimeDelta;
use tokio::sync::watch;
use tokio_postgres::Client;

use crate::retention::{KEPT, column, job, pass, sweeps};

/// Two conversations with ten old messages and a new one each; the first is swept first.
async fn two_logs(app: &TestApp) -> [String; 2] {
    let mut convos = Vec::new();
    for _ in 0..2 {
        let mut members: Vec<Persona> = app.conversation(2).await;
        for n in 0..11 {
            members[0].send(&format!("{n}")).await.unwrap();
        }
        convos.push(members[0].convo().unwrap().to_owned());
    }
    convos.sort();
    let db = app.database.connect().await;
    db.batch_execute(
        "update messages set created_at = created_at - interval '31 days' where seq < 12;
         update idempotency_records set created_at = created_at - interval '31 days';
         update members set last_read_seq = 12",
    )
    .await
    .unwrap();
    convos.try_into().unwrap()
}

async fn left(db: &Client, convo: &str) -> i64 {
    column(db, &format!("select count(*) from messages where convo_id = '{convo}'")).await[0]
}

/// Makes a statement fail with a timeout if it deletes this entry of the conversation, or more than `most` entries.
async fn fail(db: &Client, convo: &str, seq: i64, most: i64) {
    let trigger = format!(
        "create function fail() returns trigger language plpgsql as $$ begin
           if (select count(*) > {most} or bool_or(seq = {seq}) from gone where convo_id = '{convo}') then
             raise exception 'canceling statement due to statement timeout' using errcode = 'query_canceled';
           end if;
           return null;
         end $$;
         create trigger fail after delete on messages referencing old table as gone for each statement execute function fail()"
    );
    db.batch_execute(&trigger).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_work_is_done_in_smaller_parts() {
    let app = TestApp::start().await;
    let [one, other] = two_logs(&app).await;
    let db = app.database.connect().await;
    fail(&db, &one, 0, 3).await;
    sweeps(&app, "messages", 22).await;
    assert_eq!((left(&db, &one).await, left(&db, &other).await), (1, 1));
    assert_eq!(column::<i64>(&db, "select count(*) from set_aside").await, [0]);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_items_are_skipped_for_a_while_and_the_others_are_swept() {
    let app = TestApp::start().await;
    let [one, other] = two_logs(&app).await;
    let db = app.database.connect().await;
    fail(&db, &one, 5, 1_000).await;
    // Entries 1 to 4 of the first, all old ones of the second.
    sweeps(&app, "messages", 15).await;
    assert_eq!((left(&db, &one).await, left(&db, &other).await), (8, 1));
    let aside = "select item || ' ' || failures || ' ' || last_error from set_aside where work = 'messages'";
    let noted = format!("{one} 1 Overloaded: a statement took too long; nothing was changed");
    assert_eq!(column::<String>(&db, aside).await, std::slice::from_ref(&noted));
    let standing = "select last_finished_at > now() - interval '1 minute' from sweeps where job = 'messages'";
    assert_eq!(column::<bool>(&db, standing).await, [true]);

    // It is skipped until its retry is due, then fails again, and succeeds once the fault is gone.
    sweeps(&app, "messages", 0).await;
    assert_eq!(column::<String>(&db, aside).await, [noted]);
    db.batch_execute("update set_aside set retry_at = now()").await.unwrap();
    sweeps(&app, "messages", 0).await;
    let later = "select failures = 2 and retry_at > now() + interval '119 minutes' from set_aside";
    assert_eq!(column::<bool>(&db, later).await, [true]);
    db.batch_execute("drop trigger fail on messages; update set_aside set retry_at = now()").await.unwrap();
    sweeps(&app, "messages", 7).await;
    assert_eq!(left(&db, &one).await, 1);
    assert_eq!(column::<i64>(&db, "select count(*) from set_aside").await, [0]);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_fails_does_not_stop_its_table() {
    let app = TestApp::start().await;
    let db = app.database.connect().await;
    db.batch_execute(
        "insert into event_stream (convo_id, event_type, payload, emitted_at)
         select 'c', 'left', to_jsonb(repeat('x', 1500)), now() - interval '8 days' from generate_series(1, 500);
         create function fail() returns trigger language plpgsql as $$ begin raise exception 'broken'; end $$;
         create trigger fail before delete on event_stream for each row when (old.id = 250) execute function fail()",
    )
    .await
    .unwrap();
    let page = "select array_agg(id) from event_stream
                 where (ctid::text::point)[0] = (select (ctid::text::point)[0] from event_stream where id = 250)";
    let page: Vec<i64> = column::<Vec<i64>>(&db, page).await.remove(0);
    sweeps(&app, "events", 500 - page.len() as i64).await;
    assert_eq!(column::<i64>(&db, "select id from event_stream order by id").await, page);
    let aside = "select failures || ' ' || last_error from set_aside where work = 'events'";
    let reason = "1 InternalServerError: PostgreSQL answered SQLSTATE P0001 (no table, no constraint)";
    assert_eq!(column::<String>(&db, aside).await, [reason]);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_everything_fails_the_pass_ends_and_goes_on_from_there() {
    let app = TestApp::start().await;
    let db = app.database.connect().await;
    db.batch_execute(
        "insert into event_stream (convo_id, event_type, payload, emitted_at)
         select 'c', 'left', to_jsonb(repeat('x', 1500)), now() - interval '8 days' from generate_series(1, 500);
         create function fail() returns trigger language plpgsql as $$ begin raise exception 'broken'; end $$;
         create trigger fail before delete on event_stream for each row execute function fail()",
    )
    .await
    .unwrap();
    let (_stop, mut stopped) = watch::channel(false);
    let runner = Runner::new(
        app.app.store.clone(),
        Clock::system(),
        KEPT,
        app.app.objects.clone(),
        app.app.metrics.jobs.clone(),
    );
    assert!(runner.pass(job("events"), &mut stopped).await.is_err());
    let aside = "select count(*) from set_aside where work = 'events'";
    assert_eq!(column::<i64>(&db, aside).await, [10], "it is not their fault");
    db.batch_execute("drop trigger fail on event_stream; update sweeps set place = '20'").await.unwrap();
    let before: i64 = column(&db, "select count(*) from event_stream where ctid < '(20,0)'::tid").await[0];
    sweeps(&app, "events", 500 - before).await;
    // From the beginning again, once the pass has ended; without the skipped ones.
    db.batch_execute("update set_aside set retry_at = now()").await.unwrap();
    sweeps(&app, "events", before).await;
    assert_eq!(column::<i64>(&db, aside).await, [0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_clock_is_wrong_deletes_nothing_and_is_not_ready() {
    for wrong in [TimeDelta::days(31), TimeDelta::minutes(-2)] {
        let clock = Clock::manual(Clock::system().now() + wrong);
        let app = TestApp::at(clock.clone(), &[]).await;
        let (_stop, mut stopped) = watch::channel(false);
        let db = app.database.connect().await;
        db.batch_execute(
            "insert into event_stream (convo_id, event_type, payload, emitted_at)
             select 'c', 'left', '{}', now() - age::interval from unnest(array['8 days', '6 days']) age",
        )
        .await
        .unwrap();
        let runner =
            Runner::new(app.app.store.clone(), clock, KEPT, app.app.objects.clone(), app.app.metrics.jobs.clone());
        assert_eq!(runner.pass(job("events"), &mut stopped).await.unwrap(), SweepOutcome::WrongClock);
        assert_eq!(column::<i64>(&db, "select count(*) from event_stream").await, [2]);
        let ready = catbird_client::xrpc::http().unwrap().get(format!("{}/health/ready", app.base)).send().await;
        let ready = ready.unwrap();
        assert_eq!(ready.status(), 503);
        let ready: serde_json::Value = ready.json().await.unwrap();
        assert_eq!((&ready["checks"]["schema"], &ready["checks"]["clock"]), (&true.into(), &false.into()), "{ready}");
        // A replica with the right clock deletes old rows and nothing else.
        assert_eq!(pass(&app.app.store, KEPT, "events").await, SweepOutcome::Made(1));
    }
}
