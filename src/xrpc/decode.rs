//! Decoding of a query string or a body into the input of an endpoint. Unknown fields are ignored. Any other deviation
//! from the lexicon is `InvalidRequest`, with the place where it is.

use std::borrow::Cow;

use actix_web::http::header::{self, HeaderMap};
use serde::de::DeserializeOwned;

use crate::error::{Code, Error, MAX_MESSAGE_BYTES};

/// Most bytes of a query string: a hundred DIDs of maximum length. It stays below the 65,534 bytes of a whole URI,
/// beyond which the HTTP library refuses without a body.
pub const MAX_QUERY_BYTES: usize = 60 * 1024;

/// Decodes a query string; repeated keys make a list.
pub fn query<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    if text.len() > MAX_QUERY_BYTES {
        return Err(Code::InvalidRequest.because(format!("the query string has more than {MAX_QUERY_BYTES} bytes")));
    }
    let deserializer = serde_html_form::Deserializer::from_bytes(text.as_bytes());
    serde_path_to_error::deserialize(deserializer)
        .map_err(|e| invalid("parameters", &e.path().to_string(), &e.inner().to_string()))
}

/// Refuses a body with another content type than JSON. A body without one is taken for JSON, and so is the default of
/// `curl -d`.
pub fn content_type(headers: &HeaderMap) -> Result<(), Error> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let named = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    match ["application/json", "application/x-www-form-urlencoded"]
        .iter()
        .any(|known| named.eq_ignore_ascii_case(known))
    {
        true => Ok(()),
        false => Err(Code::InvalidRequest.because("the body must be JSON, and Content-Type must be application/json")),
    }
}

/// Decodes a JSON body. An empty body counts as an object without fields.
pub fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let bytes = if bytes.is_empty() { b"{}" } else { bytes };
    // serde would also accept a list of the values in the order of the fields.
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(invalid("body", ".", "it must be a JSON object"));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let input = serde_path_to_error::deserialize(&mut deserializer)
        .map_err(|e| invalid("body", &e.path().to_string(), &e.inner().to_string()))?;
    deserializer.end().map_err(|e| invalid("body", ".", &e.to_string()))?;
    Ok(input)
}

/// Returns the error for an invalid input. Its sentence neither grows with the input nor repeats it.
fn invalid(what: &str, path: &str, why: &str) -> Error {
    let why = without_value(why);
    // The name of an unknown field may be as long as the body.
    let why = plainly(&why[..why.floor_char_boundary(MAX_MESSAGE_BYTES)]);
    match path {
        "." | "?" => Code::InvalidRequest.because(format!("{what}: {why}")),
        path => Code::InvalidRequest.because(format!("{what}, at {path}: {why}")),
    }
}

/// Returns a message of serde without the value that it quotes.
fn without_value(why: &str) -> Cow<'_, str> {
    let kind = ["invalid type: ", "invalid value: ", "unknown variant "].iter().find(|kind| why.starts_with(**kind));
    let (Some(kind), Some(expected)) = (kind, why.rfind(", expected ")) else { return why.into() };
    let quoted = why[..expected].find(['"', '`']).unwrap_or(expected).max(kind.len());
    format!("{}{}", why[..quoted].trim_end(), &why[expected..]).into()
}

/// Terms of serde and of Rust, and plain words for them.
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
    ("unsupported value", "it must be given once"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Epoch {
        #[expect(dead_code, reason = "only its refusal is looked at")]
        epoch: i64,
    }

    #[test]
    fn an_error_names_what_was_expected_and_quotes_no_input() {
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
    fn a_body_without_a_content_type_is_json() {
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
}
