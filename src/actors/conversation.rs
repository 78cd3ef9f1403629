//! The actor of one conversation: runs one command or batch after the other and remembers where that left the conversation.

use std::time::Instant;

use crate::batching::{self, Attempt, CONTENDED_FOR, MAX_WAIT, Next, Queued, waited_too_long};
use crate::commands::{SendMessage, SubmitCommit};
use crate::error::Error;
use crate::ids::ConvoId;
use crate::store::{BatchKind, Batched, LockMode, Locks, Position, Store};

/// Most attempts of one command without a lock. If another replica was faster each time, the command waits for the lock.
const MAX_RELOADS: u32 = 3;

/// The state of an actor. None of it is authoritative: every write checks it against PostgreSQL.
pub(super) struct Conversation {
    convo: ConvoId,
    store: Store,
    at: Option<Position>,
    /// When it last found that another replica writes the conversation too.
    contended: Option<Instant>,
}

impl Conversation {
    pub(super) fn new(convo: ConvoId, store: Store) -> Self {
        Self { convo, store, at: None, contended: None }
    }

    /// Returns whether it knows where the conversation stands.
    pub(super) fn is_loaded(&self) -> bool {
        self.at.is_some()
    }

    /// Returns where the conversation stands, as far as this actor knows. The first call reads the database.
    async fn position(&mut self) -> Result<Position, Error> {
        if let Some(at) = self.at {
            return Ok(at);
        }
        let at = self.store.reader().await?.position(&self.convo).await?;
        tracing::debug!("ConversationActor {} starting at epoch {}", self.convo, at.epoch);
        self.at = Some(at);
        Ok(at)
    }

    /// Returns whether another replica wrote the conversation a moment ago. Then this one waits for the lock too, so that each of them gets
    /// its turn.
    fn is_contended(&self) -> bool {
        self.contended.is_some_and(|since| since.elapsed() < CONTENDED_FOR)
    }

    /// Runs a command alone at the remembered position, and again at the true one if that is out of date. Refuses it if it has waited for
    /// too long.
    pub(super) async fn run(&mut self, mut command: Box<dyn Queued>) {
        if command.since().elapsed() > MAX_WAIT {
            command.refuse(waited_too_long());
            return;
        }
        for _ in 0..MAX_RELOADS {
            if self.is_contended() {
                break;
            }
            let at = match self.position().await {
                Ok(at) => at,
                Err(error) => {
                    command.refuse(error);
                    return;
                }
            };
            match command.run(self.store.clone(), LockMode::Remembered(at)).await {
                Attempt::Answered(at) => {
                    self.at = at.or(self.at);
                    return;
                }
                Attempt::Moved(actual, same) => {
                    self.at = Some(actual);
                    command = same;
                }
            }
        }
        self.contended = Some(Instant::now());
        if let Attempt::Answered(Some(at)) = command.run(self.store.clone(), LockMode::Lock).await {
            self.at = Some(at);
        }
    }

    /// Runs commands of one kind in batches, and alone those that no batch could run. Refuses those that have waited for too long.
    pub(super) async fn run_batch(&mut self, kind: BatchKind, commands: Vec<Box<dyn Queued>>) {
        let (late, commands): (Vec<_>, Vec<_>) =
            commands.into_iter().partition(|command| command.since().elapsed() > MAX_WAIT);
        late.into_iter().for_each(|command| command.refuse(waited_too_long()));
        let alone = match kind {
            BatchKind::Messages => self.run_batches::<SendMessage>(commands).await,
            BatchKind::Commits => self.run_batches::<SubmitCommit>(commands).await,
        };
        for command in alone {
            self.run(command).await;
        }
    }

    /// Runs commands in a batch without a lock, then in one that waits for the lock if another replica was faster. Returns the commands that
    /// have to run alone.
    async fn run_batches<C: Batched>(&mut self, commands: Vec<Box<dyn Queued>>) -> Vec<Box<dyn Queued>> {
        let (mut commands, mut alone) = (batching::of_type::<C>(commands), Vec::new());
        while !commands.is_empty() {
            if let Err(error) = self.position().await {
                commands.into_iter().for_each(|command| command.answer(Err(error.clone())));
                alone.into_iter().for_each(|command: Box<dyn Queued>| command.refuse(error.clone()));
                return Vec::new();
            }
            let locks = if self.is_contended() { Locks::Wait } else { Locks::None };
            let result = batching::run_batch(&self.store, commands, locks, |_| Vec::new()).await;
            if result.waited || result.unfinished.iter().any(batching::Unfinished::is_contended) {
                self.contended = Some(Instant::now());
            }
            self.at = result.at.or(self.at);
            commands = Vec::new();
            for unfinished in batching::answer_refused(&self.store, result.unfinished).await {
                match unfinished.next {
                    Next::Requeue | Next::Contended => commands.push(unfinished.pending),
                    Next::Alone | Next::Refused(_) => alone.push(unfinished.into_queued()),
                }
            }
        }
        alone
    }
}
