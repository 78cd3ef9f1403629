//! XRPC over HTTP as a signed-in client uses it: one method call, one fresh token, one reply.
//!
//! It returns every status as a value and does not retry; the caller decides about retries (see [`super::persona`]).
//! Only a failed connection, or an answer without a promised field, is an error.

mod reply;
mod socket;
mod stream;
mod token;
mod transfer;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::{Client, ClientBuilder, RequestBuilder, Url};
use rustls_platform_verifier::BuilderVerifierExt;
use serde_json::Value;

pub use reply::{Reply, base64_text, bytes_value, decode_bytes, facts};
pub use socket::{Frame, Socket, cbor};
pub use stream::{Event, EventStream};
pub use token::{Claims, Token};
pub use transfer::Download;

/// Prefix of every method's name.
pub const NAMESPACE: &str = "blue.catbird.mls";

/// Maximum time of one call. The server promises to answer overload sooner, so a longer call hangs.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Callback with the full NSID and the reply of every call, with which a harness validates all of them.
pub type OnReply = Arc<dyn Fn(&str, &Reply) + Send + Sync>;

/// One DID signed in at one server.
#[derive(Clone)]
pub struct Xrpc {
    /// Address of the server, without a path.
    pub base: Url,
    /// DID of the caller: the `iss` of every token.
    pub did: String,
    /// DID of the service: the `aud` of every token.
    pub service_did: String,
    /// HTTP connections. Clones share them; they belong to the async runtime of the first call.
    pub http: Client,
    pub on_reply: Option<OnReply>,
    token: Token,
}

/// A call without a usable answer.
#[derive(Debug, thiserror::Error)]
pub enum XrpcError {
    #[error("{0:?} is not the address of a server: {1}")]
    Address(String, String),

    /// No answer, or only part of one, arrived. The server may have executed the request.
    #[error("{nsid}: no answer: {}", causes(.source))]
    NoAnswer { nsid: String, source: reqwest::Error },

    /// A stream did not start in time, or its keepalives stopped.
    #[error("{nsid}: nothing has come for {} s", .waited.as_secs())]
    Silent { nsid: String, waited: Duration },

    /// The connection of a WebSocket broke, or a message is not one of an event stream.
    #[error("{nsid}: {why}")]
    Socket { nsid: String, why: String },

    #[error("{nsid}: expected {expected} in `{field}` of {body}")]
    Malformed { nsid: String, field: String, expected: &'static str, body: String },
}

impl Xrpc {
    /// Signs `did` in at the server at `base`, with the server's `JWT_SECRET`.
    pub fn new(base: &str, did: &str, secret: &str, service_did: &str) -> Result<Self, XrpcError> {
        let address = |why: String| XrpcError::Address(base.to_owned(), why);
        let url = Url::parse(base).map_err(|why| address(why.to_string()))?;
        if url.cannot_be_a_base() || !url.has_host() {
            return Err(address("expected something like http://127.0.0.1:3000".to_owned()));
        }
        Ok(Self {
            http: http().map_err(|why| address(causes(&why)))?,
            base: url,
            did: did.to_owned(),
            service_did: service_did.to_owned(),
            on_reply: None,
            token: Token::new(secret),
        })
    }

    /// Returns the same server and connections for another DID.
    pub fn signed_in_as(&self, did: &str) -> Self {
        Self { did: did.to_owned(), ..self.clone() }
    }

    /// Returns the same DID and connections at another server.
    pub fn at(&self, base: Url) -> Self {
        Self { base, ..self.clone() }
    }

    /// Returns the same DID at the same server, with a new connection for each call. An idle connection may close just
    /// as it is reused, and the call would then wait for nothing.
    pub fn with_own_connections(&self) -> Self {
        let http = builder().pool_max_idle_per_host(0).build().expect("a limit is no reason to fail");
        Self { http, ..self.clone() }
    }

