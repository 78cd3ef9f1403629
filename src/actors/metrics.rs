//! Metrics of actors and their mailboxes.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use sha2::{Digest, Sha256};

use crate::ids::ConvoId;
use crate::metrics::{Buckets, Counters, Histograms, Label, Register, Registry, show};

/// The only type of actor, under the name that operators' queries have.
const CONVERSATION_ACTOR: Label = ("actor_type", "conversation_actor");

/// Reason why an actor stopped.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stop {
    /// There was no work for as long as the configuration allows.
    Idle,
    /// It made room for another conversation's actor.
    Evicted,
    /// The server shuts down.
    Shutdown,
    /// It failed. The next request starts a new one.
    Failed,
}

impl Stop {
    fn label(self) -> &'static str {
        match self {
            Stop::Idle => "idle",
            Stop::Evicted => "evicted",
            Stop::Shutdown => "shutdown",
            Stop::Failed => "failed",
        }
    }
}

/// Metrics of all actors. Cheap to clone.
#[derive(Clone)]
pub struct ActorMetrics {
    spawns: Counters<1>,
    stops: Counters<2>,
    restarts: Counters<1>,
    seconds: Histograms<2>,
    drops: Counters<2>,
    mailbox_full: Counters<1>,
    active: Gauge,
    max: Gauge,
    depths: Depths,
}

impl ActorMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let (r, depths) = (registry, Depths::default());
        r.register_collector(Box::new(depths.clone()));
        Self {
            spawns: r.counters("actor_spawns", "Actors started"),
            stops: r.counters("actor_stops", "Actors stopped, by reason"),
            restarts: r.counters("actor_restarts", "Actors started again after a failure"),
            seconds: r.seconds_by(
                "actor_message_duration",
                "Time to process a message in an actor, by message type",
                Buckets::COARSE,
            ),
            drops: r.counters("actor_message_drops", "Messages that no actor processed, by reason"),
            mailbox_full: r
                .counters("actor_mailbox_full_events", "Messages refused because the actor's mailbox was full"),
            active: r.gauge("actor_registry_active_actors", "Running actors"),
            max: r.gauge("actor_registry_max_actors", "Actors that may run at once; 0 if this replica has none"),
            depths,
        }
    }

    /// Records the number of actors that may run, and shows counters before they first count.
    pub(super) fn max(&self, actors: usize) {
        self.max.set(actors as i64);
        for counters in [&self.spawns, &self.restarts, &self.mailbox_full] {
            show(counters, [[CONVERSATION_ACTOR]]);
        }
        let reasons = [Stop::Idle, Stop::Evicted, Stop::Shutdown, Stop::Failed].map(Stop::label);
        show(&self.stops, reasons.map(|reason| [CONVERSATION_ACTOR, ("reason", reason)]));
        let reasons = ["mailbox_full", "actor_failed"];
        show(&self.drops, reasons.map(|reason| [CONVERSATION_ACTOR, ("reason", reason)]));
    }

    /// Counts an actor that started; `again` after a failure.
    pub(super) fn spawned(&self, again: bool) {
        self.spawns.get_or_create(&[CONVERSATION_ACTOR]).inc();
        if again {
            self.restarts.get_or_create(&[CONVERSATION_ACTOR]).inc();
        }
        self.active.inc();
    }

    /// Counts an actor that stopped.
    pub(super) fn stopped(&self, why: Stop) {
        self.stops.get_or_create(&[CONVERSATION_ACTOR, ("reason", why.label())]).inc();
        self.active.dec();
    }

    /// Records a message that an actor processed.
    pub(super) fn message(&self, message_type: &'static str, took: Duration) {
        let labels = [CONVERSATION_ACTOR, ("message_type", message_type)];
        self.seconds.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Counts a message that was refused because the mailbox was full.
    pub(super) fn mailbox_full(&self) {
        self.mailbox_full.get_or_create(&[CONVERSATION_ACTOR]).inc();
        self.drops.get_or_create(&[CONVERSATION_ACTOR, ("reason", "mailbox_full")]).inc();
    }

    /// Counts a message that was lost when its actor failed.
    pub(super) fn message_lost(&self) {
        self.drops.get_or_create(&[CONVERSATION_ACTOR, ("reason", "actor_failed")]).inc();
    }

    /// Exports the mailbox depths that this function returns, deepest first. It is called when the page is rendered.
    pub(super) fn export_depths(&self, deepest: impl Fn() -> Vec<(ConvoId, usize)> + Send + Sync + 'static) {
        let _ = self.depths.0.set(Box::new(deepest));
    }

    /// Running actors.
    #[cfg(test)]
    pub(super) fn active(&self) -> i64 {
        self.active.get()
    }
}

type Deepest = Box<dyn Fn() -> Vec<(ConvoId, usize)> + Send + Sync>;

/// Exports the depth of the deepest mailboxes.
#[derive(Clone, Default)]
struct Depths(Arc<OnceLock<Deepest>>);

impl std::fmt::Debug for Depths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Depths")
    }
}

impl Collector for Depths {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let Some(deepest) = self.0.get() else { return Ok(()) };
        let gauge = ConstGauge::new(0i64);
        let mut metric = encoder.encode_descriptor(
            "actor_mailbox_depth",
            "Messages pending, deepest mailboxes",
            None,
            gauge.metric_type(),
        )?;
        for (convo, depth) in deepest() {
            let name = pseudonym(&convo);
            let labels = [CONVERSATION_ACTOR, ("convo_id", name.as_str())];
            ConstGauge::new(depth as i64).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// A conversation's name on a page without access control: the beginning of the SHA-256 of its id, as in
/// `select id from conversations where encode(sha256(id::bytea), 'hex') like '<this>%'`.
fn pseudonym(convo: &ConvoId) -> String {
    crate::hex::encode(&Sha256::digest(convo.as_str())[..6])
}
