//! completeBlobUpload: the caller has sent all parts of an upload, which become one blob.

use serde::Deserialize;

use crate::api::blob::{self, Hash, Stored};
use crate::app::App;
use crate::commands::StoreBlob;
use crate::error::{Code, Error};
use crate::ids::BlobId;
use crate::store::blobs::{self, StoredBlob, Upload, object, part_object, part_size, parts};
use crate::timing::DeadlinePause;
use crate::xrpc::{Caller, Endpoint, Kind};

pub struct CompleteBlobUpload;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "blob_id")]
    blob_id: BlobId,
    sha256: Hash,
}

impl Endpoint for CompleteBlobUpload {
    const LEXICON: &'static str = include_str!("complete_blob_upload.json");
    const KIND: Kind = Kind::Procedure;
    const ERRORS: &'static [Code] =
        &[Code::UploadNotFound, Code::UploadIncomplete, Code::BlobMismatch, Code::BlobStoreUnavailable];

    type Input = Input;
    type Output = Stored;

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Stored, Error> {
        let Input { blob_id: id, sha256: announced } = input;
        let upload = blobs::upload(&app.store.reader().await?, &id, &caller.did).await?;
        if let Upload { bytes, sha256: Some(sha256), expires_at, .. } = upload {
            let stored = StoredBlob { bytes, sha256, expires_at };
            return match stored.sha256 == announced.0 {
                true => Ok(Stored::new(id, &stored)),
                false => Err(Code::BlobMismatch.because("the upload was completed with another sha256")),
            };
        }
        let pieces = pieces(&id, &upload)?;
        // It takes as long as the blob store needs for the bytes, which has limits of its own.
        let pause = DeadlinePause::begin();
        let sha256 = app.objects.join(&pieces, &object(&id), &announced.0).await?;
        drop(pause);
        blob::check(Some(announced), &sha256)?;
        let stored = app.store.transact(StoreBlob { id: id.clone(), owner: caller.did.clone(), sha256 }).await?;
        Ok(Stored::new(id, &stored))
    }
}

/// Returns the objects of all parts with their sizes. Errors: `UploadIncomplete` names the first missing part.
fn pieces(id: &BlobId, upload: &Upload) -> Result<Vec<(String, u64)>, Error> {
    let part_bytes = upload.part_bytes.ok_or_else(|| {
        Code::UploadIncomplete.because("this blob was uploaded in one request, which has not been completed")
    })?;
    let all = 1..=parts(upload.bytes, part_bytes);
    if let Some(missing) = all.clone().find(|part| !upload.parts.iter().any(|stored| i64::from(*stored) == *part)) {
        return Err(
            Code::UploadIncomplete.because(format!("part {missing} is missing; getBlobUpload lists the others"))
        );
    }
    let piece = |part: &i32| Some((part_object(id, *part), part_size(upload.bytes, part_bytes, *part)?.unsigned_abs()));
    Ok(upload.parts.iter().filter_map(piece).collect())
}
