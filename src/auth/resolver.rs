//! From a DID to its document, through a cache.
//!
//! A document that worked goes on working while its host does not answer. For [`FRESH_FOR`] nobody is asked; after that it is
//! fetched anew behind the requests that use it, and it serves them for [`DOCUMENT_LIFETIME`] at most if that fails. Only a
//! directory that says that there is no such DID ends it sooner.
//!
//! Requests that miss the same DID at the same time share one fetch. A document that does not verify a token may be out of date, so
//! it is fetched anew in the request's way, but only once in [`REFRESH_INTERVAL`] for each DID, and within a budget for all of them:
//! a stranger's garbage cannot be turned into load on a directory. The price is that a key which was changed twice within that
//! interval is refused until it is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use moka::Expiry;
use moka::future::Cache;
use reqwest::Url;

use super::budget::Budget;
use super::document::Document;
use super::fetch::{Asker, Fetcher, Hosts, Unresolved};
use super::location::{Location, locate};
use crate::clock::Clock;
use crate::config::AuthConfig;
use crate::ids::Did;

/// How many DIDs are remembered. An entry has one key and one DID, so its size is bounded too.
const CACHE_CAPACITY: u64 = 20_000;

/// How long a document counts as current.
pub const FRESH_FOR: TimeDelta = TimeDelta::minutes(5);

/// How long a document serves while its host does not answer.
pub const DOCUMENT_LIFETIME: TimeDelta = TimeDelta::hours(24);

/// How long it is remembered that a DID has no usable document.
const ABSENCE_LIFETIME: Duration = Duration::from_secs(30);

/// How long a host that a DID names is left alone after it did not answer.
const OUTAGE_LIFETIME: Duration = Duration::from_secs(5);

/// How long the outcome of a refresh stands.
pub const REFRESH_INTERVAL: Duration = Duration::from_secs(10);

/// Refreshes per second, and at once, that tokens whose signature does not fit can bring about.
const REFRESHES_PER_SECOND: u32 = 20;
const REFRESHES_AT_ONCE: u32 = 100;

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

/// Fetches and remembers DID documents. Cheap to clone.
#[derive(Clone)]
pub struct Resolver(Arc<Inner>);

struct Inner {
    clock: Clock,
    directory: Url,
    allow_private: bool,
    directory_fetcher: Fetcher,
    named_fetcher: Fetcher,
    documents: Cache<Did, Arc<Entry>>,
    refreshes: Cache<Did, Refreshed>,
    outages: Cache<Did, Unresolved>,
    refresh_budget: Budget,
}

/// What is remembered of a DID.
struct Entry {
    resolution: Resolution,
    fetched_at: DateTime<Utc>,
    /// Before this time, in seconds since 1970, no other refresh begins behind a request.
    next_refresh: AtomicI64,
}

/// The outcome of a refresh in a request's way, and when that was.
type Refreshed = (DateTime<Utc>, Result<Resolution, Unresolved>);

/// How long each kind of entry stays.
struct Lifetimes;

impl Expiry<Did, Arc<Entry>> for Lifetimes {
    fn expire_after_create(&self, _: &Did, entry: &Arc<Entry>, _: Instant) -> Option<Duration> {
        Some(if entry.resolution.is_ok() { DOCUMENT_LIFETIME.to_std().ok()? } else { ABSENCE_LIFETIME })
    }

    fn expire_after_update(&self, did: &Did, entry: &Arc<Entry>, at: Instant, _: Option<Duration>) -> Option<Duration> {
        self.expire_after_create(did, entry, at)
    }
}

impl Entry {
    fn new(resolution: Resolution, now: DateTime<Utc>) -> Arc<Self> {
        let next_refresh = AtomicI64::new((now + FRESH_FOR).timestamp());
        Arc::new(Self { resolution, fetched_at: now, next_refresh })
    }

