//! Check of the callers of open streams.
//!
//! A stream was opened with a key of its caller's DID document. An owner who has lost the key or the account removes
//! the key from the document, but a thief's open stream would go on. So each stream is checked about every
//! [`CHECK_INTERVAL`], against a document that is as fresh as requests require. If the directory does not answer, the
//! stream goes on until the next check. Streams of development tokens have no key; they end at their maximum age.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use tokio::sync::watch;

use crate::auth::Authenticator;

use super::event::Info;
use super::hub::Hub;

/// Time between two checks of a stream, give or take a quarter.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(10 * 60);
/// Time between two looks for streams that are due.
const SCAN_INTERVAL: Duration = Duration::from_secs(5);
/// Most callers that are checked at a time.
const MAX_CONCURRENT_CHECKS: usize = 16;

pub(super) async fn watch(hub: &Hub, authenticator: &Authenticator, mut stop: watch::Receiver<bool>) {
    while tokio::time::timeout(SCAN_INTERVAL, stop.wait_for(|stop| *stop)).await.is_err() {
        tokio::select! {
            () = check(hub, authenticator, Instant::now()) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }
}

/// Checks the streams that are due at `now`, and ends those whose keys no longer speak for their callers.
pub(super) async fn check(hub: &Hub, authenticator: &Authenticator, now: Instant) {
    let looking = stream::iter(hub.to_identify(now)).for_each_concurrent(MAX_CONCURRENT_CHECKS, async |(did, key)| {
        if authenticator.is_revoked(&did, &key).await {
            hub.end(Info::IdentityChanged, |one| one.did == did && one.key.as_ref() == Some(&key));
        }
    });
    looking.await;
}
