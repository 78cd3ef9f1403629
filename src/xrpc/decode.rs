//! From a query string or a body to an endpoint's input. Unknown fields are ignored; everything else that is not as the
//! lexicon has it is `InvalidRequest`, with the place where it went wrong.

use std::borrow::Cow;
use std::time::Duration;

use actix_web::http::header::{self, HeaderMap};
use actix_web::web::Payload;
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::error::{Code, Error, MAX_MESSAGE_BYTES};
use crate::ids::Did;
use crate::timing::wait_for_client;

use super::heavy::LARGE;
use super::intake::Intake;
use super::metrics::{Memory, XrpcMetrics};
use super::room::{Full, Room, SMALL_BYTES, Share, Size};

/// Most bytes of a body: a commit and a Welcome of 7 MiB each in base64, and their frame.
pub const MAX_BODY_BYTES: usize = 20 * 1024 * 1024;
/// Most bytes of all bodies together that are being read or worked on.
pub const BODIES: Size = Size { small: 64 * 1024 * 1024, large: 448 * 1024 * 1024 };
/// Most bodies of one caller that are on their way.
pub const MAX_ARRIVING: usize = 256;
/// Most bytes of a query string: a hundred DIDs of the greatest length. It stays below the 65,534 bytes of a whole URI, which is
/// where the HTTP library refuses in words of its own.
pub const MAX_QUERY_BYTES: usize = 60 * 1024;
/// The slowest that bodies may come and replies may be taken, in bytes per second: a quarter of a megabit per second.
pub const MIN_RATE: u64 = 32 * 1024;
/// How long a body may take beyond what it needs at that rate.
const BODY_GRACE: Duration = Duration::from_secs(20);

/// Decodes a query string; repeated keys make a list.
pub fn query<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    if text.len() > MAX_QUERY_BYTES {
        return Err(Code::InvalidRequest.because(format!("the query string has more than {MAX_QUERY_BYTES} bytes")));
    }
    let deserializer = serde_html_form::Deserializer::from_bytes(text.as_bytes());
    serde_path_to_error::deserialize(deserializer)
        .map_err(|e| invalid("parameters", &e.path().to_string(), &e.inner().to_string()))
}

/// Refuses a body that is said to be something else than JSON. One of which nothing is said is taken for JSON, and so is what `curl -d`
/// says where it is told nothing.
pub fn content_type(headers: &HeaderMap) -> Result<(), Error> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let named = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    match ["application/json", "application/x-www-form-urlencoded"]
        .iter()
        .any(|known| named.eq_ignore_ascii_case(known))
    {
        true => Ok(()),
        false => Err(Code::InvalidRequest.because("the body has to be JSON, and Content-Type application/json")),
    }
}

/// Decodes a JSON body. None at all is an object without fields.
pub fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let bytes = if bytes.is_empty() { b"{}" } else { bytes };
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

/// What was wrong and where. The reply must not grow with what was sent, nor repeat it.
fn invalid(what: &str, path: &str, why: &str) -> Error {
    let why = without_value(why);
    // The name of an unknown field may be as long as the body.
    let why = plainly(&why[..why.floor_char_boundary(MAX_MESSAGE_BYTES)]);
    match path {
        "." | "?" => Code::InvalidRequest.because(format!("{what}: {why}")),
        path => Code::InvalidRequest.because(format!("{what}, at {path}: {why}")),
    }
}

/// What serde says, without the value that it quotes in between.
fn without_value(why: &str) -> Cow<'_, str> {
    let kind = ["invalid type: ", "invalid value: ", "unknown variant "].iter().find(|kind| why.starts_with(**kind));
    let (Some(kind), Some(expected)) = (kind, why.rfind(", expected ")) else { return why.into() };
    let quoted = why[..expected].find(['"', '`']).unwrap_or(expected).max(kind.len());
    format!("{}{}", why[..quoted].trim_end(), &why[expected..]).into()
}

