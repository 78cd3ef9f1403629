//! Quotas of one caller: stored bytes, new conversations, invitations of strangers, and key packages. A request beyond
//! a quota gets 429 with the time until the window ends.
//!
//! All quotas are one ledger, the table `allowances`, so replicas count together. A request never waits for it. It
//! reserves its amount in memory ([`ledger`]); the amount counts when the request succeeds, and is given back when it
//! is refused or replayed. Once per [`SETTLE_INTERVAL`] a task adds the usage to the table and reads the usage of all replicas. A
//! quota can therefore be exceeded by what the other replicas accept in that time, and by a replica that has just
//! started or has dropped the account.
//!
//! The window of a quota starts with the first use and has a fixed length. An account is a hash, so the table does not
//! reveal who talks to whom. A repeated request gets its first reply even if the quota is used up ([`Quotas::run_reserved`]).

mod ledger;
mod metrics;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::commands::Replayable;
use crate::config::QuotaLimits;
use crate::error::{Code, Error};
use crate::ids::Did;
use crate::limits::Key;
use crate::store::Store;
use crate::store::allowances::Used;

use ledger::Ledger;

pub use metrics::QuotaMetrics;

/// Pause between two settlements.
pub const SETTLE_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of accounts in one statement.
const MAX_BATCH: usize = 1_000;

const TEN_MINUTES: Duration = Duration::from_secs(600);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// Cost of a row beside the bytes that its caller sent: its header, ids and indexes.
pub const ROW_BYTES: usize = 256;
/// Each stranger may make this fraction of the invitations that one DID receives from strangers: a quarter.
const INVITATION_SHARES: u64 = 4;
/// Ratio between the key packages of one DID that all callers together get and those that one caller gets.
const CALLER_SHARES: u64 = 10;

/// Kind of usage that is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Quota {
    /// Bytes that one caller has stored.
    StoredBytes,
    /// Bytes of blobs that one caller has uploaded.
    BlobBytes,
    /// Conversations that one caller has created.
    Convos,
    /// Strangers that one caller has named.
    Strangers,
    /// Times that strangers have named one DID.
    Invitations,
    /// Times that one stranger has named one DID.
    InvitationsByOne,
    /// One-time key packages of one DID, for all callers.
    KeyPackages,
    /// One-time key packages of one DID, for one caller.
    KeyPackagesForOne,
}

impl Quota {
    /// All quotas.
    const ALL: [Self; 8] = [
        Self::StoredBytes,
        Self::BlobBytes,
        Self::Convos,
        Self::Strangers,
        Self::Invitations,
        Self::InvitationsByOne,
        Self::KeyPackages,
        Self::KeyPackagesForOne,
    ];

    /// Label in the table and in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Quota::StoredBytes => "stored_bytes",
            Quota::BlobBytes => "blob_bytes",
            Quota::Convos => "convos",
            Quota::Strangers => "strangers",
            Quota::Invitations => "invitations",
            Quota::InvitationsByOne => "invitations_by_one",
            Quota::KeyPackages => "key_packages",
            Quota::KeyPackagesForOne => "key_packages_for_one",
        }
    }

    /// Length of the window, from its first use on.
    pub fn window(self) -> Duration {
        match self {
            Quota::StoredBytes | Quota::BlobBytes | Quota::Convos | Quota::Strangers => DAY,
            Quota::Invitations | Quota::InvitationsByOne => HOUR,
            Quota::KeyPackages | Quota::KeyPackagesForOne => TEN_MINUTES,
        }
    }
}

impl QuotaLimits {
    fn of(&self, quota: Quota) -> Option<u64> {
        let most = match quota {
            Quota::StoredBytes => self.stored_bytes,
            Quota::BlobBytes => self.blob_bytes,
            Quota::Convos => self.convos,
            Quota::Strangers => self.strangers,
            Quota::Invitations => self.invitations,
            Quota::InvitationsByOne => self.invitations.div_ceil(INVITATION_SHARES),
            Quota::KeyPackages => self.key_packages.saturating_mul(CALLER_SHARES),
            Quota::KeyPackagesForOne => self.key_packages,
        };
        (most > 0).then_some(most)
    }
}

/// Account in the ledger: a quota and a hashed name.
pub(crate) type Account = (Quota, Key);

/// Amount that a request will use of a quota.
#[derive(Debug, Clone, Copy)]
pub struct Charge {
    account: Account,
    amount: u64,
}

impl Charge {
    /// Bytes that are stored for a caller, in this many rows.
    pub fn stored(caller: &Did, bytes: usize, rows: usize) -> Self {
        let bytes = bytes.saturating_add(rows.saturating_mul(ROW_BYTES));
        Self { account: (Quota::StoredBytes, Key::of(caller.as_str())), amount: bytes as u64 }
    }