    /// Whether the caller is the one to refresh it now.
    fn is_due(&self, now: DateTime<Utc>) -> bool {
        let (due, next) = (self.next_refresh.load(Ordering::Relaxed), now + REFRESH_INTERVAL);
        now.timestamp() >= due
            && self.next_refresh.compare_exchange(due, next.timestamp(), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl Resolver {
    pub fn new(config: &AuthConfig, clock: Clock) -> Result<Self, SetupError> {
        let directory = Url::parse(&config.plc_directory_url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"))
            .ok_or(SetupError::Directory)?;
        let allow_private = config.allow_private_did_hosts;
        Ok(Self(Arc::new(Inner {
            clock,
            directory,
            allow_private,
            directory_fetcher: Fetcher::new(Hosts::Directory)?,
            named_fetcher: Fetcher::new(if allow_private { Hosts::Allowed } else { Hosts::Strangers })?,
            documents: Cache::builder().max_capacity(CACHE_CAPACITY).expire_after(Lifetimes).build(),
            refreshes: Cache::builder().max_capacity(CACHE_CAPACITY).time_to_live(REFRESH_INTERVAL).build(),
            outages: Cache::builder().max_capacity(CACHE_CAPACITY).time_to_live(OUTAGE_LIFETIME).build(),
            refresh_budget: Budget::new(REFRESHES_PER_SECOND, REFRESHES_AT_ONCE),
        })))
    }

    /// The document of `did`, remembered or fetched.
    pub async fn find(&self, did: &Did) -> Result<Found, Unresolved> {
        let inner = &self.0;
        let now = inner.clock.now();
        let remembered = inner.documents.get(did).await;
        let asker = if remembered.is_some() { Asker::Known } else { Asker::Stranger };
        if let Some(entry) = remembered {
            match &entry.resolution {
                Err(why) => return Err(Unresolved::Absent(why)),
                Ok(document) if now < entry.fetched_at + DOCUMENT_LIFETIME => {
                    if entry.is_due(now) {
                        self.refresh_behind(did.clone());
                    }
                    return Ok(Found { document: document.clone(), fresh: false });
                }
                Ok(_) => inner.documents.invalidate(did).await,
            }
        }
        if let Some(outage) = inner.outages.get(did).await {
            return Err(outage);
        }
        let fetched = async { Ok::<_, Unresolved>(Entry::new(inner.fetch(did, asker).await?, now)) };
        let entry = inner.documents.entry_by_ref(did).or_try_insert_with(fetched).await;
        let entry = entry.map_err(|outage| Unresolved::clone(&outage))?;
        let fresh = entry.is_fresh();
        let document = entry.into_value().resolution.clone().map_err(Unresolved::Absent)?;
        Ok(Found { document, fresh })
    }

    /// The document of `did` as it is now, or was when it was last refreshed within [`REFRESH_INTERVAL`].
    pub async fn refresh(&self, did: &Did) -> Result<Arc<Document>, Unresolved> {
        let inner = &self.0;
        let now = inner.clock.now();
        if inner.refreshes.get(did).await.is_some_and(|(at, _)| now >= at + REFRESH_INTERVAL) {
            inner.refreshes.invalidate(did).await;
        }
        let refreshing = async {
            if let Err(wait) = inner.refresh_budget.take(Instant::now()) {
                return (now, Err(Unresolved::busy(wait)));
            }
            (now, inner.renew(did).await)
        };
        let (_, refreshed) = inner.refreshes.get_with_by_ref(did, refreshing).await;
        refreshed?.map_err(Unresolved::Absent)
    }

    /// Fetches a document anew while requests go on with the one that is there.
    fn refresh_behind(&self, did: Did) {
        let inner = self.0.clone();
        // What comes of it stands in the cache and in the log.
        tokio::spawn(async move { drop(inner.renew(&did).await) });
    }
}

impl Inner {
    /// Fetches the document of a DID that has one here, and replaces that if the answer can.
    async fn renew(&self, did: &Did) -> Result<Resolution, Unresolved> {
        let resolution = self.fetch(did, Asker::Known).await?;
        if resolution.is_ok() || self.has_authority(did) {
            self.documents.insert(did.clone(), Entry::new(resolution.clone(), self.clock.now())).await;
        }
        Ok(resolution)
    }

    /// Whether the host of its document can say that there is none. A web server that is being repaired says so as well.
    fn has_authority(&self, did: &Did) -> bool {
        matches!(locate(did, &self.directory, self.allow_private), Ok(Location::Directory(_)))
    }

    /// Asks the host. An outage is the outer error, so that no cache keeps it for long.
    async fn fetch(&self, did: &Did, asker: Asker) -> Result<Resolution, Unresolved> {
        let resolved = self.fetch_document(did, asker).await;
        if let Err(cause) = &resolved {
            tracing::debug!(%did, %cause, "DID does not resolve");
        }
        match resolved {
            Ok(document) => Ok(Ok(Arc::new(document))),
            Err(Unresolved::Absent(why)) => Ok(Err(why)),
            Err(outage) => {
                if !self.has_authority(did) {
                    self.outages.insert(did.clone(), outage.clone()).await;
                }
                Err(outage)
            }
        }
    }

    async fn fetch_document(&self, did: &Did, asker: Asker) -> Result<Document, Unresolved> {
        match locate(did, &self.directory, self.allow_private)? {
            Location::Directory(url) => {
                let json = self.directory_fetcher.get(url, asker).await?;
                // A directory that works gives the document or says that there is none; this is something that stands before it.
                Document::parse(did, &json).map_err(|unusable| Unresolved::outage(unusable.reason()))
            }
            Location::Named(url) => {
                let json = self.named_fetcher.get(url, asker).await?;
                Document::parse(did, &json).map_err(|unusable| Unresolved::Absent(unusable.reason()))
            }
        }
    }
}
