//! Expands log entries into envelopes.

use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use crate::background::portion::Portion;
use crate::error::Error;
use crate::store::mailboxes::MAX_ENTRIES;
use crate::store::{Failed, Lane, Store};

use super::metrics::DeliveryMetrics;

/// Interval at which the log is polled while any mailbox exists.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Interval at which the existence of mailboxes is checked.
const IDLE_POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Expands entries into envelopes until it is stopped. It notifies `made` after each expansion, and is notified by
/// `set` when a mailbox is set.
pub(super) async fn run(
    store: &Store,
    made: &Notify,
    set: &Notify,
    metrics: &DeliveryMetrics,
    mut stop: watch::Receiver<bool>,
) {
    let (mut failing, mut current_at) = (false, Instant::now());
    loop {
        let wait = match catch_up(store, made, metrics, &stop, &mut current_at).await {
            Ok(used) => {
                failing = false;
                if used { POLL_INTERVAL } else { IDLE_POLL_INTERVAL }
            }
            Err(error) => {
                metrics.fan_out_lagged(current_at.elapsed());
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "entries cannot be expanded for mailboxes; retrying");
                }
                POLL_INTERVAL
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = set.notified() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Expands all entries up to the watermark, and returns whether any mailbox exists. `current_at` is the time at which none
/// was left.
async fn catch_up(
    store: &Store,
    made: &Notify,
    metrics: &DeliveryMetrics,
    stop: &watch::Receiver<bool>,
    current_at: &mut Instant,
) -> Result<bool, Error> {
    let mut portion = Portion::new(MAX_ENTRIES);
    while !*stop.borrow() {
        let now = store.reader_for(Lane::Background).await?.fan_out_state().await?;
        let is_current = !(now.used && now.behind);
        if is_current {
            *current_at = Instant::now();
        }
        metrics.fan_out_lagged(current_at.elapsed());
        if is_current {
            return Ok(now.used);
        }
        match store.expand(portion.size()).await {
            Ok(None) => return Ok(true),
            Err(Failed::Itself(_)) if portion.shrink() => {}
            Err(failed) => return Err(failed.into()),
            Ok(Some(envelopes)) => {
                portion.grow();
                metrics.expanded(envelopes);
                if envelopes > 0 {
                    made.notify_one();
                }
            }
        }
    }
    Ok(true)
}
