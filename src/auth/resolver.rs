//! From a DID to its document, through a cache.
//!
//! Found documents and final refusals are remembered, outages are not. Requests that miss the same DID at the same time
//! share one fetch. A document that does not verify a token may be out of date, so it is fetched anew before its time,
//! but only once in [`REFRESH_INTERVAL`] for each DID: a stranger's garbage cannot be turned into load on a directory.
//! The price is that a key which was changed twice within that interval is refused until it is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::future::Cache;
use reqwest::Url;

use super::document::Document;
use super::fetch::{Fetcher, Hosts, Unresolved};
use super::location::{Location, locate};
use crate::config::AuthConfig;
use crate::ids::Did;

/// How many DIDs are remembered.
const CACHE_CAPACITY: u64 = 20_000;

/// How long a document counts as current.
const DOCUMENT_LIFETIME: Duration = Duration::from_secs(5 * 60);

/// How long it is remembered that a DID has no usable document.
const ABSENCE_LIFETIME: Duration = Duration::from_secs(30);

/// How long the outcome of a refresh stands.
pub const REFRESH_INTERVAL: Duration = Duration::from_secs(10);

/// Why there can be no resolver.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("PLC_DIRECTORY_URL must be an http or https URL")]
    Directory,
    #[error("the HTTP client for DID documents cannot be built: {0}")]
    Client(#[from] reqwest::Error),
}

/// A document or, remembered just as well, that there is none.
type Resolution = Result<Arc<Document>, &'static str>;

/// A document and how it was come by.
pub struct Found {
    pub document: Arc<Document>,
    /// Fetched for this very call, so that there is nothing newer to be had.
    pub fresh: bool,
}

/// Fetches and remembers DID documents.
pub struct Resolver {
    directory: Url,
    allow_private: bool,
    directory_fetcher: Fetcher,
    named_fetcher: Fetcher,
    documents: Cache<Did, Resolution>,
    refreshes: Cache<Did, Result<Resolution, Unresolved>>,
}

/// How long each kind of entry of `documents` stays.
struct Lifetimes;

impl Expiry<Did, Resolution> for Lifetimes {
    fn expire_after_create(&self, _: &Did, resolution: &Resolution, _: Instant) -> Option<Duration> {
        Some(if resolution.is_ok() { DOCUMENT_LIFETIME } else { ABSENCE_LIFETIME })
    }

    fn expire_after_update(
        &self,
        did: &Did,
        resolution: &Resolution,
        at: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        self.expire_after_create(did, resolution, at)
    }
}

impl Resolver {
    pub fn new(config: &AuthConfig) -> Result<Self, SetupError> {
        let directory = Url::parse(&config.plc_directory_url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"))
            .ok_or(SetupError::Directory)?;
        let allow_private = config.allow_private_did_hosts;
        Ok(Self {
            directory,
            allow_private,
            directory_fetcher: Fetcher::new(Hosts::Trusted)?,
            named_fetcher: Fetcher::new(if allow_private { Hosts::Trusted } else { Hosts::Strangers })?,
            documents: Cache::builder().max_capacity(CACHE_CAPACITY).expire_after(Lifetimes).build(),
            refreshes: Cache::builder().max_capacity(CACHE_CAPACITY).time_to_live(REFRESH_INTERVAL).build(),
        })
    }

    /// The document of `did`, remembered or fetched.
    pub async fn find(&self, did: &Did) -> Result<Found, Unresolved> {
        let entry = self.documents.entry_by_ref(did).or_try_insert_with(self.fetch(did)).await;
        let entry = entry.map_err(|outage| Unresolved::clone(&outage))?;
        let fresh = entry.is_fresh();
        let document = entry.into_value().map_err(Unresolved::Absent)?;
        Ok(Found { document, fresh })
    }

    /// The document of `did` as it is now, or was when it was last refreshed within [`REFRESH_INTERVAL`].
    pub async fn refresh(&self, did: &Did) -> Result<Arc<Document>, Unresolved> {
        let refreshed = self.refreshes.get_with_by_ref(did, async {
            let fetched = self.fetch(did).await;
            if let Ok(resolution) = &fetched {
                self.documents.insert(did.clone(), resolution.clone()).await;
            }
            fetched
        });
        refreshed.await?.map_err(Unresolved::Absent)
    }

    /// Asks the host. An outage is the outer error, so that no cache keeps it for long.
    async fn fetch(&self, did: &Did) -> Result<Resolution, Unresolved> {
        let resolved = self.fetch_document(did).await;
        if let Err(cause) = &resolved {
            tracing::debug!(%did, %cause, "DID does not resolve");
        }
        match resolved {
            Ok(document) => Ok(Ok(Arc::new(document))),
            Err(Unresolved::Absent(why)) => Ok(Err(why)),
            Err(outage) => Err(outage),
        }
    }

    async fn fetch_document(&self, did: &Did) -> Result<Document, Unresolved> {
        let json = match locate(did, &self.directory, self.allow_private)? {
            Location::Directory(url) => self.directory_fetcher.get(url).await?,
            Location::Named(url) => self.named_fetcher.get(url).await?,
        };
        Document::parse(did, &json).map_err(|unusable| Unresolved::Absent(unusable.reason()))
    }
}
