//! Blobs: encrypted attachments, whose bytes are in the blob store. Here is what is known about them: whose they are, how far their upload
//! is, which messages refer to them, and which objects are to be deleted.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_postgres::Row;

use crate::error::{Code, Error};
use crate::ids::{BlobId, ConvoId, Did, EntryId};

use super::messages::NewBody;
use super::query::query;
use super::session::{Params, Queries};
use super::{Abort, ConnectError, Exclusive, Operator, Reader, Tx};

query! {
    LOCK_OWNER = "blobs/lock_owner" (TEXT);
    LOCK_CONVO = "blobs/lock_convo" (TEXT);
    BEGIN = "blobs/begin" (TEXT, TEXT, TEXT, INT8, INT8, FLOAT8, INT8, INT8);
    BEGIN_BODY = "blobs/begin_body" (TEXT, TEXT, TEXT, INT8, FLOAT8, INT8, INT8, INT8, TEXT, TEXT);
    STORE_BODY = "blobs/store_body" (TEXT, TEXT, INT8, BYTEA);
    BEGIN_PART = "blobs/begin_part" (TEXT, TEXT, INT4, FLOAT8, FLOAT8);
    STORE_PART = "blobs/store_part" (TEXT, INT4);
    STORE = "blobs/store" (TEXT, TEXT, BYTEA, FLOAT8);
    UPLOAD = "blobs/upload" (TEXT, TEXT);
    ABORT = "blobs/abort" (TEXT, TEXT);
    FIND = "blobs/find" (TEXT, TEXT);
    REFER = "blobs/refer" (TEXT, INT8, TEXT_ARRAY);
    USAGE = "blobs/usage" (TEXT, TEXT);
    LIST_STORED = "blobs/list_stored" (TEXT, INT8);
    IS_STORED = "blobs/is_stored" (TEXT);
    NAMED = "blobs/named" (TEXT_ARRAY, TEXT_ARRAY, INT4_ARRAY);
}

/// Maximum size of a blob in bytes.
pub const MAX_BLOB_BYTES: i64 = 50 * 1024 * 1024;
/// Minimum size of a part of an upload in bytes, except the last one.
pub const MIN_PART_BYTES: i64 = 256 * 1024;
/// Maximum number of blobs that one message refers to.
pub const MAX_REFERENCES: usize = 16;
/// Time in seconds after which an upload expires if nothing happens to it, and a blob if no message refers to it.
const UNUSED_SECONDS: f64 = 3_600.0;
/// Maximum time in seconds from the beginning of an upload in parts until it expires.
const MAX_UPLOAD_SECONDS: f64 = 86_400.0;
/// Time in seconds after which an object that was given up is forgotten. An upload that began before is over by then: at the smallest rate
/// the largest blob takes 27 minutes.
pub(crate) const GIVEN_UP_SECONDS: f64 = 3_600.0;

/// A blob whose upload begins.
#[derive(Debug)]
pub struct NewBlob {
    pub id: BlobId,
    pub convo: ConvoId,
    pub owner: Did,
    pub bytes: i64,
    /// Size of each part but the last; `None` if the bytes come in one request.
    pub part_bytes: Option<i64>,
}

/// The body of a message that is about to be sent.
#[derive(Debug)]
pub struct MessageBody {
    pub id: BlobId,
    pub bytes: i64,
    pub convo: ConvoId,
    pub message: EntryId,
    pub sender: Did,
    pub generation: Option<i64>,
    pub epoch: i64,
    /// Number of epochs that the message may lag behind.
    pub window: i64,
    /// Idempotency key of the request.
    pub key: Option<String>,
}

/// What limits the beginning of an upload.
#[derive(Debug, Clone, Copy)]
pub struct UploadLimits {
    /// Maximum number of uploads of one person that are not complete.
    pub uploads: i64,
    /// Maximum size of all blobs of a conversation in bytes.
    pub convo_bytes: i64,
}

/// Reason for which an upload cannot begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exceeded {
    /// The owner has as many uploads as it may have. The next of them expires after this time.
    Uploads(Duration),
    /// The blobs of the conversation have as many bytes as they may have.
    ConvoBytes,
}

