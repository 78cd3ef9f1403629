//! String formats of AT Protocol that the documents use, as <https://atproto.com/specs/lexicon> defines them.

use chrono::DateTime;

/// Maximum length of a DID in AT Protocol, in bytes.
const MAX_DID: usize = 2_048;

/// Maximum length of a URI and of an at-uri in AT Protocol, in bytes.
const MAX_URI: usize = 8_192;

pub fn check(format: &str, value: &str) -> Result<(), String> {
    let fits = match format {
        "did" => did(value),
        "datetime" => datetime(value),
        "uri" => uri(value),
        "at-uri" => at_uri(value),
        _ => return Err(format!("this validator does not know the format {format:?}")),
    };
    if fits { Ok(()) } else { Err(format!("{value:?} is not a {format}")) }
}

fn did(value: &str) -> bool {
    let mut parts = value.splitn(3, ':');
    let (Some("did"), Some(method), Some(rest)) = (parts.next(), parts.next(), parts.next()) else { return false };
    value.len() <= MAX_DID
        && !method.is_empty()
        && method.bytes().all(|b| b.is_ascii_lowercase())
        && !rest.is_empty()
        && !rest.ends_with([':', '%'])
        && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:%-".contains(&b))
}

/// Checks for RFC 3339 with a capital T, seconds, and a known time zone.
fn datetime(value: &str) -> bool {
    value.as_bytes().get(10) == Some(&b'T')
        && !value.ends_with('z')
        && !value.ends_with("-00:00")
        && DateTime::parse_from_rfc3339(value).is_ok()
}

fn uri(value: &str) -> bool {
    let Some((scheme, rest)) = value.split_once(':') else { return false };
    value.len() <= MAX_URI
        && scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+.-".contains(&b))
        && !rest.is_empty()
        && rest.bytes().all(|b| b.is_ascii_graphic())
}

/// Checks for `at://` with an authority and, optionally, a collection and a record key.
fn at_uri(value: &str) -> bool {
    let Some(rest) = value.strip_prefix("at://") else { return false };
    let mut parts = rest.split('/');
    let authority = parts.next().unwrap_or_default();
    value.len() <= MAX_URI
        && (did(authority) || dotted(authority, 2))
        && parts.next().is_none_or(|collection| dotted(collection, 3))
        && parts.next().is_none_or(record_key)
        && parts.next().is_none()
}

/// Checks for a handle or an NSID: labels of letters, digits and inner hyphens, at least this many.
fn dotted(value: &str, at_least: usize) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    value.len() <= 317 && value.split('.').count() >= at_least && value.split('.').all(label)
}

fn record_key(value: &str) -> bool {
    (1..=512).contains(&value.len())
        && !matches!(value, "." | "..")
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:~-".contains(&b))
}
