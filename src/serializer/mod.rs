//! Who writes a conversation next: chosen once, when the server starts, and known to nobody else.
//!
//! Endpoints build a command and hand it over. Both serializers end in the same write path, whose compare-and-swap decides;
//! they differ only in how requests for one conversation queue up before it.

mod advisory;
mod metrics;
pub(crate) mod queues;
pub(crate) mod sharing;
mod strangers;
mod workers;

use std::sync::Arc;

use crate::actors::Registry;
use crate::background::Background;
use crate::commands::{AddMembers, Landed, SendMessage, Sent};
use crate::error::{Code, Error};
use crate::ids::{ConvoId, Did};
use crate::limits::RateLimits;
use crate::store::{Command, Hold, Store, members};
use crate::timing::{Stage, measure};

pub use advisory::Advisory;
pub use metrics::QueueMetrics;
pub use strangers::Strangers;

/// One of two ways to write conversations, see the module.
#[derive(Clone)]
pub enum Serializer {
    /// PostgreSQL's advisory lock, with queues in front of it.
    Advisory { store: Store, advisory: Advisory, strangers: Strangers, limits: RateLimits },
    /// One actor per conversation in this process, which remembers where the conversation stands.
    Actors { store: Store, registry: Registry, strangers: Strangers, limits: RateLimits },
}

impl Serializer {
    pub fn advisory(
        store: Store,
        metrics: QueueMetrics,
        max_connections: usize,
        limits: RateLimits,
        background: &Background,
    ) -> Self {
        tracing::info!(serializer = "advisory", "writes are serialised by PostgreSQL's advisory locks");
        let advisory = Advisory::new(&store, metrics, max_connections, background);
        let strangers = Strangers::new(&store, background);
        Self::Advisory { store, advisory, strangers, limits }
    }

    pub fn actors(store: Store, registry: Registry, limits: RateLimits, background: &Background) -> Self {
        tracing::info!(serializer = "actors", "writes are serialised by an actor per conversation");
        let strangers = Strangers::new(&store, background);
        Self::Actors { store, registry, strangers, limits }
    }

    /// Runs a command on its conversation, to the end even if the caller goes away.
    pub(crate) async fn run<C: Command>(&self, command: C) -> Result<C::Output, Error> {
        let (convo, caller, commits) = (command.convo().clone(), command.caller().clone(), command.commits());
        let work = async {
            match self {
                Self::Advisory { advisory, .. } => {
                    tracing::debug!(command = C::NAME, "using the advisory lock");
                    advisory.run(command).await
                }
                Self::Actors { registry, .. } => {
                    tracing::debug!(command = C::NAME, "using the actor system");
                    registry.run(command).await
                }
            }
        };
        self.attend(&convo, &caller, commits, work).await
    }

    /// The same for a message, which may share a transaction with others.
    pub(crate) async fn send(&self, command: SendMessage) -> Result<Sent, Error> {
        let (convo, caller) = (command.convo_id.clone(), command.caller().clone());
        let work = async {
            match self {
                Self::Advisory { advisory, .. } => {
                    tracing::debug!(command = SendMessage::NAME, "using the advisory lock");
                    advisory.share(command).await
                }
                Self::Actors { registry, .. } => {
                    tracing::debug!(command = SendMessage::NAME, "using the actor system");
                    registry.send_message(command).await
                }
            }
        };
        self.attend(&convo, &caller, false, work).await
    }

    /// The same for who adds members, who may share a transaction with others if there is a commit.
    pub(crate) async fn add(&self, command: AddMembers) -> Result<Landed, Error> {
        let Self::Advisory { advisory, .. } = self else { return self.run(command).await };
        if !command.is_shareable() {
            return self.run(command).await;
        }
        tracing::debug!(command = AddMembers::NAME, "using the advisory lock");
        let (convo, caller) = (command.convo_id.clone(), command.caller.clone());
        self.attend(&convo, &caller, true, advisory.share(command)).await
    }

    /// Keeps the limits around a write. Strangers get no further than here. Former members do, since what they ask for may have been done
    /// before; those who go on after they were told do not.
    async fn attend<T>(
        &self,
        convo: &ConvoId,
        caller: &Did,
        commits: bool,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        self.refuse_stranger(convo, caller).await?;
        if let Some(wait) = self.limits().former_wait(caller, convo) {
            let reader = self.store().reader().await?;
            match members::membership(&reader, convo, caller).await.map_err(Error::from) {
                Err(error) if error.code == Code::NotMember => return Err(self.limits().refuse_former(wait)),
                member => drop(member?),
            }
        }
        let bucket = self.limits().convo(convo);
        if let Some(wait) = self.limits().wait(bucket) {
            return Err(self.limits().refuse_write(wait));
        }
        let budget = commits.then(|| self.limits().commits(caller, convo));
        if let Some(wait) = budget.and_then(|budget| self.limits().commit_wait(budget)) {
            return Err(self.limits().refuse_commit(wait));
        }
        let done = measure(Stage::Queue, work).await;
        match &done {
            Ok(_) => {
                self.limits().written(bucket);
                budget.into_iter().for_each(|budget| self.limits().committed(budget));
            }
            Err(error) if error.code == Code::NotMember => self.limits().charge_former(caller, convo),
            Err(_) => {}
        }
        done
    }

    /// Refuses who never was in the conversation, as if there were none.
    pub(crate) async fn refuse_stranger(&self, convo: &ConvoId, caller: &Did) -> Result<(), Error> {
        match self {
            Self::Advisory { strangers, .. } | Self::Actors { strangers, .. } => strangers.refuse(convo, caller).await,
        }
    }

    /// Runs the command that makes a conversation. Nobody can be waiting for one that does not exist yet, so this needs neither
    /// a queue nor an actor.
    pub(crate) async fn create<C: Command>(&self, command: C) -> Result<C::Output, Error> {
        let store = self.store().clone();
        let creating =
            async move { store.run(Arc::new(command), Hold::Lock).await.map(|done| done.output).map_err(Error::from) };
        self.store().detached(creating).await
    }

    /// Finishes what is queued and takes nothing more.
    pub async fn shut_down(&self) {
        if let Self::Actors { registry, .. } = self {
            registry.shut_down().await;
        }
    }

    /// The actors, where there are any.
    pub fn registry(&self) -> Option<&Registry> {
        match self {
            Self::Advisory { .. } => None,
            Self::Actors { registry, .. } => Some(registry),
        }
    }

    fn limits(&self) -> &RateLimits {
        match self {
            Self::Advisory { limits, .. } | Self::Actors { limits, .. } => limits,
        }
    }

    fn store(&self) -> &Store {
        match self {
            Self::Advisory { store, .. } | Self::Actors { store, .. } => store,
        }
    }
}
