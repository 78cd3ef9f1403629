//! What operators measure: every metric is registered here, under the names they know, and recorded by the method that says so.
//!
//! Labels only take values from closed lists, so the number of series does not grow with users or conversations. The one
//! exception, the mailbox depth per conversation, is exported for the deepest few only.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use chrono::{DateTime, Utc};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::connection::Ended;
use crate::error::Code;
use crate::events::hints::Transport;
use crate::limits::{Scope, Work};
use crate::quotas::Quota;
use crate::store::{Cause, Connections};
use crate::timing::Stage;
use crate::xrpc::room::Full;

type Label = (&'static str, &'static str);
type Counters<const N: usize> = Family<[Label; N], Counter>;
type Seconds<const N: usize> = Family<[Label; N], Histogram, Buckets>;

/// Half a millisecond to ten seconds: from a read that hits memory to the longest wait allowed.
const BUCKETS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

#[derive(Clone)]
struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(BUCKETS)
    }
}

/// Ten microseconds to ten seconds: what a stage of a request takes is often less than the whole of a quick one.
const FINE_BUCKETS: [f64; 19] = [
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
    2.5, 5.0, 10.0,
];

#[derive(Clone)]
struct FineBuckets;

impl MetricConstructor<Histogram> for FineBuckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(FINE_BUCKETS)
    }
}

/// Why an actor ended.
#[derive(Debug, Clone, Copy)]
pub enum Stop {
    /// No work for as long as the configuration allows.
    Idle,
    /// Made room for another conversation's actor.
    Evicted,
    /// The server shuts down.
    Shutdown,
    /// It failed, and the next request starts it again.
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

/// Why other replicas are not told what counted towards a rate limit here.
#[derive(Debug, Clone, Copy)]
pub enum Unshared {
    /// Redis did not take it.
    Redis,
    /// Too much waits to be told.
    QueueFull,
}

impl Unshared {
    fn label(self) -> &'static str {
        match self {
            Unshared::Redis => "redis",
            Unshared::QueueFull => "queue_full",
        }
    }
}

/// The only kind of actor there is, as operators' queries name it.
const CONVERSATION_ACTOR: Label = ("actor_type", "conversation_actor");

/// The counters. Cheap to clone; clones count together.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    http_requests: Counters<2>,
    http_seconds: Seconds<1>,
    stage_seconds: Family<[Label; 1], Histogram, FineBuckets>,
    errors: Counters<1>,
    queries: Counters<1>,
    query_seconds: Seconds<1>,
    transactions: Counters<2>,
    transaction_seconds: Seconds<1>,
    retries: Counters<2>,
    commits_recovered: Counters<1>,
    lock_wait_seconds: Histogram,
    connections_active: Gauge,
    connections_max: Gauge,
    connections_waiting: Gauge,
    connections_unanswered: Gauge,
    messages_sent: Counter,
    groups_created: Counter,
    members_added: Counter,
    epoch_conflicts: Counter,
    epoch_increment_seconds: Histogram,
    key_packages_issued: Counters<1>,
    authentications: Counters<1>,
    did_document_fetches: Counters<2>,
    did_documents_kept: Counters<1>,
    redis_up: Gauge,
    actor_spawns: Counters<1>,
    actor_stops: Counters<2>,
    actor_restarts: Counters<1>,
    actor_seconds: Seconds<2>,
    actor_drops: Counters<2>,
    actor_mailbox_full: Counters<1>,
    actors_active: Gauge,
    queue_full: Counter,
    queue_seconds: Histogram,
    rate_limited: Counters<1>,
    rate_limit_unshared: Counters<1>,
    charged: Family<[Label; 1], Counter<f64, AtomicU64>>,
    quota_exceeded: Counters<1>,
    quota_settlements: Counters<1>,
    room_full: Counters<2>,
    http_connections: Gauge,
    connections_ended: Counters<1>,
    streams_open: Gauge,
    suspended: Gauge,
    streams_ended: Counters<1>,
    events_delivered: Counters<1>,
    hints: Counters<2>,
    tail_passes: Counter,
    tail_oldest: Gauge,
    tail_lag_seconds: Histogram,
    swept: Counters<1>,
    sweep_seconds: Seconds<1>,
    sweep_last: Family<[Label; 1], Gauge>,
    background_age: Family<[Label; 1], Gauge>,
    background_aside: Family<[Label; 1], Gauge>,
    mailbox_envelopes: Gauge,
    mailbox_dead: Gauge,
    mailbox_hosts_resting: Gauge,
    mailbox_expanded: Counter,
    mailbox_attempts: Counters<1>,
    mailbox_challenges: Counters<1>,
    mailbox_suspensions: Counter,
    mailbox_seconds: Histogram,
    resident_memory: Gauge,
    cpu_seconds: Gauge<f64, std::sync::atomic::AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(|_| {})
    }
}