/// A blob whose bytes are all stored.
#[derive(Debug, Clone)]
pub struct StoredBlob {
    pub bytes: i64,
    pub sha256: Vec<u8>,
    /// Time until which a message has to refer to it.
    pub expires_at: DateTime<Utc>,
}

/// An upload in parts, or the blob that it has become.
#[derive(Debug, Clone)]
pub struct Upload {
    pub bytes: i64,
    /// `None` if the bytes came in one request.
    pub part_bytes: Option<i64>,
    /// SHA-256 of all bytes once they are stored.
    pub sha256: Option<Vec<u8>>,
    pub expires_at: DateTime<Utc>,
    /// Numbers of the stored parts, ascending; none once all bytes are stored.
    pub parts: Vec<i32>,
}

/// A blob that a member may read.
#[derive(Debug, Clone)]
pub struct ReadableBlob {
    pub bytes: i64,
    pub sha256: Vec<u8>,
}

/// Number of parts of an upload.
pub fn parts(bytes: i64, part_bytes: i64) -> i64 {
    (bytes + part_bytes - 1) / part_bytes
}

/// Size of a part of an upload. `None`: there is no such part.
pub fn part_size(bytes: i64, part_bytes: i64, part: i32) -> Option<i64> {
    let part = i64::from(part);
    (1..=parts(bytes, part_bytes)).contains(&part).then(|| part_bytes.min(bytes - (part - 1) * part_bytes))
}

/// Name of the object that has the bytes of a blob: below one of 256 folders, so that none has too many files.
pub fn object(id: &BlobId) -> String {
    format!("blobs/{}/{id}", &id.as_str()[..2])
}

/// Name of the object that has the bytes of a part.
pub fn part_object(id: &BlobId, part: i32) -> String {
    format!("parts/{id}/{part}")
}

/// The blob that an object belongs to, and the part, if it is that of a part.
pub type Owner = (BlobId, Option<i32>);

/// Returns what an object belongs to, by its name. `None`: it has no name of a blob's object.
pub fn parse_object(name: &str) -> Option<Owner> {
    let (id, part) = match name.split('/').collect::<Vec<_>>()[..] {
        ["blobs", _, id] => (id.parse().ok()?, None),
        ["parts", id, part] => (id.parse().ok()?, Some(part.parse().ok()?)),
        _ => return None,
    };
    let expected = part.map_or_else(|| object(&id), |part| part_object(&id, part));
    (expected == name).then_some((id, part))
}

/// Begins an upload, and returns when it expires, or why it cannot begin.
pub(crate) async fn begin(
    tx: &Tx,
    new: &NewBlob,
    limits: UploadLimits,
) -> Result<Result<DateTime<Utc>, Exceeded>, Abort> {
    // Beginnings count what others have begun. Always in this order, so none waits for one that waits for it.
    tx.rows(&LOCK_OWNER, &[&new.owner.as_str()]).await?;
    tx.rows(&LOCK_CONVO, &[&new.convo.as_str()]).await?;
    let row = tx
        .find(
            &BEGIN,
            &[
                &new.id.as_str(),
                &new.convo.as_str(),
                &new.owner.as_str(),
                &new.bytes,
                &new.part_bytes,
                &UNUSED_SECONDS,
                &limits.uploads,
                &limits.convo_bytes,
            ],
        )
        .await?
        .expect("a join of two aggregates returns one row");
    Ok(match row.get("expires_at") {
        Some(expires_at) => Ok(expires_at),
        None if row.get::<_, i64>("uploads") >= limits.uploads => {
            let next_in: Option<f64> = row.get("next_in");
            Err(Exceeded::Uploads(Duration::from_secs_f64(next_in.unwrap_or(0.0).max(0.0))))
        }
        None => Err(Exceeded::ConvoBytes),
    })
}

/// Begins the body of a message. Returns false if the message would be refused now, or its conversation keeps all ciphertexts in the
/// database.
pub(crate) async fn begin_body(tx: &Tx, body: &MessageBody) -> Result<bool, Abort> {
    let params: Params<'_> = &[
        &body.id.as_str(),
        &body.convo.as_str(),
        &body.sender.as_str(),
        &body.bytes,
        &UNUSED_SECONDS,
        &body.epoch,
        &body.window,
        &body.generation,
        &body.message.as_str(),
        &body.key,
    ];
    Ok(tx.find(&BEGIN_BODY, params).await?.is_some())
}

