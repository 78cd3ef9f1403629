//! Mailboxes: entries of the log are handed over to members who said where (`setMailbox`), beside the log, which stays the truth.
//!
//! Two loops run in every replica, and any number of replicas may run them at once:
//! - [`fan_out`] expands entries into `envelopes`, one row for each recipient that has a mailbox;
//! - [`outbox`] takes envelopes that are due and hands them to the provider ([`webhook`]), and challenges mailboxes that are new.
//!
//! # Only to whom wants it
//!
//! Members name places that are not theirs to speak for. So a mailbox is *unverified* until it has repeated a token that it was sent,
//! and nothing is handed over before: envelopes come back later, as after a failed attempt. It is *refused* when it has not done so after
//! a few challenges, or when there were too many for its URL or its owner that day (`mailbox_challenges`). A mailbox that has failed for
//! a day, or for many envelopes, is *suspended*. What those two were owed is withdrawn, and no envelope is made for them until their
//! owner sets them again, which begins anew with a challenge. The owner is told of each change by an event.
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
//! before an entry is expanded is a joiner. A mailbox gets what transactions after its own wrote; setting one anew that was refused or
//! suspended counts as its beginning. A long transaction that writes, anywhere in the cluster, delays the hand-over for as long as it
//! runs; it loses nothing.
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
    /// Told when there are new envelopes or new mailboxes.
    made: Arc<Notify>,
    /// Told when there is a new mailbox.
    set: Arc<Notify>,
}

impl Delivery {
    pub fn new(store: Store, config: MailboxConfig) -> Self {
        Self { store, config, made: Arc::default(), set: Arc::default() }
    }

    /// A mailbox was set here, so there is something to do. Other replicas, and this one if it is not told, look every few seconds.
    pub fn look(&self) {
        self.made.notify_one();
        self.set.notify_one();
    }

    /// Expands entries into envelopes, until told to stop.
    pub async fn fan_out(self, stop: watch::Receiver<bool>) {
        fan_out::run(&self.store, &self.made, &self.set, stop).await;
    }

    /// Hands envelopes over and sends challenges, until told to stop. Attempts that run then are finished.
    pub async fn hand_over(self, stop: watch::Receiver<bool>) {
        match webhook::Client::new(self.config.timeout, self.config.allow_private_hosts) {
            Ok(client) => outbox::Outbox::new(self.store, self.config, client, self.made).run(stop).await,
            Err(cause) => tracing::error!(%cause, "nothing is handed to mailboxes: there is no HTTP client"),
        }
    }
}
