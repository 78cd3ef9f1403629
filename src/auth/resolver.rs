//! Resolves a DID to its document, through a cache.
//!
//! For [`FRESH_FOR`] a document is served without asking its host. After that it is fetched again in the background; if
//! that fails it is served for [`DOCUMENT_LIFETIME`] at most. Only a directory that says that the DID does not exist
//! ends this sooner.
//!
//! A document that has verified a token is also stored in the database ([`super::archive`]). A replica that has just
//! started then knows it, and its DID is not one of the strangers, who share a budget.
//!
//! Concurrent requests for the same DID share one fetch. A document that does not verify a token may be out of date, so
//! it is fetched again while the request waits, within a budget per DID and a global one: invalid tokens cannot be
//! turned into load on a directory. A request beyond the budget is told to retry, because its key may be right.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use moka::Expiry;
use moka::future::Cache;
use reqwest::Url;

use super::archive::Archive;
use super::budget::Budget;
use super::document::Document;
use super::fetch::{Asker, Fetcher, Hosts, Unresolved};
use super::location::{Location, locate};
use super::metrics::{AuthMetrics, KeptDocument};
use crate::clock::Clock;
use crate::config::AuthConfig;
use crate::ids::Did;

/// Maximum number of cached DIDs. An entry has one key and one DID, so its size is bounded too.
const CACHE_CAPACITY: u64 = 20_000;

/// Time for which a document counts as current.
pub const FRESH_FOR: TimeDelta = TimeDelta::minutes(5);

/// Time for which a document is served while its host does not answer.
pub const DOCUMENT_LIFETIME: TimeDelta = TimeDelta::hours(24);

/// Time for which it is cached that a DID has no usable document.
const ABSENCE_LIFETIME: Duration = Duration::from_secs(30);

/// Time for which a host that a DID names is not asked after it did not answer.
const OUTAGE_LIFETIME: Duration = Duration::from_secs(5);

/// Refreshes that tokens with a wrong signature can cause for one DID: one per interval, and a burst. An account that
/// changes its key two or three times in a row is accepted each time.
pub const REFRESH_INTERVAL: Duration = Duration::from_secs(10);
pub const REFRESHES_PER_DID: u32 = 3;

/// Refreshes per second, and at once, that tokens with wrong signatures can cause in all.
const REFRESHES_PER_SECOND: u32 = 20;
const REFRESH_BURST: u32 = 100;

/// Time for which the budget of one DID is kept: until it is full again.
const REFRESHES_REMEMBERED: Duration = Duration::from_secs(60);

/// Refreshes per second, and at once, in the background and for open streams. A document beyond that is served on, and
/// a later request tries again.
const RENEWALS_PER_SECOND: u32 = 50;
const RENEWAL_BURST: u32 = 200;

/// Time after which the stored copy of a document is written again if its key has not changed.
const STORED_COPY_LIFETIME: TimeDelta = TimeDelta::hours(1);

/// Reasons for which the resolver cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("PLC_DIRECTORY_URL must be an http or https URL")]
    Directory,
    #[error("the HTTP client for DID documents cannot be built: {0}")]
    Client(#[from] reqwest::Error),
}

/// A document, or the cached fact that there is none.
type Resolution = Result<Arc<Document>, &'static str>;

/// A document and its origin.
pub struct Resolved {
    pub document: Arc<Document>,
    /// True if it was fetched for this call, so there is nothing newer.
    pub fresh: bool,
    entry: Arc<Entry>,
}

/// Fetches and caches DID documents. Cheap to clone.
#[derive(Clone)]
pub struct Resolver(Arc<Inner>);

struct Inner {
    clock: Clock,
    directory: Url,
    allow_private: bool,
    directory_fetcher: Fetcher,
    named_fetcher: Fetcher,
    documents: Cache<Did, Arc<Entry>>,
    refreshes: Cache<Did, Arc<Refreshes>>,
    outages: Cache<Did, Unresolved>,
    refresh_budget: Budget,
    renewal_budget: Budget,
    archive: Archive,
    metrics: AuthMetrics,
}

/// Cache entry of a DID.
struct Entry {
    resolution: Resolution,
    fetched_at: DateTime<Utc>,
    /// Time before which no other background refresh starts, in seconds since 1970.
    next_refresh: AtomicI64,
    /// Time of the fetch that the database has stored, in seconds since 1970; [`NEVER`] if none.
    kept: AtomicI64,
}

const NEVER: i64 = i64::MIN;

/// Refreshes of one DID that requests wait for: one at a time, and within a budget.
struct Refreshes {
    budget: Budget,
    /// Time and cause of the last failure; locked while a refresh runs.
    failed: tokio::sync::Mutex<Option<(Instant, Unresolved)>>,
}

