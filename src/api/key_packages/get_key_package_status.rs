//! getKeyPackageStatus: how many key packages the caller has, and which were taken, newest first.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::api::fields::Limit;
use crate::app::App;
use crate::error::{Code, Error};
use crate::hex;
use crate::store::key_packages::{Hash, Taken};
use crate::wire::datetime;
use crate::xrpc::{Caller, Endpoint, Kind};

/// Entries on a page without `limit`.
const DEFAULT_PAGE: i64 = 20;

pub struct GetKeyPackageStatus;

#[derive(Deserialize)]
pub struct Input {
    limit: Option<Limit>,
    /// Place of the last entry on the previous page.
    cursor: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    total_uploaded: i64,
    available: i64,
    consumed: i64,
    reserved: i64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    consumed_packages: Vec<ConsumedPackage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConsumedPackage {
    key_package_hash: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    used_in_group: Option<String>,
    #[serde(serialize_with = "datetime")]
    consumed_at: DateTime<Utc>,
    cipher_suite: String,
}

impl Endpoint for GetKeyPackageStatus {
    const LEXICON: &'static str = include_str!("get_key_package_status.json");
    const KIND: Kind = Kind::Query;
    const ERRORS: &'static [Code] = &[Code::InvalidCursor];

    type Input = Input;
    type Output = Output;

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        let before = input.cursor.map(|cursor| place(&cursor)).transpose()?;
        let (now, limit) = (app.clock.now(), input.limit.map_or(DEFAULT_PAGE, |limit| limit.0));
        let reader = app.store.reader().await?;
        let stocks = reader.key_package_stock(&caller.did, None, now).await?;
        // One more shows whether there is another page.
        let mut taken = reader.taken_key_packages(&caller.did, now, before.as_ref(), limit + 1).await?;
        let more = taken.len() as i64 > limit;
        taken.truncate(limit as usize);
        let last = taken.last().filter(|_| more);
        let cursor = last.map(|last| format!("{}.{}", last.at.timestamp_micros(), hex::encode(&last.hash)));
        let (available, consumed) =
            stocks.iter().fold((0, 0), |(free, taken), stock| (free + stock.available, taken + stock.taken));
        Ok(Output {
            total_uploaded: available + consumed,
            available,
            consumed,
            reserved: stocks.iter().map(|stock| stock.reserved).sum(),
            consumed_packages: taken.into_iter().map(ConsumedPackage::from).collect(),
            cursor,
        })
    }
}

/// Parses a cursor: microseconds since 1970, a dot, and a hash in hex.
fn place(cursor: &str) -> Result<(DateTime<Utc>, Hash), Error> {
    let parts = cursor.split_once('.').filter(|(micros, _)| micros.bytes().all(|byte| byte.is_ascii_digit()));
    let place = parts.and_then(|(micros, hash)| {
        Some((DateTime::from_timestamp_micros(micros.parse().ok()?)?, hex::decode_hash(hash)?))
    });
    place.ok_or_else(|| Code::InvalidCursor.because("cursor was not issued by getKeyPackageStatus"))
}

impl From<Taken> for ConsumedPackage {
    fn from(taken: Taken) -> Self {
        Self {
            key_package_hash: hex::encode(&taken.hash),
            used_in_group: taken.convo,
            consumed_at: taken.at,
            cipher_suite: taken.cipher_suite,
        }
    }
}
