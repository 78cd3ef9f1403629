//! Key packages: stored, issued to one caller only, used once. A row stays after use, so that a package is never issued
//! again.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use tokio_postgres::Row;

use crate::error::{Code, Error};
use crate::ids::{ConvoId, Did};

use super::query::query;
use super::session::{Params, Queries};
use super::{Abort, Cause, Reader, Tx};

query! {
    REFERENCES = "key_packages/references" (BYTEA_ARRAY);
    LOCK_OWNER = "key_packages/lock_owner" (TEXT);
    COUNT = "key_packages/count" (TEXT, TIMESTAMPTZ, BYTEA_ARRAY);
    ADOPT = "key_packages/adopt" (TEXT, TEXT, BYTEA);
    REPLACE = "key_packages/replace" (TEXT, TEXT, BYTEA_ARRAY);
    INSERT = "key_packages/insert" (
        TEXT, BYTEA_ARRAY, TEXT_ARRAY, BYTEA_ARRAY, BOOL_ARRAY, TIMESTAMPTZ_ARRAY, BYTEA_ARRAY, BYTEA_ARRAY,
        BYTEA_ARRAY
    );
    FIND = "key_packages/find" (BYTEA_ARRAY, BYTEA_ARRAY);
    LEASED = "key_packages/leased" (TEXT_ARRAY, TEXT, TEXT, TIMESTAMPTZ);
    DEVICES = "key_packages/devices" (TEXT_ARRAY, TEXT, TIMESTAMPTZ, INT8);
    CLAIM_FREE = "key_packages/claim_free" (TEXT_ARRAY, TEXT_ARRAY, TEXT, TEXT, TIMESTAMPTZ, TIMESTAMPTZ);
    CLAIM_WAITING = "key_packages/claim_waiting" (TEXT_ARRAY, TEXT_ARRAY, TEXT, TEXT, TIMESTAMPTZ, TIMESTAMPTZ);
    LAST_RESORT = "key_packages/last_resort" (TEXT_ARRAY, TEXT_ARRAY, TEXT, TIMESTAMPTZ);
    RETIRE_REPLACED = "key_packages/retire_replaced" (TEXT, BYTEA_ARRAY, TIMESTAMPTZ);
    RETIRE = "key_packages/retire" (TEXT, BYTEA_ARRAY, TIMESTAMPTZ);
    DELETE_UNISSUED = "key_packages/delete_unissued" (TEXT, BYTEA_ARRAY);
    FIND_NAMED = "key_packages/find_named" (TEXT, BYTEA_ARRAY);
    LIST_AVAILABLE = "key_packages/list_available" (TEXT, TIMESTAMPTZ, INT8);
    LIST_TAKEN = "key_packages/list_taken" (TEXT, TIMESTAMPTZ, TIMESTAMPTZ, BYTEA, INT8);
    STATS = "key_packages/stats" (TEXT, TEXT, TIMESTAMPTZ, TIMESTAMPTZ, TIMESTAMPTZ, INT8);
    CONSUME = "key_packages/consume" (BYTEA_ARRAY, TEXT_ARRAY, TEXT, TEXT, TIMESTAMPTZ);
}

/// SHA-256 of a key package's bytes.
pub type Hash = [u8; 32];

/// A key package to store.
#[derive(Debug, Clone)]
pub struct NewKeyPackage {
    pub hash: Hash,
    /// SHA-256 of the HPKE init key, which is the same in every encoding of the package.
    pub init_key_hash: Hash,
    pub cipher_suite: String,
    pub bytes: Vec<u8>,
    /// Public key of its leaf, by which its device is known.
    pub signature_key: Vec<u8>,
    /// The device that its owner says it is of.
    pub device_id: Option<String>,
    /// Reference by which a Welcome names the package (RFC 9420, 5.2).
    pub reference: Option<Vec<u8>>,
    pub last_resort: bool,
    pub expires_at: DateTime<Utc>,
}

