//! Encodings that a client accepts for its reply.

use actix_web::http::header::{self, HeaderMap};

/// Returns whether a client accepts gzip by name (RFC 9110, section 12.5.3).
pub(super) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let listed = headers.get_all(header::ACCEPT_ENCODING).filter_map(|value| value.to_str().ok());
    listed.flat_map(|value| value.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let never = weight.trim().strip_prefix("q=").is_some_and(|q| q.trim().parse() == Ok(0.0));
        matches!(name.trim().to_ascii_lowercase().as_str(), "gzip" | "x-gzip") && !never
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_accepted_by_clients_that_name_it_and_do_not_exclude_it() {
        for (given, accepted) in [
            ("gzip", true),
            ("br, GZIP;q=0.5", true),
            ("deflate, gzip ; q=1.0, *;q=0", true),
            ("identity", false),
            ("gzip;q=0", false),
            ("br;q=1.0, gzip; q=0.000", false),
            ("*", false),
        ] {
            let value = header::HeaderValue::from_static(given);
            let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, value)]);
            assert_eq!(accepts_gzip(&headers), accepted, "{given}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }
}
