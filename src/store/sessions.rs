//! How sessions behave on the way to PostgreSQL that the pool takes. A pooler on that way shows itself by what it does not
//! keep.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::connect::{self, BEGIN, BEGIN_BEHIND_POOLER};
use super::tls::tls;
use super::{ConnectError, failure, listen};

/// Statements by which each of two sessions shows its backends.
const ROUNDS: usize = 4;
/// Maximum time until a notification arrives.
const MAX_NOTICE: Duration = Duration::from_secs(1);
/// Channel of the notification.
const CHANNEL: &str = "catbird:doctor";

/// How sessions behave.
#[derive(Debug, Clone)]
pub struct SessionFacts {
    /// True if two sessions had one backend, or one session had two: a pooler shares connections among sessions.
    pub is_shared: bool,
    /// The reason why a transaction of several statements is not possible.
    pub transaction: Option<String>,
    /// The time limits that are not in force: name, milliseconds that were asked for, and milliseconds in force.
    pub limits: Vec<(&'static str, String, String)>,
    /// Whether a notification arrives; `None` if that was not asked for.
    pub hears: Option<bool>,
}

/// Opens two sessions as the pool does, and examines how they behave. `pooler` is as in
/// [`StoreConfig`](super::StoreConfig); `listens` asks for a notification too.
///
/// Errors: a session cannot be opened, or is lost.
pub async fn examine(
    database: &tokio_postgres::Config,
    pooler: bool,
    listens: bool,
) -> Result<SessionFacts, ConnectError> {
    let config = connect::of_pool(database.clone(), pooler);
    let (one, one_driver) = connect::open(config.clone(), tls(&config)?).await?;
    let (other, other_driver) = connect::open(config.clone(), tls(&config)?).await?;
    let mut backends = [BTreeSet::new(), BTreeSet::new()];
    for _ in 0..ROUNDS {
        for (client, seen) in [&one, &other].into_iter().zip(&mut backends) {
            seen.extend(values(client, "select pg_backend_pid()::text").await?);
        }
    }
    let is_shared = backends.iter().any(|seen| seen.len() > 1) || !backends[0].is_disjoint(&backends[1]);
    // Behind a pooler the transaction sets them.
    let limits = if pooler { Vec::new() } else { limits(&one).await? };
    let hears = if listens { Some(hears(database, &one).await?) } else { None };
    // Last, since a pooler that runs single statements only may close the session.
    let begin = if pooler { BEGIN_BEHIND_POOLER.as_str() } else { BEGIN };
    let transaction = transaction(&one, begin).await.err().map(|error| failure::in_words(&error));
    one_driver.abort();
    other_driver.abort();
    Ok(SessionFacts { is_shared, transaction, limits, hears })
}

async fn limits(client: &Client) -> Result<Vec<(&'static str, String, String)>, tokio_postgres::Error> {
    let mut wrong = Vec::new();
    for (name, wanted) in connect::time_limits() {
        let found = values(client, &format!("select setting from pg_settings where name = '{name}'")).await?.concat();
        if found != wanted {
            wrong.push((name, wanted, found));
        }
    }
    Ok(wrong)
}

/// Returns whether a notification of a session reaches a listener.
async fn hears(database: &tokio_postgres::Config, teller: &Client) -> Result<bool, ConnectError> {
    let mut listener = listen(database, CHANNEL).await?;
    teller.simple_query(&format!("select pg_notify('{CHANNEL}', '')")).await?;
    Ok(timeout(MAX_NOTICE, listener.next()).await.is_ok_and(|heard| heard.is_some()))
}

async fn transaction(client: &Client, begin: &str) -> Result<(), tokio_postgres::Error> {
    for statement in [begin, "select 1", "rollback"] {
        client.simple_query(statement).await?;
    }
    Ok(())
}

/// Returns the first column of all rows.
async fn values(client: &Client, query: &str) -> Result<Vec<String>, tokio_postgres::Error> {
    let value = |message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    };
    Ok(client.simple_query(query).await?.into_iter().filter_map(value).collect())
}
