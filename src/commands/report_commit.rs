//! reportCommit: a member reports which commit of an epoch it has, and whether it could apply it.

use serde::{Deserialize, Serialize};

use crate::error::{Code, Error, Reason};
use crate::ids::{ConvoId, Did};
use crate::store::commit_reports::{self, CommitReport, Present};
use crate::store::{Abort, Command, Exclusive, Queries, epochs, members};
use crate::wire::ConvoState;

use super::{Idempotency, Replayable};

/// Number of epochs before the current one about which members can report, and whose reports count.
const MAX_REPORT_LAG: i64 = 50;

/// A member's report about the commit of an epoch.
#[derive(Debug)]
pub struct ReportCommit {
    pub convo_id: ConvoId,
    pub caller: Did,
    pub report: CommitReport,
    /// Percentage of the members that makes the conversation wedged.
    pub quorum_percent: i64,
    pub idempotency: Idempotency,
}

/// State of the conversation with a report, which was stored now or by an earlier equal request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reported {
    pub generation: i64,
    pub epoch: i64,
    pub seq: i64,
    pub state: ConvoState,
    /// Number of members that cannot apply commits.
    pub unable: i64,
    /// Number of such members from which on the conversation is wedged.
    pub quorum: i64,
    #[serde(skip_serializing, default = "super::on_record")]
    pub replayed: bool,
}

impl Command for ReportCommit {
    const NAME: &'static str = "reportCommit";
    type Output = Reported;

    fn convo(&self) -> &ConvoId {
        &self.convo_id
    }

    fn caller(&self) -> &Did {
        &self.caller
    }

    async fn execute(&self, x: &mut Exclusive<'_>) -> Result<Reported, Abort> {
        if let Some(earlier) = self.idempotency.replay(x.tx()).await? {
            return Ok(earlier);
        }
        // So that reports of one conversation are counted one after the other, whichever serializer runs them.
        let at = epochs::lock_row(x).await?;
        let member = members::membership(x.tx(), &self.convo_id, &self.caller).await?;
        // Another replica may have done an equal request while this one waited for the row.
        if let Some(earlier) = self.idempotency.replay(x.tx()).await? {
            return Ok(earlier);
        }
        let oldest = at.epoch - MAX_REPORT_LAG;
        self.check_epoch(at.epoch, oldest, member.joined_epoch)?;
        let present = Present { generation: member.generation, epoch: at.epoch };
        let tally = commit_reports::put(x, &self.caller, &self.report, present, oldest, self.quorum_percent).await?;
        let reported = Reported {
            generation: member.generation,
            epoch: at.epoch,
            seq: at.seq,
            state: tally.state,
            unable: tally.unable,
            quorum: tally.quorum,
            replayed: false,
        };
        self.idempotency.record(x.tx(), &reported).await?;
        Ok(reported)
    }
}

impl ReportCommit {
    /// Checks that the member can see the commit, and that it is recent.
    fn check_epoch(&self, current: i64, oldest: i64, joined: i64) -> Result<(), Error> {
        let epoch = self.report.epoch;
        if epoch > current {
            let mut error = Code::EpochAhead
                .because(format!("no commit has created epoch {epoch}; the conversation is in epoch {current}"));
            error.details.server_epoch = Some(current);
            error.details.reason = Some(Reason::Future);
            return Err(error);
        }
        if epoch <= joined {
            return Err(Code::InvalidRequest.because(format!("you have joined in epoch {joined}, after this commit")));
        }
        if epoch < oldest {
            let message =
                format!("epoch must be at most {MAX_REPORT_LAG} before the conversation's, which is {current}");
            return Err(Code::InvalidRequest.because(message));
        }
        Ok(())
    }
}

impl Replayable for ReportCommit {
    type Output = Reported;

    async fn replay(&self, db: &impl Queries) -> Result<Option<Reported>, Abort> {
        self.idempotency.replay(db).await
    }

    fn is_new(reported: &Reported) -> bool {
        !reported.replayed
    }
}