/// An issued key package.
#[derive(Debug, Clone)]
pub struct Issued {
    pub owner: String,
    pub hash: Vec<u8>,
    pub bytes: Vec<u8>,
    pub cipher_suite: String,
    /// Id of its device, if that is registered.
    pub device_id: Option<String>,
    /// Key of its device.
    pub device: String,
}

/// A device of which packages can be issued: a registered one, the clients with one signature key, or those of which no key is known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    pub owner: String,
    /// The value of `device_key` (V032).
    pub device: String,
}

impl Issued {
    /// Returns the device that it belongs to.
    pub fn holder(&self) -> Holder {
        Holder { owner: self.owner.clone(), device: self.device.clone() }
    }
}

/// Parameters of a claim: cipher suite, caller, and end of the lease.
#[derive(Debug)]
pub struct Claim<'a> {
    pub cipher_suite: &'a str,
    pub caller: &'a Did,
    pub now: DateTime<Utc>,
    pub lease_ends: DateTime<Utc>,
}

/// Kind of key packages that a claim looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimSource {
    /// Packages that were issued to the same caller a short while ago.
    Leased,
    /// Free packages, except those that another transaction has locked.
    SkipLocked,
    /// Free packages, after waiting for those that another transaction has locked. Only this proves that there is none.
    Wait,
    /// Packages of last resort, which are never used up.
    LastResort,
}

impl ClaimSource {
    /// Returns the label in the metrics.
    pub fn label(self) -> &'static str {
        match self {
            ClaimSource::Leased => "leased",
            ClaimSource::SkipLocked | ClaimSource::Wait => "one_time",
            ClaimSource::LastResort => "last_resort",
        }
    }
}

/// Locks the key packages of `did` for this transaction, so that counts and claims run one at a time. If the lock is
/// taken, the transaction is retried instead of waiting here with a connection.
pub(crate) async fn lock_owner(tx: &Tx, did: &Did) -> Result<(), Abort> {
    match tx.find(&LOCK_OWNER, &[&did.as_str()]).await? {
        Some(_) => Ok(()),
        None => Err(Abort::Again(Cause::Taken)),
    }
}

/// One-time packages of one device that can be issued.
pub(crate) struct DeviceStock {
    /// Id of the device; empty for all clients of the owner that are not registered.
    pub device: String,
    pub available: i64,
}

/// Returns by signature key the stocks to which these packages of one owner belong.
pub(crate) async fn count(
    tx: &Tx,
    owner: &Did,
    new: &[&NewKeyPackage],
    now: DateTime<Utc>,
) -> Result<HashMap<Vec<u8>, DeviceStock>, Abort> {
    let keys: HashSet<&[u8]> = new.iter().map(|new| &*new.signature_key).collect();
    let keys: Vec<&[u8]> = keys.into_iter().collect();
    let rows = tx.rows(&COUNT, &[&owner.as_str(), &now, &keys]).await?;
    let stock = |row: &Row| DeviceStock { device: row.get("device"), available: row.get("available") };
    Ok(rows.iter().map(|row| (row.get("key"), stock(row))).collect())
}

/// Gives a device the packages that were never issued and have its signature key. The owner must be locked.
pub(crate) async fn adopt(tx: &Tx, owner: &Did, device: &str, signature_key: &[u8]) -> Result<(), Abort> {
    tx.rows(&ADOPT, &[&owner.as_str(), &device, &signature_key]).await?;
    Ok(())
}

/// Deletes the packages of a device that were never issued, except these. The owner must be locked.
pub(crate) async fn replace(tx: &Tx, owner: &Did, device: &str, kept: &[Vec<u8>]) -> Result<(), Abort> {
    tx.rows(&REPLACE, &[&owner.as_str(), &device, &kept]).await?;
    Ok(())
}

/// Owner and hash of a package that is already known.
pub(crate) struct KnownKeyPackage {
    pub owner: String,
    pub hash: Vec<u8>,
}

