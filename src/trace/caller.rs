//! The span of the caller that a request belongs to, from the header `traceparent` (W3C Trace Context, section 3.2).
//!
//! `tracestate` is not read. It is for the services that a request goes on to, and the server calls none in the name of a
//! request; its content is any text that a client likes.

use opentelemetry::trace::{SpanContext, TraceFlags, TraceState};

/// Length of version 00, which later versions begin with.
const LENGTH: usize = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".len();

/// Parses a header. Returns `None` unless it has exactly the form of the specification.
pub(super) fn parse(header: &str) -> Option<SpanContext> {
    let (known, later) = header.split_at_checked(LENGTH)?;
    let mut fields = known.split('-');
    let [version, trace, span, flags] = [2, 32, 16, 2].map(|digits| fields.next().and_then(|text| hex(text, digits)));
    let version = version?;
    let fits = match version {
        0 => later.is_empty(),
        0xff => false,
        _ => later.is_empty() || later.starts_with('-'),
    };
    let context = SpanContext::new(
        trace?.into(),
        u64::try_from(span?).ok()?.into(),
        TraceFlags::new(u8::try_from(flags?).ok()?) & TraceFlags::SAMPLED,
        true,
        TraceState::default(),
    );
    (fits && context.is_valid()).then_some(context)
}

/// Parses so many digits, of which letters are in lower case.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_hex = text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if is_hex { u128::from_str_radix(text, 16).ok() } else { None }
}
