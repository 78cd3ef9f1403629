//! getKeyPackageStats: the caller's own stock of key packages, and how fast it is taken.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::error::{Code, Error};
use crate::ids::{Did, Malformed};
use crate::mls::Suite;
use crate::store::events::LOW_KEY_PACKAGES;
use crate::store::key_packages::{MEMORY, Stock};
use crate::xrpc::{Caller, Endpoint, Kind};

/// A stock that will be used up in fewer days needs more.
const MIN_DAYS: i64 = 3;

pub struct GetKeyPackageStats;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    did: Option<String>,
    #[serde(alias = "cipher_suite")]
    cipher_suite: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    available: i64,
    threshold: i64,
    needs_replenish: bool,
    last_resort: bool,
    total: i64,
    consumed: i64,
    #[serde(rename = "consumedLast24h")]
    consumed_last_24h: i64,
    #[serde(rename = "consumedLast7d")]
    consumed_last_7d: i64,
    average_daily_consumption: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    predicted_depletion_days: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_expires_in: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    by_cipher_suite: Vec<CipherSuiteStats>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CipherSuiteStats {
    cipher_suite: String,
    available: i64,
    consumed: i64,
}

impl Endpoint for GetKeyPackageStats {
    const LEXICON: &'static str = include_str!("get_key_package_stats.json");
    const KIND: Kind = Kind::Query;
    const ERRORS: &'static [Code] = &[Code::InvalidDid, Code::NotAuthorized, Code::InvalidCipherSuite];

    type Input = Input;
    type Output = Output;

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        let did: Option<Result<Did, Malformed>> = input.did.map(|did| did.parse());
        let did = did.transpose().map_err(|malformed| Code::InvalidDid.because(malformed.to_string()))?;
        // The same reply for every DID, so that it does not show which of them use this service.
        if did.is_some_and(|did| did != caller.did) {
            return Err(
                Code::NotAuthorized.because("did must be your own; others' key packages are not counted for you")
            );
        }
        let suite = input.cipher_suite.as_deref().map(Suite::named).transpose()?.map(|suite| suite.name);
        let now = app.clock.now();
        let stocks = app.store.reader().await?.key_package_stock(&caller.did, suite, now).await?;
        Ok(Output::of(stocks, now))
    }
}

impl Output {
    fn of(stocks: Vec<Stock>, now: DateTime<Utc>) -> Self {
        let sum = |count: fn(&Stock) -> i64| stocks.iter().map(count).sum::<i64>();
        let (available, taken) = (sum(|stock| stock.available), sum(|stock| stock.taken));
        let days = MEMORY.num_days();
        let predicted = (taken > 0).then(|| available * days / taken);
        let expires_at = stocks.iter().filter_map(|stock| stock.expires_at).min();
        Self {
            available,
            threshold: LOW_KEY_PACKAGES,
            needs_replenish: available < LOW_KEY_PACKAGES || predicted.is_some_and(|left| left < MIN_DAYS),
            last_resort: stocks.iter().any(|stock| stock.last_resort),
            total: available + taken,
            consumed: taken,
            consumed_last_24h: sum(|stock| stock.taken_today),
            consumed_last_7d: taken,
            average_daily_consumption: taken.unsigned_abs().div_ceil(days.unsigned_abs()).cast_signed(),
            predicted_depletion_days: predicted,
            oldest_expires_in: expires_at.map(|at| {
                let left = at - now;
                format!("{}d {}h", left.num_days(), left.num_hours() % 24)
            }),
            by_cipher_suite: stocks.into_iter().map(CipherSuiteStats::from).collect(),
        }
    }
}

impl From<Stock> for CipherSuiteStats {
    fn from(stock: Stock) -> Self {
        Self { cipher_suite: stock.cipher_suite, available: stock.available, consumed: stock.taken }
    }
}