/// Cache lifetime by kind of entry.
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
    /// Creates an entry from a host's answer at this time.
    fn new(resolution: Resolution, fetched_at: DateTime<Utc>) -> Arc<Self> {
        Self::kept(resolution, fetched_at, NEVER)
    }

    /// Like [`Entry::new`], for a document that the database has stored.
    fn kept(resolution: Resolution, fetched_at: DateTime<Utc>, kept: i64) -> Arc<Self> {
        let next_refresh = AtomicI64::new((fetched_at + FRESH_FOR).timestamp());
        Arc::new(Self { resolution, fetched_at, next_refresh, kept: AtomicI64::new(kept) })
    }

    /// Returns true to one caller that must refresh it now.
    fn is_due(&self, now: DateTime<Utc>) -> bool {
        let (due, next) = (self.next_refresh.load(Ordering::Relaxed), now + REFRESH_INTERVAL);
        now.timestamp() >= due
            && self.next_refresh.compare_exchange(due, next.timestamp(), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl Resolver {
    pub fn new(config: &AuthConfig, clock: Clock, archive: Archive, metrics: AuthMetrics) -> Result<Self, SetupError> {
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
            refreshes: Cache::builder().max_capacity(CACHE_CAPACITY).time_to_idle(REFRESHES_REMEMBERED).build(),
            outages: Cache::builder().max_capacity(CACHE_CAPACITY).time_to_live(OUTAGE_LIFETIME).build(),
            refresh_budget: Budget::new(REFRESHES_PER_SECOND, REFRESH_BURST),
            renewal_budget: Budget::new(RENEWALS_PER_SECOND, RENEWAL_BURST),
            archive,
            metrics,
        })))
    }

    /// Returns the document of `did` from the cache, the database or its host.
    pub async fn find(&self, did: &Did) -> Result<Resolved, Unresolved> {
        let inner = &self.0;
        let now = inner.clock.now();
        let mut known = false;
        if let Some(entry) = inner.documents.get(did).await {
            match &entry.resolution {
                Err(why) => return Err(Unresolved::Absent(why)),
                Ok(document) if now < entry.fetched_at + DOCUMENT_LIFETIME => {
                    let document = document.clone();
                    self.refresh_in_background(did, &entry, now);
                    return Ok(Resolved { document, fresh: false, entry });
                }
                Ok(_) => {
                    known = true;
                    inner.documents.invalidate(did).await;
                }
            }
        }
        let loading = inner.load(did, known, now);
        let entry = inner.documents.entry_by_ref(did).or_try_insert_with(loading).await;
        let entry = entry.map_err(|outage| Unresolved::clone(&outage))?;
        let inserted = entry.is_fresh();
        let entry = entry.into_value();
        let document = entry.resolution.clone().map_err(Unresolved::Absent)?;
        // A stored document may be out of date, and so may one that another request has fetched.
        let fresh = inserted && entry.kept.load(Ordering::Relaxed) == NEVER;
        if !fresh {
            self.refresh_in_background(did, &entry, now);
        }
        Ok(Resolved { document, fresh, entry })
    }

    /// Stores a document that has verified a token of its DID; this makes the DID a known one.
    pub fn keep(&self, did: &Did, found: &Resolved) {
        let fetched_at = found.entry.fetched_at;
        let (kept, fetched) = (found.entry.kept.load(Ordering::Relaxed), fetched_at.timestamp());
        if fetched.saturating_sub(kept) >= STORED_COPY_LIFETIME.num_seconds()
            && found.entry.kept.compare_exchange(kept, fetched, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.0.archive.keep(did, &found.document, fetched_at);
        }
    }

    /// Returns the document of `did` that replaces one which has not verified a token: one that another request has
    /// fetched since, or a new one from its host. Beyond the budget it fails as unavailable, with the time to wait.
    pub async fn newer(&self, did: &Did, than: &Resolved) -> Result<Resolved, Unresolved> {
        let inner = &self.0;
        let (came, now) = (Instant::now(), inner.clock.instant());
        let new = async { Arc::new(Refreshes::new(now)) };
        let refreshes = inner.refreshes.get_with_by_ref(did, new).await;
        let mut failed = refreshes.failed.lock().await;
        if let Some((_, outage)) = failed.as_ref().filter(|(at, _)| *at >= came) {
            return Err(outage.clone());
        }
        let (entry, fresh) = match inner.documents.get(did).await.filter(|entry| !Arc::ptr_eq(entry, &than.entry)) {
            Some(entry) => (entry, false),
            None => {
                refreshes.budget.take(now).map_err(Unresolved::busy)?;
                if let Err(wait) = inner.refresh_budget.take(Instant::now()) {
                    refreshes.budget.give_back();
                    return Err(Unresolved::busy(wait));
                }
                let renewed = inner.renew(did).await;
                *failed = renewed.as_ref().err().map(|outage| (Instant::now(), outage.clone()));
                (renewed?, true)
            }
        };
        let document = entry.resolution.clone().map_err(Unresolved::Absent)?;
        Ok(Resolved { document, fresh, entry })
    }

    /// Returns the current document of `did`, or that it has none, fetched if the cache is not current. `None` if its
    /// host does not answer, has no authority to say so, or may not be asked now.
    pub async fn current(&self, did: &Did) -> Option<Result<Arc<Document>, &'static str>> {
        let inner = &self.0;
        let remembered = inner.documents.get(did).await;
        let resolution = match remembered.filter(|entry| inner.clock.now() < entry.fetched_at + FRESH_FOR) {
            Some(entry) => entry.resolution.clone(),
            None => {
                inner.renewal_budget.take(Instant::now()).ok()?;
                inner.renew(did).await.ok()?.resolution.clone()
            }
        };
        (resolution.is_ok() || inner.has_authority(did)).then_some(resolution)
    }

    /// Starts a background refresh of a document if it is due; requests continue with the cached one.
    fn refresh_in_background(&self, did: &Did, entry: &Entry, now: DateTime<Utc>) {
        if entry.is_due(now) && self.0.renewal_budget.take(Instant::now()).is_ok() {
            let (inner, did) = (self.0.clone(), did.clone());
            // The outcome is in the cache and in the log.
            tokio::spawn(async move { drop(inner.renew(&did).await) });
        }
    }
}

