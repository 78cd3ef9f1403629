//! Mailboxes: entries of the log are handed over to members who said where (`setMailbox`), beside the log, which stays the truth.
//!
//! Two loops run in every replica, and any number of replicas may run them at once:
//! - [`fan_out`] expands entries into `envelopes`, one row for each recipient that has a mailbox;
//! - [`outbox`] takes envelopes that are due and hands them to the provider ([`webhook`]).
//!
//! # No recipient missed, none twice
//!
//! Entries are expanded by the transactions that wrote them, in the order of their ids, up to a safe watermark: the oldest
//! transaction that still runs (`pg_snapshot_xmin`). Every id below it belongs to a transaction that has ended, so whatever such
//! transactions wrote is visible, and nothing below it can appear later: a writer that took its id first and commits last is not
//! passed over, it holds the watermark back. The table `fan_out` has one row that says how far the log is expanded. Whoever locks it
//! makes envelopes and moves it on in one transaction, so however a replica dies, either both happened or neither. The key of
//! `envelopes` allows one row for each recipient and entry should all of this be wrong.
//!
//! An entry belongs to those who were members when it was written, as the roster's positions say (`joined_seq`, `left_seq`), and
//! not to its sender: joiners get nothing from before, leavers nothing from after. Whoever leaves and is added again in the moment
//! before an entry is expanded is a joiner. A mailbox gets what transactions after its own wrote. A long transaction that writes,
//! anywhere in the cluster, delays the hand-over for as long as it runs; it loses nothing.
//!
//! A dump brings along the ids of the cluster that it was made in. They are of an older era (`store/incarnation`): what was not expanded
//! there is expanded here first, in the order of its own numbers, and then what this era wrote, from the beginning.
//!
//! The hand-over itself is at least once, with the same envelope id each time. An attempt is claimed as a lease: its failure is noted
//! in advance, due when the lease is over, so a claim comes back from a worker that was killed. Attempts that fail come back later
//! and later, and after a number of them the envelope is dead: it is kept, shown in the view `dead_envelopes`, and put back by an
//! operator ([`dead`]).
//!
//! Nothing here costs a request anything: where nobody has a mailbox, each replica looks every few seconds whether that is still so.

pub mod dead;
mod fan_out;
mod hosts;
mod outbox;
pub mod place;
mod webhook;

use std::sync::Arc;

use tokio::sync::{Notify, watch};

use crate::config::MailboxConfig;
use crate::store::Store;

/// The loops of one process. Cheap to clone.
#[derive(Clone)]
pub struct Delivery {
    store: Store,
    config: MailboxConfig,
    /// Told when there are new envelopes.
    made: Arc<Notify>,
}

impl Delivery {
    pub fn new(store: Store, config: MailboxConfig) -> Self {
        Self { store, config, made: Arc::new(Notify::new()) }
    }

    /// Expands entries into envelopes, until told to stop.
    pub async fn fan_out(self, stop: watch::Receiver<bool>) {
        fan_out::run(&self.store, &self.made, stop).await;
    }

    /// Hands envelopes over, until told to stop. Attempts that run then are finished.
    pub async fn hand_over(self, stop: watch::Receiver<bool>) {
        match webhook::Client::new(self.config.timeout, self.config.allow_private_hosts) {
            Ok(client) => outbox::Outbox::new(self.store, self.config, client, self.made).run(stop).await,
            Err(cause) => tracing::error!(%cause, "nothing is handed to mailboxes: there is no HTTP client"),
        }
    }
}
