//! Tokens that were used: the register that decides.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use tokio_postgres::Row;

use crate::error::Error;
use crate::ids::Did;

use super::lanes::Lane;
use super::query::{Query, query};
use super::session::Params;
use super::{Abort, Reader, Store, deadline, failure};

query! {
    SPEND = "auth/spend_nonces" (TEXT_ARRAY, TEXT_ARRAY, TIMESTAMPTZ_ARRAY, TIMESTAMPTZ);
    FIND = "auth/find_nonce" (TEXT, TEXT, TIMESTAMPTZ);
}

/// What makes a token one of a kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Nonce {
    pub issuer: Did,
    pub jti: String,
}

impl Store {
    /// Whether a token is marked as used.
    pub async fn is_spent(&self, nonce: &Nonce, now: DateTime<Utc>) -> Result<bool, Error> {
        Ok(!self.within(&FIND, &[&nonce.issuer.as_str(), &nonce.jti, &now]).await?.is_empty())
    }

    /// Runs a statement within the time that a token may take, the wait for a connection included.
    pub(super) async fn within(&self, query: &Query, params: Params<'_>) -> Result<Vec<Row>, Error> {
        let asking = async {
            let reader = Reader(self.session(Lane::Vital).await?);
            reader.rows_within(deadline::TOKENS, query, params).await
        };
        match tokio::time::timeout(deadline::TOKENS, asking).await {
            Ok(rows) => rows.map_err(Abort::into_error),
            Err(_) => Err(failure::overloaded("checking tokens")),
        }
    }

    /// Marks tokens as used, all in one statement, each until its time; says for each, in step, whether it was not used before. No
    /// token twice. A record that ended before `now` counts as none.
    pub async fn spend_nonces(
        &self,
        nonces: &[(&Nonce, DateTime<Utc>)],
        now: DateTime<Utc>,
    ) -> Result<Vec<bool>, Error> {
        let issuers: Vec<&str> = nonces.iter().map(|(nonce, _)| nonce.issuer.as_str()).collect();
        let jtis: Vec<&str> = nonces.iter().map(|(nonce, _)| nonce.jti.as_str()).collect();
        let until: Vec<DateTime<Utc>> = nonces.iter().map(|(_, until)| *until).collect();
        // One statement is a transaction by itself.
        let rows = self.within(&SPEND, &[&issuers, &jtis, &until, &now]).await?;
        let new: HashSet<(&str, &str)> = rows.iter().map(|row| (row.get("issuer_did"), row.get("jti"))).collect();
        Ok(issuers.into_iter().zip(jtis).map(|nonce| new.contains(&nonce)).collect())
    }
}
