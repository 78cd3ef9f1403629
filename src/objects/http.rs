//! The HTTP client of a bucket. It is hyper's, and not [`net::client`](crate::net::client), because only that limits the
//! memory of a connection: hyper otherwise keeps up to 400 KiB of an object for each transfer whose other end is slower.

use std::error::Error;
use std::time::Duration;

use async_trait::async_trait;
use http::header::{HeaderValue, USER_AGENT};
use http::{Request, Response};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Bytes, Incoming};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use crate::net::{client, tls};

use super::PIECE;
use super::failure::Failure;

/// Idle connections that are kept for the next operations.
const IDLE_CONNECTIONS: usize = 32;
/// Time for which an idle connection is kept. S3 closes it a little later.
const IDLE_TIME: Duration = Duration::from_secs(15);

pub(super) type BoxError = Box<dyn Error + Send + Sync>;
/// Body of a request.
pub(super) type Body = UnsyncBoxBody<Bytes, BoxError>;
/// A request on its way. Dropping it closes the connection.
pub(super) type Answer = AbortOnDropHandle<Result<Response<Incoming>, BoxError>>;

/// The client. Cheap to clone; clones share the connections.
#[derive(Debug, Clone)]
pub(super) struct Http {
    client: Client<HttpsConnector<HttpConnector>, Body>,
    runtime: Handle,
}

impl Http {
    /// Creates a client whose connections belong to this runtime, and to no worker of the HTTP server, which may be busy or end
    /// before the others. Without `allow_plain` all of them are encrypted.
    pub fn new(runtime: Handle, allow_plain: bool) -> Result<Self, rustls::Error> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(client::CONNECT_TIMEOUT));
        let https = HttpsConnectorBuilder::new().with_tls_config(tls::client_config()?);
        let https = if allow_plain { https.https_or_http() } else { https.https_only() };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIME)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .http1_max_buf_size(PIECE)
            .build(https.enable_http1().wrap_connector(http));
        Ok(Self { client, runtime })
    }

    /// Begins to send a request.
    pub fn start(&self, mut request: Request<Body>) -> Answer {
        request.headers_mut().entry(USER_AGENT).or_insert(HeaderValue::from_static(client::USER_AGENT));
        let sending = self.client.request(request);
        AbortOnDropHandle::new(self.runtime.spawn(async move { sending.await.map_err(BoxError::from) }))
    }
}

/// Waits for the head of an answer.
pub(super) async fn head(answer: &mut Answer) -> Result<Response<Incoming>, Failure> {
    match answer.await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => Err(Failure::new(chain(&*error))),
        Err(ended) => Err(Failure::new(ended.to_string())),
    }
}

/// An error with its causes, since that of a connection is the last of them.
fn chain(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[async_trait]
impl HttpService for Http {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let mut answer = self.start(request.map(|body| body.map_err(BoxError::from).boxed_unsync()));
        let response = head(&mut answer).await.map_err(|failure| HttpError::new(HttpErrorKind::Unknown, failure))?;
        Ok(response.map(|body| HttpResponseBody::new(body.map_err(|e| HttpError::new(HttpErrorKind::Interrupted, e)))))
    }
}

/// Gives `object_store` this client.
impl object_store::client::HttpConnector for Http {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}
