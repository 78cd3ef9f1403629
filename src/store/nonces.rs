//! Tokens that were used: the register that decides.

use std::collections::HashSet;

use chrono::{DateTime, Utc};

use crate::error::Error;
use crate::ids::Did;

use super::query::query;
use super::{Abort, Reader, Store, deadline};

query! {
    SPEND = "auth/spend_nonces" (TEXT_ARRAY, TEXT_ARRAY, TIMESTAMPTZ_ARRAY, TIMESTAMPTZ);
}

/// What makes a token one of a kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Nonce {
    pub issuer: Did,
    pub jti: String,
}

impl Store {
    /// Marks tokens as used, all in one statement, each until its time; returns those that were not used before. No token twice.
    /// A record that ended before `now` counts as none.
    pub async fn spend_nonces(
        &self,
        nonces: &[(&Nonce, DateTime<Utc>)],
        now: DateTime<Utc>,
    ) -> Result<HashSet<Nonce>, Error> {
        let issuers: Vec<&str> = nonces.iter().map(|(nonce, _)| nonce.issuer.as_str()).collect();
        let jtis: Vec<&str> = nonces.iter().map(|(nonce, _)| nonce.jti.as_str()).collect();
        let until: Vec<DateTime<Utc>> = nonces.iter().map(|(_, until)| *until).collect();
        // One statement is a transaction by itself.
        let spend = async {
            let reader = Reader(self.session().await?);
            reader.rows_within(deadline::TOKENS, &SPEND, &[&issuers, &jtis, &until, &now]).await
        };
        let rows = spend.await.map_err(Abort::into_error)?;
        rows.iter()
            .map(|row| {
                let issuer = row.get::<_, &str>("issuer_did").parse().map_err(Error::internal)?;
                Ok(Nonce { issuer, jti: row.get("jti") })
            })
            .collect()
    }
}
