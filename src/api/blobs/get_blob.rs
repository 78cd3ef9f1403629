//! getBlob: the bytes of a blob, for members that can see a message that refers to it.

use std::time::Duration;

use actix_web::web::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::app::App;
use crate::error::{Code, Error};
use crate::hex;
use crate::ids::BlobId;
use crate::store::blobs::{ReadableBlob, object};
use crate::xrpc::{Caller, Content, Download, Endpoint, Kind, ReplyKind, Source};

pub struct GetBlob;

/// Time for which an address at the blob store can be read by whoever has it. A member that is removed can read the blob for so long.
const ADDRESS_LIFETIME: Duration = Duration::from_secs(60);
/// Media type of every blob: what is encrypted has no other.
const MEDIA_TYPE: &str = "application/octet-stream";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "blob_id")]
    blob_id: BlobId,
}

impl Endpoint for GetBlob {
    const LEXICON: &'static str = include_str!("get_blob.json");
    const KIND: Kind = Kind::Query;
    const ERRORS: &'static [Code] = &[Code::BlobNotFound, Code::RangeNotSatisfiable, Code::BlobStoreUnavailable];

    type Input = Input;
    type Output = Download;

    fn reply_kind(_: &Download) -> ReplyKind {
        ReplyKind::Data
    }

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Download, Error> {
        let id = input.blob_id;
        let ReadableBlob { bytes, sha256 } = app.store.reader().await?.blob(&id, &caller.did).await?;
        let size = bytes.unsigned_abs();
        let content = Content { size, tag: hex::encode(&sha256), media_type: MEDIA_TYPE.to_owned() };
        let open = async |range: std::ops::Range<u64>| {
            let name = object(&id);
            if app.config.blob_redirect
                && let Some(address) = app.objects.address(&name, ADDRESS_LIFETIME).await?
            {
                return Ok(Source::At(address.to_string()));
            }
            let is_whole = range == (0..size);
            let reading = app.objects.read(&name, Some(range)).await?;
            let reading = reading.filter(|reading| reading.size == size).ok_or_else(|| {
                tracing::error!(
                    "the blob store does not have the bytes of a blob; catbird-server check lists such blobs"
                );
                Code::BlobStoreUnavailable.because("the blob store does not have the bytes of this blob at present")
            })?;
            let stream = if is_whole { verified(reading.stream, sha256.clone()) } else { reading.stream };
            Ok(Source::Here(stream))
        };
        Download::of(app, caller, content, open).await
    }
}

/// A stream whose last piece is sent only if all bytes have this SHA-256. So a client that got all bytes got the right ones.
fn verified(
    pieces: BoxStream<'static, Result<Bytes, Error>>,
    sha256: Vec<u8>,
) -> BoxStream<'static, Result<Bytes, Error>> {
    struct State {
        pieces: BoxStream<'static, Result<Bytes, Error>>,
        hash: Sha256,
        held: Option<Bytes>,
        sha256: Vec<u8>,
    }
    let state = State { pieces, hash: Sha256::new(), held: None, sha256 };
    let next = async |state: Option<State>| {
        let mut state = state?;
        loop {
            match state.pieces.next().await {
                Some(Ok(piece)) => {
                    state.hash.update(&piece);
                    if let Some(before) = state.held.replace(piece) {
                        return Some((Ok(before), Some(state)));
                    }
                }
                Some(Err(error)) => return Some((Err(error), None)),
                None if state.hash.finalize().as_slice() == state.sha256 => {
                    return state.held.map(|last| (Ok(last), None));
                }
                None => {
                    let wrong =
                        Code::BlobStoreUnavailable.because("the blob store has sent other bytes than it was given");
                    return Some((Err(wrong), None));
                }
            }
        }
    };
    stream::unfold(Some(state), next).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sent(pieces: &[&'static str], of: &str) -> (String, bool) {
        let pieces: Vec<_> = pieces.iter().map(|piece| Ok(Bytes::from(*piece))).collect();
        let mut stream = verified(stream::iter(pieces).boxed(), Sha256::digest(of).to_vec());
        let mut sent = String::new();
        while let Some(piece) = stream.next().await {
            match piece {
                Ok(piece) => sent.push_str(std::str::from_utf8(&piece).unwrap()),
                Err(_) => return (sent, false),
            }
        }
        (sent, true)
    }

    #[tokio::test]
    async fn the_last_piece_is_sent_only_if_all_bytes_are_right() {
        assert_eq!(sent(&["one ", "two ", "three"], "one two three").await, ("one two three".to_owned(), true));
        assert_eq!(sent(&["one"], "one").await, ("one".to_owned(), true));
        assert_eq!(sent(&["one ", "twO ", "three"], "one two three").await, ("one twO ".to_owned(), false));
        assert_eq!(sent(&["one ", "two "], "one two three").await, ("one ".to_owned(), false));
        assert_eq!(sent(&[], "one").await, (String::new(), false));
    }
}