/// Returns for each package the known one with its hash or init key, issued or not.
pub(crate) async fn find_seen(
    db: &impl Queries,
    new: &[&NewKeyPackage],
) -> Result<Vec<Option<KnownKeyPackage>>, Abort> {
    let hashes: Vec<&[u8]> = new.iter().map(|new| new.hash.as_slice()).collect();
    let init_key_hashes: Vec<&[u8]> = new.iter().map(|new| new.init_key_hash.as_slice()).collect();
    let mut seen: Vec<_> = new.iter().map(|_| None).collect();
    for row in db.rows(&FIND, &[&hashes, &init_key_hashes]).await? {
        let place: i64 = row.get("place");
        seen[place as usize - 1] = Some(KnownKeyPackage { owner: row.get("owner_did"), hash: row.get("hash") });
    }
    Ok(seen)
}

/// Stores packages of one owner, and returns the hashes of those that were new. A known package stays as it is.
pub(crate) async fn insert(tx: &Tx, owner: &Did, new: &[&NewKeyPackage]) -> Result<HashSet<Vec<u8>>, Abort> {
    if new.is_empty() {
        return Ok(HashSet::new());
    }
    let hashes: Vec<&[u8]> = new.iter().map(|new| new.hash.as_slice()).collect();
    let suites: Vec<&str> = new.iter().map(|new| &*new.cipher_suite).collect();
    let packages: Vec<&[u8]> = new.iter().map(|new| &*new.bytes).collect();
    let last_resorts: Vec<bool> = new.iter().map(|new| new.last_resort).collect();
    let expiries: Vec<DateTime<Utc>> = new.iter().map(|new| new.expires_at).collect();
    let init_keys: Vec<&[u8]> = new.iter().map(|new| new.init_key_hash.as_slice()).collect();
    let references: Vec<Option<&[u8]>> = new.iter().map(|new| new.reference.as_deref()).collect();
    let keys: Vec<&[u8]> = new.iter().map(|new| &*new.signature_key).collect();
    let params: Params<'_> =
        &[&owner.as_str(), &hashes, &suites, &packages, &last_resorts, &expiries, &init_keys, &references, &keys];
    let rows = tx.rows(&INSERT, params).await?;
    Ok(rows.iter().map(|row| row.get("hash")).collect())
}

/// Returns the references by which a Welcome names these packages. `None` unless all of them are known.
pub(crate) async fn references(db: &impl Queries, hashes: &[&[u8]]) -> Result<Option<Vec<Vec<u8>>>, Abort> {
    let rows = db.rows(&REFERENCES, &[&hashes]).await?;
    let references: Option<Vec<Vec<u8>>> = rows.iter().map(|row| row.get("reference")).collect();
    Ok(references.filter(|references| references.len() == hashes.len()))
}

/// Returns the packages that the caller was issued a short while ago and has not used, one per device of these owners.
pub(crate) async fn leased(tx: &Tx, owners: &[String], claim: &Claim<'_>) -> Result<Vec<Issued>, Abort> {
    let rows = tx.rows(&LEASED, &[&owners, &claim.cipher_suite, &claim.caller.as_str(), &claim.now]).await?;
    Ok(rows.iter().map(issued).collect())
}

/// Returns the devices of these owners of which a package can be issued, at most so many of each owner.
pub(crate) async fn holders(tx: &Tx, owners: &[String], claim: &Claim<'_>, most: i64) -> Result<Vec<Holder>, Abort> {
    let rows = tx.rows(&DEVICES, &[&owners, &claim.cipher_suite, &claim.now, &most]).await?;
    Ok(rows.iter().map(|row| Holder { owner: row.get("owner_did"), device: row.get("device") }).collect())
}

