//! Where somebody stands in the stream of events: opaque to clients, shaped like a ULID, in order of time.
//!
//! The 48 bits of time are when the watermark was taken, by the database's clock, for those who sort or look; the next 16 mark the
//! cursor as one of ours; the last 64 are the watermark, which alone decides.

use std::fmt;
use std::str::FromStr;

use ulid::Ulid;

use crate::error::{Code, Error};
use crate::store::events::Moment;

/// What tells a cursor from the id of a message.
const MARK: u128 = 0xCA7B;

/// Everything that was written by transactions below the watermark has been delivered to whoever was given this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// Milliseconds since 1970 at the database.
    at: u64,
    /// A transaction id.
    pub watermark: i64,
}

impl Cursor {
    /// Before everything.
    pub const BEGINNING: Self = Self { at: 0, watermark: 0 };
}

impl From<&Moment> for Cursor {
    fn from(moment: &Moment) -> Self {
        Self { at: moment.at.timestamp_millis().max(0).cast_unsigned(), watermark: moment.watermark }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = u128::from(self.at) & ((1 << 48) - 1);
        Ulid(at << 80 | MARK << 64 | u128::from(self.watermark.cast_unsigned())).fmt(f)
    }
}

impl FromStr for Cursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Code::InvalidCursor.because("cursor is none that an event of this server carried");
        let Ulid(bits) = Ulid::from_string(text).map_err(|_| wrong())?;
        let watermark = i64::try_from(bits & u128::from(u64::MAX)).map_err(|_| wrong())?;
        if bits >> 64 & 0xFFFF != MARK {
            return Err(wrong());
        }
        Ok(Self { at: (bits >> 80) as u64, watermark })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_its_text_and_sorts_by_time() {
        let early = Cursor { at: 1_700_000_000_000, watermark: 9_000_000_000 };
        let late = Cursor { at: 1_700_000_000_001, watermark: 7 };
        for cursor in [early, late] {
            assert_eq!(cursor.to_string().parse::<Cursor>().unwrap(), cursor);
            assert_eq!(cursor.to_string().len(), 26);
        }
        assert!(early.to_string() < late.to_string());
    }

    #[test]
    fn what_no_event_carried_is_no_cursor() {
        let other = Ulid::new().to_string();
        let negative = Ulid(MARK << 64 | u128::from(u64::MAX)).to_string();
        for text in ["", "7", "not a cursor", "01JB2N0W3E8Z6TQ9K4M5V7X1YA", &other, &negative] {
            assert_eq!(text.parse::<Cursor>().unwrap_err().code, Code::InvalidCursor, "{text}");
        }
    }
}