impl Metrics {
    /// Registers everything; `more` may add collectors of its own.
    pub fn new(more: impl FnOnce(&mut Registry)) -> Self {
        let mut inner = Inner {
            registry: Registry::default(),
            http_requests: Family::default(),
            http_seconds: Family::new_with_constructor(Buckets),
            stage_seconds: Family::new_with_constructor(FineBuckets),
            errors: Family::default(),
            queries: Family::default(),
            query_seconds: Family::new_with_constructor(Buckets),
            transactions: Family::default(),
            transaction_seconds: Family::new_with_constructor(Buckets),
            retries: Family::default(),
            commits_recovered: Family::default(),
            lock_wait_seconds: Histogram::new(BUCKETS),
            connections_active: Gauge::default(),
            connections_max: Gauge::default(),
            connections_waiting: Gauge::default(),
            connections_unanswered: Gauge::default(),
            messages_sent: Counter::default(),
            groups_created: Counter::default(),
            members_added: Counter::default(),
            epoch_conflicts: Counter::default(),
            epoch_increment_seconds: Histogram::new(BUCKETS),
            key_packages_issued: Family::default(),
            authentications: Family::default(),
            did_document_fetches: Family::default(),
            did_documents_kept: Family::default(),
            redis_up: Gauge::default(),
            actor_spawns: Family::default(),
            actor_stops: Family::default(),
            actor_restarts: Family::default(),
            actor_seconds: Family::new_with_constructor(Buckets),
            actor_drops: Family::default(),
            actor_mailbox_full: Family::default(),
            actors_active: Gauge::default(),
            queue_full: Counter::default(),
            queue_seconds: Histogram::new(BUCKETS),
            rate_limited: Family::default(),
            quota_exceeded: Family::default(),
            quota_settlements: Family::default(),
            rate_limit_unshared: Family::default(),
            charged: Family::default(),
            room_full: Family::default(),
            http_connections: Gauge::default(),
            connections_ended: Family::default(),
            streams_open: Gauge::default(),
            suspended: Gauge::default(),
            streams_ended: Family::default(),
            events_delivered: Family::default(),
            hints: Family::default(),
            tail_passes: Counter::default(),
            tail_oldest: Gauge::default(),
            tail_lag_seconds: Histogram::new(FINE_BUCKETS),
            swept: Family::default(),
            sweep_seconds: Family::new_with_constructor(Buckets),
            sweep_last: Family::default(),
            background_age: Family::default(),
            background_aside: Family::default(),
            mailbox_envelopes: Gauge::default(),
            mailbox_dead: Gauge::default(),
            mailbox_hosts_resting: Gauge::default(),
            mailbox_expanded: Counter::default(),
            mailbox_attempts: Family::default(),
            mailbox_challenges: Family::default(),
            mailbox_suspensions: Counter::default(),
            mailbox_seconds: Histogram::new(BUCKETS),
            resident_memory: Gauge::default(),
            cpu_seconds: Gauge::default(),
        };
        inner.register();
        more(&mut inner.registry);
        Self(Arc::new(inner))
    }
}