/// What the libraries say in terms of their own, and how people say it who do not know Rust.
const PLAINLY: [(&str, &str); 18] = [
    ("expected i64", "expected a whole number"),
    ("expected u64", "expected a whole number"),
    ("expected i32", "expected a whole number"),
    ("expected u32", "expected a whole number"),
    ("expected a map", "expected an object"),
    ("expected a sequence", "expected a list"),
    ("invalid type: map", "invalid type: object"),
    ("invalid type: sequence", "invalid type: list"),
    ("invalid type: floating point", "invalid type: fraction"),
    ("invalid type: unit value", "invalid type: nothing"),
    ("unknown variant", "unknown word"),
    ("invalid digit found in string", "it must be a whole number"),
    ("cannot parse integer from empty string", "it must be a whole number"),
    ("number too large to fit in target type", "the number is too large"),
    ("number too small to fit in target type", "the number is too small"),
    ("provided string was not `true` or `false`", "it must be true or false"),
    ("unsupported value", "it must be there once"),
    ("number out of range", "the number is too large"),
];

fn plainly(why: &str) -> String {
    let mut why = PLAINLY.iter().fold(why.to_owned(), |why, (theirs, ours)| why.replace(theirs, ours));
    const STRUCT: &str = "expected struct ";
    if let Some(at) = why.find(STRUCT) {
        let name = why[at + STRUCT.len()..].find(' ').map_or(why.len(), |end| at + STRUCT.len() + end);
        why.replace_range(at..name, "expected an object");
    }
    why
}

/// The memory that bodies share. Cheap to clone.
#[derive(Clone)]
pub struct BodyRoom {
    room: Room,
    metrics: XrpcMetrics,
}

/// A body with its share of the memory.
pub(super) struct Body {
    /// In blocks of [`LARGE`] bytes and a rest. To make one piece of them touches as much new memory as there is, which takes a kernel
    /// milliseconds, so that is left to whoever decodes it.
    blocks: Vec<Vec<u8>>,
    share: Share,
}

impl Body {
    pub(super) fn is_large(&self) -> bool {
        self.blocks.len() > 1
    }

    /// All of it in one piece, and its share apart.
    pub(super) fn into_parts(mut self) -> (Vec<u8>, Share) {
        if !self.is_large() {
            return (self.blocks.pop().unwrap_or_default(), self.share);
        }
        let mut bytes = Vec::with_capacity(self.blocks.iter().map(Vec::len).sum());
        self.blocks.into_iter().for_each(|block| bytes.extend_from_slice(&block));
        (bytes, self.share)
    }
}

impl BodyRoom {
    pub fn new(metrics: XrpcMetrics) -> Self {
        Self { room: Room::new(BODIES), metrics }
    }

    /// Reads a caller's body, as far as it may go, and takes memory for it as it comes. Beyond [`LARGE`] bytes it is read when its caller
    /// has a turn for it; of one that is announced to be larger nothing is read before.
    pub(super) async fn read(
        &self,
        caller: &Did,
        announced: Option<usize>,
        payload: Payload,
        intake: &mut Intake<'_>,
    ) -> Result<Body, Error> {
        let too_large = || Code::PayloadTooLarge.because(format!("the body has more than {MAX_BODY_BYTES} bytes"));
        let most = announced.unwrap_or(MAX_BODY_BYTES);
        if most > MAX_BODY_BYTES {
            return Err(too_large());
        }
        let mut is_large = announced.is_some_and(|bytes| bytes > LARGE);
        if is_large {
            intake.large().await?;
        }
        let arriving = self.room.arriving(caller, MAX_ARRIVING);
        let mut share = arriving.map_err(|full| {
            self.metrics.memory_full(Memory::Bodies, full);
            Code::RateLimitExceeded
                .because(format!("{MAX_ARRIVING} bodies of yours are still on their way; nothing was changed"))
        })?;
        let mut payload = payload;
        let (mut blocks, mut arrived, mut room) = (vec![Vec::new()], 0, 0);
        let mut begun = Instant::now();
        loop {
            let deadline = begun + BODY_GRACE + time_for(arrived);
            let chunk = wait_for_client(tokio::time::timeout_at(deadline, payload.next())).await.map_err(|_| {
                Code::InvalidRequest
                    .because(format!("the body came more slowly than {} KiB per second", MIN_RATE / 1024))
            })?;
            let Some(chunk) = chunk else { break };
            let chunk =
                chunk.map_err(|e| Code::InvalidRequest.because(format!("the body did not arrive whole: {e}")))?;
            let length = arrived + chunk.len();
            if length > MAX_BODY_BYTES {
                return Err(too_large());
            }
            if length > most {
                return Err(Code::InvalidRequest.because("the body is longer than was announced"));
            }
            let waiting = Instant::now();
            if length > LARGE && !is_large {
                is_large = true;
                intake.large().await?;
            }
            // The rest is still to be sent, so nobody waits for an answer yet.
            wait_for_client(intake.received(length)).await;
            // The client need not make up for that.
            begun += waiting.elapsed();
            if length > room {
                // What was announced may never come, so it is not believed beyond the first bytes.
                room = length.next_power_of_two().max(SMALL_BYTES).min(most);
                share.grow_to(room).map_err(|full| self.refusal(full))?;
            }
            append(&mut blocks, &chunk);
            arrived = length;
        }
        share.arrived();
        Ok(Body { blocks, share })
    }

