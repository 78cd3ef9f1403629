//! Metrics of what commands have done to conversations.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;

use crate::metrics::{Buckets, Counters, Register, Registry};
use crate::store::key_packages::ClaimSource;

/// Metrics of the domain. Cheap to clone.
#[derive(Clone)]
pub struct CommandMetrics {
    messages_sent: Counter,
    groups_created: Counter,
    members_added: Counter,
    epoch_conflicts: Counter,
    convo_resets: Counter,
    epoch_increment_seconds: Histogram,
    key_packages_issued: Counters<1>,
}

impl CommandMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let r = registry;
        Self {
            messages_sent: r.counter("mls_messages_sent", "Application messages accepted"),
            groups_created: r.counter("mls_groups_created", "Conversations created"),
            members_added: r.counter("mls_members_added", "Members added, the first members included"),
            epoch_conflicts: r.counter("epoch_conflicts", "Commits and messages refused because of their epoch"),
            convo_resets: r.counter("convo_resets", "Conversations that got another MLS group"),
            epoch_increment_seconds: r.seconds(
                "epoch_increment_duration",
                "Time to accept a commit, waiting included",
                Buckets::COARSE,
            ),
            key_packages_issued: r.counters("key_packages_issued", "Key packages issued, by source"),
        }
    }

    /// Counts an accepted application message.
    pub fn message_sent(&self) {
        self.messages_sent.inc();
    }

    /// Counts a new conversation.
    pub fn group_created(&self) {
        self.groups_created.inc();
    }

    /// Counts new members.
    pub fn members_added(&self, members: usize) {
        self.members_added.inc_by(members as u64);
    }

    /// Counts a commit or message that was made for another epoch.
    pub fn epoch_conflict(&self) {
        self.epoch_conflicts.inc();
    }

    /// Counts a conversation that got another group.
    pub fn convo_reset(&self) {
        self.convo_resets.inc();
    }

    /// Records an accepted commit.
    pub fn epoch_incremented(&self, took: Duration) {
        self.epoch_increment_seconds.observe(took.as_secs_f64());
    }

    /// Counts an issued key package. The endpoint records it: one request claims several, each in a transaction of its own.
    pub fn key_package_issued(&self, source: ClaimSource) {
        self.key_packages_issued.get_or_create(&[("shelf", source.label())]).inc();
    }
}
