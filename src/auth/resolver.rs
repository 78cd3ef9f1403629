//! From a DID to its document, through a cache.
//!
//! A document that worked goes on working while its host does not answer. For [`FRESH_FOR`] nobody is asked; after that it is
//! fetched anew behind the requests that use it, and it serves them for [`DOCUMENT_LIFETIME`] at most if that fails. Only a
//! directory that says that there is no such DID ends it sooner.
//!
//! A document that has verified a token is kept in the database as well ([`super::archive`]), so that a replica that has just started
//! knows it, and its DID is none of the strangers, who share a budget.
//!
//! Requests that miss the same DID at the same time share one fetch. A document that does not verify a token may be out of date, so
//! it is fetched anew in the request's way, within a budget for each DID and one for all of them: a stranger's garbage cannot be turned
//! into load on a directory. Whoever comes beyond it is told to come again, not that its key is wrong, which nobody knows by then.

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
use crate::clock::Clock;
use crate::config::AuthConfig;
use crate::ids::Did;
use crate::metrics::Metrics;

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

/// The time for which tokens of one DID whose signature does not fit can bring about one refresh, and how many at once. Whoever changes
/// a key twice or three times in a row is let in each time.
pub const REFRESH_INTERVAL: Duration = Duration::from_secs(10);
pub const REFRESHES_OF_ONE: u32 = 3;

/// Refreshes per second, and at once, that tokens whose signature does not fit can bring about.
const REFRESHES_PER_SECOND: u32 = 20;
const REFRESHES_AT_ONCE: u32 = 100;

/// How long it is remembered what one DID has used of its budget: until all of it is there again.
const REFRESHES_REMEMBERED: Duration = Duration::from_secs(60);

/// Refreshes per second, and at once, behind requests and for open streams. Documents of whom it does not reach serve on, and it is tried
/// again with a later request.
const RENEWALS_PER_SECOND: u32 = 50;
const RENEWALS_AT_ONCE: u32 = 200;

/// How long what is kept in the database stands before it is written anew, unless the key changes.
const KEPT_FOR: TimeDelta = TimeDelta::hours(1);

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
    entry: Arc<Entry>,
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
    refreshes: Cache<Did, Arc<Refreshes>>,
    outages: Cache<Did, Unresolved>,
    refresh_budget: Budget,
    renewal_budget: Budget,
    archive: Archive,
    metrics: Metrics,
}

/// What is remembered of a DID.
struct Entry {
    resolution: Resolution,
    fetched_at: DateTime<Utc>,
    /// Before this time, in seconds since 1970, no other refresh begins behind a request.
    next_refresh: AtomicI64,
    /// When it was fetched as the database keeps it, in seconds since 1970; [`NEVER`] if that keeps none.
    kept: AtomicI64,
}

const NEVER: i64 = i64::MIN;

