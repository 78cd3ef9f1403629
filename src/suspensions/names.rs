//! The names by which the log speaks of callers: so that an operator finds who is behind a flood of refusals, and whoever reads the log
//! alone does not.
//!
//! A name is the beginning of HMAC-SHA-256 over the DID, with a key that is in the database and nowhere else, so it is the same at every
//! replica. `catbird-server suspensions --who <name>` finds the DID among those that have called lately.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::hex;
use crate::ids::Did;

/// How often a caller is named at most, at one replica.
pub const EVERY: Duration = Duration::from_secs(60);
/// Most callers that are named in that time. What happens to others is in the metrics.
pub const MOST: usize = 1_000;
/// Bytes of a name; it has two digits for each.
const NAME_BYTES: usize = 8;

/// What names are made with.
#[derive(Clone)]
pub struct NameKey(pub Vec<u8>);

impl NameKey {
    /// A caller's name.
    pub fn name(&self, did: &str) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(did.as_bytes());
        hex::encode(&mac.finalize().into_bytes()[..NAME_BYTES])
    }
}

/// Whom the log has named lately.
#[derive(Default)]
pub(super) struct Named {
    /// Not before the first look into the database.
    pub key: OnceLock<NameKey>,
    lately: Mutex<HashMap<String, Instant>>,
}

impl Named {
    /// The name of a caller, if the log may have it now.
    pub fn name(&self, did: &Did, now: Instant) -> Option<String> {
        let key = self.key.get()?;
        // Nothing panics while it is held.
        let mut lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = |at: &Instant| now.saturating_duration_since(*at) >= EVERY;
        if lately.get(did.as_str()).is_some_and(|at| !is_over(at)) {
            return None;
        }
        if lately.len() >= MOST && !lately.contains_key(did.as_str()) {
            lately.retain(|_, at| !is_over(at));
            if lately.len() >= MOST {
                return None;
            }
        }
        lately.insert(did.as_str().to_owned(), now);
        Some(key.name(did.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_named_once_a_minute_and_not_more_of_them_than_there_is_room_for() {
        let (named, now) = (Named::default(), Instant::now());
        let did = |n: usize| format!("did:web:{n}.example").parse::<Did>().unwrap();
        assert_eq!(named.name(&did(0), now), None, "without a key there are no names");
        assert!(named.key.set(NameKey(vec![7; 32])).is_ok());
        let name = named.name(&did(0), now).unwrap();
        assert_eq!((name.len(), named.name(&did(0), now + EVERY / 2)), (2 * NAME_BYTES, None));
        for n in 1..MOST {
            assert!(named.name(&did(n), now + EVERY / 2).is_some_and(|other| other != name));
        }
        assert_eq!(named.name(&did(MOST), now + EVERY / 2), None);
        assert!(named.name(&did(MOST), now + EVERY).is_some(), "the first one has made room");
        assert_eq!(named.name(&did(0), now + 2 * EVERY), Some(name));
    }
}