    /// Bytes of a blob that a caller uploads.
    pub fn blob(caller: &Did, bytes: u64) -> Self {
        Self { account: (Quota::BlobBytes, Key::of(caller.as_str())), amount: bytes }
    }

    /// A conversation that a caller creates.
    pub fn convo(caller: &Did) -> Self {
        Self { account: (Quota::Convos, Key::of(caller.as_str())), amount: 1 }
    }

    /// A one-time key package of an owner, for a caller.
    fn key_package(caller: &Did, owner: &str) -> [Self; 2] {
        let pair = Key::of(&format!("{caller} {owner}"));
        [(Quota::KeyPackagesForOne, pair), (Quota::KeyPackages, Key::of(owner))]
            .map(|account| Self { account, amount: 1 })
    }

    /// Strangers that a caller names.
    fn strangers(caller: &Did, strangers: &[String]) -> Vec<Self> {
        let all = Self { account: (Quota::Strangers, Key::of(caller.as_str())), amount: strangers.len() as u64 };
        let each = strangers.iter().flat_map(|did| {
            let pair = Key::of(&format!("{caller} {did}"));
            [(Quota::InvitationsByOne, pair), (Quota::Invitations, Key::of(did))]
                .map(|account| Self { account, amount: 1 })
        });
        std::iter::once(all).chain(each).collect()
    }
}

/// Usage of one quota in its present window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    pub used: u64,
    /// `None` if there is no limit.
    pub limit: Option<u64>,
    /// Time until the window ends; `None` if none has begun.
    pub resets_in: Option<Duration>,
}

/// Quotas of a server. Cheap to clone.
#[derive(Clone)]
pub struct Quotas(Arc<Inner>);

struct Inner {
    most: QuotaLimits,
    ledger: Ledger,
    store: Store,
    metrics: QuotaMetrics,
}

/// Reservations of a request. Dropping it counts them: the client has disconnected, and its request may still succeed.
pub struct Reservation {
    quotas: Quotas,
    charges: Vec<Charge>,
}

impl Reservation {
    /// Counts the reservations if they were used, and gives them back if not.
    pub fn finish(mut self, used: bool) {
        let charges = std::mem::take(&mut self.charges);
        let ledger = &self.quotas.0.ledger;
        charges.iter().for_each(|charge| ledger.finish(charge.account, charge.amount, used, Instant::now()));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let ledger = &self.quotas.0.ledger;
        self.charges.iter().for_each(|charge| ledger.finish(charge.account, charge.amount, true, Instant::now()));
    }
}

impl Quotas {
    pub fn new(most: QuotaLimits, store: Store, metrics: QuotaMetrics) -> Self {
        Self(Arc::new(Inner { most, ledger: Ledger::default(), store, metrics }))
    }

    /// Reserves all charges or none. Fails with `RateLimitExceeded` and the time until the window of the exceeded quota
    /// ends.
    pub fn reserve(&self, charges: Vec<Charge>) -> Result<Reservation, Error> {
        self.try_reserve(charges).map_err(|(quota, wait)| self.refusal(quota, wait))
    }

    fn try_reserve(&self, charges: Vec<Charge>) -> Result<Reservation, (Quota, Duration)> {
        let mut reservation = Reservation { quotas: self.clone(), charges: Vec::with_capacity(charges.len()) };
        for charge in charges {
            let quota = charge.account.0;
            let Some(most) = self.0.most.of(quota).filter(|_| charge.amount > 0) else { continue };
            match self.0.ledger.reserve(charge.account, charge.amount, most, Instant::now()) {
                Ok(()) => reservation.charges.push(charge),
                Err(wait) => {
                    reservation.finish(false);
                    return Err((quota, wait));
                }
            }
        }
        Ok(reservation)
    }

    /// Reserves a one-time key package of an owner for a caller, or returns how long the owner's stock is protected.
    pub fn reserve_key_package(&self, caller: &Did, owner: &str) -> Result<Reservation, Duration> {
        self.try_reserve(Charge::key_package(caller, owner).to_vec()).map_err(|(_, wait)| wait)
    }

    /// Error for a caller if all owners' remaining key packages are protected.
    pub fn refuse_key_package(&self, wait: Duration) -> Error {
        self.refusal(Quota::KeyPackages, wait)
    }

