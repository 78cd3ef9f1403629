//! Welcomes: stored with their commit, returned as often as requested, deleted once confirmed.

use crate::error::Code;
use crate::ids::{ConvoId, Did};

use super::key_packages::Hash;
use super::query::query;
use super::session::{Params, Queries};
use super::{Abort, Exclusive, Tx};

query! {
    INSERT = "welcomes/insert" (TEXT, BYTEA);
    ADDRESS = "welcomes/address" (TEXT_ARRAY, TEXT, TEXT_ARRAY, BYTEA_ARRAY, TEXT, INT8, INT8);
    WITHDRAW = "welcomes/withdraw" (TEXT, TEXT_ARRAY, BYTEA_ARRAY);
    DISCARD = "welcomes/discard" (TEXT_ARRAY);
    FIND = "welcomes/find" (TEXT, TEXT, BYTEA, INT8, TEXT);
    STATE = "welcomes/state" (TEXT, TEXT, BYTEA, INT8, TEXT);
    CONFIRM = "welcomes/confirm" (TEXT, TEXT, BYTEA, INT8, TEXT);
    REPORT = "welcomes/report" (TEXT, TEXT, BYTEA, INT8, TEXT, TEXT);
    LOCK_RECIPIENTS = "welcomes/lock_recipients" (TEXT_ARRAY);
    WITHDRAW_LINES = "welcomes/withdraw_lines" (TEXT_ARRAY);
}

/// A Welcome and its recipients, one for each key package that opens it.
#[derive(Debug, Clone)]
pub struct NewWelcome {
    /// ULID of the bytes.
    pub id: String,
    pub bytes: Vec<u8>,
    pub recipients: Vec<Recipient>,
}

/// One recipient of a Welcome.
#[derive(Debug, Clone)]
pub struct Recipient {
    /// ULID of this recipient's row.
    pub id: String,
    pub did: Did,
    pub key_package_hash: Option<Vec<u8>>,
}

/// Selects Welcomes of a recipient in one conversation; without any field, all of them.
#[derive(Debug, Clone, Default)]
pub struct WelcomeSelector {
    /// The Welcome for this key package.
    pub key_package_hash: Option<Hash>,
    /// The Welcome that leads into this epoch. A later invitation leads into a later epoch.
    pub epoch: Option<i64>,
    /// The Welcomes for key packages of this device.
    pub device_id: Option<String>,
}

impl WelcomeSelector {
    fn hash(&self) -> Option<&[u8]> {
        self.key_package_hash.as_ref().map(Hash::as_slice)
    }
}

/// Newest selected Welcome of a recipient.
pub enum StoredWelcome {
    Available {
        welcome: Vec<u8>,
        key_package_hash: Option<Vec<u8>>,
        generation: i64,
        epoch: i64,
        /// The entry after which a device that joins with it reads the log.
        seq: i64,
        /// References by which the Welcome names the recipient's selected key packages; `None` if one of them is
        /// unknown.
        own_parts: Option<Vec<Vec<u8>>>,
    },
    Consumed,
    /// Consumed, and the recipient has since left and been added again, or the conversation has another group.
    Past,
}

/// State of a Welcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WelcomeState {
    /// Waiting; it leads into this epoch, in which Welcomes wait for this many devices of the recipient.
    Waits { epoch: i64, devices: i64 },
    /// Opened by the recipient, or replaced by a later Welcome.
    Opened,
}

/// Stores a Welcome for its recipients, who join in `epoch` of a generation.
pub(crate) async fn insert(x: &mut Exclusive<'_>, new: &NewWelcome, generation: i64, epoch: i64) -> Result<(), Abort> {
    x.tx.rows(&INSERT, &[&new.id, &new.bytes]).await?;
    let ids: Vec<&str> = new.recipients.iter().map(|to| to.id.as_str()).collect();
    let dids: Vec<&str> = new.recipients.iter().map(|to| to.did.as_str()).collect();
    let hashes: Vec<Option<&[u8]>> = new.recipients.iter().map(|to| to.key_package_hash.as_deref()).collect();
    x.tx.rows(&ADDRESS, &[&ids, &x.convo.as_str(), &dids, &hashes, &new.id, &epoch, &generation]).await?;
    Ok(())
}

/// Deletes the Welcomes that wait for these people, who are added anew or removed, and those for key packages that are used again.
pub(crate) async fn withdraw(
    x: &mut Exclusive<'_>,
    people: &[&Did],
    key_packages: &[(Did, Hash)],
) -> Result<(), Abort> {
    let mut withdrawn = delete_waiting(x, people, None).await?;
    let (owners, hashes): (Vec<&Did>, Vec<&[u8]>) =
        key_packages.iter().map(|(owner, hash)| (owner, hash.as_slice())).unzip();
    withdrawn.extend(delete_waiting(x, &owners, Some(&hashes)).await?);
    discard(x, withdrawn).await
}

