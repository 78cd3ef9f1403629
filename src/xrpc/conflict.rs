//! `conflict: "result"`: who lost an epoch is answered with 200 and all that it needs to try again, because a PDS passes on nothing of an
//! error's body but its name and its sentence (promise 9).

use serde::{Deserialize, Serialize, Serializer};

use crate::error::{Code, Details, Error, Recovery};

use super::endpoint::Tells;

/// The field `conflict`: how a caller wants to be told that it is in another epoch than the conversation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "Option<Asked>")]
pub enum Conflict {
    /// By an error, as in version 1.
    #[default]
    Error,
    /// By a result beside the other one; `$type` says which it is.
    Result,
}

/// The words for it. Null is as good as nothing, as in every field that may be absent.
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

/// What came of a request that can lose an epoch.
pub enum Judged<T> {
    /// It was done, for a caller that is told of the opposite by an error.
    Done(T),
    /// It was done: `<method>#accepted`.
    Accepted(&'static str, T),
    /// It was not, because the caller is in another epoch: `<method>#stale`.
    Stale(&'static str, Box<Error>),
}

impl Conflict {
    /// Turns the outcome of a method into what its caller asked for. Errors of any other kind stay errors.
    pub fn judge<T>(self, nsid: &'static str, outcome: Result<T, Error>) -> Result<Judged<T>, Error> {
        match (self, outcome) {
            (Conflict::Error, outcome) => outcome.map(Judged::Done),
            (Conflict::Result, Ok(output)) => Ok(Judged::Accepted(nsid, output)),
            (Conflict::Result, Err(error)) if Code::OTHER_EPOCH.contains(&error.code) => {
                Ok(Judged::Stale(nsid, Box::new(error)))
            }
            (Conflict::Result, Err(error)) => Err(error),
        }
    }
}

impl<T> Judged<T> {
    /// How many bytes the commits have that a caller lacks ([`Endpoint::bytes`](super::Endpoint::bytes)).
    pub fn bytes(&self) -> usize {
        match self {
            Judged::Done(_) | Judged::Accepted(..) => 0,
            Judged::Stale(_, error) => {
                error.details.missing.iter().flatten().map(|commit| commit.commit_data.0.len()).sum()
            }
        }
    }

    /// Whether anything was done ([`Endpoint::tells`](super::Endpoint::tells)).
    pub fn tells(&self) -> Tells {
        match self {
            Judged::Done(_) | Judged::Accepted(..) => Tells::Work,
            Judged::Stale(_, error) => Tells::Refusal(error.code),
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

/// The body of the error, for a reply that is none.
#[derive(Serialize)]
struct Stale<'a> {
    error: &'static str,
    message: &'a str,
    recovery: Recovery,
    #[serde(flatten)]
    details: &'a Details,
}

impl<T: Serialize> Serialize for Judged<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Judged::Done(output) => output.serialize(serializer),
            Judged::Accepted(nsid, output) => {
                Typed { kind: format!("{nsid}#accepted"), fields: output }.serialize(serializer)
            }
            Judged::Stale(nsid, error) => {
                let (code, details) = (error.code, &*error.details);
                let fields = Stale { error: code.name(), message: &error.message, recovery: code.recovery(), details };
                Typed { kind: format!("{nsid}#stale"), fields }.serialize(serializer)
            }
        }
    }
}
