//! Mailboxes: delivery of log entries to webhooks that members have set (`setMailbox`). The log stays the truth.
//!
//! Two loops run in every replica, and any number of replicas may run them at once:
//! - [`fan_out`] expands entries into `envelopes`, one row for each recipient that has a mailbox;
//! - [`outbox`] claims due envelopes, delivers them to the provider ([`webhook`]), and challenges new mailboxes.
//!
//! Each recipient gets one envelope for each entry, and each envelope is delivered at least once, only to a mailbox that
//! has answered a challenge. `docs/mailboxes.md` has the argument. Without mailboxes each replica only polls every few
//! seconds for one.

pub mod dead;
mod fan_out;
mod hosts;
mod metrics;
mod outbox;
mod webhook;
pub(crate) mod webhook_url;

use std::sync::Arc;

use tokio::sync::{Notify, watch};

use crate::bodies::Bodies;
use crate::clock::Clock;
use crate::config::MailboxConfig;
use crate::store::Store;

pub use metrics::DeliveryMetrics;

/// Delivery loops of one process. Cheap to clone.
#[derive(Clone)]
pub struct Delivery {
    store: Store,
    bodies: Bodies,
    config: MailboxConfig,
    /// Notified when there are new envelopes or new mailboxes.
    made: Arc<Notify>,
    /// Notified when there is a new mailbox.
    set: Arc<Notify>,
    metrics: DeliveryMetrics,
    clock: Clock,
}

impl Delivery {
    pub fn new(store: Store, bodies: Bodies, config: MailboxConfig, metrics: DeliveryMetrics, clock: Clock) -> Self {
        Self { store, bodies, config, made: Arc::default(), set: Arc::default(), metrics, clock }
    }

    /// Wakes the loops after a mailbox was set here. Without it, and at other replicas, they poll every few seconds.
    pub fn wake(&self) {
        self.made.notify_one();
        self.set.notify_one();
    }

    /// Expands entries into envelopes until it is stopped.
    pub async fn fan_out(self, stop: watch::Receiver<bool>) {
        fan_out::run(&self.store, &self.made, &self.set, &self.metrics, stop).await;
    }

    /// Delivers envelopes and sends challenges until it is stopped; running attempts are finished.
    pub async fn deliver(self, stop: watch::Receiver<bool>) {
        match webhook::Client::new(self.config.timeout, self.config.allow_private_hosts) {
            Ok(client) => {
                let outbox = outbox::Outbox::new(
                    self.store,
                    self.bodies,
                    self.config,
                    client,
                    self.made,
                    self.metrics,
                    self.clock,
                );
                outbox.run(stop).await;
            }
            Err(cause) => tracing::error!(%cause, "mailbox delivery is off: the HTTP client cannot be built"),
        }
    }
}
