//! Settings of PostgreSQL. The present session shows those of the server, of the database and of its role; the roles of the
//! replicas may have others of their own.

use crate::store::{ConnectError, Operator, Replica, ServerSetting};

use super::{Diagnosis, Severity, roles};

/// A setting, and the values under which a promise does not hold.
struct Rule {
    name: &'static str,
    is_bad: fn(&str) -> bool,
    severity: Severity,
    touches: &'static str,
    cure: Cure,
}

enum Cure {
    /// Set it to this value where it is set.
    Set(&'static str),
    /// Something else.
    Other(&'static str),
}

use Cure::{Other, Set};
use Severity::{Fatal, Weak};

const fn rule(
    name: &'static str,
    is_bad: fn(&str) -> bool,
    severity: Severity,
    touches: &'static str,
    cure: Cure,
) -> Rule {
    Rule { name, is_bad, severity, touches, cure }
}

/// ALTER ROLE keeps a value as it was written.
fn is_off(value: &str) -> bool {
    ["off", "false", "no", "0"].iter().any(|off| value.eq_ignore_ascii_case(off))
}

fn is_on(value: &str) -> bool {
    ["on", "true", "yes", "1"].iter().any(|on| value.eq_ignore_ascii_case(on))
}

/// True of a time-out that is in force.
fn is_limited(value: &str) -> bool {
    value != "0"
}

/// True of a time in milliseconds that is shorter than ten minutes.
fn is_short(value: &str) -> bool {
    value.parse().is_ok_and(|ms: u64| 0 < ms && ms < 600_000)
}

#[rustfmt::skip]
const RULES: [Rule; 14] = [
    rule("fsync", is_off, Fatal, "P4: a crash of the machine loses what was answered with 200", Set("on")),
    rule("full_page_writes", is_off, Fatal,
        "P4: a crash of the machine may leave torn pages, and so lose what was answered with 200", Set("on")),
    rule("synchronous_commit", is_off, Weak, "P4: servers raise it to local for themselves, and no other client does", Set("on")),
    rule("zero_damaged_pages", is_on, Fatal, "P4: a damaged page is read as an empty one, and its entries are lost silently", Set("off")),
    rule("session_replication_role", |value| value != "origin", Fatal,
        "P3, P5: no trigger runs, so positions, counts and horizons of events are not kept", Set("origin")),
    rule("default_transaction_isolation", |value| value != "read committed", Weak,
        "P10: reads fail with serialization errors. Transactions of the server choose their own level", Set("'read committed'")),
    rule("default_transaction_read_only", is_on, Fatal, "P10: servers are not ready, and refuse every request with 503", Set("off")),
    rule("data_checksums", is_off, Weak, "P4: damage by a disk stays unnoticed until rows cannot be read, or are wrong",
        Other("Stop PostgreSQL, run `pg_checksums --enable` and start it")),
    rule("autovacuum", is_off, Weak, "P10: dead rows stay, so that statements become slower until they time out", Set("on")),
    rule("track_counts", is_off, Weak, "P10: autovacuum does not see dead rows, so that statements become slower until they time out", Set("on")),
    rule("statement_timeout", is_limited, Weak,
        "P10: migrations and checks that take longer fail. Servers set their own limit", Set("0")),
    rule("lock_timeout", is_limited, Weak,
        "P10: migrations that wait longer for a lock fail. Servers set their own limit", Set("0")),
    rule("idle_in_transaction_session_timeout", is_short, Weak,
        "P10: the lock of a migration is lost after this time, and a second replica migrates too", Set("'10min'")),
    rule("idle_session_timeout", is_limited, Weak,
        "P10: connections of the pool end when they are idle, and requests wait for new ones", Set("0")),
];

/// Settings that together decide whether values are logged.
const LOG_SETTINGS: [&str; 3] = ["log_parameter_max_length", "log_statement", "log_min_duration_statement"];

pub(super) async fn examine(db: &Operator, replicas: &[Replica]) -> Result<Vec<Diagnosis>, ConnectError> {
    let names: Vec<&str> = RULES.iter().map(|rule| rule.name).chain(LOG_SETTINGS).collect();
    let serving = roles(replicas);
    let settings = db.server_settings(&names, &serving).await?;
    let role = db.server_facts().await?.role;
    // Where replicas serve with another role, this one's own settings concern nobody else.
    let is_ours = serving.is_empty() || serving.contains(&&*role);
    let mut found = Vec::new();
    for rule in &RULES {
        let of_rule = settings.iter().filter(|setting| setting.name == rule.name);
        let judged = of_rule.filter(|setting| is_ours || setting.role.is_some() || !setting.source.contains("user"));
        let bad: Vec<&ServerSetting> = judged.filter(|setting| (rule.is_bad)(&setting.value)).collect();
        found.extend(bad.iter().map(|setting| diagnose(rule, setting, &role)));
        let value = settings.iter().find(|setting| setting.name == rule.name && setting.role.is_none());
        if let (true, Some(setting)) = (bad.is_empty(), value) {
            found.push(Diagnosis::ok(rule.name, format!("{} is {}", rule.name, setting.value)));
        }
    }
    found.push(logged_values(&settings));
    Ok(found)
}

fn diagnose(rule: &Rule, setting: &ServerSetting, session_role: &str) -> Diagnosis {
    let Rule { name, severity, touches, .. } = *rule;
    let role = setting.role.as_deref().unwrap_or(session_role);
    let (place, cure) = match setting.source.as_str() {
        "database" => {
            (" for this database".to_owned(), format!("`alter database … reset {name}`, and restart the server"))
        }
        "user" => {
            (format!(" for the role {role}"), format!("`alter role {role} reset {name}`, and restart the server"))
        }
        "database user" => (
            format!(" for the role {role} in this database"),
            format!("`alter role {role} in database … reset {name}`, and restart the server"),
        ),
        "command line" => (" on PostgreSQL's command line".to_owned(), "Start PostgreSQL without it".to_owned()),
        "client" => (" in the options of the connection".to_owned(), "Take it out of DATABASE_URL".to_owned()),
        _ => match rule.cure {
            Set(value) => (String::new(), format!("`alter system set {name} = {value}; select pg_reload_conf()`")),
            Other(cure) => (String::new(), cure.to_owned()),
        },
    };
    let found = format!("{name} is {}{place}", setting.value);
    Diagnosis { severity, ..Diagnosis::weak(name, found, touches, cure) }
}

fn logged_values(settings: &[ServerSetting]) -> Diagnosis {
    let value = |name| {
        settings.iter().find(|setting| setting.name == name && setting.role.is_none()).map_or("", |s| s.value.as_str())
    };
    let [length, statements, duration] = LOG_SETTINGS.map(value);
    let logs = ["mod", "all"].contains(&statements) || duration.parse().is_ok_and(|ms: i64| ms >= 0);
    if length == "0" || !logs {
        return Diagnosis::ok("logged_values", "PostgreSQL's log has no values of statements");
    }
    Diagnosis::weak(
        "logged_values",
        format!(
            "PostgreSQL logs the values of statements (log_statement = {statements}, log_min_duration_statement = {duration})"
        ),
        "P7: its log has DIDs, messages and hashes of tokens",
        "`alter system set log_parameter_max_length = 0; select pg_reload_conf()`",
    )
}
