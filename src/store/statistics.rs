//! Keeps the planner's idea of young tables true.
//!
//! PostgreSQL keeps the plans of prepared statements and of triggers, and a plan that was made while a table was empty reads that
//! table from end to end: right then, and ruinous a thousand rows later. New statistics make it plan again, but autovacuum
//! looks once a minute, and a new log takes hundreds of thousands of entries in that time. So while a table is small, somebody
//! looks once a second and counts it anew whenever it has doubled (ANALYZE; PostgreSQL manual 14.2 and 25.1.3). Tables that are
//! not small any more are left to autovacuum: their plans do not change when they double.

use std::time::Duration;

use crate::error::Error;

use super::lanes::Lane;
use super::query::query;
use super::session::Queries;
use super::{Abort, Reader, Store, deadline, failure};

query! {
    OUTGROWN = "schema/outgrown" (INT4, INT4);
}

/// How often tables are looked at.
const PERIOD: Duration = Duration::from_secs(1);
/// From how many pages on a table is left to autovacuum.
const SMALL_PAGES: i32 = 1_000;
/// So few pages cost the same whichever way they are read.
const MIN_PAGES: i32 = 4;

impl Store {
    /// Returns the task that analyzes young tables, for as long as the process runs.
    pub fn keep_statistics(&self) -> impl Future<Output = ()> + Send + use<> {
        let store = self.clone();
        async move {
            let mut ticks = tokio::time::interval(PERIOD);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                // A database that is away, or without tables yet, has nothing to count.
                if let Err(abort) = store.count_outgrown().await {
                    tracing::debug!(error = %Error::from(abort), "young tables could not be counted");
                }
            }
        }
    }

    async fn count_outgrown(&self) -> Result<(), Abort> {
        let reader = Reader(self.session(Lane::Background).await?);
        for row in reader.rows(&OUTGROWN, &[&SMALL_PAGES, &MIN_PAGES]).await? {
            let table: &str = row.get("name");
            reader.0.doubt();
            // Whoever else is at it does it for this replica too.
            let analyze = format!("analyze (skip_locked) {table}");
            match tokio::time::timeout(deadline::STATEMENT, reader.0.simple(&analyze)).await {
                Ok(counted) => drop(counted?),
                Err(_) => return Err(failure::overloaded("counting a table").into()),
            }
            reader.0.settle();
        }
        Ok(())
    }
}
