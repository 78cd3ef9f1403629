//! The end of a long-lived task in a real process. `src/app/tests.rs` covers each task.

use std::time::{Duration, Instant};

use catbird_testkit::cluster::database;
use catbird_testkit::fleet::{Mode, Replica};

use super::get_json;

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_essential_task_panics_says_so_drains_and_exits_with_a_failure() {
    let database = database().await;
    let mut replica = Replica::start(Mode::Advisory, &database.url, &[("DRAIN_DELAY_SECONDS", "3")]).await;
    // Every replica reads this version, and none expects it to be missing.
    let client = database.connect().await;
    client.batch_execute("alter table suspensions_version alter version drop not null").await.unwrap();
    client.batch_execute("update suspensions_version set version = null").await.unwrap();

    let page = format!("{}/health/ready", replica.base);
    let start = Instant::now();
    loop {
        let (status, ready) = get_json(page.clone()).await;
        if ready["checks"]["tasks"] == false {
            assert_eq!((status, &ready["ready"]), (503, &false.into()));
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "the server goes on without its task: {ready}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(replica.exit_code().await, Some(2));
    // The log comes through a pipe, a moment behind.
    let is_whole = || replica.log().iter().any(|line| line.contains(r#""message":"stopped""#));
    while !is_whole() {
        assert!(start.elapsed() < Duration::from_secs(60), "it does not say that it drained");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let log = replica.log();
    let error = log.iter().find(|line| line.contains("an essential task ended"));
    let error = error.unwrap_or_else(|| panic!("the log does not say so:\n{}", log.join("\n")));
    assert!(error.contains(r#""task":"suspensions""#) && error.contains("panicked"), "{error}");
}
