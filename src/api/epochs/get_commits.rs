//! getCommits: the commits that create a range of epochs, in pages.

use serde::{Deserialize, Serialize};

use crate::api::fields::Limit;
use crate::app::App;
use crate::error::{Code, Error};
use crate::ids::{ConvoId, ServerIncarnation};
use crate::mls::MAX_POSITION;
use crate::store::members;
use crate::wire::CommitMessage;
use crate::xrpc::{Caller, Endpoint, Kind};

pub struct GetCommits;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "convo_id")]
    convo_id: ConvoId,
    #[serde(alias = "from_epoch")]
    from_epoch: i64,
    #[serde(alias = "to_epoch")]
    to_epoch: Option<Epoch>,
    #[serde(default)]
    limit: Limit,
    /// First epoch of the page, from the previous page.
    cursor: Option<String>,
}

/// An epoch that must be a number where it is given: `toEpoch=` is an error, not an absent value.
#[derive(Deserialize)]
struct Epoch(i64);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    convo_id: ConvoId,
    commits: Vec<CommitMessage>,
    has_more: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
    /// Oldest epoch whose commit is kept, if the request asked for older ones that have been deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_epoch: Option<i64>,
    /// Incarnation of the database that the page was read from.
    #[serde(skip_serializing_if = "Option::is_none")]
    server_incarnation: Option<ServerIncarnation>,
}

impl Endpoint for GetCommits {
    const LEXICON: &'static str = include_str!("get_commits.json");
    const KIND: Kind = Kind::Query;
    const ERRORS: &'static [Code] =
        &[Code::ConvoNotFound, Code::NotMember, Code::InvalidEpochRange, Code::InvalidCursor];

    type Input = Input;
    type Output = Output;

    fn convo(input: &mut Input) -> Option<&mut ConvoId> {
        Some(&mut input.convo_id)
    }

    fn bytes(page: &Output) -> usize {
        page.commits.iter().map(CommitMessage::bytes).sum()
    }

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        let reader = app.store.reader().await?;
        let member = members::membership(&reader, &input.convo_id, &caller.did).await?;
        let to_epoch = input.to_epoch.map_or(MAX_POSITION, |epoch| epoch.0);
        if input.from_epoch < 0 || input.from_epoch > to_epoch || to_epoch > MAX_POSITION {
            return Err(Code::InvalidEpochRange.because("fromEpoch must be between 0 and toEpoch"));
        }
        let first = match &input.cursor {
            None => input.from_epoch,
            Some(cursor) => cursor
                .parse()
                .ok()
                .filter(|epoch| (input.from_epoch..=to_epoch).contains(epoch))
                .ok_or_else(|| Code::InvalidCursor.because("cursor was not issued by getCommits for this range"))?,
        };
        let last = to_epoch.min(member.at.epoch);
        let commits = reader.commits(&input.convo_id, &caller.did, (first, last), input.limit.0).await?;
        let expected = first.max(member.joined_epoch + 1);
        let first_epoch = match commits.first() {
            Some(commit) if commit.epoch > expected => Some(commit.epoch),
            // Retention deletes the oldest commits first.
            None if expected <= last => {
                Some(reader.first_commit(&input.convo_id).await?.unwrap_or(member.at.epoch + 1))
            }
            _ => None,
        };
        let next = commits.last().map(|commit| commit.epoch + 1).filter(|next| *next <= last);
        Ok(Output {
            convo_id: input.convo_id,
            commits,
            has_more: next.is_some(),
            cursor: next.map(|epoch| epoch.to_string()),
            first_epoch,
            server_incarnation: member.incarnation,
        })
    }
}