/// Notes that the bytes of a body are stored, and lets its message refer to it.
pub(crate) async fn store_body(x: &Exclusive<'_>, seq: i64, body: &NewBody) -> Result<(), Abort> {
    let params: Params<'_> = &[&body.id.as_str(), &x.convo.as_str(), &seq, &body.sha256.as_slice()];
    match x.tx.find(&STORE_BODY, params).await? {
        Some(_) => Ok(()),
        None => Err(Code::Overloaded.because("the message was not sent for an hour; nothing was changed").into()),
    }
}

/// Notes that the bytes of a part will arrive, and returns the size of the blob and of its parts. Errors: `UploadNotFound`.
pub(crate) async fn begin_part(tx: &Tx, id: &BlobId, owner: &Did, part: i32) -> Result<(i64, i64), Abort> {
    let params = &[&id.as_str() as _, &owner.as_str() as _, &part as _, &UNUSED_SECONDS as _, &MAX_UPLOAD_SECONDS as _];
    let row = tx.find(&BEGIN_PART, params).await?.ok_or_else(upload_not_found)?;
    Ok((row.get("size_bytes"), row.get("part_bytes")))
}

/// Notes that the bytes of a part are stored. Errors: `UploadNotFound`.
pub(crate) async fn store_part(tx: &Tx, id: &BlobId, part: i32) -> Result<(), Abort> {
    tx.find(&STORE_PART, &[&id.as_str(), &part]).await?.ok_or_else(upload_not_found)?;
    Ok(())
}

/// Notes that all bytes of a blob are stored. An upload that was noted before with the same hash is returned again. Errors:
/// `UploadNotFound`.
pub(crate) async fn store(tx: &Tx, id: &BlobId, owner: &Did, sha256: &[u8; 32]) -> Result<StoredBlob, Abort> {
    let params = &[&id.as_str() as _, &owner.as_str() as _, &sha256.as_slice() as _, &UNUSED_SECONDS as _];
    if let Some(row) = tx.find(&STORE, params).await? {
        let sha256 = row.get("sha256");
        return Ok(StoredBlob { bytes: row.get("size_bytes"), sha256, expires_at: row.get("expires_at") });
    }
    match upload(tx, id, owner).await? {
        Upload { bytes, sha256: Some(stored), expires_at, .. } if stored == sha256 => {
            Ok(StoredBlob { bytes, sha256: stored, expires_at })
        }
        _ => Err(upload_not_found().into()),
    }
}

/// Returns an upload, or the blob that it has become. Errors: `UploadNotFound`.
pub(crate) async fn upload(db: &impl Queries, id: &BlobId, owner: &Did) -> Result<Upload, Abort> {
    let row = db.find(&UPLOAD, &[&id.as_str(), &owner.as_str()]).await?.ok_or_else(upload_not_found)?;
    Ok(Upload {
        bytes: row.get("size_bytes"),
        part_bytes: row.get("part_bytes"),
        sha256: row.get("sha256"),
        expires_at: row.get("expires_at"),
        parts: row.get("parts"),
    })
}

/// Ends an upload that is not complete. Returns whether there was one.
pub(crate) async fn abort(tx: &Tx, id: &BlobId, owner: &Did) -> Result<bool, Abort> {
    Ok(tx.find(&ABORT, &[&id.as_str(), &owner.as_str()]).await?.is_some())
}

/// Lets a message refer to blobs. Errors: `BlobNotFound` if one is not stored, or is of another conversation.
pub(crate) async fn refer(x: &Exclusive<'_>, seq: i64, blobs: &[BlobId]) -> Result<(), Abort> {
    let keys: Vec<&str> = blobs.iter().map(BlobId::as_str).collect();
    let row = x.tx.find(&REFER, &[&x.convo.as_str(), &seq, &keys]).await?;
    let referred: i64 = row.map_or(0, |row| row.get("referred"));
    match usize::try_from(referred) == Ok(blobs.len()) {
        true => Ok(()),
        false => Err(not_found().into()),
    }
}

