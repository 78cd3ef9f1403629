//! Statistics of small tables for PostgreSQL's planner.
//!
//! PostgreSQL caches plans of prepared statements and triggers. A plan that was made for an empty table reads the whole
//! table, which is ruinous a thousand rows later. New statistics invalidate the plan, but autovacuum checks once a
//! minute, and a new log can get hundreds of thousands of entries in that time. So every second a task runs ANALYZE on
//! each small table that has doubled (PostgreSQL manual 14.2 and 25.1.3). Larger tables are left to autovacuum: their
//! plans do not change when they double.

use std::time::Duration;

use crate::error::Error;

use super::lanes::Lane;
use super::query::query;
use super::session::Queries;
use super::{Abort, Reader, Store, deadline, failure};

query! {
    OUTGROWN = "schema/outgrown" (INT4, INT4);
}

/// Interval between checks.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Size in pages from which on a table is left to autovacuum.
const SMALL_PAGES: i32 = 1_000;
/// Size in pages below which every plan costs the same.
const MIN_PAGES: i32 = 4;

impl Store {
    /// Returns the task that analyzes young tables, for as long as the process runs.
    pub fn keep_statistics(&self) -> impl Future<Output = ()> + Send + use<> {
        let store = self.clone();
        async move {
            let mut ticks = tokio::time::interval(CHECK_INTERVAL);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                // An unavailable database, or one without tables, has nothing to analyze.
                if let Err(abort) = store.count_outgrown().await {
                    tracing::debug!(error = %Error::from(abort), "small tables could not be analyzed");
                }
            }
        }
    }

    async fn count_outgrown(&self) -> Result<(), Abort> {
        let reader = Reader(self.session(Lane::Background).await?);
        for row in reader.rows(&OUTGROWN, &[&SMALL_PAGES, &MIN_PAGES]).await? {
            let table: &str = row.get("name");
            reader.0.mark_dirty();
            // Another replica that analyzes the table does so for this one too.
            let analyze = format!("analyze (skip_locked) {table}");
            match tokio::time::timeout(deadline::STATEMENT, reader.0.simple(&analyze)).await {
                Ok(counted) => drop(counted?),
                Err(_) => return Err(failure::overloaded("counting a table").into()),
            }
            reader.0.mark_clean();
        }
        Ok(())
    }
}