impl Refreshes {
    fn new(now: Instant) -> Self {
        Self { budget: Budget::every(REFRESH_INTERVAL, REFRESHES_PER_DID, now), failed: tokio::sync::Mutex::default() }
    }
}

impl Inner {
    /// Loads the document of a DID that is not cached or has expired: from the database, else from its host.
    async fn load(&self, did: &Did, mut known: bool, now: DateTime<Utc>) -> Result<Arc<Entry>, Unresolved> {
        // A DID without a valid location causes no lookup.
        if locate(did, &self.directory, self.allow_private).is_ok() {
            match self.archive.find(did).await {
                Some((document, fetched_at)) if now < fetched_at + DOCUMENT_LIFETIME => {
                    self.metrics.document_kept(KeptDocument::Current);
                    // Another replica's clock may be ahead; that does not make a document newer.
                    let fetched_at = fetched_at.min(now);
                    return Ok(Entry::kept(Ok(Arc::new(document)), fetched_at, fetched_at.timestamp()));
                }
                Some(_) => {
                    self.metrics.document_kept(KeptDocument::Outdated);
                    known = true;
                }
                None => self.metrics.document_kept(KeptDocument::Nothing),
            }
        }
        if let Some(outage) = self.outages.get(did).await {
            return Err(outage);
        }
        let resolution = self.fetch(did, if known { Asker::Known } else { Asker::Stranger }).await?;
        if known && resolution.is_err() && self.has_authority(did) {
            self.archive.forget(did);
        }
        Ok(Entry::new(resolution, now))
    }

    /// Fetches the document of a cached DID again, and replaces the cache entry if the answer has authority. Returns
    /// the answer.
    async fn renew(&self, did: &Did) -> Result<Arc<Entry>, Unresolved> {
        let resolution = self.fetch(did, Asker::Known).await?;
        let (before, now) = (self.documents.get(did).await, self.clock.now());
        if resolution.is_err() && !self.has_authority(did) {
            return Ok(Entry::new(resolution, now));
        }
        let kept = before.as_ref().map_or(NEVER, |entry| entry.kept.load(Ordering::Relaxed));
        let entry = match &resolution {
            Ok(document) if kept == NEVER || before.is_some_and(|entry| entry.resolution == resolution) => {
                Entry::kept(Ok(document.clone()), now, kept)
            }
            Ok(document) => {
                // The stored key is the old one, and must not come back with a restart.
                self.archive.keep(did, document, now);
                Entry::kept(Ok(document.clone()), now, now.timestamp())
            }
            Err(_) => {
                self.archive.forget(did);
                Entry::new(resolution.clone(), now)
            }
        };
        self.documents.insert(did.clone(), entry.clone()).await;
        Ok(entry)
    }

    /// Returns true if the host of its document can say that the document does not exist. A web server under repair
    /// says so as well.
    fn has_authority(&self, did: &Did) -> bool {
        matches!(locate(did, &self.directory, self.allow_private), Ok(Location::Directory(_)))
    }

    /// Asks the host. An outage is the outer error, so no cache keeps it for long.
    async fn fetch(&self, did: &Did, asker: Asker) -> Result<Resolution, Unresolved> {
        let resolved = self.fetch_document(did, asker).await;
        let outcome = resolved.as_ref().map_or_else(Unresolved::label, |_| "found");
        self.metrics.document_fetched(asker, outcome);
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
                // The directory returns the document or says that there is none; any other body comes from a proxy in
                // front of it.
                Document::parse(did, &json).map_err(|unusable| Unresolved::outage(unusable.reason()))
            }
            Location::Named(url) => {
                let json = self.named_fetcher.get(url, asker).await?;
                Document::parse(did, &json).map_err(|unusable| Unresolved::Absent(unusable.reason()))
            }
        }
    }
}
