//! The command itself: its output, its exit codes, its clock, and the process that it runs in.

use std::process::Command;

use catbird_server::clock::Clock;
use catbird_server::config::Config;
use catbird_server::doctor::{self, Severity};
use catbird_testkit::app::{SECRET, variables};
use catbird_testkit::cluster::database;
use catbird_testkit::fleet::{program, run_as};
use chrono::TimeDelta;

use super::{ENOUGH, Said};

#[tokio::test(flavor = "multi_thread")]
async fn people_read_what_was_found_what_it_touches_and_what_to_do() {
    let database = database().await;
    let (code, said, errors) = run_as(&["doctor"], &database.url, &[ENOUGH]).await;
    assert_eq!((code, errors.as_str()), (Some(1), ""), "{said}");
    let fsync = "fatal   fsync is off on PostgreSQL's command line\n        P4: a crash of the machine loses what was answered \
                 with 200\n        -> Start PostgreSQL without it\n";
    assert!(said.contains(fsync), "{said}");
    assert!(said.contains("ok      the database is encoded in UTF8\n"), "{said}");
    assert!(said.lines().last().unwrap().starts_with("2 fatal, 2 weak, "), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_does_not_answer_is_unknown_and_the_rest_is_examined() {
    let settings = [ENOUGH, ("REDIS_URL", "redis://127.0.0.1:1")];
    let (code, said, errors) = run_as(&["doctor"], "postgresql://catbird@127.0.0.1:1/catbird", &settings).await;
    assert_eq!((code, errors.as_str()), (Some(2), ""), "{said}");
    assert!(said.contains("unknown PostgreSQL could not be examined: "), "{said}");
    assert!(
        said.contains("weak    Redis does not answer") && said.contains("ok      PostgreSQL is on this machine"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_wrong_is_named() {
    let database = database().await;
    let config = Config::from_variables(variables(&[("DATABASE_URL", &database.url)])).unwrap();
    let now = Clock::system().now();
    for (seconds, expected) in
        [(600, Severity::Fatal), (-600, Severity::Fatal), (20, Severity::Weak), (-20, Severity::Weak)]
    {
        let clock = Clock::manual(now + TimeDelta::seconds(seconds));
        let report = doctor::run(&config, &database.config, &clock).await;
        let clock = report.diagnoses.iter().find(|diagnosis| diagnosis.subject == "clock").unwrap();
        assert_eq!(clock.severity, expected, "{seconds} s: {clock:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_with_little_memory_and_few_files_is_named() {
    let database = database().await;
    let script = "ulimit -n 600; ulimit -d 900000; exec \"$0\" doctor --json";
    let mut shell = Command::new("bash");
    shell.args(["-c", script]).arg(program()).env_clear().envs(variables(&[("DATABASE_URL", &database.url)]));
    let output = tokio::task::spawn_blocking(move || shell.output().unwrap()).await.unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let said = Said { code: output.status.code(), report };
    said.names(
        "open_files",
        "weak",
        "600 files may be open: room for 334 HTTP connections, and MAX_CONNECTIONS is 22000",
    );
    said.names("memory", "weak", "878 MiB of memory");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_our_own_that_are_unsafe_are_named() {
    let database = database().await;
    let said = super::doctor(&database.url, &[("ENFORCE_JTI", "false")]).await;
    said.names("unsafe_setting", "weak", "ENFORCE_JTI=false");
    let public = [("SERVER_HOST", "0.0.0.0"), ("ENFORCE_LXM", "false"), ("JWT_SECRET", SECRET)];
    let said = super::doctor(&database.url, &public).await;
    said.names("unsafe_setting", "fatal", "ENFORCE_LXM=false");
    said.names("configuration", "fatal", "does not start with these settings");
    said.names("operators_pages", "weak", "can read /metrics");
}
