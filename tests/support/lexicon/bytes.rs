//! Headers of replies that are bytes. Lexicons do not describe them; RFC 9110 and the server's own rules do.

use reqwest::header::HeaderMap;

/// Validates the headers of a reply with this status, other than a refusal: they say what the bytes are, that no browser may show them as
/// a page, and that a cache must ask again.
pub fn validate_bytes(status: u16, headers: &HeaderMap) -> Result<(), String> {
    let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let expect = |name: &str, fits: &dyn Fn(&str) -> bool| match header(name) {
        Some(value) if fits(value) => Ok(()),
        other => Err(format!("{name} is {other:?} with status {status}")),
    };
    let is = |expected: &'static str| move |value: &str| value == expected;
    expect("x-content-type-options", &is("nosniff"))?;
    if status == 307 {
        expect("cache-control", &is("no-store"))?;
        return expect("location", &|value| value.starts_with("http"));
    }
    expect("cache-control", &is("private, no-cache"))?;
    expect("etag", &|value| value.len() > 2 && value.starts_with('"') && value.ends_with('"'))?;
    if status == 304 {
        return Ok(());
    }
    expect("content-length", &|value| value.parse::<u64>().is_ok())?;
    expect("content-type", &|value| value.contains('/'))?;
    expect("content-disposition", &is("attachment"))?;
    expect("content-security-policy", &is("default-src 'none'; sandbox"))?;
    expect("accept-ranges", &is("bytes"))?;
    if headers.contains_key("content-encoding") {
        return Err("bytes are sent as they are, without an encoding".to_owned());
    }
    match status {
        206 => expect("content-range", &|value| value.starts_with("bytes ")),
        _ if headers.contains_key("content-range") => Err("a whole content has a range".to_owned()),
        _ => Ok(()),
    }
}
