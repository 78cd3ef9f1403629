//! `conflict: "result"`: a caller that lost an epoch is answered with 200 and all that it needs to retry, because a PDS
//! passes on only the name and the sentence of an error (promise 9).

use serde::{Deserialize, Serialize, Serializer};

use crate::error::{Code, Details, Error, Recovery};
use crate::wire::CommitMessage;

use super::endpoint::ReplyKind;

/// The field `conflict`: the form in which a caller is told that it is in another epoch than the conversation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "Option<Asked>")]
pub enum Conflict {
    /// As an error, as in version 1.
    #[default]
    Error,
    /// As a result, which `$type` distinguishes from success.
    Result,
}

/// Values of the field. Null counts as absent, as in every optional field.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum Asked {
    Error,
    Result,
}

impl From<Option<Asked>> for Conflict {
    fn from(asked: Option<Asked>) -> Self {
        match asked {
            None | Some(Asked::Error) => Conflict::Error,
            Some(Asked::Result) => Conflict::Result,
        }
    }
}

/// Result of a request that can lose an epoch.
pub enum ConflictResult<T> {
    /// Success, for a caller that is told of a conflict by an error.
    Done(T),
    /// Success: `<method>#accepted`.
    Accepted(&'static str, T),
    /// Conflict, because the caller is in another epoch: `<method>#stale`.
    Stale(&'static str, Box<Error>),
}

impl Conflict {
    /// Turns the outcome of a method into the form that its caller asked for. Other errors stay errors.
    pub fn report<T>(self, nsid: &'static str, outcome: Result<T, Error>) -> Result<ConflictResult<T>, Error> {
        match (self, outcome) {
            (Conflict::Error, outcome) => outcome.map(ConflictResult::Done),
            (Conflict::Result, Ok(output)) => Ok(ConflictResult::Accepted(nsid, output)),
            (Conflict::Result, Err(error)) if Code::OTHER_EPOCH.contains(&error.code) => {
                Ok(ConflictResult::Stale(nsid, Box::new(error)))
            }
            (Conflict::Result, Err(error)) => Err(error),
        }
    }
}

impl<T> ConflictResult<T> {
    /// Bytes of the commits that the caller lacks ([`Endpoint::bytes`](super::Endpoint::bytes)).
    pub fn bytes(&self) -> usize {
        match self {
            ConflictResult::Done(_) | ConflictResult::Accepted(..) => 0,
            ConflictResult::Stale(_, error) => {
                error.details.group_info.as_ref().map_or(0, String::len)
                    + error.details.missing.iter().flatten().map(CommitMessage::bytes).sum::<usize>()
            }
        }
    }

    /// Returns what the reply reports ([`Endpoint::reply_kind`](super::Endpoint::reply_kind)).
    pub fn reply_kind(&self) -> ReplyKind {
        match self {
            ConflictResult::Done(_) | ConflictResult::Accepted(..) => ReplyKind::Effect,
            ConflictResult::Stale(_, error) => ReplyKind::Refusal(error.code),
        }
    }
}

#[derive(Serialize)]
struct Typed<T> {
    #[serde(rename = "$type")]
    kind: String,
    #[serde(flatten)]
    fields: T,
}

/// Body of an error as a successful reply.
#[derive(Serialize)]
struct Stale<'a> {
    error: &'static str,
    message: &'a str,
    recovery: Recovery,
    #[serde(flatten)]
    details: &'a Details,
}

impl<T: Serialize> Serialize for ConflictResult<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            ConflictResult::Done(output) => output.serialize(serializer),
            ConflictResult::Accepted(nsid, output) => {
                Typed { kind: format!("{nsid}#accepted"), fields: output }.serialize(serializer)
            }
            ConflictResult::Stale(nsid, error) => {
                let (code, details) = (error.code, &*error.details);
                let fields = Stale { error: code.name(), message: &error.message, recovery: code.recovery(), details };
                Typed { kind: format!("{nsid}#stale"), fields }.serialize(serializer)
            }
        }
    }
}