    fn refusal(&self, full: Full) -> Error {
        self.metrics.memory_full(Memory::Bodies, full);
        match full {
            Full::Caller => Code::RateLimitExceeded
                .because("your requests that are being worked on are too large together; nothing was changed"),
            Full::Room => Code::Overloaded.because("too many large requests are being worked on; nothing was changed"),
        }
    }
}

/// Appends bytes to blocks, of which all but the last one are full.
fn append(blocks: &mut Vec<Vec<u8>>, mut bytes: &[u8]) {
    while let Some(block) = blocks.last_mut().filter(|_| !bytes.is_empty()) {
        let (part, rest) = bytes.split_at(bytes.len().min(LARGE - block.len()));
        block.extend_from_slice(part);
        bytes = rest;
        if !rest.is_empty() {
            blocks.push(Vec::with_capacity(LARGE));
        }
    }
}

/// How long so many bytes may take at the smallest rate.
pub fn time_for(bytes: usize) -> Duration {
    Duration::from_millis((bytes as u64).saturating_mul(1_000) / MIN_RATE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Epoch {
        #[allow(dead_code, reason = "only its refusal is looked at")]
        epoch: i64,
    }

    #[test]
    fn a_refusal_says_what_was_expected_and_nothing_of_what_was_sent() {
        for value in ["\u{e000}".repeat(100_000), ", expected ".repeat(10_000), "`\"".repeat(1_000)] {
            let body = serde_json::json!({ "epoch": value }).to_string();
            let error = super::body::<Epoch>(body.as_bytes()).unwrap_err();
            let told = "body, at epoch: invalid type: string, expected a whole number at line 1 column ";
            assert!(error.message.starts_with(told), "{}", error.message);
        }
        let number = super::body::<Epoch>(br#"{"epoch":123456789.5}"#).unwrap_err();
        assert!(!number.message.contains("123456789"), "{}", number.message);
        let query = super::query::<Epoch>("epoch=secret").unwrap_err();
        assert!(!query.message.contains("secret"), "{}", query.message);
    }

    #[test]
    fn a_body_is_json_unless_it_is_said_to_be_something_else() {
        let said = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(value));
            content_type(&headers).map_err(|error| error.code)
        };
        assert!(content_type(&HeaderMap::new()).is_ok());
        for good in ["application/json", "Application/JSON; charset=utf-8", "application/x-www-form-urlencoded"] {
            assert_eq!(said(good), Ok(()), "{good}");
        }
        for bad in
            ["", "text/plain", "application/cbor", "application/jsonp", "multipart/form-data; boundary=x", "json"]
        {
            assert_eq!(said(bad), Err(Code::InvalidRequest), "{bad}");
        }
    }

    #[test]
    fn a_body_is_whole_however_it_came() {
        let bytes: Vec<u8> = (0..2 * LARGE + 5).map(|n| (n % 251) as u8).collect();
        for (length, large) in [(0, false), (1, false), (LARGE, false), (LARGE + 1, true), (2 * LARGE + 5, true)] {
            for size in [1_000, LARGE - 1, LARGE, 3 * LARGE] {
                let mut blocks = vec![Vec::new()];
                bytes[..length].chunks(size).for_each(|chunk| append(&mut blocks, chunk));
                let share = Room::new(BODIES).share(&"did:plc:a".parse().unwrap());
                let body = Body { blocks, share };
                assert_eq!(body.is_large(), large, "{length} bytes in pieces of {size}");
                assert!(body.into_parts().0 == bytes[..length], "{length} bytes in pieces of {size}");
            }
        }
    }

    #[test]
    fn ten_megabytes_at_half_a_megabit_per_second_are_in_time() {
        let bytes = 14 * 1024 * 1024;
        let taken = Duration::from_secs_f64(bytes as f64 * 8.0 / 500_000.0);
        assert!(taken < BODY_GRACE + time_for(bytes), "{taken:?}");
    }
}