/// Withdraws the waiting Welcomes of recipients that are added again or have left, or only those for some key packages, and returns the
/// ids of those Welcomes.
pub(super) async fn delete_waiting(
    x: &Exclusive<'_>,
    recipients: &[&Did],
    hashes: Option<&[&[u8]]>,
) -> Result<Vec<String>, Abort> {
    let dids: Vec<&str> = recipients.iter().map(|did| did.as_str()).collect();
    let rows = x.tx.rows(&WITHDRAW, &[&x.convo.as_str(), &dids, &hashes]).await?;
    Ok(rows.iter().map(|row| row.get("welcome_id")).collect())
}

/// Deletes those Welcomes that no recipient waits for.
pub(super) async fn discard(x: &mut Exclusive<'_>, welcomes: Vec<String>) -> Result<(), Abort> {
    forget(x.tx, welcomes).await
}

/// Deletes those Welcomes that no recipient waits for, where other locks protect their rows.
pub(super) async fn forget(tx: &Tx, welcomes: Vec<String>) -> Result<(), Abort> {
    if !welcomes.is_empty() {
        tx.rows(&DISCARD, &[&welcomes]).await?;
    }
    Ok(())
}

/// Withdraws unopened lines of these Welcomes, without the locks of their conversations.
pub(super) async fn withdraw_lines(tx: &Tx, lines: Vec<String>, welcomes: Vec<String>) -> Result<(), Abort> {
    if lines.is_empty() {
        return Ok(());
    }
    // Separate statements, which see what the locks have waited for.
    tx.rows(&LOCK_RECIPIENTS, &[&welcomes]).await?;
    tx.rows(&WITHDRAW_LINES, &[&lines]).await?;
    forget(tx, welcomes).await
}

/// Deletes the Welcomes that the recipient has opened. The position must be locked.
pub(crate) async fn confirm(x: &mut Exclusive<'_>, recipient: &Did, which: &WelcomeSelector) -> Result<(), Abort> {
    let params: Params<'_> = &[&x.convo.as_str(), &recipient.as_str(), &which.hash(), &which.epoch, &which.device_id];
    let rows = x.tx.rows(&CONFIRM, params).await?;
    discard(x, rows.iter().map(|row| row.get("welcome_id")).collect()).await
}

/// Records that the recipient could not join and why, and tells the members. The position must be locked.
pub(crate) async fn report(
    x: &mut Exclusive<'_>,
    recipient: &Did,
    which: &WelcomeSelector,
    details: Option<&str>,
) -> Result<(), Abort> {
    let params: Params<'_> =
        &[&x.convo.as_str(), &recipient.as_str(), &which.hash(), &which.epoch, &which.device_id, &details];
    x.tx.rows(&REPORT, params).await?;
    Ok(())
}

/// Returns the state of a member's newest Welcome, waiting before consumed. Errors: `WelcomeNotFound` if there never
/// was one.
pub(crate) async fn state(
    db: &impl Queries,
    convo: &ConvoId,
    recipient: &Did,
    which: &WelcomeSelector,
) -> Result<WelcomeState, Abort> {
    let params: Params<'_> = &[&convo.as_str(), &recipient.as_str(), &which.hash(), &which.epoch, &which.device_id];
    match db.find(&STATE, params).await? {
        None => Err(Code::WelcomeNotFound.because("there was never a Welcome for you in this conversation").into()),
        Some(row) if row.get("waits") => {
            Ok(WelcomeState::Waits { epoch: row.get("epoch"), devices: row.get("devices") })
        }
        Some(_) => Ok(WelcomeState::Opened),
    }
}

/// Returns a member's newest Welcome, waiting before consumed; `None` if there never was one.
pub(crate) async fn find(
    db: &impl Queries,
    convo: &ConvoId,
    recipient: &Did,
    which: &WelcomeSelector,
) -> Result<Option<StoredWelcome>, Abort> {
    let row =
        db.find(&FIND, &[&convo.as_str(), &recipient.as_str(), &which.hash(), &which.epoch, &which.device_id]).await?;
    Ok(row.map(|row| match row.get::<_, Option<Vec<u8>>>("welcome") {
        Some(welcome) => {
            let (key_package_hash, generation, epoch) =
                (row.get("key_package_hash"), row.get("generation"), row.get("epoch"));
            StoredWelcome::Available {
                welcome,
                key_package_hash,
                generation,
                epoch,
                seq: row.get("seq"),
                own_parts: row.get("own_parts"),
            }
        }
        None if row.get("past") => StoredWelcome::Past,
        None => StoredWelcome::Consumed,
    }))
}
