//! The configuration: the environment, read once, checked as a whole, printed without its secrets.
//!
//! [`table`] has one row for each setting. No other module reads a setting from the environment. All problems are reported together.

mod blob_store;
pub mod table;
mod values;

#[cfg(test)]
mod documents;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use chrono::TimeDelta;

use crate::ids::Did;
use crate::nsid;
use crate::trace;

use values::Values;

pub use blob_store::{BlobStore, S3};

/// Configuration of a server.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address and port for requests; port 0 takes a free one.
    pub host: String,
    pub port: u16,
    /// Address and port for the operators' pages, if they are not beside the methods.
    pub admin: Option<(String, u16)>,
    /// PostgreSQL; `None` starts the embedded one under `data_dir`.
    pub database_url: Option<String>,
    pub database_max_connections: usize,
    /// A pooler in transaction mode is in front of PostgreSQL: no prepared statements, no start-up parameters.
    pub database_pooler: bool,
    pub data_dir: PathBuf,
    /// Directory with PostgreSQL's programs; `None` searches for them.
    pub pg_bin_dir: Option<PathBuf>,
    pub redis_url: Option<String>,
    /// Where blobs are.
    pub blob_store: BlobStore,
    /// Sends readers of blobs to the blob store.
    pub blob_redirect: bool,
    /// Runs actors instead of taking PostgreSQL's advisory lock.
    pub actors: bool,
    pub actor_idle: Duration,
    pub message_epoch_window: i64,
    /// Percentage of a conversation's members that makes it wedged if they cannot apply its commits.
    pub wedged_quorum_percent: i64,
    /// Maximum number of registered devices of one person.
    pub max_devices: i64,
    /// Accepts development tokens on a service that other machines reach.
    pub allow_development_tokens: bool,
    pub mls_validation: MlsValidation,
    /// Rate limits; 0 is no limit.
    pub rates: Rates,
    pub external_commits: ExternalCommitLimits,
    /// Quotas; 0 is no limit.
    pub quotas: QuotaLimits,
    /// Most events that wait for one client of a stream.
    pub sse_buffer: usize,
    /// Time between two keepalives of a stream. No setting changes it; tests shorten it.
    pub keepalive: Duration,
    /// Most HTTP connections at once.
    pub max_connections: usize,
    /// Time after SIGTERM in which requests are still accepted.
    pub drain_delay: Duration,
    pub retention: Retention,
    pub mailboxes: MailboxConfig,
    pub auth: AuthConfig,
    /// Export of traces; `None` where there is no collector.
    pub traces: Option<trace::Settings>,
    /// Log filter in the syntax of `tracing_subscriber::EnvFilter`.
    pub log: String,
    /// The settings in effect, in the order of the table, without secrets.
    in_effect: Vec<(&'static str, String)>,
}

/// Time between two keepalives of a stream. They keep proxies from closing an idle connection.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Extent of the checks on incoming MLS bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MlsValidation {
    /// Framing, and the signature, suite, lifetime and identity of key packages.
    Strict,
    /// Framing only.
    Framing,
}

/// Rate limits; 0 is no limit. Those per second let bursts of [`BURST`](crate::limits::BURST) pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// Requests of one caller per second, and the cost of expensive ones.
    pub per_did: u32,
    /// Accepted writes to one conversation per second.
    pub per_convo: u32,
    /// Accepted commits of one member in one conversation per minute.
    pub commits: u32,
}

/// Limits of the quotas of one person ([`Quota`](crate::quotas::Quota)); 0 is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaLimits {
    /// Bytes that one caller stores per day.
    pub stored_bytes: u64,
    /// Bytes of blobs that one caller uploads per day.
    pub blob_bytes: u64,
    /// Bytes of all blobs of one conversation.
    pub convo_blob_bytes: u64,
    /// Uploads of one caller that are not complete.
    pub blob_uploads: u64,
    /// Conversations that one caller creates per day.
    pub convos: u64,
    /// People whom one caller invites per day without sharing an active conversation.
    pub strangers: u64,
    /// Invitations of one person per hour by such callers; a quarter of that by each of them.
    pub invitations: u64,
    /// One-time key packages of one person for one caller in ten minutes; ten times as many for all callers together.
    pub key_packages: u64,
}

/// Limits of external commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExternalCommitLimits {
    /// Time in which one device has at most one in a conversation; 0 is no limit at all.
    pub seconds: u64,
    /// Number of them in a conversation in that time; 0 is no limit.
    pub per_convo: u64,
}

/// Retention periods; `None` is for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Messages and idempotency records.
    pub messages: Option<TimeDelta>,
    /// Commits that a member has not read, and Welcomes that their recipients have not opened.
    pub unread: Option<TimeDelta>,
    /// Conversations without changes in which at most one member was ever present.
    pub abandoned: Option<TimeDelta>,
    /// Stored events.
    pub events: Option<TimeDelta>,
    /// The time between two sweeps.
    pub sweep_interval: Duration,
}

