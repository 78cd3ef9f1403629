//! `catbird-server doctor`: nothing is said against a sound server, and each setting or state that breaks or weakens a promise
//! is named, on a real PostgreSQL, PgBouncer, Redis, blob store or process that has it.

mod blobs;
mod commands;
mod pooler;
mod redis;
mod replicas;
mod rows;
mod schema;
mod server;

use catbird_testkit::fleet::run_as;
use serde_json::Value;

/// Settings with which this machine is large enough.
const ENOUGH: (&str, &str) = ("MAX_CONNECTIONS", "1000");

/// What the command says.
struct Said {
    code: Option<i32>,
    report: Value,
}

/// Runs the command on a database, with these settings.
async fn doctor(url: &str, settings: &[(&str, &str)]) -> Said {
    let settings = [&[ENOUGH], settings].concat();
    let (code, report, errors) = run_as(&["doctor", "--json"], url, &settings).await;
    assert_eq!(errors, "", "{report}");
    Said { code, report: serde_json::from_str(&report).unwrap() }
}

impl Said {
    /// Returns the diagnoses that are not `ok`: subject, severity, and what was found.
    fn against(&self) -> Vec<(&str, &str, &str)> {
        let diagnoses = self.report["diagnoses"].as_array().unwrap().iter();
        let fields = diagnoses.map(|diagnosis| {
            let [subject, severity, found] =
                ["subject", "severity", "found"].map(|name| diagnosis[name].as_str().unwrap());
            assert_eq!(
                severity == "ok",
                diagnosis["touches"].is_null() || diagnosis["advice"].is_null(),
                "{diagnosis}"
            );
            (subject, severity, found)
        });
        fields.filter(|(_, severity, _)| *severity != "ok").collect()
    }

    /// Expects one of the diagnoses.
    fn names(&self, subject: &str, severity: &str, found: &str) {
        let named = |(s, v, f): &(&str, &str, &str)| *s == subject && *v == severity && f.contains(found);
        assert!(self.against().iter().any(named), "no {severity} {subject} with {found:?} in {:#?}", self.report);
    }

    /// Expects these to be the subjects of all diagnoses that are not `ok`.
    fn names_only(&self, subjects: &[&str]) {
        let mut named: Vec<&str> = self.against().iter().map(|(subject, ..)| *subject).collect();
        named.sort_unstable();
        let mut expected = subjects.to_vec();
        expected.sort_unstable();
        assert_eq!(named, expected, "{:#?}", self.report);
    }
}

/// Waits until this many replicas are registered.
async fn registered(client: &tokio_postgres::Client, replicas: i64) {
    let start = std::time::Instant::now();
    while client.query_one("select count(*) from replicas", &[]).await.unwrap().get::<_, i64>(0) != replicas {
        assert!(start.elapsed().as_secs() < 30, "never {replicas} replicas");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