impl Inner {
    fn register(&mut self) {
        let r = &mut self.registry;
        r.register("http_requests", "Requests answered, by method and status", self.http_requests.clone());
        r.register_with_unit("http_request_duration", "Time to answer", Unit::Seconds, self.http_seconds.clone());
        r.register_with_unit(
            "request_stage_duration",
            "Time of a request in one stage of its way",
            Unit::Seconds,
            self.stage_seconds.clone(),
        );
        r.register("xrpc_errors", "Requests refused, by the error's name", self.errors.clone());
        r.register("database_queries", "Statements run, by their file", self.queries.clone());
        r.register_with_unit(
            "database_query_duration",
            "Time per statement",
            Unit::Seconds,
            self.query_seconds.clone(),
        );
        r.register("database_transactions", "Units of work, by name and outcome", self.transactions.clone());
        r.register_with_unit(
            "database_transaction_duration",
            "Time per unit of work, retries included",
            Unit::Seconds,
            self.transaction_seconds.clone(),
        );
        r.register("database_transaction_retries", "Attempts that were repeated, and why", self.retries.clone());
        r.register(
            "database_commits_recovered",
            "Lost replies to COMMIT, by what it had become",
            self.commits_recovered.clone(),
        );
        r.register_with_unit(
            "conversation_lock_wait",
            "Time to begin and take a conversation's lock",
            Unit::Seconds,
            self.lock_wait_seconds.clone(),
        );
        r.register("database_connections_active", "Connections in use", self.connections_active.clone());
        r.register("database_connections_max", "Connections that the pool may open", self.connections_max.clone());
        r.register(
            "database_connections_waiting",
            "Requests waiting for a connection",
            self.connections_waiting.clone(),
        );
        r.register(
            "database_connections_unanswered",
            "Connections that were given up and are not closed yet, such as those whose COMMIT waits for a standby",
            self.connections_unanswered.clone(),
        );
        r.register("mls_messages_sent", "Application messages accepted", self.messages_sent.clone());
        r.register("mls_groups_created", "Conversations made", self.groups_created.clone());
        r.register("mls_members_added", "Members added, the first ones included", self.members_added.clone());
        r.register("epoch_conflicts", "Commits and messages refused for their epoch", self.epoch_conflicts.clone());
        r.register_with_unit(
            "epoch_increment_duration",
            "Time to accept a commit, waiting included",
            Unit::Seconds,
            self.epoch_increment_seconds.clone(),
        );
        r.register(
            "key_packages_issued",
            "Key packages handed out, by where they came from",
            self.key_packages_issued.clone(),
        );
        r.register("redis_up", "Whether Redis answered when it was last asked; 0 without one", self.redis_up.clone());
        r.register("authentications", "Tokens checked, by outcome", self.authentications.clone());
        r.register(
            "did_document_fetches",
            "DID documents asked for at their hosts, by whether their DIDs were known, and what came of it",
            self.did_document_fetches.clone(),
        );
        r.register(
            "did_documents_kept",
            "DIDs of which nothing was in memory, by what the database had kept of them",
            self.did_documents_kept.clone(),
        );
        r.register("actor_spawns", "Actors started", self.actor_spawns.clone());
        r.register("actor_stops", "Actors ended, and why", self.actor_stops.clone());
        r.register("actor_restarts", "Actors started again after a failure", self.actor_restarts.clone());
        r.register_with_unit("actor_message_duration", "Time in an actor", Unit::Seconds, self.actor_seconds.clone());
        r.register("actor_message_drops", "Messages that no actor took, and why", self.actor_drops.clone());
        r.register("actor_mailbox_full_events", "Messages refused by a full mailbox", self.actor_mailbox_full.clone());
        r.register("actor_registry_active_actors", "Actors alive", self.actors_active.clone());
        r.register("queue_full", "Requests refused because a queue was full", self.queue_full.clone());
        r.register_with_unit("queue_wait", "Time in a queue", Unit::Seconds, self.queue_seconds.clone());
        r.register("quota_exceeded", "Requests beyond a quota, by the quota", self.quota_exceeded.clone());
        r.register(
            "quota_settlements",
            "How often what was used of quotas was added up with other replicas, by outcome",
            self.quota_settlements.clone(),
        );
        r.register("rate_limited", "Requests refused by a rate limit, by what it counts by", self.rate_limited.clone());
        r.register(
            "request_cost_units",
            "What requests cost their callers beyond one unit each, by what it was for",
            self.charged.clone(),
        );
        r.register(
            "rate_limit_unshared",
            "Charges that other replicas were not told of, and why",
            self.rate_limit_unshared.clone(),
        );
        r.register(
            "memory_room_full",
            "Requests refused because bodies or replies take all the memory that there is for them, and whose share is used up",
            self.room_full.clone(),
        );
        r.register("http_connections_open", "HTTP connections that are open", self.http_connections.clone());
        r.register(
            "http_connections_ended",
            "HTTP connections that the server ended because of what their peers did not do",
            self.connections_ended.clone(),
        );
        r.register("event_streams_open", "Streams of events that are open", self.streams_open.clone());
        r.register("suspended_dids", "DIDs that are known here to be suspended", self.suspended.clone());
        r.register(
            "event_streams_ended",
            "Streams that the server ended, and what it said",
            self.streams_ended.clone(),
        );
        r.register("events_delivered", "Events handed to connections, by type", self.events_delivered.clone());
        r.register(
            "event_hints",
            "Hints to other replicas, by what carries them, and whether it took them",
            self.hints.clone(),
        );
        r.register(
            "event_tail_oldest_transaction",
            "How many transactions ago the oldest one began that writes and still runs, anywhere in the cluster",
            self.tail_oldest.clone(),
        );
        r.register("event_tail_passes", "Times that the event tail has read to the present", self.tail_passes.clone());
        r.register_with_unit(
            "event_tail_lag",
            "Time from the beginning of a transaction to the moment when the event tail saw what it wrote",
            Unit::Seconds,
            self.tail_lag_seconds.clone(),
        );
        r.register("sweep_deleted_rows", "Rows deleted because of their age, by job", self.swept.clone());
        r.register_with_unit(
            "sweep_duration",
            "Time of a pass, rests included",
            Unit::Seconds,
            self.sweep_seconds.clone(),
        );
        r.register(
            "sweep_last_finished_timestamp_seconds",
            "When this replica last finished a pass",
            self.sweep_last.clone(),
        );
        r.register_with_unit(
            "background_age",
            "For how long work in the background has not been up to date, whichever replica does it, by kind",
            Unit::Seconds,
            self.background_age.clone(),
        );
        r.register(
            "background_set_aside",
            "What is left out of work in the background because it fails, by kind",
            self.background_aside.clone(),
        );
        r.register("mailbox_backlog", "Envelopes that wait to be handed over", self.mailbox_envelopes.clone());
        r.register("mailbox_dead", "Envelopes that are not tried any more", self.mailbox_dead.clone());
        r.register(
            "mailbox_hosts_resting",
            "Hosts of mailboxes that this replica leaves alone because they fail",
            self.mailbox_hosts_resting.clone(),
        );
        r.register("mailbox_envelopes", "Envelopes made from the log", self.mailbox_expanded.clone());
        r.register("mailbox_attempts", "Attempts to hand an envelope over, by outcome", self.mailbox_attempts.clone());
        r.register("mailbox_challenges", "Challenges sent to mailboxes, by outcome", self.mailbox_challenges.clone());
        r.register(
            "mailbox_suspensions",
            "Mailboxes that were suspended because they failed for long",
            self.mailbox_suspensions.clone(),
        );
        r.register_with_unit(
            "mailbox_attempt_duration",
            "Time of an attempt",
            Unit::Seconds,
            self.mailbox_seconds.clone(),
        );
        r.register("process_resident_memory_bytes", "Resident memory", self.resident_memory.clone());
        r.register("process_cpu_seconds_total", "Processor time used since start", self.cpu_seconds.clone());
    }
}

