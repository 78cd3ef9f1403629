//! HTTP client for DID documents: one GET without redirects or proxy, limited in time, size, concurrency and rate.
//!
//! It distinguishes two kinds of failure, because the caller of this service must: an answer that no document exists is
//! final, and a missing answer is worth a retry.
//!
//! Known DIDs and strangers have separate concurrency limits, and strangers also have a budget, since any client can
//! write a token that names a new DID.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::{ACCEPT, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, Url};
use tokio::sync::Semaphore;

use super::budget::Budget;
use crate::net;
use crate::net::address::NotPublic;

/// Maximum time of one fetch, from waiting for a permit to the last byte.
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum size of a DID document, in bytes. Real ones have one or two thousand.
pub const MAX_DOCUMENT_BYTES: usize = 64 * 1024;

/// Maximum number of concurrent fetches of one kind at one fetcher; further fetches wait within [`FETCH_TIMEOUT`].
const MAX_CONCURRENT_FETCHES: usize = 16;

/// Fetches for strangers per second, and at once. Tokens of further strangers are refused with a time to retry after.
pub const STRANGERS_PER_SECOND: u32 = 20;
pub const STRANGERS_BURST: u32 = 40;

/// Maximum pause that a host can ask for with `Retry-After`.
const MAX_PAUSE: Duration = Duration::from_secs(60);

const NOT_ASKED: &str = "requests to this host are paused";

/// Reasons for which a DID has no document now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// Its host has answered, or can never be asked; a retry soon gives the same answer.
    #[error("{0}")]
    Absent(&'static str),
    /// Its host did not answer, or was not asked. The text is for the log.
    #[error("{why}")]
    Unavailable { why: String, retry_after: Option<Duration> },
}

impl Unresolved {
    /// The host did not answer as it should.
    pub fn outage(why: impl Into<String>) -> Self {
        Self::Unavailable { why: why.into(), retry_after: None }
    }

    /// The host was not asked, and can be asked after this wait.
    pub fn busy(wait: Duration) -> Self {
        Self::Unavailable { why: NOT_ASKED.to_owned(), retry_after: Some(wait) }
    }

    /// Label in the metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Absent(_) => "absent",
            Self::Unavailable { why, .. } if why == NOT_ASKED => "not_asked",
            Self::Unavailable { .. } => "unavailable",
        }
    }
}

/// Kind of host that a fetcher connects to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hosts {
    /// The did:plc directory that the operator has configured.
    Directory,
    /// Hosts that DIDs name, at any address (development and tests).
    Allowed,
    /// Hosts that DIDs name, over HTTPS only and at public addresses only.
    Strangers,
}

/// Class of the DID whose document is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// A DID whose document is cached here or stored in the database.
    Known,
    /// Any other DID.
    Stranger,
}

impl Asker {
    /// Label in the metrics.
    pub fn label(self) -> &'static str {
        match self {
            Asker::Known => "known",
            Asker::Stranger => "stranger",
        }
    }
}

/// HTTP client with its limits. Each kind of host has its own fetcher, so strangers' hosts that hang cannot use up the
/// directory's permits.
pub struct Fetcher {
    client: Client,
    hosts: Hosts,
    known: Semaphore,
    strangers: Semaphore,
    budget: Budget,
    /// End of the pause that the directory has asked for.
    paused: Mutex<Option<Instant>>,
}

impl Fetcher {
    pub fn new(hosts: Hosts) -> Result<Self, reqwest::Error> {
        let client = net::client::builder(FETCH_TIMEOUT);
        let client = match hosts {
            Hosts::Directory | Hosts::Allowed => client,
            Hosts::Strangers => net::client::public_only(client).pool_max_idle_per_host(0),
        };
        Ok(Self {
            client: client.build()?,
            hosts,
            known: Semaphore::new(MAX_CONCURRENT_FETCHES),
            strangers: Semaphore::new(MAX_CONCURRENT_FETCHES),
            budget: Budget::new(STRANGERS_PER_SECOND, STRANGERS_BURST),
            paused: Mutex::new(None),
        })
    }

    /// Returns the body at `url` if the status is 200 and the body is within the limits.
    pub async fn get(&self, url: Url, asker: Asker) -> Result<Vec<u8>, Unresolved> {
        let now = Instant::now();
        if let Some(wait) = self.paused().and_then(|until| until.checked_duration_since(now)) {
            return Err(Unresolved::busy(wait));
        }
        let permits = match asker {
            Asker::Known => &self.known,
            Asker::Stranger => {
                self.budget.take(now).map_err(Unresolved::busy)?;
                &self.strangers
            }
        };
        let fetched = async {
            let _permit = permits.acquire().await.map_err(|cause| Unresolved::outage(cause.to_string()))?;
            let response = self.client.get(url).header(ACCEPT, "application/did+ld+json, application/json").send();
            body(self.accept(response.await.map_err(unanswered)?)?).await
        };
        let fetched = tokio::time::timeout(FETCH_TIMEOUT, fetched)
            .await
            .unwrap_or_else(|_| Err(Unresolved::outage(format!("no document within {FETCH_TIMEOUT:?}"))));
        match (self.hosts, fetched) {
            // The directory's documents are small, so a large body does not come from the directory.
            (Hosts::Directory, Err(Unresolved::Absent(TOO_LARGE))) => Err(Unresolved::outage(TOO_LARGE)),
            (_, fetched) => fetched,
        }
    }

    fn paused(&self) -> Option<Instant> {
        *self.paused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes a 200 on and classifies other statuses. Only "no such document" is final; a host that fails, is busy or
    /// sits behind a proxy that refuses this server counts as not having answered.
    fn accept(&self, response: Response) -> Result<Response, Unresolved> {
        let status = response.status();
        match status {
            StatusCode::OK => return Ok(response),
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                return Err(Unresolved::Absent("its host has no such DID"));
            }
            _ if status.is_redirection() && self.hosts != Hosts::Directory => {
                return Err(Unresolved::Absent("its host redirects, and redirects are not followed"));
            }
            _ => {}
        }
        let retry_after = retry_after(&response);
        if let (Hosts::Directory, Some(wait)) = (self.hosts, retry_after) {
            *self.paused.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + wait);
        }
        Err(Unresolved::Unavailable { why: format!("the host answered {status}"), retry_after })
    }
}

/// Returns the wait that a host asks for in seconds, the form that rate limits use (RFC 9110 section 10.2.3).
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(MAX_PAUSE))
}

const TOO_LARGE: &str = "the document is too large";

async fn body(mut response: Response) -> Result<Vec<u8>, Unresolved> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unanswered)? {
        if body.len() + chunk.len() > MAX_DOCUMENT_BYTES {
            return Err(Unresolved::Absent(TOO_LARGE));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Classifies a transport failure. Only a refused address is permanent.
fn unanswered(error: reqwest::Error) -> Unresolved {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(error) = cause {
        if error.is::<NotPublic>() {
            return Unresolved::Absent("its host has no public address");
        }
        cause = error.source();
    }
    Unresolved::outage(format!("{:?}", error.without_url()))
}
