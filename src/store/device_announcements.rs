//! Announcements of devices: members are told of a device that was registered or deleted, in one portion of its owner's conversations after
//! the other.
//!
//! `devices.announced_to` is the position: the last conversation whose members were told, and null once all were. Each portion moves it in
//! its own transaction, so any replica continues. The request that registers or deletes a device runs the first portions; a job runs what is
//! left ([`crate::jobs`]).

use super::changes::Topic;
use super::query::query;
use super::session::Queries;
use super::{Abort, Reader, Store, Transaction, Tx, welcomes};
use crate::error::Error;

query! {
    TO_ANNOUNCE = "devices/to_announce" (TEXT, TEXT, INT8);
    HOLD = "devices/hold" (TEXT, TEXT);
    CONVOS = "devices/convos" (TEXT, TEXT, BOOL, INT8);
    ANNOUNCE = "devices/announce" (TEXT, TEXT, TEXT_ARRAY, TEXT_ARRAY);
    ANNOUNCE_DELETION = "devices/announce_deletion" (TEXT, TEXT, TEXT_ARRAY);
    WAITING_WELCOMES = "devices/waiting_welcomes" (TEXT, TEXT, TEXT_ARRAY);
    MOVE_ANNOUNCEMENT = "devices/move_announcement" (TEXT, TEXT, TEXT);
    REMOVE = "devices/remove" (TEXT, TEXT);
}

/// Maximum number of conversations whose members one transaction tells of a device.
pub const MAX_ANNOUNCED: usize = 100;
/// Maximum number of such transactions of one request.
const MAX_PORTIONS: usize = 10;

/// A device of which members are to be told.
#[derive(Debug, Clone, Default)]
pub struct Announced {
    pub owner: String,
    pub device_id: String,
}

/// Result of a portion.
pub(super) struct Told {
    pub convos: Vec<String>,
    /// There may be more conversations.
    pub more: bool,
}

/// Tells the members of the next conversations of the owner, at most as many as there are ids for additions.
pub(super) async fn portion(tx: &Tx, device: &Announced, ids: &[String]) -> Result<Told, Abort> {
    let Announced { owner, device_id } = device;
    let Some(held) = tx.find(&HOLD, &[owner, device_id]).await? else {
        return Ok(Told { convos: Vec::new(), more: false });
    };
    let (after, deleted): (String, bool) = (held.get("announced_to"), held.get("deleted"));
    let rows = tx.rows(&CONVOS, &[owner, &after, &deleted, &(ids.len() as i64)]).await?;
    let convos: Vec<String> = rows.iter().map(|row| row.get("convo_id")).collect();
    if deleted {
        let waiting = tx.rows(&WAITING_WELCOMES, &[owner, device_id, &convos]).await?;
        let lines = waiting.iter().map(|row| row.get("id")).collect();
        welcomes::withdraw_lines(tx, lines, waiting.iter().map(|row| row.get("welcome_id")).collect()).await?;
        tx.rows(&ANNOUNCE_DELETION, &[owner, device_id, &convos]).await?;
    } else {
        tx.rows(&ANNOUNCE, &[owner, device_id, &convos, &&ids[..convos.len()]]).await?;
    }
    let more = convos.len() == ids.len();
    if deleted && !more {
        tx.rows(&REMOVE, &[owner, device_id]).await?;
    } else {
        tx.rows(&MOVE_ANNOUNCEMENT, &[owner, device_id, &convos.last().filter(|_| more)]).await?;
    }
    Ok(Told { convos, more })
}

/// One portion as a transaction of its own.
struct Announce {
    device: Announced,
    ids: Vec<String>,
}

impl Transaction for Announce {
    const NAME: &'static str = "announceDevice";
    type Output = Told;

    async fn execute(&self, tx: &Tx) -> Result<Told, Abort> {
        portion(tx, &self.device, &self.ids).await
    }
}

impl Store {
    /// Tells members of a device that was registered or deleted, as far as one request may. `new_id` makes ULIDs of additions.
    pub(crate) async fn announce_device(&self, device: Announced, new_id: impl Fn() -> String) -> Result<(), Error> {
        for _ in 0..MAX_PORTIONS {
            let ids = (0..MAX_ANNOUNCED).map(|_| new_id()).collect();
            let told = self.transact(Announce { device: device.clone(), ids }).await?;
            self.changes.add_topics(told.convos.iter().map(|convo| Topic::from(convo.as_str())));
            if !told.more {
                break;
            }
        }
        Ok(())
    }
}

impl Reader {
    /// Returns devices of which members are still to be told, in order, after one of them.
    pub(crate) async fn devices_to_announce(&self, after: &Announced, most: i64) -> Result<Vec<Announced>, Error> {
        let rows = self.rows(&TO_ANNOUNCE, &[&after.owner, &after.device_id, &most]).await?;
        let devices = rows.iter().map(|row| Announced { owner: row.get("owner_did"), device_id: row.get("device_id") });
        Ok(devices.collect())
    }
}
