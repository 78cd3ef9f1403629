//! One conversation's actor: does one thing after the other and remembers where that left the conversation.

use std::sync::Arc;
use std::time::Instant;

use tracing::Instrument;

use crate::error::Error;
use crate::ids::ConvoId;
use crate::serializer::queues::CONTENDED_FOR;
use crate::serializer::sharing::{self, Next, Sending, waited_too_long};
use crate::store::{Abort, Command, Done, Hold, Locks, Position, Store};

use super::mailbox::LONGEST_WAIT;

/// How often one command may find that another replica was faster before it stands in line for the lock like that one.
const MOST_RELOADS: u32 = 3;

/// The state of an actor. Nothing in it is the truth; PostgreSQL is asked whether it still holds with every write.
pub(super) struct Conversation {
    convo: ConvoId,
    store: Store,
    at: Option<Position>,
    /// When it last learnt that another replica writes the conversation too.
    contended: Option<Instant>,
}

impl Conversation {
    pub(super) fn new(convo: ConvoId, store: Store) -> Self {
        Self { convo, store, at: None, contended: None }
    }

    /// Whether it knows where the conversation stands.
    pub(super) fn is_loaded(&self) -> bool {
        self.at.is_some()
    }

    /// Where the conversation stands, as far as this actor knows; asks the database the first time.
    pub(super) async fn position(&mut self) -> Result<Position, Error> {
        if let Some(at) = self.at {
            return Ok(at);
        }
        let at = self.store.reader().await?.position(&self.convo).await?;
        tracing::debug!("ConversationActor {} starting at epoch {}", self.convo, at.epoch);
        self.remember(at);
        Ok(at)
    }

    fn remember(&mut self, at: Position) {
        self.at = Some(at);
    }

    /// Whether another replica wrote the conversation a moment ago. Then this one stands in line for the lock like that one, so that
    /// each of them gets its turn.
    fn is_contended(&self) -> bool {
        self.contended.is_some_and(|since| since.elapsed() < CONTENDED_FOR)
    }

    /// Runs a command on the remembered position, and again on the true one if that proves to be out of date.
    pub(super) async fn execute<C: Command>(&mut self, command: Arc<C>) -> Result<C::Output, Error> {
        for _ in 0..MOST_RELOADS {
            if self.is_contended() {
                break;
            }
            let hold = Hold::Remembered(self.position().await?);
            match self.store.run(command.clone(), hold).await {
                Ok(done) => return Ok(self.finish(done)),
                Err(Abort::Moved(actual)) => self.remember(actual),
                Err(abort) => return Err(Error::from(abort)),
            }
        }
        self.contended = Some(Instant::now());
        let done = self.store.run(command, Hold::Lock).await?;
        Ok(self.finish(done))
    }

    /// Sends messages in one transaction, in another one that waits for the lock if another replica was faster, and those that neither
    /// could take one by one after them. What waited too long is refused.
    pub(super) async fn send(&mut self, sends: Vec<Sending>) {
        let (late, mut sends): (Vec<_>, Vec<_>) =
            sends.into_iter().partition(|send| send.since.elapsed() > LONGEST_WAIT);
        late.into_iter().for_each(|send| send.answer(Err(waited_too_long())));
        let mut alone = Vec::new();
        while !sends.is_empty() {
            let at = match self.position().await {
                Ok(at) => at,
                Err(error) => {
                    sends.into_iter().chain(alone).for_each(|send| send.answer(Err(error.clone())));
                    return;
                }
            };
            let locks = if self.is_contended() { Locks::Wait } else { Locks::None };
            let outcome = sharing::share(&self.store, sends, locks, |_| Vec::new()).await;
            let (again, left): (Vec<_>, Vec<_>) =
                outcome.undone.into_iter().partition(|undone| undone.next == Next::Contended);
            if outcome.waited || !again.is_empty() {
                self.contended = Some(Instant::now());
            }
            // What could not be done is tried again until it is too old.
            sends = again.into_iter().map(|undone| undone.waiting).collect();
            alone.extend(left.into_iter().map(|undone| undone.waiting));
            match outcome.done.iter().map(|sent| sent.seq).max() {
                Some(last) if last == at.seq + outcome.done.len() as i64 => {
                    self.remember(Position { epoch: at.epoch, seq: last });
                }
                None if sends.is_empty() => {}
                // Another replica wrote in between, the epoch too perhaps.
                _ => self.at = None,
            }
        }
        if self.at.is_none()
            && let Err(error) = self.position().await
        {
            tracing::debug!(%error, "an actor could not read its conversation's position");
        }
        for send in alone {
            if send.since.elapsed() > LONGEST_WAIT {
                send.answer(Err(waited_too_long()));
                continue;
            }
            let executing = send.timings.scope(self.execute(send.command.clone())).instrument(send.span.clone());
            let answer = executing.await;
            send.answer(answer);
        }
    }

    fn finish<T>(&mut self, done: Done<T>) -> T {
        if let Some(at) = done.at {
            self.remember(at);
        }
        done.output
    }
}
