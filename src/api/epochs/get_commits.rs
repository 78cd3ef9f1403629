//! getCommits: the commits that create a range of epochs, in pages.

use serde::{Deserialize, Serialize};

use crate::api::fields::Limit;
use crate::app::App;
use crate::error::{Code, Error};
use crate::ids::{ConvoId, ServerIncarnation};
use crate::mls::MAX_POSITION;
use crate::store::members::Membership;
use crate::store::{Reader, members};
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
    /// Number of the group; the present one if absent.
    generation: Option<Epoch>,
    #[serde(default)]
    limit: Limit,
    /// First epoch of the page, from the previous page.
    cursor: Option<String>,
}

/// A number that must be one where it is given: `toEpoch=` is an error, not an absent value.
#[derive(Deserialize)]
struct Epoch(i64);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    convo_id: ConvoId,
    generation: i64,
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
        let group = group(&reader, &input.convo_id, &member, input.generation.map(|generation| generation.0)).await?;
        let last = to_epoch.min(group.final_epoch);
        let epochs = (group.generation, first, last);
        let commits = reader.commits(&input.convo_id, &caller.did, epochs, input.limit.0).await?;
        let expected = first.max(group.visible_after + 1);
        let first_epoch = match commits.first() {
            Some(commit) if commit.epoch > expected => Some(commit.epoch),
            // Retention deletes the oldest commits first.
            None if expected <= last => {
                Some(reader.first_commit(&input.convo_id, group.generation).await?.unwrap_or(group.final_epoch + 1))
            }
            _ => None,
        };
        let next = commits.last().map(|commit| commit.epoch + 1).filter(|next| *next <= last);
        Ok(Output {
            convo_id: input.convo_id,
            generation: group.generation,
            commits,
            has_more: next.is_some(),
            cursor: next.map(|epoch| epoch.to_string()),
            first_epoch,
            server_incarnation: member.incarnation,
        })
    }
}

/// A group of the conversation, as a member sees it.
struct Range {
    generation: i64,
    /// The member sees the commits that create epochs after this one.
    visible_after: i64,
    final_epoch: i64,
}

/// Returns the group of a generation, or the present one.
async fn group(reader: &Reader, convo: &ConvoId, member: &Membership, generation: Option<i64>) -> Result<Range, Error> {
    let generation = generation.unwrap_or(member.generation);
    if generation == member.generation {
        return Ok(Range { generation, visible_after: member.joined_epoch, final_epoch: member.at.epoch });
    }
    let past = reader.past_group(convo, generation).await?.ok_or_else(|| {
        Code::InvalidEpochRange.because(format!("generation must be from 1 to {}", member.generation))
    })?;
    // A member that joined in this generation sees its commits from there on, and one that joined later none.
    let visible_after = match member.joined_seq {
        joined if joined < past.first_seq => past.initial_epoch,
        joined if joined > past.last_seq => past.final_epoch,
        _ => member.joined_at_epoch.max(past.initial_epoch),
    };
    Ok(Range { generation, visible_after, final_epoch: past.final_epoch })
}
