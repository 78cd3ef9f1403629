//! createBlobUpload: a member begins an upload in parts, which survives bad networks.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::api::blob;
use crate::app::App;
use crate::error::{Code, Error};
use crate::ids::{BlobId, ConvoId};
use crate::store::blobs::{MAX_BLOB_BYTES, MIN_PART_BYTES, parts};
use crate::wire::datetime;
use crate::xrpc::{Caller, Endpoint, Kind};

pub struct CreateBlobUpload;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "convo_id")]
    convo_id: ConvoId,
    size: u64,
    #[serde(alias = "part_size")]
    part_size: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    blob_id: BlobId,
    parts: i64,
    #[serde(serialize_with = "datetime")]
    expires_at: DateTime<Utc>,
}

impl Endpoint for CreateBlobUpload {
    const LEXICON: &'static str = include_str!("create_blob_upload.json");
    const KIND: Kind = Kind::Procedure;
    const ERRORS: &'static [Code] = &[Code::ConvoNotFound, Code::NotMember, Code::BlobTooLarge, Code::QuotaExceeded];

    type Input = Input;
    type Output = Output;

    fn convo(input: &mut Input) -> Option<&mut ConvoId> {
        Some(&mut input.convo_id)
    }

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        let size = blob::size(input.size)?;
        let part_size = i64::try_from(input.part_size).ok();
        let part_size = part_size.filter(|size| (MIN_PART_BYTES..=MAX_BLOB_BYTES).contains(size)).ok_or_else(|| {
            Code::InvalidRequest.because(format!("partSize must be from {MIN_PART_BYTES} to {MAX_BLOB_BYTES}"))
        })?;
        let (blob_id, expires_at) = blob::begin(app, caller, input.convo_id, size, Some(part_size)).await?;
        Ok(Output { blob_id, parts: parts(size, part_size), expires_at })
    }
}
