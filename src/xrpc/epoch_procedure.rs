//! Procedures that are bound to an epoch: sending, proposing, committing and resetting.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::app::App;
use crate::error::{Code, Error};
use crate::ids::ConvoId;

use super::conflict::{Conflict, ConflictResult};
use super::endpoint::{Caller, Endpoint, Kind, ReplyKind};

/// A procedure whose caller may be in another epoch than the conversation. It is an [`Endpoint`] that tells such a caller so in the form of
/// the field `conflict`.
pub trait EpochProcedure: 'static {
    /// Its lexicon document.
    const LEXICON: &'static str;
    /// Errors that the lexicon declares, beside [`Code::COMMON`] and [`Code::BOUND_TO_EPOCH`].
    const ERRORS: &'static [Code];
    /// As in [`Endpoint::NEEDS_SLOT`].
    const NEEDS_SLOT: bool = true;

    type Input: DeserializeOwned + Send + 'static;
    type Output: Serialize + Send + 'static;

    /// Returns the conversation that a request names.
    fn convo(input: &mut Self::Input) -> &mut ConvoId;

    /// Returns the form in which the caller is told of another epoch.
    fn conflict(input: &Self::Input) -> Conflict;

    fn run(app: &App, caller: &Caller, input: Self::Input) -> impl Future<Output = Result<Self::Output, Error>>;
}

impl<P: EpochProcedure> Endpoint for P {
    const LEXICON: &'static str = <P as EpochProcedure>::LEXICON;
    const KIND: Kind = Kind::Procedure;
    const ERRORS: &'static [Code] = <P as EpochProcedure>::ERRORS;
    const SHARED_ERRORS: &'static [Code] = Code::BOUND_TO_EPOCH;
    const NEEDS_SLOT: bool = <P as EpochProcedure>::NEEDS_SLOT;

    type Input = <P as EpochProcedure>::Input;
    type Output = ConflictResult<<P as EpochProcedure>::Output>;

    fn bytes(result: &Self::Output) -> usize {
        result.bytes()
    }

    fn reply_kind(result: &Self::Output) -> ReplyKind {
        result.reply_kind()
    }

    fn convo(input: &mut Self::Input) -> Option<&mut ConvoId> {
        Some(<P as EpochProcedure>::convo(input))
    }

    async fn call(app: &App, caller: &Caller, input: Self::Input) -> Result<Self::Output, Error> {
        let conflict = P::conflict(&input);
        conflict.report(Self::NSID, P::run(app, caller, input).await)
    }
}
