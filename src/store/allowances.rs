//! Usage of quotas over all replicas ([`crate::quotas`]).

use std::time::Duration;

use tokio_postgres::Row;

use crate::error::Error;

use super::lanes::Lane;
use super::query::query;
use super::session::Queries;
use super::{Abort, Reader, Store, Transaction, Tx};

query! {
    SETTLE = "allowances/settle" (TEXT_ARRAY, BYTEA_ARRAY, INT8_ARRAY, FLOAT8_ARRAY);
    FIND = "allowances/find" (TEXT_ARRAY, BYTEA);
}

/// Usage of an account by one replica.
#[derive(Debug, Clone)]
pub(crate) struct Used {
    quota: &'static str,
    key: [u8; 16],
    used: i64,
    window: f64,
}

impl Used {
    pub fn new(quota: &'static str, window: Duration, key: &[u8; 16], used: u64) -> Self {
        let used = i64::try_from(used).unwrap_or(i64::MAX);
        Self { quota, key: *key, used, window: window.as_secs_f64() }
    }
}

/// Usage of an account by all replicas.
#[derive(Debug, Clone)]
pub(crate) struct Total {
    pub quota: String,
    pub key: Vec<u8>,
    pub used: u64,
    /// Time until the window ends.
    pub ends_in: Duration,
}

struct Settle(Vec<Used>);

impl Transaction for Settle {
    const NAME: &'static str = "settleAllowances";
    const LANE: Lane = Lane::Background;
    type Output = Vec<Total>;

    async fn execute(&self, tx: &Tx) -> Result<Vec<Total>, Abort> {
        let quotas: Vec<&str> = self.0.iter().map(|used| used.quota).collect();
        let keys: Vec<&[u8]> = self.0.iter().map(|used| used.key.as_slice()).collect();
        let used: Vec<i64> = self.0.iter().map(|used| used.used).collect();
        let windows: Vec<f64> = self.0.iter().map(|used| used.window).collect();
        let rows = tx.rows(&SETTLE, &[&quotas, &keys, &used, &windows]).await?;
        Ok(rows.iter().map(total).collect())
    }
}

fn total(row: &Row) -> Total {
    Total {
        quota: row.get("quota"),
        key: row.get("key"),
        used: u64::try_from(row.get::<_, i64>("used")).unwrap_or_default(),
        ends_in: Duration::try_from_secs_f64(row.get("ends_in")).unwrap_or_default(),
    }
}

impl Reader {
    /// Returns the usage of those accounts of a key whose window has not ended.
    pub(crate) async fn allowances(&self, quotas: &[&str], key: &[u8; 16]) -> Result<Vec<Total>, Error> {
        Ok(self.rows(&FIND, &[&quotas, &key.as_slice()]).await?.iter().map(total).collect())
    }
}

impl Store {
    /// Adds usage to these accounts and returns the totals. No account may occur twice. A retried attempt whose reply
    /// was lost may be counted twice.
    pub(crate) async fn settle_allowances(&self, used: Vec<Used>) -> Result<Vec<Total>, Error> {
        self.transact(Settle(used)).await
    }
}
