//! Reads of operators, on a connection of their own, and the record of what they did.

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::error::Error;
use crate::ids::{ConvoId, Did};
use crate::mls::canonical_group_id;
use crate::wire::MessageView;

use super::erasure::{Tally, tally};
use super::messages::message_view;
use super::query::query;
use super::{ConnectError, Operator};

query! {
    RECORD = "admin/record" (TEXT, TEXT, TEXT, TEXT, TEXT, TEXT, TEXT, JSONB);
    LIST_AUDIT = "admin/list_audit" (TEXT, INT8);
    FIND_CONVO = "admin/find_convo" (TEXT, TEXT);
    CONVO = "admin/convo" (TEXT, INT8);
    LOG_SIZE = "admin/log_size" (TEXT, INT8, INT8);
    ENTRIES = "admin/entries" (TEXT, INT8, INT8, INT8, INT8);
    PERSON = "admin/person" (TEXT);
    PERSON_CONVOS = "admin/person_convos" (TEXT, TEXT, INT8);
}

/// Most members that a look-up of a conversation lists.
const MAX_MEMBERS: i64 = 1_000;
/// Most entries, and most of their bytes unless one entry has more, in one read of a log.
const MAX_ENTRIES: i64 = 500;
const MAX_BYTES: i64 = 16 * 1024 * 1024;
/// Most entries whose sizes one statement adds up.
const MAX_SIZES: i64 = 50_000;
/// Most conversations of a person in one statement.
const MAX_CONVOS: i64 = 100;

/// Reason why an operator's statement failed.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    #[error(transparent)]
    Connection(#[from] ConnectError),
    #[error(transparent)]
    Service(#[from] Error),
}

/// One execution of a command by an operator.
#[derive(Debug, Clone)]
pub struct Run {
    /// ULID.
    pub id: String,
    pub command: &'static str,
    /// DID or conversation that it is about.
    pub target: String,
    pub reason: String,
    pub os_user: String,
    pub host: String,
}

/// A recorded run.
pub struct PastRun {
    pub at: DateTime<Utc>,
    pub command: String,
    pub target: String,
    pub reason: String,
    pub os_user: String,
    pub host: String,
    pub db_role: String,
    /// What was found or changed, as JSON; `None` if it failed, was interrupted, or still runs.
    pub counts: Option<String>,
}

/// What is stored of a conversation or a person.
pub struct Found {
    /// For the operator, without content.
    pub view: Value,
    pub counts: Tally,
}

/// A conversation that a person is or was in.
pub struct FoundConvo {
    pub convo: ConvoId,
    /// False for a former member.
    pub active: bool,
    /// It is the only member.
    pub is_last: bool,
    /// The conversation has ended.
    pub over: bool,
    pub found: Found,
}

fn found(row: &tokio_postgres::Row) -> Result<Found, Error> {
    Ok(Found { view: serde_json::from_str(row.get("found")).map_err(Error::internal)?, counts: tally(row)? })
}

impl Operator {
    /// Records that a run has begun, or that it has finished with these numbers.
    pub async fn record(&self, run: &Run, finished: Option<&Tally>) -> Result<(), ConnectError> {
        let stage = if finished.is_some() { "finished" } else { "begun" };
        let counts = finished.map(|counts| serde_json::json!(counts));
        let Run { id, command, target, reason, os_user, host } = run;
        self.rows(&RECORD, &[id, &stage, command, target, reason, os_user, host, &counts]).await?;
        Ok(())
    }

    /// Returns the latest runs, of all targets or of one, at most `limit`.
    pub async fn past_runs(&self, target: Option<&str>, limit: i64) -> Result<Vec<PastRun>, ConnectError> {
        let rows = self.rows(&LIST_AUDIT, &[&target, &limit]).await?;
        let run = |row: &tokio_postgres::Row| PastRun {
            at: row.get("at"),
            command: row.get("command"),
            target: row.get("target"),
            reason: row.get("reason"),
            os_user: row.get("os_user"),
            host: row.get("host"),
            db_role: row.get("db_role"),
            counts: row.get("counts"),
        };
        Ok(rows.iter().map(run).collect())
    }

    /// Returns the conversation with this id, or with this present or earlier group id.
    pub async fn find_convo(&self, name: &ConvoId) -> Result<Option<ConvoId>, OperatorError> {
        let rows = self.rows(&FIND_CONVO, &[&name.as_str(), &canonical_group_id(name.as_str())]).await?;
        let id = rows.first().map(|row| row.get::<_, &str>("id").parse().map_err(Error::internal));
        Ok(id.transpose()?)
    }

    /// Returns what is stored of a conversation beside the size of its log.
    pub async fn convo(&self, convo: &ConvoId) -> Result<Option<Found>, OperatorError> {
        let rows = self.rows(&CONVO, &[&convo.as_str(), &MAX_MEMBERS]).await?;
        Ok(rows.first().map(found).transpose()?)
    }

    /// Returns the number of entries of a conversation that have their bytes, and the bytes.
    pub async fn log_size(&self, convo: &ConvoId) -> Result<(i64, i64), ConnectError> {
        let (mut entries, mut bytes, mut after) = (0, 0, 0_i64);
        loop {
            let rows = self.rows(&LOG_SIZE, &[&convo.as_str(), &after, &MAX_SIZES]).await?;
            let row = rows.first().expect("a select of aggregates returns one row");
            entries += row.get::<_, i64>("entries");
            bytes += row.get::<_, i64>("bytes");
            match row.get::<_, Option<i64>>("last") {
                Some(last) => after = last,
                None => return Ok((entries, bytes)),
            }
        }
    }

    /// Returns the next entries of a conversation, after one seq and up to another, ascending.
    pub async fn entries(&self, convo: &ConvoId, after: i64, upto: i64) -> Result<Vec<MessageView>, OperatorError> {
        let rows = self.rows(&ENTRIES, &[&convo.as_str(), &after, &upto, &MAX_ENTRIES, &MAX_BYTES]).await?;
        Ok(rows.iter().map(|row| message_view(convo, row)).collect::<Result<_, _>>()?)
    }

    /// Returns what is stored of a person beside its conversations.
    pub async fn person(&self, did: &Did) -> Result<Found, OperatorError> {
        let rows = self.rows(&PERSON, &[&did.as_str()]).await?;
        Ok(found(rows.first().expect("a select without FROM returns one row"))?)
    }

    /// Returns the next conversations that a person is or was in, in order, after one of them.
    pub async fn person_convos(&self, did: &Did, after: &str) -> Result<Vec<FoundConvo>, OperatorError> {
        let rows = self.rows(&PERSON_CONVOS, &[&did.as_str(), &after, &MAX_CONVOS]).await?;
        let convos = rows.iter().map(|row| {
            Ok(FoundConvo {
                convo: row.get::<_, &str>("convo_id").parse().map_err(Error::internal)?,
                active: row.get("active"),
                is_last: row.get("is_last"),
                over: row.get("over"),
                found: found(row)?,
            })
        });
        convos.collect()
    }
}
