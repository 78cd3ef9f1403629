//! getBlobUpload: how far an upload of the caller is, so that it continues after an interruption.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::error::{Code, Error};
use crate::hex;
use crate::ids::BlobId;
use crate::store::blobs;
use crate::wire::datetime;
use crate::xrpc::{Caller, Endpoint, Kind};

pub struct GetBlobUpload;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "blob_id")]
    blob_id: BlobId,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    blob_id: BlobId,
    size: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    part_size: Option<i64>,
    parts: Vec<i32>,
    complete: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    #[serde(serialize_with = "datetime")]
    expires_at: DateTime<Utc>,
}

impl Endpoint for GetBlobUpload {
    const LEXICON: &'static str = include_str!("get_blob_upload.json");
    const KIND: Kind = Kind::Query;
    const ERRORS: &'static [Code] = &[Code::UploadNotFound];

    type Input = Input;
    type Output = Output;

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        let upload = blobs::upload(&app.store.reader().await?, &input.blob_id, &caller.did).await?;
        Ok(Output {
            blob_id: input.blob_id,
            size: upload.bytes,
            part_size: upload.part_bytes,
            parts: upload.parts,
            complete: upload.sha256.is_some(),
            sha256: upload.sha256.as_deref().map(hex::encode),
            expires_at: upload.expires_at,
        })
    }
}
