//! The PostgreSQL server, the database and the role: what they are.

use chrono::TimeDelta;

use crate::clock::Clock;
use crate::store::{CollationVersions, ConnectError, MAX_CLOCK_SKEW, Operator, ServerFacts};

use super::Diagnosis;

/// Difference between clocks beyond which one of them is wrong.
const NOTICED_CLOCK_SKEW: TimeDelta = TimeDelta::seconds(5);

pub(super) async fn examine(db: &Operator, clock: &Clock, is_embedded: bool) -> Result<Vec<Diagnosis>, ConnectError> {
    let facts = db.server_facts().await?;
    let mut found = vec![primary(&facts), encoding(&facts), clocks(db, clock).await?];
    found.extend(standby(&facts));
    let versions = if facts.version >= 150_000 { Some(db.collation_versions().await?) } else { None };
    found.push(collation(&facts, versions.as_ref()));
    if !is_embedded {
        found.push(role(&facts));
    }
    Ok(found)
}

fn primary(facts: &ServerFacts) -> Diagnosis {
    match facts.is_standby {
        false => Diagnosis::ok("primary", "PostgreSQL is a primary"),
        true => Diagnosis::fatal(
            "primary",
            "PostgreSQL is a standby",
            "P10: servers are not ready, and refuse every request with 503",
            "Promote it (`select pg_promote()`), or let DATABASE_URL lead to the primary; with several hosts add target_session_attrs=read-write",
        ),
    }
}

fn standby(facts: &ServerFacts) -> Option<Diagnosis> {
    let standbys = &facts.standbys;
    if facts.lacks_standby {
        return Some(Diagnosis::fatal(
            "synchronous_standby",
            format!("no standby of synchronous_standby_names = '{standbys}' is connected"),
            "P10: every write waits for one, gets 503, and keeps its connection from others",
            "Start the standby, or correct or reset synchronous_standby_names",
        ));
    }
    let is_there = !standbys.is_empty() && !facts.is_standby;
    is_there.then(|| Diagnosis::ok("synchronous_standby", "a synchronous standby is connected"))
}

fn encoding(facts: &ServerFacts) -> Diagnosis {
    let encoding = &facts.encoding;
    match encoding == "UTF8" {
        true => Diagnosis::ok("encoding", "the database is encoded in UTF8"),
        false => Diagnosis::fatal(
            "encoding",
            format!("the database is encoded in {encoding}"),
            "P4: texts with other characters cannot be stored, or not be read again",
            "Dump it, create the database with `encoding 'UTF8' template template0`, and restore it",
        ),
    }
}

/// A collation of the operating system may change with it, and an index of text is then in a wrong order.
fn collation(facts: &ServerFacts, versions: Option<&CollationVersions>) -> Diagnosis {
    const TOUCHES: &str =
        "P1, P3, P8: unique indexes of text miss duplicates once the order of texts has changed under them";
    let (subject, locale) = ("collation", &facts.locale);
    if let Some(CollationVersions { built: Some(built), present: Some(present) }) = versions
        && built != present
    {
        return Diagnosis::fatal(
            subject,
            format!(
                "indexes were built with version {built} of the collation {locale}, and the system has version {present}"
            ),
            TOUCHES,
            "Stop all replicas, `reindex database …`, `alter database … refresh collation version`, and run `catbird-server check`",
        );
    }
    let is_fixed = facts.provider == "b" || locale == "C" || locale == "POSIX" || locale.starts_with("C.");
    match is_fixed {
        true => Diagnosis::ok(subject, format!("the collation {locale} does not change with the operating system")),
        false => Diagnosis::weak(
            subject,
            format!("the collation {locale} may change with the operating system"),
            TOUCHES,
            "After an upgrade of the system, or on another system, reindex before replicas start; `create database … locale 'C' template template0` makes one that stays",
        ),
    }
}

fn role(facts: &ServerFacts) -> Diagnosis {
    let role = &facts.role;
    match facts.is_superuser {
        false => Diagnosis::ok("role", format!("the role {role} is not a superuser")),
        true => Diagnosis::weak(
            "role",
            format!("the role {role} is a superuser"),
            "P7: a defect of the server would open the whole cluster, and settings for superusers apply",
            "`alter role … nosuperuser`; ops/postgres/roles.sql makes roles with no more rights than they need",
        ),
    }
}

async fn clocks(db: &Operator, clock: &Clock) -> Result<Diagnosis, ConnectError> {
    let before = clock.now();
    let there = db.server_time().await?;
    let after = clock.now();
    let skew = if there < before { before - there } else { (there - after).max(TimeDelta::zero()) };
    let found = format!(
        "the clocks of this machine and of PostgreSQL differ by {} s",
        skew.num_milliseconds() as f64 / 1_000.0
    );
    let advice = "Correct the wrong one (`timedatectl`, chrony)";
    Ok(if skew > MAX_CLOCK_SKEW {
        Diagnosis::fatal(
            "clock",
            found,
            "P12: the server is not ready, tokens are refused or accepted too long, and nothing is swept",
            advice,
        )
    } else if skew > NOTICED_CLOCK_SKEW {
        Diagnosis::weak("clock", found, "P12: tokens of clients with a right clock may be refused", advice)
    } else {
        Diagnosis::ok("clock", found)
    })
}