/// Delivery of entries to mailboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MailboxConfig {
    /// The time in which a mailbox has to answer.
    pub timeout: Duration,
    /// The delay after the first failed attempt; it doubles with each attempt.
    pub first_retry: Duration,
    /// The number of attempts after which an envelope is dead.
    pub max_attempts: i32,
    /// Also delivers to loopback and private addresses, and over plain HTTP.
    pub allow_private_hosts: bool,
}

/// Settings of the authenticator.
#[derive(Clone)]
pub struct AuthConfig {
    /// DID of this service, the audience of its tokens.
    pub service_did: Did,
    /// URL at which clients reach the service, for its DID document.
    pub public_url: String,
    /// Enables HS256 development tokens. A client that knows it can act as any account.
    pub jwt_secret: Option<String>,
    /// Signs the tickets of WebSockets, the same at all replicas. `None`: no WebSockets.
    pub ticket_secret: Option<String>,
    /// URL at which clients open WebSockets.
    pub websocket_endpoint: String,
    /// Requires `lxm` to name the method.
    pub enforce_lxm: bool,
    /// Requires a `jti`, and accepts each once.
    pub enforce_jti: bool,
    /// Shortest time for which a used development token of more than an hour is remembered; never shorter than its lifetime.
    pub jti_ttl: Duration,
    /// The did:plc directory.
    pub plc_directory_url: String,
    /// Also fetches DID documents from loopback and private addresses, and over plain HTTP.
    pub allow_private_did_hosts: bool,
}

impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthConfig").field("service_did", &self.service_did).finish_non_exhaustive()
    }
}

/// A setting in effect that is unsafe on a service that other machines reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnsafeSetting {
    /// Name and value.
    pub setting: &'static str,
    /// The promise that does not hold, and why.
    pub consequence: &'static str,
}

/// Every problem of the environment, one line each.
#[derive(Debug, thiserror::Error)]
#[error("the configuration is invalid:\n{}", .0.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError(Vec<String>);

/// Returns the URL of a service that sets none: the host of its did:web, unless that is this machine.
fn url_of(service: &Did, port: u16) -> String {
    match service.as_str().strip_prefix("did:web:").map(|place| place.split(':').next().unwrap_or(place)) {
        Some(host) if !host.starts_with("localhost") => format!("https://{}", host.replace("%3A", ":")),
        _ => format!("http://localhost:{port}"),
    }
}

impl Config {
    /// Reads the process environment, and `.env` in the working directory if there is one. The environment takes precedence.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
    pub fn from_env() -> Result<Self, ConfigError> {
        if let Err(e) = dotenvy::dotenv()
            && !e.not_found()
        {
            return Err(ConfigError(vec![unreadable(&e)]));
        }
        Self::from_variables(std::env::vars())
    }

