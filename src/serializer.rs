//! The one door for writes: who writes a conversation next is chosen once, when the server starts.
//!
//! Endpoints build a command and hand it to [`Serializer::run`]. Both serializers end in the same statements, which decide; they differ
//! only in how the commands of one conversation queue before them.

mod strangers;
mod turns;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::actors::Registry;
use crate::advisory::Advisory;
use crate::background::Background;
use crate::batching::Pending;
use crate::commands::CommandMetrics;
use crate::error::{Code, Error};
use crate::ids::{ConvoId, Did};
use crate::limits::RateLimits;
use crate::store::{Command, Counts, LockMode, Store, members, unconfirmed};
use crate::timing::{Stage, measure, within_deadline};

use strangers::Strangers;
use turns::Turns;

/// The serializer of this process, with the limits around writes. Cheap to clone.
#[derive(Clone)]
pub struct Serializer {
    mode: Mode,
    store: Store,
    strangers: Strangers,
    turns: Turns,
    limits: RateLimits,
    metrics: CommandMetrics,
}

#[derive(Clone)]
enum Mode {
    /// PostgreSQL's advisory lock, with queues in front of it.
    Advisory(Advisory),
    /// One actor per conversation in this process, which remembers where the conversation stands.
    Actors(Registry),
}

impl Serializer {
    pub fn advisory(
        advisory: Advisory,
        store: Store,
        limits: RateLimits,
        metrics: CommandMetrics,
        background: &Background,
    ) -> Self {
        tracing::info!(serializer = "advisory", "writes are serialised by PostgreSQL's advisory locks");
        Self::with(Mode::Advisory(advisory), store, limits, metrics, background)
    }

    pub fn actors(
        registry: Registry,
        store: Store,
        limits: RateLimits,
        metrics: CommandMetrics,
        background: &Background,
    ) -> Self {
        tracing::info!(serializer = "actors", "writes are serialised by an actor per conversation");
        Self::with(Mode::Actors(registry), store, limits, metrics, background)
    }

    fn with(mode: Mode, store: Store, limits: RateLimits, metrics: CommandMetrics, background: &Background) -> Self {
        let (strangers, turns) = (Strangers::new(&store, background), Turns::new());
        Self { mode, strangers, turns, store, limits, metrics }
    }

    /// Runs a command on its conversation within the limits of the caller and the conversation. Once it is queued, it is run to the end even
    /// if the caller goes away.
    ///
    /// Callers that were never members get no further than here. Former members do, since what they ask for may have been done before;
    /// those that go on after they were refused do not.
    pub(crate) async fn run<C: Command>(&self, command: C) -> Result<C::Output, Error> {
        let start = Instant::now();
        let command = Arc::new(command);
        let done = match C::CREATES {
            true => self.create(command.clone()).await,
            false => self.run_within_limits(command.clone()).await,
        };
        self.count(done.as_ref().map(|output| command.counts(output)), start.elapsed());
        done.map_err(|error| command.explain(error))
    }

    async fn run_within_limits<C: Command>(&self, command: Arc<C>) -> Result<C::Output, Error> {
        let (convo, caller) = (command.convo(), command.caller());
        self.refuse_stranger(convo, caller).await?;
        if let Some(wait) = self.limits.former_wait(caller, convo) {
            let reader = self.store.reader().await?;
            match members::membership(&reader, convo, caller).await.map_err(Error::from) {
                Err(error) if error.code == Code::NotMember => return Err(self.limits.refuse_former(wait)),
                member => drop(member?),
            }
        }
        let bucket = self.limits.convo(convo);
        if let Some(wait) = self.limits.wait(bucket) {
            return Err(self.limits.refuse_write(wait));
        }
        let budget = command.commits().then(|| self.limits.commits(caller, convo));
        if let Some(wait) = budget.and_then(|budget| self.limits.commit_wait(budget)) {
            return Err(self.limits.refuse_commit(wait));
        }
        let done = measure(Stage::Queue, self.queue(command.clone())).await;
        match &done {
            Ok(_) => {
                self.limits.written(bucket);
                budget.into_iter().for_each(|budget| self.limits.committed(budget));
            }
            Err(error) if error.code == Code::NotMember => self.limits.charge_former(caller, convo),
            Err(error) if error.code == Code::RateLimitExceeded => self.limits.external_commit_refused(),
            Err(_) => {}
        }
        done
    }

    /// Queues a command, a commit in its turn, and waits for its reply.
    async fn queue<C: Command>(&self, command: Arc<C>) -> Result<C::Output, Error> {
        let (pending, reply): (_, oneshot::Receiver<_>) = Pending::new(command.clone());
        let turn = match command.commits() {
            true => Some(self.turns.wait(command.convo(), command.caller(), command.made_in()).await?),
            false => None,
        };
        match &self.mode {
            Mode::Advisory(advisory) => {
                tracing::debug!(command = C::NAME, "using the advisory lock");
                advisory.send(Box::new(pending));
            }
            Mode::Actors(registry) => {
                tracing::debug!(command = C::NAME, "using the actor system");
                registry.send(Box::new(pending));
            }
        }
        let done = match within_deadline(Duration::ZERO, reply).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) => Err(self.lost()),
            Err(_) => Err(unconfirmed()),
        };
        turn.into_iter().for_each(|turn| turn.end(command.made_in(), &done));
        done
    }

    /// The error where a panic has taken the reply.
    fn lost(&self) -> Error {
        Code::InternalServerError.because(match &self.mode {
            Mode::Advisory(_) => "the request's worker failed; the log has the cause",
            Mode::Actors(registry) => {
                registry.count_lost();
                "the conversation's actor failed; the next request starts a new one"
            }
        })
    }

    /// Runs the command that makes a conversation. No other can be waiting for that yet, so it needs neither a queue nor an actor.
    async fn create<C: Command>(&self, command: Arc<C>) -> Result<C::Output, Error> {
        let store = self.store.clone();
        let creating =
            async move { store.run(command, LockMode::Lock).await.map(|done| done.output).map_err(Error::from) };
        self.store.detached(creating).await
    }

    /// Records what a command was to the domain.
    fn count(&self, done: Result<Counts, &Error>, took: Duration) {
        match done {
            Ok(Counts { messages, groups, members_added, epochs, resets }) => {
                (0..messages).for_each(|_| self.metrics.message_sent());
                (0..groups).for_each(|_| self.metrics.group_created());
                (0..epochs).for_each(|_| self.metrics.epoch_incremented(took));
                (0..resets).for_each(|_| self.metrics.convo_reset());
                if members_added > 0 {
                    self.metrics.members_added(members_added);
                }
            }
            Err(error) if Code::OTHER_EPOCH.contains(&error.code) => self.metrics.epoch_conflict(),
            Err(_) => {}
        }
    }

    /// Refuses a caller that was never in the conversation, as if there were none.
    pub(crate) async fn refuse_stranger(&self, convo: &ConvoId, caller: &Did) -> Result<(), Error> {
        self.strangers.refuse(convo, caller).await
    }

    /// Finishes what is queued and takes nothing more.
    pub async fn shut_down(&self) {
        if let Mode::Actors(registry) = &self.mode {
            registry.shut_down().await;
        }
    }

    /// The actors, if there are any.
    pub fn registry(&self) -> Option<&Registry> {
        match &self.mode {
            Mode::Advisory(_) => None,
            Mode::Actors(registry) => Some(registry),
        }
    }
}
