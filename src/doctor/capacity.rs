//! Room for the replicas: connections, and the table of locks.

use crate::batching::MAX_BATCH;
use crate::config::Config;
use crate::replicas;
use crate::store::{ConnectError, Operator, Replica, ServerFacts};

use super::Diagnosis;

/// Connections for people, backups and metrics.
const FOR_PEOPLE: i64 = 3;
/// Locks of a transaction beside those of its conversations: its tables and their indexes.
const TABLE_LOCKS: i64 = 64;

pub(super) async fn examine(
    db: &Operator,
    config: &Config,
    replicas: &[Replica],
) -> Result<Vec<Diagnosis>, ConnectError> {
    let facts = db.server_facts().await?;
    let own = i64::from(replicas::connections(config));
    let needed = match replicas.len() {
        0 => own,
        _ => replicas.iter().map(|replica| i64::from(replica.connections)).sum(),
    };
    let count = replicas.len().max(1);
    Ok(vec![connections(&facts, config, count, needed, own), locks(&facts, needed)])
}

fn connections(facts: &ServerFacts, config: &Config, count: usize, needed: i64, own: i64) -> Diagnosis {
    let (subject, most) = ("max_connections", facts.connections);
    if config.database_pooler {
        return Diagnosis::ok(subject, format!("the pooler limits connections; PostgreSQL allows {most}"));
    }
    let found = format!("{count} replicas open up to {needed} connections, and PostgreSQL allows {most}");
    let advice = format!(
        "Raise max_connections (or the limit of the role or the database) to {} at least, or lower DATABASE_MAX_CONNECTIONS",
        needed + own + FOR_PEOPLE
    );
    if needed > most {
        Diagnosis::fatal(subject, found, "P10: replicas cannot open their connections, and requests get 503", advice)
    } else if needed + own + FOR_PEOPLE > most {
        let touches = "P10: there is no room for one more replica, as in a rolling deployment, and for people";
        Diagnosis::weak(subject, found, touches, advice)
    } else {
        Diagnosis::ok(subject, found)
    }
}

fn locks(facts: &ServerFacts, connections: i64) -> Diagnosis {
    let needed = connections * (MAX_BATCH as i64 + TABLE_LOCKS);
    let (subject, room) = ("max_locks_per_transaction", facts.locks);
    let found =
        format!("the table of locks has room for {room}, and full batches on {connections} connections take {needed}");
    if room >= needed {
        return Diagnosis::ok(subject, found);
    }
    Diagnosis::weak(
        subject,
        found,
        "P10: when the table is full, writes get 503, of every replica and conversation",
        "`alter system set max_locks_per_transaction = 256`, and restart PostgreSQL",
    )
}
