//! Tokens that were used. This record decides whether a token may be used, with and without Redis.

use chrono::{DateTime, Utc};

use crate::error::Error;
use crate::ids::Did;

use super::query::query;
use super::session::Queries;
use super::{Abort, Reader, Store};

query! {
    SPEND = "auth/spend_nonce" (TEXT, TEXT, TIMESTAMPTZ, TIMESTAMPTZ);
}

/// One statement, its own transaction; false if the token was used before.
pub(super) async fn spend(
    store: &Store,
    issuer: &Did,
    jti: &str,
    expires_at: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<bool, Error> {
    let spend = async {
        let session = Reader(store.session().await?);
        session.find(&SPEND, &[&issuer.as_str(), &jti, &expires_at, &now]).await
    };
    spend.await.map(|row| row.is_some()).map_err(Abort::into_error)
}