    /// Returns the charges for naming these DIDs; DIDs that share a conversation with the caller are free. It runs one
    /// statement, or none without limits. The caller must be allowed to name DIDs at all.
    pub async fn stranger_charges(&self, caller: &Did, named: &[Did]) -> Result<Vec<Charge>, Error> {
        if named.is_empty() || (self.0.most.strangers == 0 && self.0.most.invitations == 0) {
            return Ok(Vec::new());
        }
        let strangers = self.0.store.reader().await?.strangers(caller, named).await?;
        Ok(Charge::strangers(caller, &strangers))
    }

    /// Returns what a caller has used of its quotas of bytes: those of messages and other rows, and those of blobs.
    pub async fn usage(&self, caller: &Did) -> Result<[Usage; 2], Error> {
        let (key, quotas) = (Key::of(caller.as_str()), [Quota::StoredBytes, Quota::BlobBytes]);
        let totals = self.0.store.reader().await?.allowances(&quotas.map(Quota::label), key.bytes()).await?;
        Ok(quotas.map(|quota| {
            let total = totals.iter().find(|total| total.quota == quota.label());
            Usage {
                used: total.map_or(0, |total| total.used) + self.0.ledger.unsettled_of((quota, key)),
                limit: self.0.most.of(quota),
                resets_in: total.map(|total| total.ends_in),
            }
        }))
    }

    /// Runs the command with its reservations. If they were refused, an equal earlier request still gets its reply.
    pub(crate) async fn run_reserved<C: Replayable>(
        &self,
        reservation: Result<Reservation, Error>,
        command: C,
        work: impl AsyncFnOnce(C) -> Result<C::Output, Error>,
    ) -> Result<C::Output, Error> {
        let reservation = match reservation {
            Ok(reservation) => reservation,
            Err(refusal) => {
                let reader = self.0.store.reader().await?;
                return command.replay(&reader).await?.ok_or(refusal);
            }
        };
        let done = work(command).await;
        reservation.finish(done.as_ref().is_ok_and(C::is_new));
        done
    }

    fn refusal(&self, quota: Quota, wait: Duration) -> Error {
        self.0.metrics.exceeded(quota);
        let QuotaLimits { stored_bytes, blob_bytes, convos, strangers, .. } = self.0.most;
        let code = if quota == Quota::BlobBytes { Code::QuotaExceeded } else { Code::RateLimitExceeded };
        let mut error = code.because(match quota {
            Quota::StoredBytes => format!("this would exceed the {stored_bytes} bytes that you may store per day; nothing was changed"),
            Quota::BlobBytes => format!("this would exceed the {blob_bytes} bytes of blobs that you may upload per day; nothing was changed"),
            Quota::Convos => format!("you have created {convos} conversations in a day; nothing was changed"),
            Quota::Strangers => format!(
                "these are more than {strangers} strangers (DIDs that share no conversation with you) in a day; nothing was changed"
            ),
            Quota::Invitations | Quota::InvitationsByOne => {
                "strangers have invited one of these DIDs too often recently; nothing was changed"
                    .to_owned()
            }
            Quota::KeyPackages | Quota::KeyPackagesForOne => {
                "too many key packages of these DIDs were issued recently, and they have no last-resort key package".to_owned()
            }
        });
        error.details.retry_after_ms = Some(u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX));
        error
    }

    /// Adds the usage of this replica to the table, and reads the usage of all replicas.
    pub async fn settle(&self) -> Result<(), Error> {
        for batch in self.0.ledger.unsettled().chunks(MAX_BATCH) {
            let used: Vec<Used> = batch
                .iter()
                .map(|((quota, key), used)| Used::new(quota.label(), quota.window(), key.bytes(), *used))
                .collect();
            let asked = Instant::now();
            let totals = self.0.store.settle_allowances(used).await;
            self.0.metrics.settled(totals.is_ok());
            let sent: HashMap<(&str, &[u8]), &(Account, u64)> =
                batch.iter().map(|sent| ((sent.0.0.label(), &sent.0.1.bytes()[..]), sent)).collect();
            for total in totals? {
                if let Some((account, used)) = sent.get(&(total.quota.as_str(), total.key.as_slice())) {
                    self.0.ledger.settled(*account, *used, total.used, asked + total.ends_in);
                }
            }
        }
        Ok(())
    }

    /// Settles until it is stopped. Usage that a replica has not settled when it dies is lost.
    pub async fn keep_settling(self, mut stop: watch::Receiver<bool>) {
        let mut told = false;
        while tokio::time::timeout(SETTLE_INTERVAL, stop.wait_for(|stop| *stop)).await.is_err() {
            match self.settle().await {
                Ok(()) => told = false,
                Err(error) if !std::mem::replace(&mut told, true) => {
                    tracing::warn!(%error, "used quotas cannot be written; this replica counts on its own until they can");
                }
                Err(_) => {}
            }
        }
    }
}
