//! The way to PostgreSQL: its protection, and what a pooler on it does to sessions.

use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

use crate::config::{Config, is_loopback};
use crate::store::{ConnectError, SessionFacts, examine_sessions};

use super::Diagnosis;

/// Examines the URL alone.
pub(super) fn examine_url(database: &tokio_postgres::Config) -> Vec<Diagnosis> {
    let mut found = vec![protection(database)];
    let hosts = database.get_hosts().len();
    if hosts > 1 && database.get_target_session_attrs() != TargetSessionAttrs::ReadWrite {
        found.push(Diagnosis::weak(
            "several_hosts",
            format!("DATABASE_URL has {hosts} hosts, and accepts one that only reads"),
            "P10: while the first host is a standby, requests get 503",
            "Add target_session_attrs=read-write to DATABASE_URL",
        ));
    }
    found
}

/// The server verifies certificates whenever it uses TLS, and it uses TLS where the URL requires it.
fn protection(database: &tokio_postgres::Config) -> Diagnosis {
    let addresses = database.get_hostaddrs();
    let far: Vec<String> = match addresses.is_empty() {
        true => database.get_hosts().iter().filter_map(far_host).collect(),
        false => addresses.iter().filter(|address| !address.is_loopback()).map(ToString::to_string).collect(),
    };
    let subject = "sslmode";
    if far.is_empty() {
        return Diagnosis::ok(subject, "PostgreSQL is on this machine");
    }
    let far = far.join(", ");
    match database.get_ssl_mode() {
        SslMode::Disable | SslMode::Prefer => Diagnosis::weak(
            subject,
            format!("connections to PostgreSQL at {far} are not encrypted, and its identity is not verified"),
            "P7: a machine on the path can read and change everything that is stored",
            "Add sslmode=require to DATABASE_URL (the certificate is verified), unless no other machine is on that network",
        ),
        _ => Diagnosis::ok(
            subject,
            format!("connections to PostgreSQL at {far} are encrypted, and its certificate is verified"),
        ),
    }
}

fn far_host(host: &Host) -> Option<String> {
    match host {
        Host::Tcp(name) if !is_loopback(name) => Some(name.clone()),
        _ => None,
    }
}

/// Opens connections as the server does.
pub(super) async fn examine(
    config: &Config,
    database: &tokio_postgres::Config,
) -> Result<Vec<Diagnosis>, ConnectError> {
    let pooler = config.database_pooler;
    let listens = !pooler && config.redis_url.is_none();
    match examine_sessions(database, pooler, listens).await {
        Ok(facts) => Ok(judge(&facts, pooler)),
        // The connection before this one was opened. So it is the way in which the server opens its own.
        Err(ConnectError::Database(cause)) if !pooler => {
            let cause = crate::store::in_words(&cause);
            Ok(vec![Diagnosis::fatal(
                "sessions",
                format!("the server cannot use connections as it opens them: {cause}"),
                "P10: every request gets 503",
                "If this is a pooler in transaction mode, set DATABASE_POOLER=true",
            )])
        }
        Err(error) => Err(error),
    }
}

fn judge(facts: &SessionFacts, pooler: bool) -> Vec<Diagnosis> {
    let mut found = Vec::new();
    if let Some(cause) = &facts.transaction {
        found.push(Diagnosis::fatal(
            "sessions",
            format!("no transaction of several statements is possible: {cause}"),
            "P2: nothing can be written",
            "Set pool_mode = transaction in PgBouncer, and DATABASE_POOLER=true",
        ));
    }
    match (facts.is_shared, pooler) {
        (true, false) => found.push(Diagnosis::fatal(
            "pooler",
            "a pooler shares connections among sessions, and DATABASE_POOLER is not true",
            "P10: prepared statements (PgBouncer before 1.21), time limits and LISTEN get lost between transactions, and requests fail",
            "Set DATABASE_POOLER=true",
        )),
        (false, true) => found.push(Diagnosis::weak(
            "pooler",
            "DATABASE_POOLER is true, and no pooler shares connections among sessions",
            "P10: in session mode each connection of a replica keeps one of PostgreSQL's for ever, and those beyond the pool's size wait. Without a pooler, notifications are missed for nothing",
            "Set pool_mode = transaction in PgBouncer, or leave DATABASE_POOLER out",
        )),
        (true, true) => found.push(Diagnosis::ok("pooler", "a pooler shares connections among transactions, as DATABASE_POOLER says")),
        (false, false) => found.push(Diagnosis::ok("pooler", "each connection is a session of its own")),
    }
    for (name, wanted, in_force) in &facts.limits {
        found.push(Diagnosis::fatal(
            "session_time_limits",
            format!("{name} of the server's connections is {in_force} ms; it asks for {wanted} ms"),
            "P10: a wait for a lock, a statement or an idle transaction has another limit than the server counts on",
            "Let start-up parameters through: if a pooler ignores them, set DATABASE_POOLER=true",
        ));
    }
    match facts.hears {
        Some(false) => found.push(Diagnosis::weak(
            "listen",
            "a notification (LISTEN, NOTIFY) does not arrive",
            "P5: replicas learn of each other's events by polling, up to a second late",
            "Set DATABASE_POOLER=true if this is a pooler; set REDIS_URL for prompt notifications",
        )),
        Some(true) => found.push(Diagnosis::ok("listen", "notifications (LISTEN, NOTIFY) arrive")),
        None => {}
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;

    fn severities(url: &str) -> Vec<Severity> {
        examine_url(&url.parse().unwrap()).iter().map(|diagnosis| diagnosis.severity).collect()
    }

    #[test]
    fn an_unprotected_way_to_another_machine_and_a_standby_among_the_hosts_are_weak() {
        for (url, expected) in [
            ("postgresql://catbird@127.0.0.1/catbird", &[Severity::Ok][..]),
            ("postgresql://catbird@localhost/catbird", &[Severity::Ok]),
            ("postgresql://catbird@/catbird?host=/run/postgresql", &[Severity::Ok]),
            ("postgresql://catbird@db.example/catbird", &[Severity::Weak]),
            ("postgresql://catbird@db.example/catbird?sslmode=disable", &[Severity::Weak]),
            ("postgresql://catbird@localhost/catbird?hostaddr=192.0.2.1", &[Severity::Weak]),
            ("postgresql://catbird@db.example/catbird?hostaddr=127.0.0.1", &[Severity::Ok]),
            ("postgresql://catbird@db.example/catbird?sslmode=require", &[Severity::Ok]),
            ("postgresql://catbird@a.example,b.example/catbird?sslmode=require", &[Severity::Ok, Severity::Weak]),
            (
                "postgresql://catbird@a.example,b.example/catbird?sslmode=require&target_session_attrs=read-write",
                &[Severity::Ok],
            ),
        ] {
            assert_eq!(severities(url), expected, "{url}");
        }
    }
}
