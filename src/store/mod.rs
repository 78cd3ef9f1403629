//! The Rust half of `sql/`: the pool, the transactions, and one file per aggregate.
//!
//! There are four ways to the database, and each grants no more than its caller needs:
//! - [`Store::reader`] returns a [`Reader`], which can only run queries that read.
//! - [`Store::run`] runs a [`Command`] on one conversation with an [`Exclusive`]: the proof of the conversation's lock,
//!   which every function that changes a log or a roster requires.
//! - [`Store::batch`] runs commands of one kind ([`Batched`]) with an [`ExclusiveMany`], the same proof for those of their
//!   conversations that are not locked elsewhere.
//! - [`Store::transact`] runs a [`Transaction`], which needs no conversation lock (key packages, cursors, sweeps,
//!   envelopes).
//!
//! Nothing else opens a transaction. A [`Lane`] reserves connections for each class of work. PostgreSQL makes every decision.

mod background;
mod batch;
mod changes;
mod connect;
mod deadline;
mod examination;
mod failure;
mod incarnation;
mod lanes;
mod listen;
mod metrics;
mod operator;
mod outcome;
mod pool;
mod position;
mod query;
mod refusal;
mod replicas;
mod schema;
mod server_state;
mod session;
mod sessions;
mod statistics;
mod tls;
mod transaction;
mod tx;
mod unit_of_work;

pub mod admin;
pub(crate) mod allowances;
pub(crate) mod blobs;
pub(crate) mod commit_reports;
pub(crate) mod commits;
pub(crate) mod convos;
pub(crate) mod cursors;
pub(crate) mod device_additions;
pub(crate) mod device_announcements;
pub(crate) mod devices;
pub(crate) mod did_documents;
pub(crate) mod ending;
pub(crate) mod epochs;
pub(crate) mod erasure;
pub(crate) mod events;
pub(crate) mod group_infos;
pub(crate) mod groups;
pub(crate) mod idempotency;
pub(crate) mod key_packages;
pub(crate) mod mailboxes;
pub(crate) mod members;
pub(crate) mod messages;
pub(crate) mod nonces;
pub(crate) mod read_positions;
pub(crate) mod readditions;
pub(crate) mod suspensions;
pub(crate) mod sweeps;
pub(crate) mod welcomes;

pub(crate) use background::Failed;
pub use background::MAX_CLOCK_SKEW;
pub(crate) use batch::Batched;
pub use batch::{BatchOutcome, Locks};
pub use changes::{Affected, ChangeSet, MAX_TOPICS, Topic};
pub use connect::{ConnectError, connect};
pub use deadline::LOCK as MAX_LOCK_WAIT;
pub(crate) use epochs::not_found;
pub use examination::{Applied, CollationVersions, MailboxFacts, SchemaObject, ServerFacts, ServerSetting, TableFacts};
pub(crate) use failure::unconfirmed;
pub use failure::{Abort, Cause, in_words, words_of};
pub use lanes::Lane;
pub use listen::listen;
pub use metrics::StoreMetrics;
pub use operator::Operator;
pub use pool::{Store, StoreConfig, StoreError};
pub use position::Position;
pub(crate) use query::{Query, sql};
pub use refusal::{Refusal, Refused};
pub use replicas::Replica;
pub use schema::{Fitness, MigrationError, is_migrated, migrate, migrations, required_version};
pub(crate) use session::Queries;
pub use session::Reader;
pub use sessions::{SessionFacts, examine as examine_sessions};
pub use tx::{Exclusive, ExclusiveMany, LockMode, Tx};
pub use unit_of_work::{BatchKind, Command, Counts, Done, Transaction};
