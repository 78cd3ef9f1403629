//! Who writes a conversation next: chosen once, when the server starts, and known to nobody else.
//!
//! Endpoints build a command and hand it over. Both serializers end in the same write path, whose compare-and-swap decides;
//! they differ only in how requests for one conversation queue up before it.

mod advisory;
mod queues;

use std::sync::Arc;

use crate::actors::Registry;
use crate::commands::{SendMessage, Sent};
use crate::error::Error;
use crate::ids::{ConvoId, Did};
use crate::limits::{ConvoBucket, RateLimits};
use crate::metrics::Metrics;
use crate::store::{Abort, Command, Hold, Store};
use crate::timing::{Stage, measure};

pub use advisory::Advisory;

/// One of two ways to write conversations, see the module.
#[derive(Clone)]
pub enum Serializer {
    /// PostgreSQL's advisory lock, with queues in front of it.
    Advisory { store: Store, advisory: Advisory, limits: RateLimits },
    /// One actor per conversation in this process, which remembers where the conversation stands.
    Actors { store: Store, registry: Registry, limits: RateLimits },
}

impl Serializer {
    pub fn advisory(store: Store, metrics: Metrics, max_connections: usize, limits: RateLimits) -> Self {
        tracing::info!(serializer = "advisory", "writes are serialised by PostgreSQL's advisory locks");
        let advisory = Advisory::new(&store, metrics, max_connections);
        Self::Advisory { store, advisory, limits }
    }

    pub fn actors(store: Store, registry: Registry, limits: RateLimits) -> Self {
        tracing::info!(serializer = "actors", "writes are serialised by an actor per conversation");
        Self::Actors { store, registry, limits }
    }

    /// Runs a command on its conversation, to the end even if the caller goes away.
    pub(crate) async fn run<C: Command>(&self, command: C) -> Result<C::Output, Error> {
        let bucket = self.limits().convo(command.convo());
        self.admit(command.convo(), command.caller(), bucket).await?;
        let done = match self {
            Self::Advisory { advisory, .. } => {
                tracing::debug!(command = C::NAME, "using the advisory lock");
                measure(Stage::Queue, advisory.run(command)).await
            }
            Self::Actors { registry, .. } => {
                tracing::debug!(command = C::NAME, "using the actor system");
                measure(Stage::Queue, registry.run(command)).await
            }
        };
        done.inspect(|_| self.limits().written(bucket))
    }

    /// The same for a message, which may share a transaction with others.
    pub(crate) async fn send(&self, command: SendMessage) -> Result<Sent, Error> {
        match self {
            Self::Advisory { advisory, limits, .. } => {
                let bucket = limits.convo(&command.convo_id);
                self.admit(&command.convo_id, command.caller(), bucket).await?;
                tracing::debug!(command = SendMessage::NAME, "using the advisory lock");
                let sent = measure(Stage::Queue, advisory.send(command)).await;
                sent.inspect(|_| limits.written(bucket))
            }
            Self::Actors { .. } => self.run(command).await,
        }
    }

    /// Keeps strangers out of queues: they could fill one, and would learn from a full one, or from a rate limit, that the
    /// conversation exists. Where nobody waits, the transaction itself tells them off. Members are refused while the
    /// conversation is over its rate limit.
    async fn admit(&self, convo: &ConvoId, caller: &Did, bucket: ConvoBucket) -> Result<(), Error> {
        let over_limit = self.limits().wait(bucket);
        let waits = match self {
            Self::Advisory { advisory, .. } => advisory.has_queue(convo),
            Self::Actors { registry, .. } => !registry.is_at_leisure(convo),
        };
        if waits || over_limit.is_some() {
            self.store().reader().await?.refuse_stranger(convo, caller).await?;
        }
        over_limit.map_or(Ok(()), |wait| Err(self.limits().refuse_write(wait)))
    }

    /// Runs the command that makes a conversation. Nobody can be waiting for one that does not exist yet, so this needs neither
    /// a queue nor an actor.
    pub(crate) async fn create<C: Command>(&self, command: C) -> Result<C::Output, Error> {
        let store = self.store().clone();
        let creating = async move {
            store.run(Arc::new(command), Hold::Lock).await.map(|done| done.output).map_err(Abort::into_error)
        };
        self.store().detached(creating).await
    }

    /// The epoch of a conversation as this serializer knows it without asking the database, if it does.
    pub async fn remembered_epoch(&self, convo: &ConvoId) -> Result<Option<i64>, Error> {
        match self {
            Self::Advisory { .. } => Ok(None),
            Self::Actors { registry, .. } => registry.epoch(convo).await.map(Some),
        }
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
