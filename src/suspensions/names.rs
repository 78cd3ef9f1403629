//! Pseudonyms of callers in the log. An operator can find the caller behind a flood of refusals; a reader of the log
//! alone cannot.
//!
//! A name is a prefix of HMAC-SHA-256 over the DID. Its key is stored in the database only, so the name is the same at
//! every replica. `catbird-server admin who <name>` finds the DID among recent callers.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::hex;
use crate::ids::Did;

/// Minimum time between two log lines about one caller, at one replica.
pub const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Maximum number of callers that are named in that time. The metrics count the others.
pub const MAX_LOGGED: usize = 1_000;
/// Bytes of a name, which has two hex digits for each.
const NAME_BYTES: usize = 8;

/// Key of the names.
#[derive(Clone)]
pub struct NameKey(pub Vec<u8>);

impl NameKey {
    /// Returns a caller's name.
    pub fn name(&self, did: &str) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(did.as_bytes());
        hex::encode(&mac.finalize().into_bytes()[..NAME_BYTES])
    }
}

/// Callers that the log has named recently.
#[derive(Default)]
pub(super) struct RecentlyLogged {
    /// Empty before the first poll of the database.
    pub key: OnceLock<NameKey>,
    recent: Mutex<HashMap<String, Instant>>,
}

impl RecentlyLogged {
    /// Returns the name of a caller if it may be logged now.
    pub fn name(&self, did: &Did, now: Instant) -> Option<String> {
        let key = self.key.get()?;
        // No code panics while it holds this lock.
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = |at: &Instant| now.saturating_duration_since(*at) >= LOG_INTERVAL;
        if recent.get(did.as_str()).is_some_and(|at| !is_over(at)) {
            return None;
        }
        if recent.len() >= MAX_LOGGED && !recent.contains_key(did.as_str()) {
            recent.retain(|_, at| !is_over(at));
            if recent.len() >= MAX_LOGGED {
                return None;
            }
        }
        recent.insert(did.as_str().to_owned(), now);
        Some(key.name(did.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_logged_once_a_minute_and_the_number_of_callers_is_bounded() {
        let (named, now) = (RecentlyLogged::default(), Instant::now());
        let did = |n: usize| format!("did:web:{n}.example").parse::<Did>().unwrap();
        assert_eq!(named.name(&did(0), now), None, "without a key there are no names");
        assert!(named.key.set(NameKey(vec![7; 32])).is_ok());
        let name = named.name(&did(0), now).unwrap();
        assert_eq!((name.len(), named.name(&did(0), now + LOG_INTERVAL / 2)), (2 * NAME_BYTES, None));
        for n in 1..MAX_LOGGED {
            assert!(named.name(&did(n), now + LOG_INTERVAL / 2).is_some_and(|other| other != name));
        }
        assert_eq!(named.name(&did(MAX_LOGGED), now + LOG_INTERVAL / 2), None);
        assert!(named.name(&did(MAX_LOGGED), now + LOG_INTERVAL).is_some(), "the first one has made room");
        assert_eq!(named.name(&did(0), now + 2 * LOG_INTERVAL), Some(name));
    }
}