    /// Calls a procedure: POST with a JSON body.
    pub async fn procedure(&self, method: &str, body: &Value) -> Result<Reply, XrpcError> {
        let nsid = nsid(method);
        let request = self.http.post(self.url(&nsid, &[])).json(body);
        self.send(&nsid, request.bearer_auth(self.token(&nsid))).await
    }

    /// Calls a query: GET with parameters, which may repeat.
    pub async fn query(&self, method: &str, parameters: &[(&str, String)]) -> Result<Reply, XrpcError> {
        let nsid = nsid(method);
        let request = self.http.get(self.url(&nsid, parameters));
        self.send(&nsid, request.bearer_auth(self.token(&nsid))).await
    }

    /// Follows the events of a method's stream from `cursor`, or returns the reply that refuses it.
    pub async fn follow(
        &self,
        method: &str,
        parameters: &[(&str, String)],
        last_event_id: Option<&str>,
    ) -> Result<Result<EventStream, Reply>, XrpcError> {
        let nsid = nsid(method);
        // A stream has no maximum time.
        let mut request = self.http.get(self.url(&nsid, parameters)).timeout(Duration::from_secs(86_400));
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        match EventStream::open(&nsid, request.bearer_auth(self.token(&nsid))).await? {
            Ok(stream) => Ok(Ok(stream)),
            Err(reply) => {
                if let Some(on_reply) = &self.on_reply {
                    on_reply(&nsid, &reply);
                }
                Ok(Err(reply))
            }
        }
    }

    /// Opens a WebSocket at a method of this server, or returns the reply that refuses it.
    pub async fn subscribe(
        &self,
        method: &str,
        parameters: &[(&str, String)],
    ) -> Result<Result<Socket, Reply>, XrpcError> {
        let nsid = nsid(method);
        let opened = Socket::open(&nsid, self.url(&nsid, parameters)).await?;
        if let (Err(reply), Some(on_reply)) = (&opened, &self.on_reply) {
            on_reply(&nsid, reply);
        }
        Ok(opened)
    }

    /// Mints a token for one call of `nsid` within the next minute.
    pub fn token(&self, nsid: &str) -> String {
        self.token.mint(&Claims::new(&self.did, &self.service_did, nsid))
    }

    /// URL of a method.
    pub fn url(&self, nsid: &str, parameters: &[(&str, String)]) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("/xrpc/{nsid}"));
        if !parameters.is_empty() {
            url.query_pairs_mut().extend_pairs(parameters);
        }
        url
    }

    /// Sends a request that the caller has built, such as one with a damaged token.
    pub async fn send(&self, nsid: &str, request: RequestBuilder) -> Result<Reply, XrpcError> {
        let reply = Reply::read(nsid, request).await?;
        if let Some(on_reply) = &self.on_reply {
            on_reply(nsid, &reply);
        }
        Ok(reply)
    }
}

/// Full name of a method: `getEpoch` is `blue.catbird.mls.getEpoch`.
pub fn nsid(method: &str) -> String {
    format!("{NAMESPACE}.{method}")
}

/// Creates an HTTP client with its own connections, and the TLS provider that reqwest expects the process to install.
pub fn http() -> Result<Client, reqwest::Error> {
    builder().build()
}

fn builder() -> ClientBuilder {
    // It fails if a provider is already installed, by an earlier call or by the server under test, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder().timeout(TIMEOUT);
    // Without it the client reads the certificates itself, and says what is wrong with them.
    match tls() {
        Some(tls) => client.tls_backend_preconfigured(tls),
        None => client,
    }
}

/// Returns the TLS settings of all clients, with the certificates of the machine, which are read once: a test has a client for each of its
/// people.
fn tls() -> Option<rustls::ClientConfig> {
    static TLS: OnceLock<Option<rustls::ClientConfig>> = OnceLock::new();
    let read = || rustls::ClientConfig::builder().with_platform_verifier().ok().map(|tls| tls.with_no_client_auth());
    TLS.get_or_init(read).clone()
}

/// Formats an error with all its causes: reqwest names the reason ("connection refused") only at the bottom.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(cause) = below {
        text = format!("{text}: {cause}");
        below = cause.source();
    }
    text
}
