//! One conversation's actor: does one thing after the other and remembers where that left the conversation.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tracing::Instrument;

use crate::error::Error;
use crate::ids::ConvoId;
use crate::serializer::sharing::{self, Sending};
use crate::store::{Abort, Command, Done, Hold, Locks, Position, Store};

use super::mailbox::{LONGEST_WAIT, waited};

/// How often one command may find that another replica was faster before it stands in line for the lock like that one.
const MOST_RELOADS: u32 = 3;
/// The shared epoch of an actor that has not learnt it yet.
pub(super) const UNKNOWN: i64 = -1;

/// The state of an actor. Nothing in it is the truth; PostgreSQL is asked whether it still holds with every write.
pub(super) struct Conversation {
    convo: ConvoId,
    store: Store,
    at: Option<Position>,
    /// Where readers of this process find the epoch.
    epoch: Arc<AtomicI64>,
}

impl Conversation {
    pub(super) fn new(convo: ConvoId, store: Store, epoch: Arc<AtomicI64>) -> Self {
        Self { convo, store, at: None, epoch }
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
        self.epoch.store(at.epoch, Ordering::Release);
    }

    /// Runs a command on the remembered position, and again on the true one if that proves to be out of date. Where replicas
    /// with the lock write all the time, this one takes it too, so that it gets its turn.
    pub(super) async fn execute<C: Command>(&mut self, command: Arc<C>) -> Result<C::Output, Error> {
        for _ in 0..MOST_RELOADS {
            let hold = Hold::Remembered(self.position().await?);
            match self.store.run(command.clone(), hold).await {
                Ok(done) => return Ok(self.finish(done)),
                Err(Abort::Moved(actual)) => self.remember(actual),
                Err(abort) => return Err(abort.into_error()),
            }
        }
        let done = self.store.run(command, Hold::Lock).await.map_err(Abort::into_error)?;
        Ok(self.finish(done))
    }

    /// Sends messages in one transaction, and those that it could not take one by one after it. What waited too long is refused.
    pub(super) async fn send(&mut self, sends: Vec<Sending>) {
        let (late, sends): (Vec<_>, Vec<_>) = sends.into_iter().partition(|send| send.since.elapsed() > LONGEST_WAIT);
        late.into_iter().for_each(|send| send.answer(Err(waited())));
        let at = match self.position().await {
            Ok(at) => at,
            Err(error) => return sends.into_iter().for_each(|send| send.answer(Err(error.clone()))),
        };
        let (done, undone) = sharing::share(&self.store, sends, Locks::None).await;
        if let Some(last) = done.iter().map(|sent| sent.seq).max() {
            if last == at.seq + done.len() as i64 {
                self.remember(Position { epoch: at.epoch, seq: last });
            } else {
                // Another replica wrote in between, the epoch too perhaps.
                self.at = None;
                if let Err(error) = self.position().await {
                    tracing::debug!(%error, "an actor could not learn where its conversation stands");
                }
            }
        }
        for send in undone.into_iter().map(|undone| undone.waiting) {
            if send.since.elapsed() > LONGEST_WAIT {
                send.answer(Err(waited()));
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