/// Issues at most one package of each device from one source. All callers name devices in one order, which prevents deadlocks.
pub(crate) async fn issue(
    tx: &Tx,
    source: ClaimSource,
    holders: &[Holder],
    claim: &Claim<'_>,
) -> Result<Vec<Issued>, Abort> {
    let Claim { cipher_suite, caller, now, lease_ends } = claim;
    let (owners, devices) = in_step(holders);
    let caller = caller.as_str();
    let rows = match source {
        ClaimSource::Leased => Vec::new(),
        ClaimSource::SkipLocked => {
            tx.rows(&CLAIM_FREE, &[&owners, &devices, cipher_suite, &caller, now, lease_ends]).await?
        }
        ClaimSource::Wait => {
            tx.rows(&CLAIM_WAITING, &[&owners, &devices, cipher_suite, &caller, now, lease_ends]).await?
        }
        ClaimSource::LastResort => tx.rows(&LAST_RESORT, &[&owners, &devices, cipher_suite, now]).await?,
    };
    Ok(rows.iter().map(issued).collect())
}

/// Returns owners and devices as two lists.
pub(super) fn in_step(holders: &[Holder]) -> (Vec<&str>, Vec<&str>) {
    holders.iter().map(|holder| (&*holder.owner, &*holder.device)).unzip()
}

fn issued(row: &Row) -> Issued {
    Issued {
        owner: row.get("owner_did"),
        hash: row.get("hash"),
        bytes: row.get("key_package"),
        cipher_suite: row.get("cipher_suite"),
        device_id: row.get("device_id"),
        device: row.get("device"),
    }
}

/// Marks the packages of a Welcome as used. One that the caller may not use refuses the whole request.
pub(crate) async fn consume(
    tx: &Tx,
    named: &[(Did, Hash)],
    caller: &Did,
    convo: &ConvoId,
    now: DateTime<Utc>,
) -> Result<(), Abort> {
    if named.is_empty() {
        return Ok(());
    }
    let hashes: Vec<&[u8]> = named.iter().map(|(_, hash)| hash.as_slice()).collect();
    let owners: Vec<&str> = named.iter().map(|(did, _)| did.as_str()).collect();
    let found = tx.rows(&CONSUME, &[&hashes, &owners, &caller.as_str(), &convo.as_str(), &now]).await?;
    if found.len() == named.len() {
        return Ok(());
    }
    Err(not_found().into())
}

/// The error for a key package that the caller may not use.
pub(crate) fn not_found() -> Error {
    let message = "a key package in keyPackageHashes is unknown, used, issued to another caller, or of another cipher suite than the conversation's; call getKeyPackages again";
    Error::new(Code::KeyPackageNotFound, message)
}

/// Time for which taken packages are counted and listed, as long as retention keeps their times.
pub const MEMORY: TimeDelta = TimeDelta::days(7);
/// Maximum number of taken packages that are counted.
pub const MAX_TAKEN: i64 = 10_000;
/// Maximum number of packages in a list of those that can be issued.
const MAX_LISTED: i64 = 1_000;

/// Ends the issue of the last-resort packages that these replace, one of each device and cipher suite.
pub(crate) async fn retire_replaced(tx: &Tx, owner: &Did, newer: &[&Hash], now: DateTime<Utc>) -> Result<(), Abort> {
    if !newer.is_empty() {
        let hashes: Vec<&[u8]> = newer.iter().map(|hash| hash.as_slice()).collect();
        tx.rows(&RETIRE_REPLACED, &[&owner.as_str(), &hashes, &now]).await?;
    }
    Ok(())
}

/// Withdraws packages of an owner, and returns how many could be issued or were. Those that were never issued are deleted.
pub(crate) async fn withdraw(tx: &Tx, owner: &Did, hashes: &[Vec<u8>], now: DateTime<Utc>) -> Result<usize, Abort> {
    if hashes.is_empty() {
        return Ok(0);
    }
    // Locks the rows, so that whether they were issued is the present.
    let retired = tx.rows(&RETIRE, &[&owner.as_str(), &hashes, &now]).await?;
    tx.rows(&DELETE_UNISSUED, &[&owner.as_str(), &hashes]).await?;
    Ok(retired.len())
}

