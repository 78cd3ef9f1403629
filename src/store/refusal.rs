//! Refusals: why a statement did not do what one of its items asks for.

use tokio_postgres::Row;

use crate::error::Error;

use super::Abort;
use super::position::Position;

/// Reasons for which a statement refuses a command. The statement's SQL file says which applies first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The transaction does not hold the conversation.
    NotHeld,
    /// Another replica wrote the conversation after the statement's snapshot.
    Moved,
    /// The conversation is in another generation.
    OtherGeneration,
    /// The conversation is in another epoch, or does not exist.
    OtherEpoch,
    NotMember,
    /// The idempotency key was used.
    KeyKnown,
    /// The entry's id is in the log.
    IdTaken,
    /// The sender has sent the same proposal.
    BytesKnown,
    /// The sender has the maximum number of proposals in this epoch.
    TooManyProposals,
    /// Only the admin may remove others.
    NotAuthorized,
    /// A person to remove was never a member.
    TargetNotMember,
    /// The owner of a key package is neither added nor a member.
    Uninvited,
    AlreadyMember,
    TooManyMembers,
    LastMember,
    /// A key package cannot be used.
    KeyPackage,
    /// A Welcome that the commit replaces or withdraws waits for a person or a key package.
    WelcomeWaits,
}

/// Refusal of one command, with the facts.
#[derive(Debug, Clone)]
pub struct Refused {
    pub refusal: Refusal,
    /// Position of the conversation; `None` if it does not exist.
    pub at: Option<Position>,
    /// The person that the refusal is about, if it is about one.
    pub about: Option<String>,
}

impl Refused {
    /// Refusal of a command of another epoch, while the conversation stands at `at`.
    pub fn other_epoch(at: Position) -> Self {
        Self { refusal: Refusal::OtherEpoch, at: Some(at), about: None }
    }

    /// Reads `refusal`, `current_epoch` and `last_seq` of a row. `None` if the command was done.
    pub(super) fn read(row: &Row) -> Result<Option<Self>, Abort> {
        let refusal = match row.get::<_, Option<&str>>("refusal") {
            None => return Ok(None),
            Some("not_held") => Refusal::NotHeld,
            Some("moved") => Refusal::Moved,
            Some("other_generation") => Refusal::OtherGeneration,
            Some("other_epoch") => Refusal::OtherEpoch,
            Some("not_member") => Refusal::NotMember,
            Some("key_known") => Refusal::KeyKnown,
            Some("id_taken") => Refusal::IdTaken,
            Some("bytes_known") => Refusal::BytesKnown,
            Some("too_many_proposals") => Refusal::TooManyProposals,
            Some("not_authorized") => Refusal::NotAuthorized,
            Some("target_not_member") => Refusal::TargetNotMember,
            Some("uninvited") => Refusal::Uninvited,
            Some("last_member") => Refusal::LastMember,
            Some("already_member") => Refusal::AlreadyMember,
            Some("too_many_members") => Refusal::TooManyMembers,
            Some("key_package") => Refusal::KeyPackage,
            Some("welcome_waits") => Refusal::WelcomeWaits,
            Some(other) => return Err(Error::internal(format!("a statement gave an unknown refusal, {other}")).into()),
        };
        let at = row.get::<_, Option<i64>>("current_epoch").zip(row.get("last_seq"));
        Ok(Some(Self { refusal, at: at.map(|(epoch, seq)| Position { epoch, seq }), about: None }))
    }
}

/// Returns the result of each of `count` items, in order, from the rows of a statement: `place`, from 1 on, `refusal` and the rest.
pub(super) fn in_order<T>(
    rows: &[Row],
    count: usize,
    done: impl Fn(&Row) -> T,
) -> Result<Vec<Result<T, Refused>>, Abort> {
    let mut results: Vec<Option<Result<T, Refused>>> = (0..count).map(|_| None).collect();
    for row in rows {
        let place: i64 = row.get("place");
        results[place as usize - 1] = Some(match Refused::read(row)? {
            None => Ok(done(row)),
            Some(refused) => Err(refused),
        });
    }
    let all: Option<Vec<_>> = results.into_iter().collect();
    all.ok_or_else(|| Error::internal("a statement has no row for one of its items").into())
}

/// Returns the only result.
pub(super) fn only<T>(results: Vec<Result<T, Refused>>) -> Result<T, Refused> {
    results.into_iter().next().expect("there is a result for the only item")
}
