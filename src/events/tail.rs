//! The only reader of this replica. In each pass it hands everything that became visible since the last one to the hub.
//!
//! A pass begins when a notification arrives, and at least once in [`POLL_INTERVAL`]. However many streams there are, a
//! pass asks the database once for new rows, once for the entries of the conversations that are followed here, and once
//! for the memberships in those whose rosters have changed.

use std::collections::HashSet;
use std::time::Duration;

use crate::error::{Code, Error};
use crate::store::events::{EventPayload, EventRow, Moment, News, RosterEntry};
use crate::store::{Lane, Reader, Store};

use super::event::Info;
use super::hub::{Hub, Pass};
use super::metrics::EventMetrics;

/// Longest time between two passes.
pub const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Shortest time between two passes. What comes in between shares the next.
const MIN_PASS_INTERVAL: Duration = Duration::from_millis(2);
/// Approximate maximum of rows in a pass. After an outage with more, streams are cut, and resume from their cursors.
const MAX_ROWS: usize = 10_000;
/// Maximum of entries in a pass, likewise.
const MAX_ENTRIES: i64 = 200_000;
/// Passes in a row that may take too long. Then the position is given up, because each further pass would have more to
/// read.
const MAX_SLOW_PASSES: u32 = 3;
/// Most conversations that are read in one statement.
const MAX_CONVOS_PER_READ: usize = 100;

/// Reads pass after pass, for ever.
pub(super) async fn run(store: Store, hub: Hub, metrics: EventMetrics) {
    let mut last: Option<Moment> = None;
    let mut failing = false;
    let mut slow_passes = 0;
    let mut handed_out = HashSet::new();
    loop {
        let begun = hub.begin_pass();
        let pass = begun.pass;
        let reader = store.reader_for(Lane::Vital).await;
        // A wait for a connection says nothing about the amount to read.
        let has_read = reader.is_ok();
        let moment = match reader {
            Ok(reader) => read(&metrics, &hub, reader, last.as_ref(), begun, &mut handed_out).await,
            Err(cause) => Err(cause),
        };
        match moment {
            Ok(moment) => {
                if std::mem::take(&mut failing) {
                    tracing::warn!("the event tail reads again");
                }
                hub.end_pass(pass, &moment);
                metrics.tail_passed(moment.seen().oldest_age());
                last = Some(moment);
                slow_passes = 0;
                handed_out.clear();
                tokio::time::sleep(MIN_PASS_INTERVAL).await;
                let _ = tokio::time::timeout(POLL_INTERVAL, hub.woken()).await;
            }
            Err(cause) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%cause, "the event tail cannot read; retrying");
                }
                // While the database cannot be reached, the position is kept: the missing rows are not too many yet.
                slow_passes = if has_read && cause.code == Code::Overloaded { slow_passes + 1 } else { 0 };
                if slow_passes >= MAX_SLOW_PASSES {
                    tracing::warn!(
                        "the event tail gives up its position; streams are closed and resume from their cursors"
                    );
                    hub.end_all(Info::Reset, false);
                    (last, slow_passes) = (None, 0);
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        }
    }
}

/// Runs one pass. What it has handed out before it fails is not handed out again: entries are recognised by their seq,
/// and rows, which follow them, by `handed_out`.
async fn read(
    metrics: &EventMetrics,
    hub: &Hub,
    reader: Reader,
    last: Option<&Moment>,
    begun: Pass,
    handed_out: &mut HashSet<i64>,
) -> Result<Moment, Error> {
    // A new stream waits for a whole pass, so a pass without streams need not read.
    let news = match last {
        Some(last) if begun.listened => match reader.news(last, MAX_ENTRIES).await? {
            Some(news) if news.moment.incarnation == last.incarnation && !news.too_many => Some((last, news)),
            _ => return lost(hub, &reader).await,
        },
        _ => None,
    };
    let Some((last, News { moment, convos, rows: mut page, .. })) = news else {
        let moment = reader.present(None).await?.moment;
        read_entries(metrics, hub, &reader, &moment).await?;
        hub.publish_typing(begun.typing);
        return Ok(moment);
    };
    hub.mark_unread(&convos);
    read_entries(metrics, hub, &reader, &moment).await?;
    // A page is handed out before the next is read, so only one is in memory.
    let mut count = 0;
    loop {
        count += page.rows.len();
        page.rows.retain(|row| !handed_out.contains(&row.id));
        let memberships = memberships_of_joiners(hub, &reader, &page.rows).await?;
        for row in &page.rows {
            metrics.tail_lagged((moment.at - row.emitted_at).to_std().unwrap_or_default());
            handed_out.insert(row.id);
        }
        hub.publish_rows(page.rows, &memberships);
        let Some(after) = page.more_after else { break };
        if count > MAX_ROWS {
            return lost(hub, &reader).await;
        }
        page = reader.more_news(last, &moment, after).await?;
    }
    hub.publish_typing(begun.typing);
    Ok(moment)
}

/// Gives the position up: too much has become visible since the last pass, or that was in another incarnation.
async fn lost(hub: &Hub, reader: &Reader) -> Result<Moment, Error> {
    tracing::warn!("the event tail lost its position; streams are closed and resume from their cursors");
    hub.end_all(Info::Reset, false);
    Ok(reader.present(None).await?.moment)
}

/// Reads every conversation with new entries to its end.
async fn read_entries(metrics: &EventMetrics, hub: &Hub, reader: &Reader, moment: &Moment) -> Result<(), Error> {
    loop {
        let taken = hub.take_unread(MAX_CONVOS_PER_READ);
        if taken.is_empty() {
            return Ok(());
        }
        match read_some(metrics, hub, reader, &taken, moment).await {
            Ok(more) => {
                if more {
                    hub.put_back(taken);
                }
            }
            Err(failed) => {
                hub.put_back(taken);
                return Err(failed);
            }
        }
    }
}

/// Reads some conversations, and returns whether they may have more entries. Memberships are read after the entries, so
/// they hold for all of them, and only where the roster has changed since they were read.
async fn read_some(
    metrics: &EventMetrics,
    hub: &Hub,
    reader: &Reader,
    taken: &[(std::sync::Arc<str>, i64)],
    moment: &Moment,
) -> Result<bool, Error> {
    let after: Vec<(&str, i64)> = taken.iter().map(|(convo, seq)| (&**convo, *seq)).collect();
    let page = reader.entries(&after).await?;
    let audience = hub.audience(&page.rosters);
    let pairs: Vec<(&str, &str)> = audience.iter().map(|(convo, did)| (convo.as_str(), did.as_str())).collect();
    let memberships = if pairs.is_empty() { Vec::new() } else { reader.memberships(&pairs).await? };
    for entry in &page.entries {
        metrics.tail_lagged((moment.at - entry.created_at).to_std().unwrap_or_default());
    }
    let more = page.more;
    hub.publish(&after, page, &memberships);
    Ok(more)
}

/// Reads the present memberships of the joiners of these rows that have streams here.
async fn memberships_of_joiners(hub: &Hub, reader: &Reader, rows: &[EventRow]) -> Result<Vec<RosterEntry>, Error> {
    let mut pairs = Vec::new();
    for row in rows {
        if let (Some(convo), EventPayload::Joined { dids, .. }) = (&row.convo, &row.what) {
            pairs.extend(hub.listening(dids.iter()).into_iter().map(|did| (convo.as_str(), did.as_str())));
        }
    }
    if pairs.is_empty() { Ok(Vec::new()) } else { reader.memberships(&pairs).await }
}
