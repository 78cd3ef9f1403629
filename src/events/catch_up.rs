//! Supply of a stream from its cursor to the present: rows first, then entries, page by page, as fast as its client
//! reads. When little is missing, the tail takes over.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::error::Error;
use crate::ids::{ConvoId, Did};
use crate::limits::{Account, Work};
use crate::store::Store;
use crate::store::events::{EventPayload, MAX_PAGE_ENTRIES, Present, Seen};
use crate::wire::MessageView;

use super::event::{Info, Row};
use super::hub::{Gap, Hub, NextStep};
use super::subscriber::{End, Subscriber};

/// Most conversations in one page.
const MAX_CONVOS_PER_PAGE: usize = 10;
/// Pages of conversations that are nearly read to their end, after which the tail takes over although some entries are
/// missing. Before that it takes over only when none is, because its page would add to what waits for the client.
const MAX_CLOSE_PAGES: u32 = 3;
/// Pause after an error of the database.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Supplies a stream until the tail takes over, or the stream ends. Rows that `known` saw are skipped.
pub(super) async fn run(
    store: Store,
    hub: Hub,
    subscriber: Arc<Subscriber>,
    slots: Arc<Semaphore>,
    known: Option<Seen>,
    account: Account,
) {
    let mut pages = 0;
    loop {
        hub.shed_load();
        // Also before the tail takes over, which does not wait for the client.
        if !subscriber.wait_for_room(hub.buffer()).await {
            return;
        }
        let close = if pages < MAX_CLOSE_PAGES { 0 } else { MAX_PAGE_ENTRIES };
        let step = match hub.next_step(&subscriber, MAX_CONVOS_PER_PAGE, close) {
            NextStep::Done => return,
            NextStep::AwaitPass(pass) => {
                tokio::select! {
                    () = hub.after(pass) => continue,
                    () = subscriber.ended() => return,
                }
            }
            NextStep::Rows(mut rows) => {
                rows.retain(|row| known.as_ref().is_none_or(|known| !known.saw(row.tx)));
                supply_rows(&store, &hub, &subscriber, rows, &slots).await
            }
            NextStep::Entries(gaps) => {
                let little = gaps.len() < MAX_CONVOS_PER_PAGE
                    && gaps.iter().all(|gap| gap.head - gap.position <= MAX_PAGE_ENTRIES);
                pages = if little { pages + 1 } else { 0 };
                tokio::select! {
                    () = account.wait_for_capacity() => {}
                    () = subscriber.ended() => return,
                }
                supply(&store, &hub, &subscriber, &gaps, &slots, &account).await
            }
        };
        if step.is_err() {
            tokio::select! {
                () = tokio::time::sleep(RETRY_DELAY) => {}
                () = subscriber.ended() => return,
            }
        }
    }
}

/// Supplies one page of entries. The memberships are read after the entries.
async fn supply(
    store: &Store,
    hub: &Hub,
    subscriber: &Arc<Subscriber>,
    gaps: &[Gap],
    slots: &Semaphore,
    account: &Account,
) -> Result<(), Error> {
    let _slot = slots.acquire().await;
    let reader = store.reader().await?;
    let begun = Instant::now();
    let after: Vec<(&str, i64)> = gaps.iter().map(|gap| (&*gap.convo, gap.position)).collect();
    let entries = reader.entries(&after).await?;
    account.charge(Work::Database(begun.elapsed()));
    account.charge(Work::Bytes(entries.entries.iter().map(|entry| entry.ciphertext.size()).sum()));
    if has_gap(&after, &entries.entries) && may_lack(subscriber, &reader.present(None).await?) {
        subscriber.end(End::Announced(Info::Reset));
        return Ok(());
    }
    let pairs: Vec<(&str, &str)> = gaps.iter().map(|gap| (&*gap.convo, subscriber.did.as_str())).collect();
    let memberships = reader.memberships(&pairs).await?;
    let mut upto: HashMap<&str, i64> = HashMap::new();
    if !entries.more {
        upto.extend(gaps.iter().map(|gap| (&*gap.convo, gap.head)));
    }
    for gap in gaps {
        if let Some(last) = entries.entries.iter().rfind(|entry| entry.convo_id.as_str() == &*gap.convo) {
            upto.insert(&gap.convo, last.seq);
        }
    }
    let upto: Vec<(&str, i64)> = upto.into_iter().collect();
    hub.supply(subscriber, entries, &memberships, &upto);
    Ok(())
}

/// Returns whether a deleted row may be missing in a stream, or its cursor belongs to another era.
fn may_lack(subscriber: &Subscriber, present: &Present) -> bool {
    subscriber.begins_at().is_some_and(|from| {
        present.moment.seen().era != from.seen().era || from.seen().lacks_below(present.horizon, present.moment.seen())
    })
}