/// The error for a blob that the caller may not read or refer to.
pub(crate) fn not_found() -> Error {
    Code::BlobNotFound.because("there is no such blob in the conversation")
}

fn upload_not_found() -> Error {
    Code::UploadNotFound.because("you have no such upload; it may have expired")
}

impl Operator {
    /// Returns stored blobs after a key, in the order of their keys, with their sizes.
    pub(crate) async fn stored_blobs(&self, after: &str, blobs: i64) -> Result<Vec<(BlobId, u64)>, ConnectError> {
        let rows = self.rows(&LIST_STORED, &[&after, &blobs]).await?;
        let blob = |row: &Row| {
            let id = row.get::<_, &str>("key").parse().expect("a constraint holds the form of keys");
            (id, row.get::<_, i64>("size_bytes").unsigned_abs())
        };
        Ok(rows.iter().map(blob).collect())
    }

    /// Returns whether a blob is stored.
    pub(crate) async fn is_stored(&self, id: &BlobId) -> Result<bool, ConnectError> {
        Ok(!self.rows(&IS_STORED, &[&id.as_str()]).await?.is_empty())
    }

    /// Returns those objects that belong to a blob, to a part, or to a deletion. Each is given with what its name says.
    pub(crate) async fn named_objects(
        &self,
        objects: &[(&str, Option<Owner>)],
    ) -> Result<HashSet<String>, ConnectError> {
        let names: Vec<&str> = objects.iter().map(|(name, _)| *name).collect();
        let keys: Vec<Option<&str>> =
            objects.iter().map(|(_, parsed)| parsed.as_ref().map(|(id, _)| id.as_str())).collect();
        let parts: Vec<Option<i32>> =
            objects.iter().map(|(_, parsed)| parsed.as_ref().and_then(|(_, part)| *part)).collect();
        let rows = self.rows(&NAMED, &[&names, &keys, &parts]).await?;
        Ok(rows.iter().map(|row| row.get("name")).collect())
    }
}

impl Reader {
    /// Returns a blob if a message that the reader can see refers to it. Errors: `BlobNotFound`.
    pub async fn blob(&self, id: &BlobId, reader: &Did) -> Result<ReadableBlob, Error> {
        let row = self.find(&FIND, &[&id.as_str(), &reader.as_str()]).await?.ok_or_else(not_found)?;
        Ok(ReadableBlob { bytes: row.get("size_bytes"), sha256: row.get("sha256") })
    }

    /// Returns the number of a person's uploads that are not complete, and the bytes of a conversation's blobs, if one is named.
    pub async fn blob_usage(&self, did: &Did, convo: Option<&ConvoId>) -> Result<(i64, i64), Error> {
        let row = self.find(&USAGE, &[&did.as_str(), &convo.map(ConvoId::as_str)]).await?;
        let usage = |row: Row| (row.get("uploads"), row.get("bytes"));
        Ok(usage(row.expect("a select without FROM returns one row")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_a_blob() {
        for (bytes, part_bytes, sizes) in
            [(10, 4, vec![4, 4, 2]), (8, 4, vec![4, 4]), (3, 4, vec![3]), (4, 4, vec![4]), (5, 4, vec![4, 1])]
        {
            let found: Vec<i64> = (1..).map_while(|part| part_size(bytes, part_bytes, part)).collect();
            assert_eq!(found, sizes, "{bytes} bytes in parts of {part_bytes}");
            assert_eq!(parts(bytes, part_bytes), sizes.len() as i64);
        }
        assert_eq!(part_size(10, 4, 0), None);
        assert_eq!(part_size(10, 4, -1), None);
    }

    #[test]
    fn names_of_objects_are_parsed_back_and_others_are_not() {
        let id = BlobId::random().unwrap();
        assert_eq!(parse_object(&object(&id)), Some((id.clone(), None)));
        assert_eq!(parse_object(&part_object(&id, 17)), Some((id.clone(), Some(17))));
        for other in [format!("blobs/zz/{id}"), format!("parts/{id}/017"), format!("parts/{id}"), "x".to_owned()] {
            assert_eq!(parse_object(&other), None, "{other}");
        }
    }
}
