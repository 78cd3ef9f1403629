//! processExternalCommit: a member's device that has no state of the group joins it by itself. It is submitCommit with such a commit.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::api::fields::{Key, ServerIncarnation};
use crate::api::submission::Submission;
use crate::app::App;
use crate::bytes::LexBytes;
use crate::commands::{Accepted, Fingerprint};
use crate::error::{Code, Error};
use crate::ids::ConvoId;
use crate::wire::datetime;
use crate::xrpc::{Caller, Conflict, Endpoint, EpochProcedure};

pub struct ProcessExternalCommit;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    convo_id: ConvoId,
    external_commit: LexBytes,
    group_info: Option<LexBytes>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<i64>,
    epoch: i64,
    new_epoch: i64,
    seq: i64,
    #[serde(serialize_with = "datetime")]
    rejoined_at: DateTime<Utc>,
}

impl EpochProcedure for ProcessExternalCommit {
    const LEXICON: &'static str = include_str!("process_external_commit.json");
    const ERRORS: &'static [Code] = &[Code::ServerRolledBack, Code::InvalidCommit, Code::InvalidGroupInfo];

    type Input = Input;
    type Output = Output;

    fn convo(input: &mut Input) -> &mut ConvoId {
        &mut input.convo_id
    }

    fn conflict(input: &Input) -> Conflict {
        input.conflict
    }

    async fn run(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        let convo_id = input.convo_id.clone();
        let submission = Submission {
            method: ProcessExternalCommit::METHOD,
            fingerprint: Fingerprint::default()
                .text(Some(input.convo_id.as_str()))
                .field(Some(input.external_commit.0.as_slice())),
            convo_id: input.convo_id,
            added: Vec::new(),
            removed: Vec::new(),
            commit: Some(input.external_commit),
            welcome: None,
            group_info: input.group_info,
            key_packages: Vec::new(),
            key: input.idempotency_key,
            incarnation: input.server_incarnation,
            only_from_outside: true,
        };
        let accepted = submission.run(app, caller).await?;
        // The commit is stored until every member has read it. After that nobody asks for this time.
        let stored = app.store.reader().await?.entry_time(&convo_id, accepted.seq).await?;
        let rejoined_at = stored.unwrap_or_else(|| app.clock.now());
        let Accepted { generation, epoch, seq, .. } = accepted;
        Ok(Output { generation, epoch, new_epoch: epoch, seq, rejoined_at })
    }
}