/// Returns whether entries are missing in between, because they were deleted.
fn has_gap(after: &[(&str, i64)], entries: &[MessageView]) -> bool {
    let mut last: HashMap<&str, i64> = after.iter().copied().collect();
    entries
        .iter()
        .any(|entry| last.insert(entry.convo_id.as_str(), entry.seq).is_some_and(|before| entry.seq > before + 1))
}

async fn supply_rows(
    store: &Store,
    hub: &Hub,
    subscriber: &Arc<Subscriber>,
    rows: Vec<Arc<Row>>,
    slots: &Semaphore,
) -> Result<(), Error> {
    let rows = of_membership(rows, &subscriber.did);
    let joined = |row: &Arc<Row>| match (&row.convo, &row.what) {
        (Some(convo), EventPayload::Joined { dids, .. }) if dids.contains(&subscriber.did) => Some(convo.clone()),
        _ => None,
    };
    let joined: Vec<ConvoId> = rows.iter().filter_map(joined).collect();
    let pairs: Vec<(&str, &str)> = joined.iter().map(|convo| (convo.as_str(), subscriber.did.as_str())).collect();
    let mut memberships = Vec::new();
    while !pairs.is_empty() {
        let _slot = slots.acquire().await;
        let asked = async { store.reader().await?.memberships(&pairs).await };
        match asked.await {
            Ok(found) => {
                memberships = found;
                break;
            }
            // The hub no longer has the rows, so this must be retried.
            Err(_) if !subscriber.has_ended() => tokio::time::sleep(RETRY_DELAY).await,
            Err(failed) => return Err(failed),
        }
    }
    for row in &rows {
        if let (Some(convo), EventPayload::Removed { did, seq, .. }) = (&row.convo, &row.what)
            && *did == subscriber.did
        {
            // The hub no longer has the row, so this must be retried.
            while supply_rest(store, hub, subscriber, convo, row.id, *seq, slots).await.is_err() {
                if subscriber.has_ended() {
                    return Ok(());
                }
                tokio::time::sleep(RETRY_DELAY).await;
            }
        }
        hub.supply_rows(subscriber, std::slice::from_ref(row), &memberships);
    }
    Ok(())
}

/// Supplies the entries of a membership that ended at `end`, before the row `removal` that says so. A former member
/// cannot read them from the log.
async fn supply_rest(
    store: &Store,
    hub: &Hub,
    subscriber: &Arc<Subscriber>,
    convo: &ConvoId,
    removal: i64,
    end: i64,
    slots: &Semaphore,
) -> Result<(), Error> {
    let mut position: Option<i64> = None;
    loop {
        if !subscriber.wait_for_room(hub.buffer()).await {
            return Ok(());
        }
        let Some(from) = subscriber.begins_at() else { return Ok(()) };
        let _slot = slots.acquire().await;
        let reader = store.reader().await?;
        let after = match position {
            Some(seq) => seq,
            None => reader.removal_position(convo, &subscriber.did, from.seen(), removal).await?,
        };
        if after >= end {
            return Ok(());
        }
        let mut entries = reader.entries(&[(convo.as_str(), after)]).await?;
        if has_gap(&[(convo.as_str(), after)], &entries.entries) && may_lack(subscriber, &reader.present(None).await?) {
            subscriber.end(End::Announced(Info::Reset));
            return Ok(());
        }
        entries.entries.retain(|entry| entry.seq <= end);
        let (last, more) = (entries.entries.last().map(|entry| entry.seq), entries.more);
        hub.supply_rest(subscriber, entries);
        match last {
            Some(last) if more && last < end => position = Some(last),
            _ => return Ok(()),
        }
    }
}

/// Returns the rows in their order, each once, without those from before a membership: if the first row about `did`
/// says that it joined, it was no member before.
fn of_membership(mut rows: Vec<Arc<Row>>, did: &Did) -> Vec<Arc<Row>> {
    rows.sort_by_key(|row| row.id);
    rows.dedup_by_key(|row| row.id);
    let mut firsts: HashMap<ConvoId, (i64, bool)> = HashMap::new();
    for row in &rows {
        let Some(convo) = &row.convo else { continue };
        let joined = match &row.what {
            EventPayload::Joined { dids, .. } if dids.contains(did) => true,
            EventPayload::Left { did: gone, .. } | EventPayload::Removed { did: gone, .. } if gone == did => false,
            _ => continue,
        };
        firsts.entry(convo.clone()).or_insert((row.id, joined));
    }
    rows.retain(|row| {
        let first = row.convo.as_ref().and_then(|convo| firsts.get(convo));
        row.recipient.is_some() || first.is_none_or(|(id, joined)| !joined || row.id >= *id)
    });
    rows
}