/// The refreshes of one DID that are in requests' way: one at a time, and within a budget.
struct Refreshes {
    budget: Budget,
    /// Held by the one that runs: when and how the last one failed.
    failed: tokio::sync::Mutex<Option<(Instant, Unresolved)>>,
}

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
    /// What a host said at this time.
    fn new(resolution: Resolution, fetched_at: DateTime<Utc>) -> Arc<Self> {
        Self::kept(resolution, fetched_at, NEVER)
    }

    /// The same, with what the database keeps.
    fn kept(resolution: Resolution, fetched_at: DateTime<Utc>, kept: i64) -> Arc<Self> {
        let next_refresh = AtomicI64::new((fetched_at + FRESH_FOR).timestamp());
        Arc::new(Self { resolution, fetched_at, next_refresh, kept: AtomicI64::new(kept) })
    }

    /// Whether the caller is the one to refresh it now.
    fn is_due(&self, now: DateTime<Utc>) -> bool {
        let (due, next) = (self.next_refresh.load(Ordering::Relaxed), now + REFRESH_INTERVAL);
        now.timestamp() >= due
            && self.next_refresh.compare_exchange(due, next.timestamp(), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl Resolver {
    pub fn new(config: &AuthConfig, clock: Clock, archive: Archive, metrics: Metrics) -> Result<Self, SetupError> {
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
            refresh_budget: Budget::new(REFRESHES_PER_SECOND, REFRESHES_AT_ONCE),
            renewal_budget: Budget::new(RENEWALS_PER_SECOND, RENEWALS_AT_ONCE),
            archive,
            metrics,
        })))
    }

    /// The document of `did`, remembered, kept or fetched.
    pub async fn find(&self, did: &Did) -> Result<Found, Unresolved> {
        let inner = &self.0;
        let now = inner.clock.now();
        let mut known = false;
        if let Some(entry) = inner.documents.get(did).await {
            match &entry.resolution {
                Err(why) => return Err(Unresolved::Absent(why)),
                Ok(document) if now < entry.fetched_at + DOCUMENT_LIFETIME => {
                    let document = document.clone();
                    self.refresh_behind(did, &entry, now);
                    return Ok(Found { document, fresh: false, entry });
                }
                Ok(_) => {
                    known = true;
                    inner.documents.invalidate(did).await;
                }
            }
        }
        let coming_by = inner.come_by(did, known, now);
        let entry = inner.documents.entry_by_ref(did).or_try_insert_with(coming_by).await;
        let entry = entry.map_err(|outage| Unresolved::clone(&outage))?;
        let inserted = entry.is_fresh();
        let entry = entry.into_value();
        let document = entry.resolution.clone().map_err(Unresolved::Absent)?;
        // What was kept may be out of date, and what another request has fetched by now, too.
        let fresh = inserted && entry.kept.load(Ordering::Relaxed) == NEVER;
        if !fresh {
            self.refresh_behind(did, &entry, now);
        }
        Ok(Found { document, fresh, entry })
    }

    /// Takes note that a document has verified a token of its DID, which is what makes a DID known.
    pub fn keep(&self, did: &Did, found: &Found) {
        let fetched_at = found.entry.fetched_at;
        let (kept, fetched) = (found.entry.kept.load(Ordering::Relaxed), fetched_at.timestamp());
        if fetched.saturating_sub(kept) >= KEPT_FOR.num_seconds()
            && found.entry.kept.compare_exchange(kept, fetched, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.0.archive.keep(did, &found.document, fetched_at);
        }
    }

    /// The document of `did` instead of one that has not verified a token of its: what another request has found since, or what its
    /// host says now. Beyond the budget it is unavailable, with the time to wait.
    pub async fn newer(&self, did: &Did, than: &Found) -> Result<Found, Unresolved> {
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
        Ok(Found { document, fresh, entry })
    }

    /// What is current of `did`, fetched if what is remembered is not: its document, or that there is none. `None` if nobody can tell:
    /// its host does not answer, says nothing that counts, or may not be asked just now.
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

    /// Fetches a document anew, if it is time, while requests go on with the one that is there.
    fn refresh_behind(&self, did: &Did, entry: &Entry, now: DateTime<Utc>) {
        if entry.is_due(now) && self.0.renewal_budget.take(Instant::now()).is_ok() {
            let (inner, did) = (self.0.clone(), did.clone());
            // What comes of it stands in the cache and in the log.
            tokio::spawn(async move { drop(inner.renew(&did).await) });
        }
    }
}

impl Refreshes {
    fn new(now: Instant) -> Self {
        Self { budget: Budget::every(REFRESH_INTERVAL, REFRESHES_OF_ONE, now), failed: tokio::sync::Mutex::default() }
    }
}

impl Inner {
    /// The document of a DID of which nothing is remembered, or nothing that still counts: as it is kept, else from its host.
    async fn come_by(&self, did: &Did, mut known: bool, now: DateTime<Utc>) -> Result<Arc<Entry>, Unresolved> {
        // Nobody is asked about a DID that has no place.
        if locate(did, &self.directory, self.allow_private).is_ok() {
            match self.archive.find(did).await {
                Some((document, fetched_at)) if now < fetched_at + DOCUMENT_LIFETIME => {
                    self.metrics.did_document_kept("current");
                    // Another replica's clock may be ahead; it does not make a document newer.
                    let fetched_at = fetched_at.min(now);
                    return Ok(Entry::kept(Ok(Arc::new(document)), fetched_at, fetched_at.timestamp()));
                }
                Some(_) => {
                    self.metrics.did_document_kept("outdated");
                    known = true;
                }
                None => self.metrics.did_document_kept("nothing"),
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

    /// Fetches the document of a DID that has one here, and replaces that if the answer can. Gives what was answered.
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
                // The old key is kept, and must not come back with a restart.
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

    /// Whether the host of its document can say that there is none. A web server that is being repaired says so as well.
    fn has_authority(&self, did: &Did) -> bool {
        matches!(locate(did, &self.directory, self.allow_private), Ok(Location::Directory(_)))
    }

    /// Asks the host. An outage is the outer error, so that no cache keeps it for long.
    async fn fetch(&self, did: &Did, asker: Asker) -> Result<Resolution, Unresolved> {
        let resolved = self.fetch_document(did, asker).await;
        let outcome = resolved.as_ref().map_or_else(Unresolved::label, |_| "found");
        self.metrics.did_document_fetched(asker.label(), outcome);
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
