//! Position of a client in the stream of events: opaque to clients, and sorted by time.
//!
//! The text begins as a ULID does, so cursors and the ids of entries sort together: 48 bits of time by the clock of the
//! database, a mark that distinguishes a cursor from an entry id, the incarnation of the database ([`crate::store`]),
//! and random bits. The rest is sealed with the key of the incarnation (AES-256-GCM, NIST SP 800-38D), so clients learn
//! nothing about the traffic and cannot forge one. It holds a snapshot such that everything it saw has been sent, and
//! the newest transaction of which anything was sent, which shows whether that was lost since.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ulid::Ulid;

use crate::error::{Code, Error};
use crate::ids::ServerIncarnation;
use crate::store::events::{CursorIncarnation, Key, Moment, Seen};

/// Mark that distinguishes a cursor from an entry id.
const MARK: u128 = 0xCA7B;
/// Letters of the ULID at the beginning.
const HEAD: usize = 26;
/// Most running transactions that a cursor names. If more were running, it ends before the first that it does not name.
const MAX_RUNNING: usize = 6;
/// Most letters of a cursor.
const MAX_LETTERS: usize = 128;
/// Random bytes after the ULID, which complete the nonce.
const NONCE_REST: usize = 8;

/// Cursor that the server has made or verified. Everything that its snapshot saw has been sent to its holder. Cheap to
/// clone.
#[derive(Debug, Clone)]
pub struct Cursor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    text: String,
    seen: Seen,
    /// Time at which it was taken, in milliseconds since 1970.
    at: u64,
    /// Incarnation to which it belongs, and the key that seals it.
    incarnation: i32,
    key: Key,
}

impl Cursor {
    /// Cursor of a stream that has no position yet.
    pub fn nowhere() -> Self {
        let seen = Seen { era: 0, ahead: 0, running: Vec::new(), newest: 0 };
        Self(Arc::new(Inner { text: String::new(), seen, at: 0, incarnation: 0, key: Key([0; 32]) }))
    }

    /// Snapshot of what has been sent.
    pub fn seen(&self) -> &Seen {
        &self.0.seen
    }

    /// Incarnation of the database to which it belongs.
    pub fn incarnation(&self) -> ServerIncarnation {
        ServerIncarnation::of(&self.0.key.0)
    }

    /// Returns the same position for a client that has also been sent something that `other` goes with.
    pub fn beside(&self, other: &Self) -> Self {
        let (own, other) = (&self.0, &other.0);
        if own.seen.era != other.seen.era || own.seen.newest >= other.seen.newest {
            return self.clone();
        }
        let seen = Seen { newest: other.seen.newest, ..own.seen.clone() };
        Self::sealed(seen, own.at, other.incarnation, &other.key)
    }

    fn sealed(seen: Seen, at: u64, incarnation: i32, key: &Key) -> Self {
        // The random bits of one ULID suffice for two cursors in a millisecond, but not for all that will be made.
        let chance = [Ulid::new().random(), Ulid::new().random()];
        let head = (u128::from(at) & ((1 << 48) - 1)) << 80
            | MARK << 64
            | u128::from(incarnation.cast_unsigned()) << 32
            | chance[0] & u128::from(u32::MAX);
        let mut rest = chance[1].to_le_bytes()[..NONCE_REST].to_vec();
        let mut body = [seen.ahead.to_be_bytes(), seen.newest.to_be_bytes()].concat();
        // All running transactions are within 2^31 of the end, or PostgreSQL would stop.
        body.extend(seen.running.iter().flat_map(|tx| ((seen.ahead - tx) as u32).to_be_bytes()));
        key.cipher()
            .seal_in_place_append_tag(nonce(head, &rest), Aad::from(head.to_be_bytes()), &mut body)
            .expect("a cursor is shorter than what the cipher takes");
        rest.extend(body);
        let text = Ulid(head).to_string() + &BASE64_URL_SAFE_NO_PAD.encode(&rest);
        Self(Arc::new(Inner { text, seen, at, incarnation, key: key.clone() }))
    }
}

impl From<&Moment> for Cursor {
    fn from(moment: &Moment) -> Self {
        let at = moment.at.timestamp_millis().max(0).cast_unsigned();
        Self::sealed(moment.seen().within(MAX_RUNNING), at, moment.incarnation, &moment.key)
    }
}

fn nonce(head: u128, rest: &[u8]) -> Nonce {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&head.to_be_bytes()[12..]);
    nonce[4..].copy_from_slice(&rest[..NONCE_REST]);
    Nonce::assume_unique_for_key(nonce)
}

/// Cursors are equal if they share their text.
impl PartialEq for Cursor {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

/// Cursor that a client has sent, whose seal is not verified yet.
#[derive(Debug, Clone)]
pub struct Sealed {
    text: String,
    head: u128,
    /// Incarnation that it names.
    pub incarnation: i32,
}

impl FromStr for Sealed {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Code::InvalidCursor.because("cursor does not come from an event of this server");
        let head = text.get(..HEAD).ok_or_else(wrong)?;
        let Ulid(head) = Ulid::from_string(head).map_err(|_| wrong())?;
        let tail = text.as_bytes()[HEAD..].iter();
        let is_sealed = tail.len() <= MAX_LETTERS - HEAD
            && tail.copied().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_');
        if head >> 64 & 0xFFFF != MARK || !is_sealed {
            return Err(wrong());
        }
        Ok(Self { text: text.to_owned(), head, incarnation: ((head >> 32) as u32).cast_signed() })
    }
}

