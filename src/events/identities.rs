//! Whether the callers of open streams are still who they were.
//!
//! A stream was opened by a key of its caller's DID document. Who has lost that key, or the account, takes it out of the document, and
//! whoever has it goes on following until somebody looks. So each stream's is looked at every [`CHECK_INTERVAL`], give or take a quarter, in a
//! document that is no older than requests accept without asking. Where the directory does not answer, nothing ends, and it is
//! looked at the next time. Streams of development tokens have no such key; they end with their lives.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use tokio::sync::watch;

use crate::auth::Authenticator;

use super::event::Info;
use super::hub::Hub;

/// How often a stream's caller is looked at.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(10 * 60);
/// How often it is looked whose time has come.
const SCAN_INTERVAL: Duration = Duration::from_secs(5);
/// Callers that are looked at at once.
const MAX_CONCURRENT_CHECKS: usize = 16;

pub(super) async fn watch(hub: &Hub, authenticator: &Authenticator, mut stop: watch::Receiver<bool>) {
    while tokio::time::timeout(SCAN_INTERVAL, stop.wait_for(|stop| *stop)).await.is_err() {
        tokio::select! {
            () = check(hub, authenticator, Instant::now()) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }
}

/// Ends streams whose time to be looked at has come by `now`, and whose keys have ceased to speak for their callers.
pub(super) async fn check(hub: &Hub, authenticator: &Authenticator, now: Instant) {
    let looking = stream::iter(hub.to_identify(now)).for_each_concurrent(MAX_CONCURRENT_CHECKS, async |(did, key)| {
        if authenticator.is_revoked(&did, &key).await {
            hub.end(Info::IdentityChanged, |one| one.did == did && one.key.as_ref() == Some(&key));
        }
    });
    looking.await;
}
