//! Commits of different conversations that arrived together, in one statement.

use std::collections::HashSet;
use std::sync::Arc;

use crate::error::{Code, Error};
use crate::store::members::{self, NewMembers};
use crate::store::{
    Abort, BatchOutcome, Batched, Cause, ExclusiveMany, Queries, Query, Refusal, Refused, epochs, key_packages,
};

use super::super::refusal::{self, MadeIn};
use super::{Accepted, AddMembers, MAX_MEMBERS, Replayable, too_many};

impl Batched for AddMembers {
    const BATCH_NAME: &'static str = "addMembers.batch";
    /// The epochs that its commits were made in are over once they are accepted, so they are not accepted twice.
    const STATEMENT: &'static Query = members::ADD;

    fn made_in(&self) -> Option<i64> {
        self.commit.as_ref().map(|commit| commit.frame.epoch)
    }

    async fn execute_batch(
        x: &ExclusiveMany<'_>,
        commands: &[Arc<Self>],
    ) -> Result<Vec<BatchOutcome<Accepted>>, Abort> {
        let mut used = Used::default();
        let fits: Vec<bool> = commands.iter().map(|add| used.add(add)).collect();
        let additions: Vec<NewMembers<'_>> =
            commands.iter().zip(&fits).filter(|(_, fits)| **fits).map(|(add, _)| add.new_members()).collect();
        let mut added = members::add(x, &additions, MAX_MEMBERS).await?.into_iter();
        let outcome = |fits| match if fits { added.next() } else { None } {
            Some(Ok(at)) => BatchOutcome::Committed { output: Accepted::now(at), at },
            // Alone it withdraws the Welcome, or looks twice whether a package was used by a commit that also ended its epoch.
            Some(Err(Refused { refusal: Refusal::WelcomeWaits | Refusal::KeyPackage, .. })) => BatchOutcome::RunAlone,
            Some(Err(refused)) => BatchOutcome::Refused(refused),
            // It has to see the result of another one in this batch.
            None => BatchOutcome::Requeue,
        };
        Ok(fits.into_iter().map(outcome).collect())
    }

    async fn refusal(&self, db: &impl Queries, refused: &Refused) -> Result<Accepted, Abort> {
        if let Some(earlier) = self.replay(db).await? {
            return Ok(earlier);
        }
        Err(match (refused.refusal, refused.at, self.made_in()) {
            (Refusal::OtherEpoch, Some(at), Some(epoch)) => {
                let made_in = MadeIn { epoch, incarnation: self.incarnation.as_deref() };
                refusal::epoch_mismatch(db, &self.convo_id, &self.caller, made_in, at).await
            }
            (Refusal::OtherEpoch, ..) => epochs::not_found().into(),
            (Refusal::NotMember, ..) => match members::membership(db, &self.convo_id, &self.caller).await {
                // It is one by now.
                Ok(_) => Abort::Again(Cause::Taken),
                Err(abort) => abort,
            },
            (Refusal::AlreadyMember, ..) => {
                let did = refused.present.as_deref().unwrap_or_default();
                Code::AlreadyMember.because(format!("{did} is already a member")).into()
            }
            (Refusal::TooManyMembers, ..) => too_many().into(),
            (Refusal::KeyPackage, ..) => key_packages::not_found().into(),
            // The record of the key has been deleted since.
            (Refusal::KeyKnown, ..) => Abort::Again(Cause::Taken),
            (other, ..) => Error::internal(format!("addMembers was refused with {other:?}")).into(),
        })
    }
}

/// Conversations, keys and key packages that the additions of a batch use, each of them once.
#[derive(Default)]
struct Used<'a> {
    convos: HashSet<&'a str>,
    keys: HashSet<(&'a str, &'a str)>,
    packages: HashSet<&'a [u8; 32]>,
}

impl<'a> Used<'a> {
    /// Adds what an addition uses. Returns false if one before it uses some of that.
    fn add(&mut self, add: &'a AddMembers) -> bool {
        if !self.convos.insert(add.convo_id.as_str()) {
            return false;
        }
        let new_key = add.idempotency.key().is_none_or(|(key, _)| self.keys.insert((add.caller.as_str(), key)));
        let packages = &add.invitation.key_packages;
        if !new_key || packages.iter().any(|(_, hash)| self.packages.contains(hash)) {
            return false;
        }
        self.packages.extend(packages.iter().map(|(_, hash)| hash));
        true
    }
}