impl Metrics {
    /// One answered request. `method` is a known method or a fixed word; `status` one of the error table's.
    pub fn request(&self, method: &'static str, status: u16, took: Duration) {
        let status = match status {
            200 => "200",
            400 => "400",
            401 => "401",
            403 => "403",
            404 => "404",
            405 => "405",
            409 => "409",
            410 => "410",
            413 => "413",
            429 => "429",
            501 => "501",
            503 => "503",
            _ => "500",
        };
        self.0.http_requests.get_or_create(&[("method", method), ("status", status)]).inc();
        self.0.http_seconds.get_or_create(&[("method", method)]).observe(took.as_secs_f64());
    }

    /// One stage of one answered request.
    pub fn stage(&self, stage: Stage, took: Duration) {
        self.0.stage_seconds.get_or_create(&[("stage", stage.name())]).observe(took.as_secs_f64());
    }

    /// One refused request.
    pub fn error(&self, code: Code) {
        self.0.errors.get_or_create(&[("error", code.name())]).inc();
    }

    /// One statement.
    pub fn query(&self, name: &'static str, took: Duration) {
        self.0.queries.get_or_create(&[("query", name)]).inc();
        self.0.query_seconds.get_or_create(&[("query", name)]).observe(took.as_secs_f64());
    }

