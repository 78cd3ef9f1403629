//! The HTTP client for DID documents: one GET, no redirects, no proxy, bounded in time, size and number.
//!
//! It tells two kinds of failure apart, because the caller of this service must: an answer that is not a document is
//! final, and no answer is worth another try.

use std::time::Duration;

use reqwest::header::ACCEPT;
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};
use tokio::sync::Semaphore;

use super::address::{NotPublic, PublicOnly};
use super::tls;

/// How long one fetch may take, from waiting for its turn to the last byte.
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// How much of that may pass until a connection stands.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Largest DID document that is read, in bytes. Real ones have one or two thousand.
pub const MAX_DOCUMENT_BYTES: usize = 64 * 1024;

/// How many fetches of one fetcher run at a time; the others wait their turn within [`FETCH_TIMEOUT`].
const MAX_CONCURRENT_FETCHES: usize = 32;

/// Why a DID has no document here and now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// Its host has answered, or can never be asked; asking again soon gives the same.
    #[error("{0}")]
    Absent(&'static str),
    /// Its host did not answer; the text is for the log.
    #[error("{0}")]
    Unavailable(String),
}

/// Which hosts a fetcher talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hosts {
    /// Those the operator named or allowed, wherever they are.
    Trusted,
    /// Anybody's: over HTTPS only, and at public addresses only.
    Strangers,
}

/// A client and its limits. Each kind of host has a fetcher of its own, so that strangers' hosts which hang cannot use up
/// the turns of the directory.
pub struct Fetcher {
    client: Client,
    turns: Semaphore,
}

impl Fetcher {
    pub fn new(hosts: Hosts) -> Result<Self, reqwest::Error> {
        tls::install();
        let client = Client::builder()
            .user_agent(concat!("catbird-server/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(FETCH_TIMEOUT);
        let client = match hosts {
            Hosts::Trusted => client,
            Hosts::Strangers => client.https_only(true).pool_max_idle_per_host(0).dns_resolver(PublicOnly),
        };
        Ok(Self { client: client.build()?, turns: Semaphore::new(MAX_CONCURRENT_FETCHES) })
    }

    /// The body at `url`, if the answer is 200 and within the limits.
    pub async fn get(&self, url: Url) -> Result<Vec<u8>, Unresolved> {
        let fetched = async {
            let _turn = self.turns.acquire().await.map_err(|cause| Unresolved::Unavailable(cause.to_string()))?;
            let response = self.client.get(url).header(ACCEPT, "application/did+ld+json, application/json").send();
            body(accept(response.await.map_err(unanswered)?)?).await
        };
        tokio::time::timeout(FETCH_TIMEOUT, fetched)
            .await
            .unwrap_or_else(|_| Err(Unresolved::Unavailable(format!("no document within {FETCH_TIMEOUT:?}"))))
    }
}

/// Passes a 200 on and sorts the others: a host that is ailing or busy has not answered.
fn accept(response: Response) -> Result<Response, Unresolved> {
    match response.status() {
        StatusCode::OK => Ok(response),
        StatusCode::NOT_FOUND | StatusCode::GONE => Err(Unresolved::Absent("its host knows no such DID")),
        status if status.is_redirection() => Err(Unresolved::Absent("its host redirects, which is not followed")),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            Err(Unresolved::Unavailable(format!("the host answered {}", response.status())))
        }
        status if status.is_client_error() => Err(Unresolved::Absent("its host refuses to give the document")),
        status => Err(Unresolved::Unavailable(format!("the host answered {status}"))),
    }
}

async fn body(mut response: Response) -> Result<Vec<u8>, Unresolved> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unanswered)? {
        if body.len() + chunk.len() > MAX_DOCUMENT_BYTES {
            return Err(Unresolved::Absent("the document is too large"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// A refused address is the only transport failure that will not pass.
fn unanswered(error: reqwest::Error) -> Unresolved {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(error) = cause {
        if error.is::<NotPublic>() {
            return Unresolved::Absent("its host has no public address");
        }
        cause = error.source();
    }
    Unresolved::Unavailable(format!("{:?}", error.without_url()))
}
