//! Objects in a bucket at a service with the API of S3.
//!
//! An object is written by one PUT to a signed address, because the parts of S3's multipart uploads have at least 5 MiB, which
//! would have to be in memory before they are signed. The service takes `Content-Length` bytes or makes no object.

use std::ops::Range;
use std::time::Duration;

use futures_util::StreamExt;
use http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::signer::{SignedUrlOptions, Signer};
use object_store::{BackoffConfig, GetOptions, GetRange, ObjectStore, ObjectStoreExt, RetryConfig};
use reqwest::Url;
use tokio::runtime::Handle;

use crate::config::S3;

use super::failure::Failure;
use super::http::{Answer, Body, Http};
use super::reading::Opened;
use super::{Listed, PAGE, parse};

/// Headers of every object, so that no browser shows what a signed address leads to.
const HEADERS: [(HeaderName, HeaderValue); 2] = [
    (CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
    (CONTENT_DISPOSITION, HeaderValue::from_static("attachment")),
];
/// Time for which the address of a PUT is valid: the difference between two clocks that S3 accepts.
const PUT_VALID: Duration = Duration::from_secs(15 * 60);
/// Maximum number of bytes of a refusal that are read, for the log.
const MAX_REFUSAL_BYTES: usize = 4 * 1024;

/// A bucket, or the part of one with a prefix. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    store: AmazonS3,
    http: Http,
    /// Empty, or with a slash at its end.
    prefix: String,
}

impl Bucket {
    /// Opens no connection yet.
    pub fn new(config: &S3, runtime: Handle) -> Result<Self, String> {
        let S3 { bucket, prefix, endpoint, region, access_key_id, secret_access_key } = config;
        let is_plain = endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
        let http = Http::new(runtime, is_plain).map_err(|cause| format!("TLS cannot be used: {cause}"))?;
        let builder = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_region(region)
            .with_access_key_id(access_key_id)
            .with_secret_access_key(secret_access_key)
            .with_disable_bulk_delete(true)
            // This module makes the attempts, alike for each kind of store.
            .with_retry(RetryConfig {
                backoff: BackoffConfig::default(),
                max_retries: 0,
                retry_timeout: Duration::ZERO,
            })
            .with_http_connector(http.clone());
        let builder = endpoint.iter().fold(builder, |builder, endpoint| builder.with_endpoint(endpoint));
        let store = builder.build().map_err(|cause| cause.to_string())?;
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(Self { store, http, prefix })
    }

    fn path(&self, name: &str) -> Result<Path, Failure> {
        parse(&format!("{}{name}", self.prefix))
    }

    /// Begins to write an object of `length` bytes. The body must fail rather than end early.
    pub async fn put(&self, name: &str, length: u64, body: Body) -> Result<Answer, Failure> {
        let signed = HEADERS
            .into_iter()
            .fold(SignedUrlOptions::new(), |options, (name, value)| options.with_signed_header(name, value));
        let url = self.store.signed_url_opts(Method::PUT, &self.path(name)?, PUT_VALID, &signed).await?;
        let mut request = Request::put(url.as_str())
            .header(CONTENT_LENGTH, length)
            .body(body)
            .map_err(|cause| Failure::lasting(cause.to_string()))?;
        request.headers_mut().extend(HEADERS);
        Ok(self.http.start(request))
    }

    /// Opens an object. `None`: there is none.
    pub async fn read(&self, name: &str, range: Option<Range<u64>>) -> Result<Option<Opened>, Failure> {
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        let result = match self.store.get_opts(&self.path(name)?, options).await {
            Ok(result) => result,
            Err(error) => return missing(error).map(|()| None),
        };
        let (size, range, version) = (result.meta.size, result.range.clone(), result.meta.e_tag.clone());
        let pieces = result.into_stream().map(|piece| piece.map_err(Failure::from)).boxed();
        Ok(Some(Opened { size, range, version, pieces }))
    }

    /// Returns the size of an object. `None`: there is none.
    pub async fn size(&self, name: &str) -> Result<Option<u64>, Failure> {
        match self.store.head(&self.path(name)?).await {
            Ok(meta) => Ok(Some(meta.size)),
            // The answer to a HEAD does not tell whether the object or the bucket is missing, and that to a GET does.
            Err(object_store::Error::NotFound { .. }) => Ok(self.read(name, None).await?.map(|opened| opened.size)),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes an object, if there is one.
    pub async fn delete(&self, name: &str) -> Result<(), Failure> {
        self.store.delete(&self.path(name)?).await.or_else(missing)
    }

    /// Lists a page of the objects whose names begin so, and returns the token of the next page.
    pub async fn page(&self, prefix: &str, token: Option<String>) -> Result<(Vec<Listed>, Option<String>), Failure> {
        let options =
            PaginatedListOptions { page_token: token, max_keys: Some(PAGE), ..PaginatedListOptions::default() };
        let prefix = format!("{}{prefix}", self.prefix);
        let page = self.store.list_paginated(Some(&prefix), options).await?;
        let listed = page.result.objects.into_iter().map(|object| {
            let name = object.location.as_ref();
            let name = name.strip_prefix(&self.prefix).unwrap_or(name).to_owned();
            Listed { name, size: object.size, modified: object.last_modified }
        });
        Ok((listed.collect(), page.page_token))
    }

    /// Signs an address from which anybody can read the object for this long. The answer is a download there as well, whatever the
    /// service has kept of the object's headers.
    pub async fn address(&self, name: &str, valid: Duration) -> Result<Url, Failure> {
        let headers =
            HEADERS.map(|(name, value)| (format!("response-{name}"), value.to_str().unwrap_or_default().to_owned()));
        let options = SignedUrlOptions::new().with_query(headers);
        Ok(self.store.signed_url_opts(Method::GET, &self.path(name)?, valid, &options).await?)
    }
}

/// Accepts an answer that the object is missing. That the bucket is missing is a failure.
fn missing(error: object_store::Error) -> Result<(), Failure> {
    match &error {
        object_store::Error::NotFound { source, .. } if source.to_string().contains("NoSuchBucket") => {
            Err(Failure::lasting("there is no such bucket"))
        }
        object_store::Error::NotFound { .. } => Ok(()),
        _ => Err(error.into()),
    }
}

/// Accepts the answer to a PUT.
pub(super) async fn accepted(response: Response<Incoming>) -> Result<(), Failure> {
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let body = Limited::new(response.into_body(), MAX_REFUSAL_BYTES).collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    let cause = format!("it answered {status}: {}", String::from_utf8_lossy(&body));
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Failure::lasting(cause)),
        _ => Err(Failure::new(cause)),
    }
}