    /// One unit of work, all its attempts.
    pub fn transaction(&self, name: &'static str, took: Duration, committed: bool) {
        let outcome = if committed { "committed" } else { "refused" };
        self.0.transactions.get_or_create(&[("name", name), ("outcome", outcome)]).inc();
        self.0.transaction_seconds.get_or_create(&[("name", name)]).observe(took.as_secs_f64());
    }

    /// An attempt that is made again.
    pub fn transaction_retried(&self, name: &'static str, cause: Cause) {
        self.0.retries.get_or_create(&[("name", name), ("cause", cause.label())]).inc();
    }

    /// A COMMIT whose reply was lost, and what had become of it.
    pub fn commit_recovered(&self, outcome: &'static str) {
        self.0.commits_recovered.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// The wait for a conversation's lock.
    pub fn lock_waited(&self, took: Duration) {
        self.0.lock_wait_seconds.observe(took.as_secs_f64());
    }

    /// An accepted application message.
    pub fn message_sent(&self) {
        self.0.messages_sent.inc();
    }

    /// A conversation made.
    pub fn group_created(&self) {
        self.0.groups_created.inc();
    }

    /// Members added.
    pub fn members_added(&self, members: usize) {
        self.0.members_added.inc_by(members as u64);
    }

    /// A commit or message that came for another epoch.
    pub fn epoch_conflict(&self) {
        self.0.epoch_conflicts.inc();
    }

    /// An accepted commit.
    pub fn epoch_incremented(&self, took: Duration) {
        self.0.epoch_increment_seconds.observe(took.as_secs_f64());
    }

    /// Key packages handed out from one shelf.
    pub fn key_packages_issued(&self, shelf: &'static str, packages: usize) {
        self.0.key_packages_issued.get_or_create(&[("shelf", shelf)]).inc_by(packages as u64);
    }

    /// A token that was checked.
    pub fn authentication(&self, outcome: &'static str) {
        self.0.authentications.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// A DID document that was asked for at its host.
    pub fn did_document_fetched(&self, asker: &'static str, outcome: &'static str) {
        self.0.did_document_fetches.get_or_create(&[("asker", asker), ("outcome", outcome)]).inc();
    }

    /// A DID that was looked for among those that are kept.
    pub fn did_document_kept(&self, what: &'static str) {
        self.0.did_documents_kept.get_or_create(&[("kept", what)]).inc();
    }

    /// Whether Redis answered just now.
    pub fn redis_answers(&self, answers: bool) {
        self.0.redis_up.set(i64::from(answers));
    }

    /// An actor started; `again` after a failure.
    pub fn actor_spawned(&self, again: bool) {
        self.0.actor_spawns.get_or_create(&[CONVERSATION_ACTOR]).inc();
        if again {
            self.0.actor_restarts.get_or_create(&[CONVERSATION_ACTOR]).inc();
        }
        self.0.actors_active.inc();
    }

    /// An actor ended.
    pub fn actor_stopped(&self, why: Stop) {
        self.0.actor_stops.get_or_create(&[CONVERSATION_ACTOR, ("reason", why.label())]).inc();
        self.0.actors_active.dec();
    }

    /// A message that an actor dealt with.
    pub fn actor_message(&self, message_type: &'static str, took: Duration) {
        self.0
            .actor_seconds
            .get_or_create(&[CONVERSATION_ACTOR, ("message_type", message_type)])
            .observe(took.as_secs_f64());
    }

    /// A message that a full mailbox refused.
    pub fn actor_mailbox_full(&self) {
        self.0.actor_mailbox_full.get_or_create(&[CONVERSATION_ACTOR]).inc();
        self.0.actor_drops.get_or_create(&[CONVERSATION_ACTOR, ("reason", "mailbox_full")]).inc();
    }

    /// A message that died with its actor.
    pub fn actor_message_lost(&self) {
        self.0.actor_drops.get_or_create(&[CONVERSATION_ACTOR, ("reason", "actor_failed")]).inc();
    }

    /// A request that a full queue refused.
    pub fn queue_full(&self) {
        self.0.queue_full.inc();
    }

    /// A request that left its queue.
    pub fn queued(&self, took: Duration) {
        self.0.queue_seconds.observe(took.as_secs_f64());
    }

    /// A request that a rate limit refused.
    pub fn rate_limited(&self, scope: Scope) {
        self.0.rate_limited.get_or_create(&[("scope", scope.label())]).inc();
    }

    /// What a request cost its caller beyond its first unit.
    pub fn charged(&self, work: Work, units: f64) {
        self.0.charged.get_or_create(&[("for", work.label())]).inc_by(units);
    }

    /// A request that asks for more than is left of a quota.
    pub fn quota_exceeded(&self, quota: Quota) {
        self.0.quota_exceeded.get_or_create(&[("quota", quota.label())]).inc();
    }

    /// What was used of quotas was added up with other replicas, or could not be.
    pub fn quotas_settled(&self, done: bool) {
        let outcome = if done { "done" } else { "failed" };
        self.0.quota_settlements.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// A body or a reply that found no room, and whether it was its caller's share or everybody's.
    pub fn room_full(&self, room: &'static str, full: Full) {
        let whose = match full {
            Full::Caller => "caller",
            Full::Room => "all",
        };
        self.0.room_full.get_or_create(&[("room", room), ("share", whose)]).inc();
    }

    /// An HTTP connection was accepted.
    pub fn connection_opened(&self) {
        self.0.http_connections.inc();
    }

    /// It is closed, whoever ended it.
    pub fn connection_closed(&self) {
        self.0.http_connections.dec();
    }

    /// An HTTP connection that the server ends.
    pub fn connection_ended(&self, why: Ended) {
        self.0.connections_ended.get_or_create(&[("reason", why.label())]).inc();
    }

    /// Charges that other replicas were not told of.
    pub fn rate_limit_unshared(&self, why: Unshared, charges: usize) {
        self.0.rate_limit_unshared.get_or_create(&[("cause", why.label())]).inc_by(charges as u64);
    }

    /// How many streams are open.
    pub fn streams_open(&self, open: usize) {
        self.0.streams_open.set(open as i64);
    }

    /// How many DIDs are suspended.
    pub fn suspended(&self, dids: usize) {
        self.0.suspended.set(dids as i64);
    }

    /// A stream that the server ended.
    pub fn stream_ended(&self, reason: &'static str) {
        self.0.streams_ended.get_or_create(&[("reason", reason)]).inc();
    }

    /// An event that was handed to a connection.
    pub fn event_delivered(&self, event_type: &'static str) {
        self.0.events_delivered.get_or_create(&[("type", event_type)]).inc();
    }

    /// A hint to other replicas.
    pub fn hint(&self, transport: Transport, sent: bool) {
        let outcome = if sent { "sent" } else { "lost" };
        self.0.hints.get_or_create(&[("transport", transport.name()), ("outcome", outcome)]).inc();
    }

    /// The event tail has read to the present, when the oldest running transaction was so many transactions old.
    pub fn tail_passed(&self, oldest: i64) {
        self.0.tail_passes.inc();
        self.0.tail_oldest.set(oldest);
    }

    /// How long something took to be seen by the event tail.
    pub fn tail_lagged(&self, lag: Duration) {
        self.0.tail_lag_seconds.observe(lag.as_secs_f64());
    }

    /// Rows that a pass of a job has deleted.
    pub fn swept(&self, job: &'static str, rows: i64) {
        self.0.swept.get_or_create(&[("job", job)]).inc_by(rows.cast_unsigned());
    }

    /// A pass of a job that was made to its end.
    pub fn sweep_finished(&self, job: &'static str, at: DateTime<Utc>, took: Duration) {
        self.0.sweep_last.get_or_create(&[("job", job)]).set(at.timestamp());
        self.0.sweep_seconds.get_or_create(&[("job", job)]).observe(took.as_secs_f64());
    }

    /// How long ago work in the background was last up to date, and how much is left out of it.
    pub fn background_standing(&self, work: &'static str, age: Duration, aside: i64) {
        self.0.background_age.get_or_create(&[("work", work)]).set(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
        self.0.background_aside.get_or_create(&[("work", work)]).set(aside);
    }

    /// Envelopes that wait, dead ones, and hosts that rest.
    pub fn mailbox_backlog(&self, waiting: i64, dead: i64, resting: usize) {
        self.0.mailbox_hosts_resting.set(resting as i64);
        self.0.mailbox_envelopes.set(waiting);
        self.0.mailbox_dead.set(dead);
    }

    /// Envelopes made from the log.
    pub fn mailbox_expanded(&self, envelopes: i64) {
        self.0.mailbox_expanded.inc_by(envelopes.cast_unsigned());
    }

    /// One attempt to hand an envelope over, and what became of it.
    pub fn mailbox_attempt(&self, outcome: &'static str, took: Duration) {
        self.0.mailbox_attempts.get_or_create(&[("outcome", outcome)]).inc();
        self.0.mailbox_seconds.observe(took.as_secs_f64());
    }

    /// One challenge, and what became of it.
    pub fn mailbox_challenge(&self, outcome: &'static str) {
        self.0.mailbox_challenges.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// A mailbox was suspended.
    pub fn mailbox_suspended(&self) {
        self.0.mailbox_suspensions.inc();
    }

    /// Actors alive.
    pub fn active_actors(&self) -> i64 {
        self.0.actors_active.get()
    }

    /// Everything in the Prometheus text format. `pool` is connections open, idle, and requests waiting.
    pub fn render(&self, connections: Connections, most: usize) -> Result<String, std::fmt::Error> {
        let Connections { open, idle, waiting, unanswered } = connections;
        self.0.connections_active.set(open.saturating_sub(idle) as i64);
        self.0.connections_waiting.set(waiting as i64);
        self.0.connections_unanswered.set(unanswered as i64);
        self.0.connections_max.set(most as i64);
        if let Some((bytes, seconds)) = process_usage() {
            self.0.resident_memory.set(bytes);
            self.0.cpu_seconds.set(seconds);
        }
        let mut text = String::new();
        encode(&mut text, &self.0.registry)?;
        Ok(text)
    }
}

/// Resident bytes and processor seconds of this process (proc(5)); `None` where there is no /proc.
fn process_usage() -> Option<(i64, f64)> {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    let resident = std::fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse::<i64>().ok()?;
    // The second field, the command, may hold spaces and ends with the last parenthesis.
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let (user, system) = (fields.get(11)?.parse::<f64>().ok()?, fields.get(12)?.parse::<f64>().ok()?);
    Some((resident * page, (user + system) / ticks as f64))
}
