//! P5: members are told of a device in portions. If a replica is killed between two of them, another one continues.

use std::time::{Duration, Instant};

use catbird_client::mls::MlsClient;
use catbird_client::persona::Persona;
use catbird_client::random_did;
use catbird_server::jobs::SweepOutcome;
use catbird_testkit::app::{TestApp, validated};
use catbird_testkit::fleet::{Mode, Replica};
use futures_util::future::join_all;
use serde_json::json;
use tokio_postgres::Client;

use crate::retention::{KEPT, column, pass};

const PATIENCE: Duration = Duration::from_secs(30);
/// Conversations: more than one portion.
const CONVOS: usize = 130;

async fn create(owner: &Persona, n: usize) {
    let body = json!({ "groupId": format!("{n:032x}"), "cipherSuite": owner.mls.suite_name(), "currentEpoch": 0 });
    assert_eq!(owner.xrpc.procedure("createConvo", &body).await.unwrap().status, 200);
}

/// Counts events of this type, and the conversations that they are for.
async fn told(db: &Client, event_type: &str) -> (i64, i64) {
    let query = "select count(*), count(distinct convo_id) from event_stream where event_type = $1";
    let row = db.query_one(query, &[&event_type]).await.unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_a_replica_that_is_killed_between_portions_leaves_the_rest_to_another() {
    let app = TestApp::start().await;
    let (db, gate) = (app.database.connect().await, app.database.connect().await);
    let owner = Persona::new(app.xrpc(&random_did()));
    for chunk in (0..CONVOS).collect::<Vec<_>>().chunks(10) {
        join_all(chunk.iter().map(|n| create(&owner, *n))).await;
    }
    // The second portion waits for the gate.
    let trigger = format!(
        "create function gate() returns trigger language plpgsql as $$ begin
           perform pg_advisory_xact_lock(42) where (select count(*) from event_stream where event_type = new.event_type) >= {};
           return new;
         end $$;
         create trigger gate before insert on event_stream for each row execute function gate()",
        CONVOS - 30
    );
    db.batch_execute(&trigger).await.unwrap();
    for event_type in ["newDevice", "deviceDeleted"] {
        gate.batch_execute("select pg_advisory_lock(42)").await.unwrap();
        let mut replica = Replica::start(Mode::Advisory, &app.database.url, &[]).await;
        let there = validated(&replica.base, owner.did());
        let asking = match event_type {
            "newDevice" => {
                let mut device = Persona::with(there, Box::new(MlsClient::new(format!("{}#laptop", owner.did()))));
                tokio::spawn(async move { device.register_device("laptop", 1).await.map(drop).map_err(drop) })
            }
            _ => {
                let id: String = column(&db, "select device_id from devices").await.remove(0);
                tokio::spawn(async move {
                    there.procedure("deleteDevice", &json!({ "deviceId": id })).await.map(drop).map_err(drop)
                })
            }
        };
        let start = Instant::now();
        while told(&db, event_type).await.0 == 0 {
            assert!(start.elapsed() < PATIENCE, "the first portion is not committed");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        replica.kill();
        assert!(asking.await.unwrap().is_err(), "the replica is dead");
        gate.batch_execute("select pg_advisory_unlock(42)").await.unwrap();
        let portion = told(&db, event_type).await;
        assert!((1..CONVOS as i64).contains(&portion.0), "{portion:?}");
        assert_eq!(pass(&app.app.store, KEPT, "devices").await, SweepOutcome::Made(0));
        assert_eq!(told(&db, event_type).await, (CONVOS as i64, CONVOS as i64), "each once");
    }
    assert_eq!(column::<i64>(&db, "select count(*) from devices").await, [0]);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_whose_announcement_fails_is_skipped_for_a_while() {
    let app = TestApp::start().await;
    let db = app.database.connect().await;
    let mut owners = [(); 2].map(|()| Persona::new(app.xrpc(&random_did())));
    for (n, owner) in owners.iter().enumerate() {
        create(owner, n).await;
    }
    let trigger = "create function fail() returns trigger language plpgsql as $$ begin raise exception 'broken'; end $$;
        create trigger fail before insert on event_stream for each row when (new.event_type = 'newDevice') execute function fail()";
    db.batch_execute(trigger).await.unwrap();
    for owner in &mut owners {
        owner.register_device("laptop", 1).await.unwrap();
    }
    assert_eq!(told(&db, "newDevice").await, (0, 0), "the registration stands without the announcement");
    assert_eq!(pass(&app.app.store, KEPT, "devices").await, SweepOutcome::Made(0));
    let aside = "select count(*) from set_aside where work = 'devices'";
    assert_eq!(column::<i64>(&db, aside).await, [2]);
    db.batch_execute("drop trigger fail on event_stream; update set_aside set retry_at = now()").await.unwrap();
    assert_eq!(pass(&app.app.store, KEPT, "devices").await, SweepOutcome::Made(0));
    assert_eq!((told(&db, "newDevice").await, column::<i64>(&db, aside).await), ((2, 2), vec![0]));
    app.finish().await;
}
