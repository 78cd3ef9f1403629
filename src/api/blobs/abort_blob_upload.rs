//! abortBlobUpload: the caller gives up an upload that is not complete.

use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::commands::AbortBlob;
use crate::error::{Code, Error};
use crate::ids::BlobId;
use crate::xrpc::{Caller, Endpoint, Kind};

pub struct AbortBlobUpload;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "blob_id")]
    blob_id: BlobId,
}

#[derive(Serialize)]
pub struct Output {
    aborted: bool,
}

impl Endpoint for AbortBlobUpload {
    const LEXICON: &'static str = include_str!("abort_blob_upload.json");
    const KIND: Kind = Kind::Procedure;
    const ERRORS: &'static [Code] = &[];

    type Input = Input;
    type Output = Output;

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        let aborted = app.store.transact(AbortBlob { id: input.blob_id, owner: caller.did.clone() }).await?;
        Ok(Output { aborted })
    }
}
