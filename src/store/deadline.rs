//! The limits on waiting for PostgreSQL. Those that PostgreSQL can keep itself are given to it as well, so that it stops
//! working when nobody waits for the answer any more. A request waits for less where it has less time left ([`crate::timing::BUDGET`]).

use std::time::Duration;

/// How long a statement may wait for a lock, advisory ones included (`lock_timeout`).
pub const LOCK: Duration = Duration::from_secs(5);
/// How long a statement may run (`statement_timeout`).
pub const STATEMENT: Duration = Duration::from_secs(6);
/// How long a transaction may sit idle before PostgreSQL ends it: a replica that died holds its lock no longer than this
/// (`idle_in_transaction_session_timeout`).
pub const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(8);
/// How long a request waits for a free connection.
pub const POOL: Duration = Duration::from_secs(5);
/// How long opening a connection may take.
pub const CONNECT: Duration = Duration::from_secs(3);
/// How long a read may take, all in all.
pub const READ: Duration = Duration::from_secs(7);
/// How long marking tokens as used may take. Shorter than the others, because all requests wait for it.
pub const TOKENS: Duration = Duration::from_secs(2);
/// How long a write may take from its first attempt to its last, without the COMMIT.
pub const WRITE: Duration = Duration::from_secs(7);
/// How long before a request has to be answered its last attempt ends, so that what it did can be committed or taken back until then.
pub const ENDING: Duration = Duration::from_millis(1_500);
/// How long a batch waits for its conversation's lock before that conversation goes to the end of those that are ready. Short, so that
/// a conversation whose lock is held for long does not keep a worker and a connection from the others.
pub const BATCH_LOCK: Duration = Duration::from_secs(2);
/// How long the answer to a batch is waited for, beside [`BATCH_LOCK`]; all of it goes in one flush. Its statement may run for a second
/// less (`tx/take`, `tx/wait`), so that PostgreSQL gives up first and says so.
pub const FLUSH: Duration = Duration::from_secs(5);
/// How long the reply to COMMIT is waited for before asking elsewhere what became of it.
pub const COMMIT: Duration = Duration::from_secs(5);
/// How long that question is asked before the answer is "unknown".
pub const OUTCOME: Duration = Duration::from_secs(8);
/// Unacknowledged data on a connection to PostgreSQL closes it after this long (`tcp_user_timeout`).
pub const TCP_USER: Duration = Duration::from_secs(10);
