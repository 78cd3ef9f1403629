//! Commits of different conversations that arrived together share a transaction. Each is judged by itself; one that is not acceptable
//! as it is leaves no trace in the batch.

use std::collections::HashSet;
use std::sync::Arc;

use crate::ids::ConvoId;
use crate::store::members::{self, Added, BatchItem};
use crate::store::{Abort, Batch, ExclusiveMany, Landing, Query, Topic};

use super::{AddMembers, Landed, MAX_MEMBERS};

/// See the module. All of them have a commit.
#[derive(Debug)]
pub struct AddBatch {
    pub adds: Vec<Arc<AddMembers>>,
}

impl Batch for AddBatch {
    const NAME: &'static str = "addMembersTogether";
    /// The epochs that its commits were made in are over once they have won, so they cannot win again.
    const STATEMENT: &'static Query = members::BATCH;
    type Output = Landed;

    fn convos(&self) -> Vec<&ConvoId> {
        self.adds.iter().map(|add| &add.convo_id).collect()
    }

    fn topics(&self, landed: &[Landing<Landed>]) -> Vec<Topic> {
        let done = self.adds.iter().zip(landed).filter(|(_, landing)| matches!(landing, Landing::Done(_)));
        done.flat_map(|(add, _)| std::iter::once(Topic::from(&add.convo_id)).chain(add.dids.iter().map(Topic::from)))
            .collect()
    }

    async fn execute(&self, x: &ExclusiveMany<'_>) -> Result<Vec<Landing<Landed>>, Abort> {
        let mut taken = Taken::default();
        let placed: Vec<Result<(), Landing<Landed>>> = self.adds.iter().map(|add| taken.place(add)).collect();
        let in_it = self.adds.iter().zip(&placed).filter(|(_, placed)| placed.is_ok());
        let items: Vec<BatchItem<'_>> = in_it.filter_map(|(add, _)| add.item()).collect();
        let mut landed = members::add_batch(x, &items, MAX_MEMBERS).await?.into_iter();
        let landing = |placed: Result<(), Landing<Landed>>| match placed {
            Ok(()) => match landed.next() {
                Some(Added::At(at)) => Landing::Done(Landed::now(at)),
                Some(Added::Moved) => Landing::Contended,
                Some(Added::No) | None => Landing::Alone,
            },
            Err(elsewhere) => elsewhere,
        };
        Ok(placed.into_iter().map(landing).collect())
    }
}

/// What the items of a batch use up, each of it once.
#[derive(Default)]
struct Taken<'a> {
    convos: HashSet<&'a str>,
    keys: HashSet<(&'a str, &'a str)>,
    packages: HashSet<&'a [u8; 32]>,
}

impl<'a> Taken<'a> {
    /// Makes room for it in the batch, or says what becomes of it instead.
    fn place(&mut self, add: &'a AddMembers) -> Result<(), Landing<Landed>> {
        if !self.convos.insert(add.convo_id.as_str()) {
            // It has to see what the first one did.
            return Err(Landing::Later);
        }
        let new_key = add.once.key().is_none_or(|(key, _)| self.keys.insert((add.caller.as_str(), key)));
        let packages = &add.invitation.key_packages;
        let free = packages.iter().all(|(_, hash)| !self.packages.contains(hash));
        if !new_key || !free || add.commit.is_none() {
            return Err(Landing::Alone);
        }
        self.packages.extend(packages.iter().map(|(_, hash)| hash));
        Ok(())
    }
}

impl AddMembers {
    fn item(&self) -> Option<BatchItem<'_>> {
        let commit = self.commit.as_ref()?;
        Some(BatchItem {
            convo: &self.convo_id,
            id: &self.entry_id,
            sender: &self.caller,
            epoch: commit.frame.epoch,
            commit: &commit.bytes,
            hash: &commit.hash,
            dids: &self.dids,
            welcome: self.invitation.welcome.as_ref(),
            key_packages: &self.invitation.key_packages,
            once: self.once.key(),
            now: self.invitation.now,
        })
    }
}