    /// Reads a list of variables.
    pub fn from_variables(
        variables: impl IntoIterator<Item = (impl Into<String>, impl Into<String>)>,
    ) -> Result<Self, ConfigError> {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        let mut env = Values::new(variables);

        let port = env.number("SERVER_PORT");
        let service_did = env.derived("SERVICE_DID", Some(format!("did:web:localhost%3A{port}")));
        let service_did: Did =
            service_did.and_then(|did| did.parse().ok()).expect("a port number makes a well-formed did:web");
        let public_url = env.derived("PUBLIC_URL", Some(url_of(&service_did, port))).unwrap_or_default();
        let public_url = public_url.trim_end_matches('/').to_owned();
        let websockets = format!("{}/xrpc/{}", public_url.replacen("http", "ws", 1), nsid::SUBSCRIBE_CONVO_EVENTS);
        let jwt_secret = env.optional("JWT_SECRET");
        let admin_host = env.text("ADMIN_HOST");
        let endpoint = env.optional("OTEL_EXPORTER_OTLP_ENDPOINT");
        let (sampler, ratio) = (env.text("OTEL_TRACES_SAMPLER"), env.ratio("OTEL_TRACES_SAMPLER_ARG"));
        let (headers, resource) = (env.pairs("OTEL_EXPORTER_OTLP_HEADERS"), env.pairs("OTEL_RESOURCE_ATTRIBUTES"));
        let service_name = env.text("OTEL_SERVICE_NAME");
        let sampler = trace::sampler(&sampler, ratio);
        let traces = endpoint.map(|endpoint| trace::Settings { endpoint, headers, sampler, service_name, resource });
        let data_dir = PathBuf::from(env.text("DATA_DIR"));
        let blob_store = BlobStore::read(&mut env, &data_dir);
        let config = Config {
            host: env.text("SERVER_HOST"),
            port,
            admin: env.optional_number("ADMIN_PORT").map(|port| (admin_host, port)),
            database_url: env.optional("DATABASE_URL"),
            database_max_connections: env.number("DATABASE_MAX_CONNECTIONS"),
            database_pooler: env.flag("DATABASE_POOLER"),
            data_dir,
            pg_bin_dir: env.optional("PG_BIN_DIR").map(PathBuf::from),
            redis_url: env.optional("REDIS_URL"),
            blob_store,
            blob_redirect: env.flag("BLOB_REDIRECT"),
            actors: env.flag("ENABLE_ACTOR_SYSTEM"),
            actor_idle: env.seconds("ACTOR_IDLE_SECONDS"),
            message_epoch_window: env.number("MESSAGE_EPOCH_WINDOW"),
            wedged_quorum_percent: env.number("WEDGED_QUORUM_PERCENT"),
            max_devices: env.number("MAX_DEVICES"),
            allow_development_tokens: env.flag("ALLOW_DEVELOPMENT_TOKENS"),
            mls_validation: match env.text("MLS_VALIDATION").as_str() {
                "framing" => MlsValidation::Framing,
                _ => MlsValidation::Strict,
            },
            rates: Rates {
                per_did: env.number("RATE_LIMIT_PER_DID"),
                per_convo: env.number("RATE_LIMIT_PER_CONVO"),
                commits: env.number("COMMITS_PER_MINUTE"),
            },
            external_commits: ExternalCommitLimits {
                seconds: env.number("EXTERNAL_COMMIT_SECONDS"),
                per_convo: env.number("EXTERNAL_COMMITS_PER_CONVO"),
            },
            quotas: QuotaLimits {
                stored_bytes: env.number("STORED_BYTES_PER_DAY"),
                blob_bytes: env.number("BLOB_BYTES_PER_DAY"),
                convo_blob_bytes: env.number("BLOB_BYTES_PER_CONVO"),
                blob_uploads: env.number("BLOB_UPLOADS_PER_CALLER"),
                convos: env.number("CONVOS_PER_DAY"),
                strangers: env.number("STRANGERS_PER_DAY"),
                invitations: env.number("INVITATIONS_PER_HOUR"),
                key_packages: env.number("KEY_PACKAGES_PER_CALLER"),
            },
            sse_buffer: env.number("SSE_BUFFER_SIZE"),
            keepalive: KEEPALIVE_INTERVAL,
            max_connections: env.number("MAX_CONNECTIONS"),
            drain_delay: env.seconds("DRAIN_DELAY_SECONDS"),
            retention: Retention {
                messages: env.days("MESSAGE_TTL_DAYS"),
                unread: env.days("COMMIT_HOLD_DAYS"),
                abandoned: env.days("ABANDONED_AFTER_DAYS"),
                events: env.days("EVENT_STREAM_TTL_DAYS"),
                sweep_interval: env.seconds("RETENTION_INTERVAL_SECONDS"),
            },
            mailboxes: MailboxConfig {
                timeout: env.seconds("MAILBOX_TIMEOUT_SECONDS"),
                first_retry: env.seconds("MAILBOX_RETRY_SECONDS"),
                max_attempts: env.number("MAILBOX_MAX_ATTEMPTS"),
                allow_private_hosts: env.flag("ALLOW_PRIVATE_MAILBOX_HOSTS"),
            },
            auth: AuthConfig {
                service_did,
                websocket_endpoint: env.derived("WEBSOCKET_ENDPOINT", Some(websockets)).unwrap_or_default(),
                public_url,
                ticket_secret: env.derived("TICKET_SECRET", jwt_secret.clone()),
                jwt_secret,
                enforce_lxm: env.flag("ENFORCE_LXM"),
                enforce_jti: env.flag("ENFORCE_JTI"),
                jti_ttl: env.seconds("JTI_TTL_SECONDS"),
                plc_directory_url: env.text("PLC_DIRECTORY_URL").trim_end_matches('/').to_owned(),
                allow_private_did_hosts: env.flag("ALLOW_PRIVATE_DID_HOSTS"),
            },
            traces,
            log: env.text("RUST_LOG"),
            in_effect: Vec::new(),
        };
        let in_effect = env.finish().map_err(ConfigError)?;
        Ok(Config { in_effect, ..config })
    }

    /// Refuses a configuration with which a server must not accept requests. Commands that accept none work with any.
    pub fn to_serve(self) -> Result<Self, ConfigError> {
        if self.auth.jwt_secret.is_some() && !self.allow_development_tokens && !self.is_for_development() {
            let problem = "a client that knows JWT_SECRET can act as any account, and other machines reach this service; leave it out, or set ALLOW_DEVELOPMENT_TOKENS=true";
            return Err(ConfigError(vec![problem.to_owned()]));
        }
        Ok(self)
    }

