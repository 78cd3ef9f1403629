//! Objects in a folder: a file for each. A file is written under another name, flushed, and renamed; then its folder is flushed. So an
//! object that was acknowledged survives a loss of power, and a half-written one is never seen.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use hyper::body::Bytes;
use nix::unistd::{AccessFlags, access};
use object_store::local::LocalFileSystem;
use object_store::{Error, GetOptions, GetRange, GetResultPayload, MultipartUpload, ObjectStore, ObjectStoreExt};
use tokio::task::spawn_blocking;

use super::failure::Failure;
use super::reading::Opened;
use super::{Listed, PIECE, parse};

/// The folder. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    store: LocalFileSystem,
    root: PathBuf,
}

impl Folder {
    /// Creates the folder, for this account only, if there is none.
    pub fn open(root: &FilePath) -> Result<Self, String> {
        let created = fs::DirBuilder::new().recursive(true).mode(0o700).create(root);
        created.map_err(|cause| format!("the folder {} cannot be created: {cause}", root.display()))?;
        let allowed = access(root, AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK);
        allowed.map_err(|cause| format!("the folder {} cannot be written: {cause}", root.display()))?;
        let store = LocalFileSystem::new_with_prefix(root).map_err(|cause| cause.to_string())?;
        Ok(Self { store: store.with_fsync(true).with_automatic_cleanup(true), root: root.to_owned() })
    }

    /// Begins to write an object.
    pub async fn put(&self, name: &str) -> Result<Box<dyn MultipartUpload>, Failure> {
        Ok(self.store.put_multipart(&parse(name)?).await?)
    }

    /// Opens an object. `None`: there is none.
    pub async fn read(&self, name: &str, range: Option<Range<u64>>) -> Result<Option<Opened>, Failure> {
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        let result = match self.store.get_opts(&parse(name)?, options).await {
            Ok(result) => result,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let (size, range, version) = (result.meta.size, result.range.clone(), result.meta.e_tag.clone());
        let pieces = match result.payload {
            GetResultPayload::File(file, _) => pieces(file, range.clone()),
            GetResultPayload::Stream(pieces) => pieces.map_err(Failure::from).boxed(),
        };
        Ok(Some(Opened { size, range, version, pieces }))
    }

    /// Returns the size of an object. `None`: there is none.
    pub async fn size(&self, name: &str) -> Result<Option<u64>, Failure> {
        match self.store.head(&parse(name)?).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes an object, if there is one, and folders that are empty then.
    pub async fn delete(&self, name: &str) -> Result<(), Failure> {
        match self.store.delete(&parse(name)?).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Lists the objects whose names begin so, up to a slash.
    pub fn list(&self, prefix: &str) -> BoxStream<'static, Result<Listed, Failure>> {
        let prefix = match parse(prefix.trim_end_matches('/')) {
            Ok(prefix) => prefix,
            Err(failure) => return stream::once(async { Err(failure) }).boxed(),
        };
        let listed = self.store.list(Some(&prefix)).map_ok(|object| Listed {
            name: object.location.into(),
            size: object.size,
            modified: object.last_modified,
        });
        listed.map_err(Failure::from).boxed()
    }

    /// Deletes the files of objects that were begun and not finished, and not written since. Returns their number.
    pub async fn delete_unfinished(&self, since: DateTime<Utc>) -> Result<u64, Failure> {
        let root = self.root.clone();
        let deleted = spawn_blocking(move || delete_unfinished(&root, since)).await;
        deleted.map_err(io::Error::other).and_then(|deleted| deleted).map_err(|cause| Failure::new(cause.to_string()))
    }
}

/// The bytes of a range of a file. A file that is shorter ends early.
fn pieces(file: File, range: Range<u64>) -> BoxStream<'static, Result<Bytes, Failure>> {
    let file = Arc::new(file);
    let rest = stream::try_unfold((file, range), async |(file, Range { start, end })| {
        let next = usize::try_from(end - start).unwrap_or(PIECE).min(PIECE);
        let reading = file.clone();
        let read = spawn_blocking(move || {
            let mut piece = vec![0; next];
            let read = reading.read_at(&mut piece, start)?;
            piece.truncate(read);
            Ok(piece)
        });
        match read.await.map_err(io::Error::other).and_then(|read| read) {
            Ok(piece) if piece.is_empty() => Ok(None),
            Ok(piece) => {
                let start = start + piece.len() as u64;
                Ok(Some((Bytes::from(piece), (file, start..end))))
            }
            Err(cause) => Err(Failure::new(cause.to_string())),
        }
    });
    rest.boxed()
}

/// Deletes unfinished files in a folder and those in it.
fn delete_unfinished(folder: &FilePath, since: DateTime<Utc>) -> io::Result<u64> {
    let mut deleted = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            // Another deletion may have removed it.
            deleted += ignore_missing(delete_unfinished(&entry.path(), since))?.unwrap_or(0);
        } else if is_unfinished(&entry.file_name().to_string_lossy())
            && let Some(file) = ignore_missing(entry.metadata())?
            && DateTime::<Utc>::from(file.modified()?) < since
        {
            deleted += u64::from(ignore_missing(fs::remove_file(entry.path()))?.is_some());
        }
    }
    Ok(deleted)
}

/// Returns true for the names under which `LocalFileSystem` writes: those of the object, `#`, and a number.
fn is_unfinished(name: &str) -> bool {
    name.rsplit_once('#').is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

fn ignore_missing<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(cause),
    }
}
