//! The table of long-lived tasks: the name of each, whether the server can run without it, and why.

/// Long-lived task of the process.
#[derive(Debug, PartialEq, Eq)]
pub struct Task {
    /// Name in the log.
    pub name: &'static str,
    /// True if the server must not run without it.
    pub is_essential: bool,
    /// Consequence of its end: why it is essential, or why it is not.
    pub reason: &'static str,
}

macro_rules! tasks {
    ($($task:ident: $name:literal, $importance:ident, $reason:literal;)*) => {
        $(pub static $task: Task = Task { name: $name, is_essential: $importance, reason: $reason };)*

        /// Every long-lived task.
        pub static ALL: &[&Task] = &[$(&$task),*];
    };
}

const ESSENTIAL: bool = true;
const OPTIONAL: bool = false;

tasks! {
    HTTP_SERVER: "HTTP server", ESSENTIAL, "no request is answered";
    OPERATOR_PAGES: "operator pages", ESSENTIAL, "metrics and health cannot be read";
    EVENT_TAIL: "event tail", ESSENTIAL, "streams stay open and deliver nothing";
    STREAM_HEARTBEAT: "stream heartbeat", ESSENTIAL, "proxies cut silent streams, and no stream expires";
    EVENT_RELAY: "event relay", OPTIONAL, "the tails poll once a second";
    EVENT_PUBLISHER: "event publisher", OPTIONAL, "the tails of other replicas poll once a second";
    EVENT_RECEIVER: "event receiver", OPTIONAL, "the tail polls once a second";
    EVENT_NOTIFIER: "event notifier", OPTIONAL, "the tails poll once a second";
    TOKEN_REGISTER: "token register", ESSENTIAL, "no token can be checked for single use, so every request fails";
    USED_TOKEN_PUBLISHER: "used token publisher", OPTIONAL, "other replicas ask PostgreSQL";
    USED_TOKEN_RECEIVER: "used token receiver", OPTIONAL, "this replica asks PostgreSQL";
    DID_DOCUMENT_READER: "DID document reader", OPTIONAL, "stored documents count as unknown and are fetched";
    DID_DOCUMENT_WRITER: "DID document writer", OPTIONAL, "documents are not stored, and replicas fetch them again";
    MESSAGE_BATCHES: "message batches", ESSENTIAL, "messages wait in queues until they time out";
    COMMIT_BATCHES: "commit batches", ESSENTIAL, "commits wait in queues until they time out";
    LOCK_WORKER: "lock worker", ESSENTIAL, "contended conversations wait in queues until they time out";
    ROSTER_READER: "roster reader", ESSENTIAL, "the first write of each caller to a conversation fails";
    RATE_LIMIT_SHARING: "rate limit sharing", OPTIONAL, "each replica limits by its own count";
    READ_POSITIONS: "read positions", ESSENTIAL, "what members have read is lost";
    TABLE_STATISTICS: "table statistics", OPTIONAL, "autovacuum analyzes young tables, only later";
    RETENTION: "retention", OPTIONAL, "other replicas sweep, and background_age_seconds shows it if none does";
    QUOTA_SETTLEMENT: "quota settlement", OPTIONAL, "this replica keeps the quotas by its own count";
    REPLICA_REGISTER: "replica register", OPTIONAL, "`doctor` does not compare this replica with the others";
    SUSPENSIONS: "suspensions", ESSENTIAL, "new suspensions have no effect at this replica";
    STREAM_IDENTITIES: "stream identities", OPTIONAL, "a stream outlives its key by its own lifetime at most";
    MAILBOX_ENVELOPES: "mailbox envelopes", OPTIONAL, "other replicas do it, and mailbox_backlog shows it if none does";
    TRACE_EXPORT: "trace export", OPTIONAL, "spans are lost, and trace_spans_lost_total shows it";
    MAILBOX_DELIVERY: "mailbox delivery", OPTIONAL, "other replicas do it, and mailbox_backlog shows it if none does";
}
