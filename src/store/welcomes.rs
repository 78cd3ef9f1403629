//! Welcomes: handed out with the commit that they belong to, fetched as often as needed, destroyed once confirmed.

use crate::error::Code;
use crate::ids::{ConvoId, Did};

use super::key_packages::Hash;
use super::query::query;
use super::session::{Params, Queries};
use super::{Abort, Exclusive, Tx};

query! {
    INSERT = "welcomes/insert" (TEXT, BYTEA);
    ADDRESS = "welcomes/address" (TEXT_ARRAY, TEXT, TEXT_ARRAY, BYTEA_ARRAY, TEXT, INT8);
    WITHDRAW = "welcomes/withdraw" (TEXT, TEXT_ARRAY);
    DISCARD = "welcomes/discard" (TEXT_ARRAY);
    FIND = "welcomes/find" (TEXT, TEXT, BYTEA, INT8);
    STATE = "welcomes/state" (TEXT, TEXT, BYTEA, INT8);
    CONFIRM = "welcomes/confirm" (TEXT, TEXT, BYTEA, INT8);
    REPORT = "welcomes/report" (TEXT, TEXT, BYTEA, INT8, TEXT);
}

/// A Welcome and whom it is for: one line for each key package that opens it.
#[derive(Debug, Clone)]
pub struct NewWelcome {
    /// A ULID for the bytes.
    pub id: String,
    pub bytes: Vec<u8>,
    pub recipients: Vec<Recipient>,
}

/// One line of a Welcome's address.
#[derive(Debug, Clone)]
pub struct Recipient {
    /// A ULID for this line.
    pub id: String,
    pub did: Did,
    pub key_package_hash: Option<Vec<u8>>,
}

/// Which of a recipient's Welcomes in one conversation is meant; all of them where nothing is said.
#[derive(Debug, Clone, Default)]
pub struct WelcomeSelector {
    /// The one for this key package.
    pub key_package_hash: Option<Hash>,
    /// The one that leads into this epoch. A later invitation leads into a later one.
    pub epoch: Option<i64>,
}

impl WelcomeSelector {
    fn hash(&self) -> Option<&[u8]> {
        self.key_package_hash.as_ref().map(Hash::as_slice)
    }
}

/// What waits for a recipient, or waited.
pub enum StoredWelcome {
    Available {
        welcome: Vec<u8>,
        key_package_hash: Option<Vec<u8>>,
        epoch: i64,
        /// What it calls those of the recipient's key packages by that it was made for; `None` if that is not known of all of them.
        own_parts: Option<Vec<Vec<u8>>>,
    },
    Consumed,
    /// Consumed, and the recipient has left and been added again since.
    Past,
}

/// What has become of a Welcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WelcomeState {
    /// It waits, and leads into this epoch.
    Waits { epoch: i64 },
    /// The recipient has opened it, or has been given a later one in its place.
    Opened,
}

/// Hands a Welcome to its recipients, who start in `epoch`.
pub(crate) async fn insert(x: &mut Exclusive<'_>, new: &NewWelcome, epoch: i64) -> Result<(), Abort> {
    x.tx.rows(&INSERT, &[&new.id, &new.bytes]).await?;
    let ids: Vec<&str> = new.recipients.iter().map(|to| to.id.as_str()).collect();
    let dids: Vec<&str> = new.recipients.iter().map(|to| to.did.as_str()).collect();
    let hashes: Vec<Option<&[u8]>> = new.recipients.iter().map(|to| to.key_package_hash.as_deref()).collect();
    x.tx.rows(&ADDRESS, &[&ids, &x.convo.as_str(), &dids, &hashes, &new.id, &epoch]).await?;
    Ok(())
}

/// Takes back what waits for these, who are added anew or have left, and says which Welcomes that was.
pub(super) async fn delete_waiting(x: &Exclusive<'_>, recipients: &[Did]) -> Result<Vec<String>, Abort> {
    let dids: Vec<&str> = recipients.iter().map(Did::as_str).collect();
    let rows = x.tx.rows(&WITHDRAW, &[&x.convo.as_str(), &dids]).await?;
    Ok(rows.iter().map(|row| row.get("welcome_id")).collect())
}

/// Forgets those of the Welcomes that nobody waits for any more.
pub(super) async fn discard(x: &mut Exclusive<'_>, welcomes: Vec<String>) -> Result<(), Abort> {
    forget(x.tx, welcomes).await
}

/// The same where the lines are locked otherwise.
pub(super) async fn forget(tx: &Tx, welcomes: Vec<String>) -> Result<(), Abort> {
    if !welcomes.is_empty() {
        tx.rows(&DISCARD, &[&welcomes]).await?;
    }
    Ok(())
}

/// Destroys what the recipient has opened. The position has to be held.
pub(crate) async fn confirm(x: &mut Exclusive<'_>, recipient: &Did, which: &WelcomeSelector) -> Result<(), Abort> {
    let params: Params<'_> = &[&x.convo.as_str(), &recipient.as_str(), &which.hash(), &which.epoch];
    let rows = x.tx.rows(&CONFIRM, params).await?;
    discard(x, rows.iter().map(|row| row.get("welcome_id")).collect()).await
}

/// Notes why the recipient could not join.
pub(crate) async fn report(
    x: &mut Exclusive<'_>,
    recipient: &Did,
    which: &WelcomeSelector,
    details: Option<&str>,
) -> Result<(), Abort> {
    let params: Params<'_> = &[&x.convo.as_str(), &recipient.as_str(), &which.hash(), &which.epoch, &details];
    x.tx.rows(&REPORT, params).await?;
    Ok(())
}

/// What has become of a member's newest Welcome, those that wait before others; `WelcomeNotFound` if there never was one.
pub(crate) async fn state(
    db: &impl Queries,
    convo: &ConvoId,
    recipient: &Did,
    which: &WelcomeSelector,
) -> Result<WelcomeState, Abort> {
    let params: Params<'_> = &[&convo.as_str(), &recipient.as_str(), &which.hash(), &which.epoch];
    match db.find(&STATE, params).await? {
        None => Err(Code::WelcomeNotFound.because("no Welcome was ever waiting for you here").into()),
        Some(row) if row.get("waits") => Ok(WelcomeState::Waits { epoch: row.get("epoch") }),
        Some(_) => Ok(WelcomeState::Opened),
    }
}

/// What waits for a member, newest first and waiting before consumed; `None` if nothing ever did.
pub(crate) async fn find(
    db: &impl Queries,
    convo: &ConvoId,
    recipient: &Did,
    which: &WelcomeSelector,
) -> Result<Option<StoredWelcome>, Abort> {
    let row = db.find(&FIND, &[&convo.as_str(), &recipient.as_str(), &which.hash(), &which.epoch]).await?;
    Ok(row.map(|row| match row.get::<_, Option<Vec<u8>>>("welcome") {
        Some(welcome) => {
            let (key_package_hash, epoch) = (row.get("key_package_hash"), row.get("epoch"));
            StoredWelcome::Available { welcome, key_package_hash, epoch, own_parts: row.get("own_parts") }
        }
        None if row.get("past") => StoredWelcome::Past,
        None => StoredWelcome::Consumed,
    }))
}
