//! Parts and conditions of a request for bytes (RFC 9110, sections 13.1 and 14): which part of the content it asks for, and whether its
//! client has the content already.

use std::ops::Range;

use actix_web::http::header::{self, HeaderMap, HeaderName};

use crate::error::{Code, Error};

/// Headers of a request for bytes, as they were sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    range: Option<String>,
    if_range: Option<String>,
    if_none_match: Option<String>,
}

/// What is sent of a content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Selected {
    /// Nothing: the client has it.
    Nothing,
    All,
    Part(Range<u64>),
}

impl Selection {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        // A list may be sent as several headers. A range is not a list, and several of them are none.
        let listed = |name: HeaderName| {
            let values: Vec<&str> = headers.get_all(name).map(|value| value.to_str().unwrap_or_default()).collect();
            (!values.is_empty()).then(|| values.join(", "))
        };
        Self {
            range: listed(header::RANGE),
            if_range: listed(header::IF_RANGE),
            if_none_match: listed(header::IF_NONE_MATCH),
        }
    }

    /// Returns what to send of a content of this size with this entity tag, which is strong and in quotes.
    ///
    /// Several ranges, another unit than bytes and a range that cannot be understood are ignored, as the RFC allows.
    ///
    /// Errors: `RangeNotSatisfiable`.
    pub(super) fn of_content(&self, etag: &str, size: u64) -> Result<Selected, Error> {
        if self.if_none_match.as_deref().is_some_and(|tags| names(tags, etag)) {
            return Ok(Selected::Nothing);
        }
        // A date is never equal: content has no date.
        if self.if_range.as_deref().is_some_and(|tag| tag.trim() != etag) {
            return Ok(Selected::All);
        }
        let Some((first, last)) = self.range.as_deref().and_then(ends) else { return Ok(Selected::All) };
        let part = match (first, last) {
            (Some(first), Some(last)) if last < first => return Ok(Selected::All),
            (Some(first), last) => first..last.map_or(size, |last| last.saturating_add(1).min(size)),
            (None, Some(0)) => size..size,
            // The last bytes of nothing are all of it.
            (None, Some(_)) if size == 0 => return Ok(Selected::All),
            (None, Some(suffix)) => size.saturating_sub(suffix)..size,
            (None, None) => return Ok(Selected::All),
        };
        if part.start >= size {
            let mut error = Code::RangeNotSatisfiable.because(format!("the content has {size} bytes"));
            error.details.size = Some(size);
            return Err(error);
        }
        Ok(Selected::Part(part))
    }
}

/// Returns whether a list of entity tags names this one. A weak tag names it too (section 13.1.2).
fn names(tags: &str, etag: &str) -> bool {
    tags.trim() == "*" || tags.split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag)
}

/// Returns the two numbers of a single range of bytes.
fn ends(range: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (unit, part) = range.split_once('=')?;
    let (first, last) = part.trim().split_once('-')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    Some((number(first)?, number(last)?))
}

/// Reads a number, or none. A number that is too large stands for the largest one.
fn number(digits: &str) -> Option<Option<u64>> {
    match digits {
        "" => Some(None),
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(Some(digits.parse().unwrap_or(u64::MAX))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    const TAG: &str = "\"a1\"";

    fn selected(headers: &[(HeaderName, &'static str)], size: u64) -> Result<Selected, (Code, Option<u64>)> {
        let headers = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
        let selection = Selection::of(&HeaderMap::from_iter(headers));
        selection.of_content(TAG, size).map_err(|error| (error.code, error.details.size))
    }

    #[test]
    fn a_range_selects_its_part_and_what_is_no_range_selects_all() {
        for (range, expected) in [
            ("bytes=0-0", Selected::Part(0..1)),
            ("bytes=0-", Selected::Part(0..10)),
            ("bytes=3-5", Selected::Part(3..6)),
            ("Bytes=9-9", Selected::Part(9..10)),
            ("bytes= 3-5 ", Selected::Part(3..6)),
            ("bytes=5-99", Selected::Part(5..10)),
            ("bytes=5-99999999999999999999999", Selected::Part(5..10)),
            ("bytes=5-18446744073709551615", Selected::Part(5..10)),
            ("bytes=-3", Selected::Part(7..10)),
            ("bytes=-99", Selected::Part(0..10)),
            ("bytes=5-3", Selected::All),
            ("bytes=0-1,3-4", Selected::All),
            ("bytes=-", Selected::All),
            ("bytes=", Selected::All),
            ("bytes=a-b", Selected::All),
            ("bytes=+1-2", Selected::All),
            ("bytes=1--2", Selected::All),
            ("items=0-1", Selected::All),
            ("0-1", Selected::All),
            ("", Selected::All),
        ] {
            assert_eq!(selected(&[(header::RANGE, range)], 10), Ok(expected), "{range}");
        }
        assert_eq!(selected(&[], 10), Ok(Selected::All));
        assert_eq!(selected(&[(header::RANGE, "bytes=-1")], 0), Ok(Selected::All));
        assert_eq!(selected(&[(header::RANGE, "bytes=0-1"), (header::RANGE, "bytes=3-4")], 10), Ok(Selected::All));
    }

    #[test]
    fn a_range_after_the_last_byte_is_refused_with_the_size() {
        for (range, size) in [
            ("bytes=10-", 10),
            ("bytes=10-12", 10),
            ("bytes=99999999999999999999-", 10),
            ("bytes=-0", 10),
            ("bytes=0-", 0),
        ] {
            let refused = Err((Code::RangeNotSatisfiable, Some(size)));
            assert_eq!(selected(&[(header::RANGE, range)], size), refused, "{range}");
        }
    }

    #[test]
    fn a_range_of_another_content_selects_all() {
        let of = |tag| selected(&[(header::RANGE, "bytes=99-"), (header::IF_RANGE, tag)], 10);
        assert!(of(TAG).is_err(), "it is the same content");
        for other in ["\"b2\"", "W/\"a1\"", "a1", "Sat, 29 Oct 1994 19:43:31 GMT", ""] {
            assert_eq!(of(other), Ok(Selected::All), "{other}");
        }
    }

    #[test]
    fn content_that_the_client_has_is_not_sent_again() {
        for (tags, expected) in [
            (TAG, Selected::Nothing),
            ("W/\"a1\"", Selected::Nothing),
            ("*", Selected::Nothing),
            ("\"b2\", \"a1\"", Selected::Nothing),
            ("\"b2\"", Selected::All),
            ("a1", Selected::All),
            ("", Selected::All),
        ] {
            assert_eq!(selected(&[(header::IF_NONE_MATCH, tags)], 10), Ok(expected.clone()), "{tags}");
            let with_range = [(header::IF_NONE_MATCH, tags), (header::RANGE, "bytes=99-")];
            assert_eq!(selected(&with_range, 10).is_ok(), expected == Selected::Nothing, "{tags}: it comes first");
        }
        let twice = [(header::IF_NONE_MATCH, "\"b2\""), (header::IF_NONE_MATCH, TAG)];
        assert_eq!(selected(&twice, 10), Ok(Selected::Nothing));
    }
}
