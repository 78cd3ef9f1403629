//! From a query string or a body to an endpoint's input. Unknown fields are ignored; everything else that is not as the
//! lexicon has it is `InvalidRequest`, with the place where it went wrong.

use std::sync::Arc;
use std::time::Duration;

use actix_web::web::{BytesMut, Payload};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Code, Error};

/// Most bytes of a body: a commit and a Welcome of 10 MiB each in base64, and their frame.
pub const MAX_BODY_BYTES: usize = 32 * 1024 * 1024;
/// Most bytes of all bodies together that are being read or worked on.
pub const MAX_BODIES_BYTES: usize = 512 * 1024 * 1024;
/// Most bytes of a query string: a hundred DIDs of the greatest length. It stays below the 65,534 bytes of a whole URI, which is
/// where the HTTP library refuses in words of its own.
pub const MAX_QUERY_BYTES: usize = 60 * 1024;
/// How long a body may take to arrive.
pub const BODY_TIME: Duration = Duration::from_secs(60);

/// Decodes a query string; repeated keys make a list.
pub fn query<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    if text.len() > MAX_QUERY_BYTES {
        return Err(Code::InvalidRequest.because(format!("the query string has more than {MAX_QUERY_BYTES} bytes")));
    }
    let deserializer = serde_html_form::Deserializer::from_bytes(text.as_bytes());
    serde_path_to_error::deserialize(deserializer)
        .map_err(|e| invalid("parameters", &e.path().to_string(), &e.inner().to_string()))
}

/// Decodes a JSON body. The content type is not looked at: the method says what the body is.
pub fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    // A list of the fields' values in their order would do for serde.
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(invalid("body", ".", "it must be a JSON object"));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let input = serde_path_to_error::deserialize(&mut deserializer)
        .map_err(|e| invalid("body", &e.path().to_string(), &e.inner().to_string()))?;
    deserializer.end().map_err(|e| invalid("body", ".", &e.to_string()))?;
    Ok(input)
}

fn invalid(what: &str, path: &str, why: &str) -> Error {
    match path {
        "." | "?" => Code::InvalidRequest.because(format!("{what}: {why}")),
        path => Code::InvalidRequest.because(format!("{what}, at {path}: {why}")),
    }
}

/// The memory that bodies share. Cheap to clone.
#[derive(Clone)]
pub struct BodyRoom(Arc<Semaphore>);

/// The unit in which it is shared out.
const UNIT: usize = 64 * 1024;

impl Default for BodyRoom {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_BODIES_BYTES / UNIT)))
    }
}

/// A body with its share of the memory.
pub(super) struct Body {
    pub(super) bytes: BytesMut,
    _share: OwnedSemaphorePermit,
}

impl BodyRoom {
    /// Reads a body, as far as it may go. One that does not announce its length takes the share of the largest.
    pub(super) async fn read(&self, announced: Option<usize>, payload: Payload) -> Result<Body, Error> {
        let too_large = || Code::PayloadTooLarge.because(format!("the body has more than {MAX_BODY_BYTES} bytes"));
        let most = announced.unwrap_or(MAX_BODY_BYTES);
        if most > MAX_BODY_BYTES {
            return Err(too_large());
        }
        let units = u32::try_from(most / UNIT + 1).map_err(Error::internal)?;
        let share = self.0.clone().try_acquire_many_owned(units).map_err(|_| {
            Code::Overloaded.because("too many large requests are being worked on; nothing was changed")
        })?;
        let reading = async {
            let mut payload = payload;
            // What was announced may never come, so it is not believed beyond one unit.
            let mut bytes = BytesMut::with_capacity(most.min(UNIT));
            while let Some(chunk) = payload.next().await {
                let chunk =
                    chunk.map_err(|e| Code::InvalidRequest.because(format!("the body did not arrive whole: {e}")))?;
                if bytes.len() + chunk.len() > MAX_BODY_BYTES {
                    return Err(too_large());
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(Body { bytes, _share: share })
        };
        tokio::time::timeout(BODY_TIME, reading).await.unwrap_or_else(|_| {
            Err(Code::InvalidRequest.because(format!("the body took longer than {} s", BODY_TIME.as_secs())))
        })
    }
}