    /// Returns true if the server is meant for this machine only.
    pub fn is_for_development(&self) -> bool {
        let place = self.auth.service_did.as_str().strip_prefix("did:web:localhost");
        is_loopback(&self.host) || place.is_some_and(|rest| rest.is_empty() || rest.starts_with('%'))
    }

    /// Returns true if every client that reaches the methods can read the operators' pages, from other machines too.
    pub fn shows_operators_pages(&self) -> bool {
        self.admin.is_none() && !is_loopback(&self.host)
    }

    /// The settings in effect that are unsafe on a service that other machines reach.
    pub fn unsafe_settings(&self) -> Vec<UnsafeSetting> {
        let directory = reqwest::Url::parse(&self.auth.plc_directory_url).ok();
        let is_unprotected = directory.is_some_and(|url| {
            let host = url.host_str().unwrap_or_default();
            url.scheme() == "http" && !is_loopback(host.trim_matches(['[', ']']))
        });
        [
            (
                self.auth.jwt_secret.is_some() && !self.is_for_development(),
                "ALLOW_DEVELOPMENT_TOKENS=true",
                "P12: a client that knows JWT_SECRET can act as any account",
            ),
            (!self.auth.enforce_lxm, "ENFORCE_LXM=false", "P12: a token for one method is accepted for all"),
            (!self.auth.enforce_jti, "ENFORCE_JTI=false", "P12: a token can be used again until it expires"),
            (
                self.auth.allow_private_did_hosts,
                "ALLOW_PRIVATE_DID_HOSTS=true",
                "P12: any client can make the server connect to its own network",
            ),
            (
                self.mailboxes.allow_private_hosts,
                "ALLOW_PRIVATE_MAILBOX_HOSTS=true",
                "P7: members can make the server connect to its own network",
            ),
            (
                self.mls_validation == MlsValidation::Framing,
                "MLS_VALIDATION=framing",
                "P15: the server does not check that a key package belongs to its owner",
            ),
            (
                is_unprotected,
                "PLC_DIRECTORY_URL is plain HTTP",
                "P12: a machine on the path to it can act as any account",
            ),
        ]
        .into_iter()
        .filter_map(|(in_effect, setting, consequence)| in_effect.then_some(UnsafeSetting { setting, consequence }))
        .collect()
    }

    /// Returns the settings that should be alike at all replicas, with their values; of a secret what `hash` makes of it.
    pub fn shared(&self, hash: impl Fn(&str) -> String) -> BTreeMap<&'static str, String> {
        let shared = table::settings().filter(|setting| setting.difference.is_some());
        let value = |setting: &table::Setting| match setting.is_secret {
            true => self.secret(setting.name).map_or_else(|| "none".to_owned(), &hash),
            false => self
                .in_effect
                .iter()
                .find(|(name, _)| *name == setting.name)
                .map(|(_, value)| value.clone())
                .unwrap_or_default(),
        };
        shared.map(|setting| (setting.name, value(setting))).collect()
    }

    fn secret(&self, name: &str) -> Option<&str> {
        let secret = match name {
            "DATABASE_URL" => &self.database_url,
            "REDIS_URL" => &self.redis_url,
            "JWT_SECRET" => &self.auth.jwt_secret,
            "TICKET_SECRET" => &self.auth.ticket_secret,
            _ => unreachable!("{name} is not in the configuration as a secret"),
        };
        secret.as_deref()
    }

    /// The settings in effect, in the order of the table. Secrets, and settings that may hold one, are left out.
    pub fn in_effect(&self) -> &[(&'static str, String)] {
        &self.in_effect
    }
}

/// Requests and failures. Not actix's remarks about bytes that are not HTTP, which any client can send.
const DEFAULT_LOG: &str = "warn,catbird_server=info,actix_http=off";

/// Shortest secret for development tokens and tickets: the output of HMAC-SHA-256 (RFC 7518, 3.2).
pub const MIN_SECRET_BYTES: usize = 32;

/// Returns true if a host's name or address is this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Explains why `.env` cannot be read. Of a malformed line it shows the name alone, since the rest may be a secret.
fn unreadable(error: &dotenvy::Error) -> String {
    let dotenvy::Error::LineParse(line, _) = error else { return format!(".env cannot be read: {error}") };
    let name = line.split('=').next().unwrap_or_default().trim().trim_start_matches("export ").trim();
    let is_name =
        !name.is_empty() && name.len() < line.len() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let which = if is_name { format!("that of {name}") } else { "one without a name".to_owned() };
    format!(".env cannot be read: a line, {which}, is not of the form NAME=value, with every quote closed")
}