/// A package that an owner has named.
pub(crate) struct NamedKeyPackage {
    pub hash: Vec<u8>,
    /// The name: the hash or the reference.
    pub name: Vec<u8>,
}

/// Returns an owner's packages with these hashes or references, issued or not.
pub(crate) async fn find_named(tx: &Tx, owner: &Did, names: &[Vec<u8>]) -> Result<Vec<NamedKeyPackage>, Abort> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let rows = tx.rows(&FIND_NAMED, &[&owner.as_str(), &names]).await?;
    Ok(rows.iter().map(|row| NamedKeyPackage { hash: row.get("hash"), name: row.get("name") }).collect())
}

/// A package that can be issued.
pub(crate) struct AvailableKeyPackage {
    pub hash: Vec<u8>,
    pub reference: Option<Vec<u8>>,
}

/// Returns an owner's packages that can be issued, oldest first.
pub(crate) async fn list_available(
    tx: &Tx,
    owner: &Did,
    now: DateTime<Utc>,
) -> Result<Vec<AvailableKeyPackage>, Abort> {
    let rows = tx.rows(&LIST_AVAILABLE, &[&owner.as_str(), &now, &MAX_LISTED]).await?;
    Ok(rows.iter().map(|row| AvailableKeyPackage { hash: row.get("hash"), reference: row.get("reference") }).collect())
}

/// Counts of an owner's packages of one cipher suite.
#[derive(Debug, Clone)]
pub struct Stock {
    pub cipher_suite: String,
    /// One-time packages that can be issued.
    pub available: i64,
    /// A last-resort package can be issued.
    pub last_resort: bool,
    /// Expiry of the first available package.
    pub expires_at: Option<DateTime<Utc>>,
    /// Packages taken within [`MEMORY`].
    pub taken: i64,
    /// Packages taken in the last 24 hours.
    pub taken_today: i64,
    /// Taken packages that their callers may still use.
    pub reserved: i64,
}

/// A package that was issued to a caller, or used without that.
#[derive(Debug, Clone)]
pub struct Taken {
    pub hash: Vec<u8>,
    pub cipher_suite: String,
    /// Conversation of the Welcome that it was used for, unless that was erased.
    pub convo: Option<String>,
    pub at: DateTime<Utc>,
}

impl Reader {
    /// Counts an owner's packages by cipher suite.
    pub async fn key_package_stock(
        &self,
        owner: &Did,
        cipher_suite: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<Vec<Stock>, Error> {
        let (since, today) = (now - MEMORY, now - TimeDelta::days(1));
        let rows = self.rows(&STATS, &[&owner.as_str(), &cipher_suite, &now, &since, &today, &MAX_TAKEN]).await?;
        let stock = |row: &Row| Stock {
            cipher_suite: row.get("cipher_suite"),
            available: row.get("available"),
            last_resort: row.get("last_resort"),
            expires_at: row.get("expires_at"),
            taken: row.get("taken"),
            taken_today: row.get("today"),
            reserved: row.get("reserved"),
        };
        Ok(rows.iter().map(stock).collect())
    }

    /// Returns an owner's packages that were taken within [`MEMORY`], newest first, before the place of another one.
    pub async fn taken_key_packages(
        &self,
        owner: &Did,
        now: DateTime<Utc>,
        before: Option<&(DateTime<Utc>, Hash)>,
        limit: i64,
    ) -> Result<Vec<Taken>, Error> {
        let (at, hash) = (before.map(|(at, _)| *at), before.map(|(_, hash)| hash.as_slice()));
        let rows = self.rows(&LIST_TAKEN, &[&owner.as_str(), &(now - MEMORY), &at, &hash, &limit]).await?;
        let taken = |row: &Row| Taken {
            hash: row.get("hash"),
            cipher_suite: row.get("cipher_suite"),
            convo: row.get("convo_id"),
            at: row.get("taken_at"),
        };
        Ok(rows.iter().map(taken).collect())
    }
}
