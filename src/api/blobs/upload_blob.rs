//! uploadBlob: a member uploads an encrypted blob in one request.

use serde::Deserialize;

use crate::api::blob::{self, Hash, Stored};
use crate::app::App;
use crate::commands::{AbortBlob, StoreBlob};
use crate::error::{Code, Error};
use crate::ids::ConvoId;
use crate::store::blobs::{MAX_BLOB_BYTES, object};
use crate::xrpc::{Caller, Upload, UploadBody};

pub struct UploadBlob;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "convo_id")]
    convo_id: ConvoId,
    sha256: Option<Hash>,
}

impl Upload for UploadBlob {
    const LEXICON: &'static str = include_str!("upload_blob.json");
    const ERRORS: &'static [Code] = &[
        Code::ConvoNotFound,
        Code::NotMember,
        Code::BlobTooLarge,
        Code::BlobMismatch,
        Code::QuotaExceeded,
        Code::BlobStoreUnavailable,
    ];
    const MAX_BYTES: u64 = MAX_BLOB_BYTES as u64;
    const TOO_LARGE: Code = Code::BlobTooLarge;

    type Input = Input;
    type Output = Stored;

    fn convo(input: &mut Input) -> Option<&mut ConvoId> {
        Some(&mut input.convo_id)
    }

    async fn call(app: &App, caller: &Caller, input: Input, body: UploadBody) -> Result<Stored, Error> {
        let size = blob::size(body.length)?;
        let (id, _) = blob::begin(app, caller, input.convo_id, size, None).await?;
        let owner = caller.did.clone();
        let arrived = async {
            let sha256 = blob::receive(app, &object(&id), body).await?;
            blob::check(input.sha256, &sha256)?;
            Ok(sha256)
        };
        match arrived.await {
            Ok(sha256) => {
                let stored = app.store.transact(StoreBlob { id: id.clone(), owner, sha256 }).await?;
                Ok(Stored::new(id, &stored))
            }
            Err(error) => {
                // It frees the caller's place at once. If it fails, or the client has gone away, the upload expires.
                if let Err(error) = app.store.transact(AbortBlob { id, owner }).await {
                    tracing::debug!(%error, "a failed upload was not aborted");
                }
                Err(error)
            }
        }
    }
}
