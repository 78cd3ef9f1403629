//! Time limits for PostgreSQL. PostgreSQL enforces those that it can, so that it stops working when the client has
//! stopped waiting. A request with less time left waits for less ([`crate::timing::BUDGET`]).

use std::time::Duration;

/// Maximum time that a statement waits for a lock, advisory locks included (`lock_timeout`).
pub const LOCK: Duration = Duration::from_secs(5);
/// Maximum time of a statement (`statement_timeout`).
pub const STATEMENT: Duration = Duration::from_secs(6);
/// Maximum idle time in a transaction before PostgreSQL ends it: a replica that died holds its lock no longer than this
/// (`idle_in_transaction_session_timeout`).
pub const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(8);
/// Maximum time that a request waits for a free connection.
pub const POOL: Duration = Duration::from_secs(5);
/// Maximum time to open a connection.
pub const CONNECT: Duration = Duration::from_secs(3);
/// Maximum total time of a read.
pub const READ: Duration = Duration::from_secs(7);
/// Maximum time to mark tokens as used. It is shorter than the others because all requests wait for it.
pub const TOKENS: Duration = Duration::from_secs(2);
/// Maximum time of a write from its first attempt to its last, without the COMMIT.
pub const WRITE: Duration = Duration::from_secs(7);
/// Time before a request's deadline at which its last attempt ends, so that it can still be committed or rolled back.
pub const ENDING: Duration = Duration::from_millis(1_500);
/// Maximum time that a batch waits for a conversation's lock before that conversation goes to the end of the ready
/// queue. It is short, so that a lock that is held for long does not keep a worker and a connection from other
/// conversations.
pub const BATCH_LOCK: Duration = Duration::from_secs(2);
/// Maximum time for the reply to a batch, beyond [`BATCH_LOCK`]. A batch is sent in one flush. PostgreSQL ends its
/// statement one second earlier (`tx/take`, `tx/wait`), so that the reply says why.
pub const FLUSH: Duration = Duration::from_secs(5);
/// Maximum time for the reply to COMMIT before its outcome is asked for on another connection.
pub const COMMIT: Duration = Duration::from_secs(5);
/// Maximum time to find that outcome. Then it is "unknown".
pub const OUTCOME: Duration = Duration::from_secs(8);
/// Time after which unacknowledged data closes a connection to PostgreSQL (`tcp_user_timeout`).
pub const TCP_USER: Duration = Duration::from_secs(10);
