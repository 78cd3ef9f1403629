//! reportCommit: the caller reports which commit of an epoch it has, and whether it could apply it.

use serde::{Deserialize, Serialize};

use crate::api::fields::{Count, Key};
use crate::app::App;
use crate::bytes::LexBytes;
use crate::commands::{self, Fingerprint, Idempotency};
use crate::error::{Code, Error};
use crate::hex;
use crate::ids::ConvoId;
use crate::quotas::Charge;
use crate::store::commit_reports::CommitReport;
use crate::wire::ConvoState;
use crate::xrpc::{Caller, Endpoint, Kind};

/// Maximum bytes of an epoch authenticator: the longest hash of a cipher suite.
const MAX_AUTHENTICATOR: usize = 64;

pub struct ReportCommit;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    convo_id: ConvoId,
    epoch: Count,
    commit_hash: String,
    epoch_authenticator: Option<LexBytes>,
    applied: Option<bool>,
    idempotency_key: Option<Key>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    generation: i64,
    epoch: i64,
    seq: i64,
    state: ConvoState,
    cannot_apply: i64,
    quorum: i64,
}

impl Endpoint for ReportCommit {
    const LEXICON: &'static str = include_str!("report_commit.json");
    const KIND: Kind = Kind::Procedure;
    const ERRORS: &'static [Code] =
        &[Code::ConvoNotFound, Code::NotMember, Code::EpochAhead, Code::IdempotencyConflict];

    type Input = Input;
    type Output = Output;

    fn convo(input: &mut Input) -> Option<&mut ConvoId> {
        Some(&mut input.convo_id)
    }

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        let command = command(app, caller, input)?;
        let held = app.quotas.reserve(vec![Charge::stored(&caller.did, 2 * MAX_AUTHENTICATOR, 2)]);
        let reported =
            app.quotas.run_reserved(held, command, async |command| app.serializer.run(command).await).await?;
        let commands::Reported { generation, epoch, seq, state, unable, quorum, .. } = reported;
        Ok(Output { generation, epoch, seq, state, cannot_apply: unable, quorum })
    }
}

fn command(app: &App, caller: &Caller, input: Input) -> Result<commands::ReportCommit, Error> {
    let commit_hash = hex::decode_hash(&input.commit_hash).ok_or_else(|| {
        Code::InvalidRequest.because("commitHash must be 64 hex digits (the SHA-256 of the commit's bytes)")
    })?;
    let epoch_authenticator = input.epoch_authenticator.map(|bytes| bytes.0);
    if epoch_authenticator.as_ref().is_some_and(|bytes| !(1..=MAX_AUTHENTICATOR).contains(&bytes.len())) {
        let message = format!("epochAuthenticator must have 1 to {MAX_AUTHENTICATOR} bytes");
        return Err(Code::InvalidRequest.because(message));
    }
    let report =
        CommitReport { epoch: input.epoch.0, commit_hash, epoch_authenticator, applied: input.applied == Some(true) };
    let fingerprint = Fingerprint::default()
        .text(Some(input.convo_id.as_str()))
        .number(Some(report.epoch))
        .field(Some(&report.commit_hash))
        .field(report.epoch_authenticator.as_deref())
        .number(Some(i64::from(report.applied)));
    Ok(commands::ReportCommit {
        convo_id: input.convo_id,
        caller: caller.did.clone(),
        report,
        quorum_percent: app.config.wedged_quorum_percent,
        idempotency: Idempotency::new(
            caller.did.clone(),
            ReportCommit::METHOD,
            input.idempotency_key.map(|key| key.0),
            fingerprint,
        ),
    })
}