impl Sealed {
    /// Returns what had been sent, if the cursor was sealed with the key of this incarnation.
    pub fn open(&self, then: &CursorIncarnation) -> Option<Seen> {
        let mut bytes = BASE64_URL_SAFE_NO_PAD.decode(&self.text[HEAD..]).ok()?;
        let (rest, body) = bytes.split_at_mut_checked(NONCE_REST)?;
        let body =
            then.key.cipher().open_in_place(nonce(self.head, rest), Aad::from(self.head.to_be_bytes()), body).ok()?;
        let (ahead, body) = body.split_first_chunk()?;
        let (newest, running) = body.split_first_chunk()?;
        let (ahead, newest) = (i64::from_be_bytes(*ahead), i64::from_be_bytes(*newest));
        let (running, []) = running.as_chunks() else { return None };
        let running = running.iter().map(|back| ahead - i64::from(u32::from_be_bytes(*back))).collect();
        Some(Seen { era: then.era, ahead, running, newest })
    }

    /// Returns the verified cursor of a client that has been sent what `seen` says.
    pub fn at(self, seen: Seen, then: &CursorIncarnation) -> Cursor {
        let (at, key) = ((self.head >> 80) as u64, then.key.clone());
        Cursor(Arc::new(Inner { text: self.text, seen, at, incarnation: self.incarnation, key }))
    }

    /// Text as the client sent it.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl Key {
    fn cipher(&self) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &self.0).expect("AES-256 has keys of 32 bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;

    fn moment(at: i64, snapshot: &str, key: u8) -> Moment {
        let (incarnation, era, key) = (7, 3, Key([key; 32]));
        let at = DateTime::from_timestamp_millis(at).unwrap();
        let mut moment = Moment::new(snapshot.to_owned(), incarnation, era, key, at).unwrap();
        moment.has_read(6);
        moment
    }

    fn then(key: u8) -> CursorIncarnation {
        CursorIncarnation { key: Key([key; 32]), era: 3, floor: None }
    }

    #[test]
    fn a_cursor_survives_its_text_and_sorts_by_time() {
        let early = Cursor::from(&moment(1_700_000_000_000, "9000000000:9000000005:9000000000,9000000003", 1));
        let late = Cursor::from(&moment(1_700_000_000_001, "7:7:", 1));
        for cursor in [&early, &late] {
            let sealed: Sealed = cursor.to_string().parse().unwrap();
            assert_eq!(sealed.incarnation, 7);
            assert_eq!(sealed.open(&then(1)).as_ref(), Some(cursor.seen()));
            assert_eq!(sealed.open(&then(2)), None, "another key opens it");
        }
        assert_eq!(early.seen().running, [9_000_000_000, 9_000_000_003]);
        assert!(early.to_string() < late.to_string());
    }

    #[test]
    fn a_cursor_is_bounded_and_ends_before_transactions_that_it_cannot_name() {
        let running: Vec<String> = (0..200).map(|n| (100 + 2 * n).to_string()).collect();
        let cursor = Cursor::from(&moment(0, &format!("100:900:{}", running.join(",")), 1));
        assert!(cursor.to_string().len() <= 115, "{cursor}");
        assert_eq!(*cursor.seen(), Seen { era: 3, ahead: 112, running: vec![100, 102, 104, 106, 108, 110], newest: 6 });
        assert!(cursor.seen().saw(111) && !cursor.seen().saw(110) && !cursor.seen().saw(112));
    }

    #[test]
    fn a_cursor_beside_another_keeps_its_position_and_takes_the_newest_transaction() {
        let old = Cursor::from(&moment(1_700_000_000_000, "7:9:7", 1));
        let mut later = moment(1_700_000_001_000, "20:30:", 1);
        later.has_read(28);
        let beside = old.beside(&Cursor::from(&later));
        let sealed: Sealed = beside.to_string().parse().unwrap();
        let seen = Seen { newest: 28, ..old.seen().clone() };
        assert_eq!((sealed.open(&then(1)).as_ref(), beside.seen()), (Some(&seen), &seen));
        assert!(beside.to_string() < Cursor::from(&later).to_string());
        assert_eq!(old.beside(&old), old, "nothing new was read");
    }

    #[test]
    fn a_changed_text_is_not_a_cursor() {
        let text = Cursor::from(&moment(1_700_000_000_000, "7:9:7", 1)).to_string();
        let changes = [9, 24, 30, text.len() - 2];
        for at in changes {
            let with = if text.as_bytes()[at] == b'7' { "8" } else { "7" };
            let changed = format!("{}{with}{}", &text[..at], &text[at + 1..]);
            assert_eq!(changed.parse::<Sealed>().unwrap().open(&then(1)), None, "{changed} of {text}");
        }
        for end in HEAD..text.len() {
            assert_eq!(text[..end].parse::<Sealed>().unwrap().open(&then(1)), None);
        }
    }

    #[test]
    fn a_text_that_no_event_carried_is_not_a_cursor() {
        let other = Ulid::new().to_string();
        for text in ["", "7", "not a cursor", "01JB2N0W3E8Z6TQ9K4M5V7X1YA", &other, "ääääääääääääääää"]
        {
            assert_eq!(text.parse::<Sealed>().unwrap_err().code, Code::InvalidCursor, "{text}");
        }
    }
}
