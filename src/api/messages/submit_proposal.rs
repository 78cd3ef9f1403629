//! submitProposal: a member sends an MLS proposal, which a commit of the same epoch may refer to.

use serde::{Deserialize, Serialize};

use crate::api::fields::{Key, ServerIncarnation};
use crate::api::group;
use crate::app::App;
use crate::bytes::LexBytes;
use crate::commands::{self, Fingerprint, Idempotency};
use crate::error::{Code, Error};
use crate::ids::{ConvoId, EntryId};
use crate::quotas::Charge;
use crate::xrpc::{Caller, Conflict, Endpoint, EpochProcedure};

pub struct SubmitProposal;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    convo_id: ConvoId,
    proposal: LexBytes,
    idempotency_key: Option<Key>,
    /// The last incarnation of the database that the caller received.
    server_incarnation: Option<ServerIncarnation>,
    /// Form of the reply to a caller in another epoch.
    #[serde(default)]
    conflict: Conflict,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    success: bool,
    message_id: EntryId,
    epoch: i64,
    seq: i64,
}

impl EpochProcedure for SubmitProposal {
    const LEXICON: &'static str = include_str!("submit_proposal.json");
    const ERRORS: &'static [Code] = &[Code::ServerRolledBack, Code::InvalidProposal, Code::TooManyProposals];

    type Input = Input;
    type Output = Output;

    fn convo(input: &mut Input) -> &mut ConvoId {
        &mut input.convo_id
    }

    fn conflict(input: &Input) -> Conflict {
        input.conflict
    }

    async fn run(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        let (proposal, group) = group::proposal(app, caller, &input.convo_id, input.proposal).await?;
        let fingerprint = Fingerprint::default().text(Some(input.convo_id.as_str())).field(Some(&proposal.bytes));
        let command = commands::SendMessage {
            convo_id: input.convo_id,
            message: group::proposal_entry(app, caller, proposal, &group),
            has_own_id: false,
            blobs: Vec::new(),
            window: app.config.message_epoch_window,
            incarnation: input.server_incarnation.map(|seen| seen.0),
            idempotency: Idempotency::new(
                caller.did.clone(),
                SubmitProposal::METHOD,
                input.idempotency_key.map(|key| key.0),
                fingerprint,
            ),
        };
        let held = app.quotas.reserve(vec![Charge::stored(&caller.did, command.message.ciphertext.len(), 1)]);
        let sent = app.quotas.run_reserved(held, command, async |command| app.serializer.run(command).await).await?;
        Ok(Output { success: true, message_id: sent.id, epoch: sent.epoch, seq: sent.seq })
    }
}
