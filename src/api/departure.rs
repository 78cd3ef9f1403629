//! The one way of leaveConvo and removeMember: with a commit it is submitted like any other, without one only the roster changes.

use std::sync::Arc;

use crate::api::fields::{Key, ServerIncarnation};
use crate::api::group;
use crate::api::submission::Submission;
use crate::app::App;
use crate::bytes::LexBytes;
use crate::commands::{Accepted, Fingerprint, Idempotency, LeaveConvo};
use crate::error::Error;
use crate::ids::{ConvoId, Did};
use crate::mls::Proposal;
use crate::quotas::Charge;
use crate::store::groups::Group;
use crate::xrpc::Caller;

/// A request that ends a membership.
pub struct Departure {
    /// The method, without the namespace.
    pub method: &'static str,
    pub convo_id: ConvoId,
    pub target: Did,
    pub commit: Option<LexBytes>,
    /// The caller's proposal that it be removed. Only without a commit.
    pub proposal: Option<(Proposal, Arc<Group>)>,
    /// GroupInfo of the epoch that the commit creates.
    pub group_info: Option<LexBytes>,
    pub key: Option<Key>,
    pub incarnation: Option<ServerIncarnation>,
}

impl Departure {
    /// Runs the request.
    pub async fn run(self, app: &App, caller: &Caller) -> Result<Accepted, Error> {
        let fingerprint = Fingerprint::default()
            .text(Some(self.convo_id.as_str()))
            .text(Some(self.target.as_str()))
            .field(self.commit.as_ref().map(|commit| commit.0.as_slice()));
        if self.commit.is_some() || self.group_info.is_some() {
            let submission = Submission {
                method: self.method,
                convo_id: self.convo_id,
                added: Vec::new(),
                removed: vec![self.target],
                commit: self.commit,
                welcome: None,
                group_info: self.group_info,
                key_packages: Vec::new(),
                key: self.key,
                fingerprint,
                incarnation: self.incarnation,
                only_from_outside: false,
            };
            return submission.run(app, caller).await;
        }
        // Keys of requests without a proposal keep their fingerprints.
        let fingerprint = match &self.proposal {
            None => fingerprint,
            Some((proposal, _)) => fingerprint.field(Some(&proposal.bytes)),
        };
        let key = self.key.map(|key| key.0);
        let command = LeaveConvo {
            convo_id: self.convo_id,
            caller: caller.did.clone(),
            target: self.target,
            proposal: self.proposal.map(|(proposal, group)| group::proposal_entry(app, caller, proposal, &group)),
            incarnation: self.incarnation.map(|seen| seen.0),
            idempotency: Idempotency::new(caller.did.clone(), self.method, key, fingerprint),
        };
        // Leaving costs no quota; a proposal is stored.
        let stored = command.proposal.as_ref().map(|proposal| proposal.ciphertext.len());
        let charges = stored.map(|bytes| Charge::stored(&caller.did, bytes, 2));
        let held = app.quotas.reserve(charges.into_iter().collect());
        app.quotas.run_reserved(held, command, async |command| app.serializer.run(command).await).await
    }
}
