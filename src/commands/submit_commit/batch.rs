//! Commits of different conversations that arrived together, in one statement.

use std::collections::HashSet;
use std::sync::Arc;

use crate::error::{Code, Error};
use crate::store::commits::{self, NewCommit};
use crate::store::{
    Abort, BatchOutcome, Batched, Cause, Command, ExclusiveMany, Queries, Query, Refusal, Refused, epochs,
    key_packages, members,
};

use super::super::refusal::{self, MadeIn};
use super::{Accepted, MAX_MEMBERS, Replayable, SubmitCommit, too_many};

impl Batched for SubmitCommit {
    const BATCH_NAME: &'static str = "submitCommit.batch";
    /// The epochs that its commits were made in are over once they are accepted, so they are not accepted twice.
    const STATEMENT: &'static Query = commits::SUBMIT;

    async fn execute_batch(
        x: &ExclusiveMany<'_>,
        commands: &[Arc<Self>],
    ) -> Result<Vec<BatchOutcome<Accepted>>, Abort> {
        let mut used = Used::default();
        let fits: Vec<bool> = commands.iter().map(|command| used.add(command)).collect();
        let fitting = commands.iter().zip(&fits).filter(|(_, fits)| **fits);
        let submitted: Vec<NewCommit<'_>> = fitting.map(|(command, _)| command.new_commit()).collect();
        let mut results = commits::submit(x, &submitted, MAX_MEMBERS).await?.into_iter();
        let outcome = |(command, fits): (&Arc<Self>, bool)| match if fits { results.next() } else { None } {
            Some(Ok(at)) => BatchOutcome::Committed { output: command.accepted(at), at },
            // Alone it withdraws the Welcome, or looks twice whether a package was used by a commit that also ended its epoch.
            Some(Err(Refused { refusal: Refusal::WelcomeWaits | Refusal::KeyPackage, .. })) => BatchOutcome::RunAlone,
            Some(Err(refused)) => BatchOutcome::Refused(refused),
            // It has to see the result of another one in this batch.
            None => BatchOutcome::Requeue,
        };
        Ok(commands.iter().zip(fits).map(outcome).collect())
    }

    async fn refusal(&self, db: &impl Queries, refused: &Refused) -> Result<Accepted, Abort> {
        if let Some(earlier) = self.replay(db).await? {
            return Ok(earlier);
        }
        let about = refused.about.as_deref().unwrap_or_default();
        Err(match (refused.refusal, refused.at, self.made_in()) {
            (Refusal::OtherEpoch | Refusal::OtherGeneration, Some(at), Some(epoch)) => {
                let made_in = MadeIn { generation: self.generation, epoch, incarnation: self.incarnation.as_deref() };
                let lost = refusal::epoch_mismatch(db, &self.convo_id, &self.caller, made_in, at).await;
                match self.arrival.is_some() {
                    true => refusal::with_group_info(db, &self.convo_id, &self.caller, lost).await,
                    false => lost,
                }
            }
            (Refusal::OtherEpoch, ..) => epochs::not_found().into(),
            (Refusal::NotMember, ..) => match members::membership(db, &self.convo_id, &self.caller).await {
                // It is one by now.
                Ok(_) => Abort::Again(Cause::Taken),
                Err(abort) => abort,
            },
            (Refusal::NotAuthorized, ..) => members::not_admin().into(),
            (Refusal::TargetNotMember, ..) => members::not_a_target(about).into(),
            (Refusal::Uninvited, ..) => Code::InvalidRequest
                .because(format!("keyPackageHashes names {about}, who is neither in the group nor being added"))
                .into(),
            (Refusal::AlreadyMember, ..) => Code::AlreadyMember.because(format!("{about} is already a member")).into(),
            (Refusal::TooManyMembers, ..) => too_many().into(),
            (Refusal::LastMember, ..) => members::last_one().into(),
            (Refusal::KeyPackage, ..) => key_packages::not_found().into(),
            // The record of the key has been deleted since.
            (Refusal::KeyKnown, ..) => Abort::Again(Cause::Taken),
            (other, ..) => Error::internal(format!("submitCommit was refused with {other:?}")).into(),
        })
    }
}

/// Conversations, keys and key packages that the commits of a batch use, each of them once.
#[derive(Default)]
struct Used<'a> {
    convos: HashSet<&'a str>,
    keys: HashSet<(&'a str, &'a str)>,
    packages: HashSet<&'a [u8; 32]>,
}

impl<'a> Used<'a> {
    /// Adds what a commit uses. Returns false if one before it uses some of that.
    fn add(&mut self, command: &'a SubmitCommit) -> bool {
        if !self.convos.insert(command.convo_id.as_str()) {
            return false;
        }
        let caller = command.caller.as_str();
        let new_key = command.idempotency.key().is_none_or(|(key, _)| self.keys.insert((caller, key)));
        let packages = &command.invitation.key_packages;
        if !new_key || packages.iter().any(|(_, hash)| self.packages.contains(hash)) {
            return false;
        }
        self.packages.extend(packages.iter().map(|(_, hash)| hash));
        true
    }
}
