//! uploadBlobPart: the caller sends one part of an upload. A part that is sent again replaces the one before.

use serde::{Deserialize, Serialize};

use crate::api::blob::{self, Hash};
use crate::app::App;
use crate::commands::{BeginPart, StorePart};
use crate::error::{Code, Error};
use crate::hex;
use crate::ids::BlobId;
use crate::store::blobs::{MAX_BLOB_BYTES, part_object};
use crate::xrpc::{Caller, Upload, UploadBody};

pub struct UploadBlobPart;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "blob_id")]
    blob_id: BlobId,
    part: i32,
    sha256: Option<Hash>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    part: i32,
    size: i64,
    sha256: String,
}

impl Upload for UploadBlobPart {
    const LEXICON: &'static str = include_str!("upload_blob_part.json");
    const ERRORS: &'static [Code] =
        &[Code::UploadNotFound, Code::BlobTooLarge, Code::BlobMismatch, Code::BlobStoreUnavailable];
    const MAX_BYTES: u64 = MAX_BLOB_BYTES as u64;
    const TOO_LARGE: Code = Code::BlobTooLarge;

    type Input = Input;
    type Output = Output;

    async fn call(app: &App, caller: &Caller, input: Input, body: UploadBody) -> Result<Output, Error> {
        let Input { blob_id: id, part, sha256: announced } = input;
        let size = app.store.transact(BeginPart { id: id.clone(), owner: caller.did.clone(), part }).await?;
        if i64::try_from(body.length) != Ok(size) {
            return Err(Code::InvalidRequest.because(format!("part {part} of this upload has {size} bytes")));
        }
        let sha256 = blob::receive(app, &part_object(&id, part), body).await?;
        blob::check(announced, &sha256)?;
        app.store.transact(StorePart { id, part }).await?;
        Ok(Output { part, size, sha256: hex::encode(&sha256) })
    }
}
