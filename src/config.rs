//! The configuration: the environment, read once, checked as a whole, printed with its secrets left out.
//!
//! Nothing else in the crate reads an environment variable. A value that does not parse is an error that names the
//! variable, and all such errors are reported together.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use chrono::TimeDelta;

use crate::ids::Did;
use crate::nsid;

/// What starts a server, whole.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where requests are accepted. `SERVER_HOST`, `SERVER_PORT`; port 0 takes a free one.
    pub host: String,
    pub port: u16,
    /// Where `/metrics` and `/health` are, if not beside the methods: a host and a port. `ADMIN_HOST`, `ADMIN_PORT`; port 0 takes a
    /// free one.
    pub admin: Option<(String, u16)>,
    /// PostgreSQL; `None` starts the embedded one under `data_dir`. `DATABASE_URL`.
    pub database_url: Option<String>,
    /// Most connections to PostgreSQL that this process holds. `DATABASE_MAX_CONNECTIONS`.
    pub database_max_connections: usize,
    /// A pooler in transaction mode stands before PostgreSQL: no prepared statements, no start-up parameters.
    /// `DATABASE_POOLER`.
    pub database_pooler: bool,
    /// Home of the embedded PostgreSQL. `DATA_DIR`.
    pub data_dir: PathBuf,
    /// Where to look for PostgreSQL's programs first. `PG_BIN_DIR`.
    pub pg_bin_dir: Option<PathBuf>,
    /// Redis, which makes things faster and nothing else. `REDIS_URL`.
    pub redis_url: Option<String>,
    /// Which serializer runs. `ENABLE_ACTOR_SYSTEM`.
    pub actors: bool,
    /// After how long without work an actor stops. `ACTOR_IDLE_SECONDS`.
    pub actor_idle: Duration,
    /// How many epochs behind the current one an application message may be. `MESSAGE_EPOCH_WINDOW`.
    pub message_epoch_window: i64,
    /// Accept development tokens on a service that others reach. `ALLOW_DEVELOPMENT_TOKENS`.
    pub allow_development_tokens: bool,
    /// How much of MLS is checked. `MLS_VALIDATION`.
    pub mls_validation: MlsValidation,
    /// Requests of one caller and writes to one conversation, per second; 0 is no limit. `RATE_LIMIT_PER_DID`,
    /// `RATE_LIMIT_PER_CONVO`. Commits of a member in a conversation per minute. `COMMITS_PER_MINUTE`.
    pub rates: Rates,
    /// What one person may have stored and begin, and how often others may be asked of; 0 is no limit. `STORED_BYTES_PER_DAY`,
    /// `CONVOS_PER_DAY`, `STRANGERS_PER_DAY`, `INVITATIONS_PER_HOUR`, `KEY_PACKAGES_PER_CALLER`.
    pub quotas: QuotaLimits,
    /// Most events that wait for one client of a stream. `SSE_BUFFER_SIZE`.
    pub sse_buffer: usize,
    /// Most HTTP connections at once. `MAX_CONNECTIONS`.
    pub max_connections: usize,
    /// How long requests are still taken after SIGTERM, so that load balancers notice that the server is not ready any more.
    /// `DRAIN_DELAY_SECONDS`.
    pub drain_delay: Duration,
    /// How long what is stored is kept.
    pub retention: Retention,
    /// How entries are handed to mailboxes.
    pub mailboxes: MailboxConfig,
    /// Tokens and identities.
    pub auth: AuthConfig,
    /// Log filter in the syntax of `tracing_subscriber::EnvFilter`. `RUST_LOG`.
    pub log: String,
}

/// How much of MLS is checked on the way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MlsValidation {
    /// Framing, and the signature, suite, lifetime and identity of key packages.
    Strict,
    /// Framing only.
    Framing,
}

/// How much is let through; 0 is no limit. Bursts of [`BURST`](crate::limits::BURST) at the full rate are, of what is counted per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// Requests of one caller, and what they cost beyond one request's worth.
    pub per_did: u32,
    /// Accepted writes to one conversation.
    pub per_convo: u32,
    /// Accepted commits of one member in one conversation, per minute.
    pub commits: u32,
}

/// Limits of the quotas of one person ([`Quota`](crate::quotas::Quota)); 0 is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaLimits {
    /// Bytes that one caller has stored per day.
    pub stored_bytes: u64,
    /// Conversations that one caller begins per day.
    pub convos: u64,
    /// People whom one caller names per day without having to do with them.
    pub strangers: u64,
    /// How often one person is named per hour by people who have nothing to do with it; by each of them a quarter as often.
    pub invitations: u64,
    /// One-time key packages of one person that one caller is issued in ten minutes; all callers together ten times as many.
    pub key_packages: u64,
}

/// How long what is stored is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Messages, and what idempotency keys are recognised by; `None` for ever. `MESSAGE_TTL_DAYS`.
    pub messages: Option<TimeDelta>,
    /// Commits that a member has yet to read, and Welcomes that it has yet to open; `None` for ever. `COMMIT_HOLD_DAYS`.
    pub unread: Option<TimeDelta>,
    /// Conversations in which nothing happens and at most one member was ever there; `None` for ever. `ABANDONED_AFTER_DAYS`.
    pub abandoned: Option<TimeDelta>,
    /// Events beside the log; `None` for ever. `EVENT_STREAM_TTL_DAYS`.
    pub events: Option<TimeDelta>,
    /// The time between two sweeps. `RETENTION_INTERVAL_SECONDS`.
    pub every: Duration,
}

/// How entries are handed to mailboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MailboxConfig {
    /// How long a mailbox may take to answer. `MAILBOX_TIMEOUT_SECONDS`.
    pub timeout: Duration,
    /// The wait after the first failed attempt; it doubles with each. `MAILBOX_RETRY_SECONDS`.
    pub first_retry: Duration,
    /// After how many attempts an envelope is dead. `MAILBOX_MAX_ATTEMPTS`.
    pub max_attempts: i32,
    /// Hand over to loopback and private addresses too, and over plain HTTP. `ALLOW_PRIVATE_MAILBOX_HOSTS`.
    pub allow_private_hosts: bool,
}

/// What the authenticator needs.
#[derive(Clone)]
pub struct AuthConfig {
    /// This service's DID, the audience of its tokens. `SERVICE_DID`.
    pub service_did: Did,
    /// Where clients reach the service, for its DID document. `PUBLIC_URL`.
    pub public_url: String,
    /// Enables HS256 development tokens: whoever knows it can be anybody. `JWT_SECRET`.
    pub jwt_secret: Option<String>,
    /// What signs the tickets of WebSockets, the same at all replicas; without it there are no WebSockets. `TICKET_SECRET`, else
    /// `JWT_SECRET`.
    pub ticket_secret: Option<String>,
    /// Where clients open WebSockets. `WEBSOCKET_ENDPOINT`.
    pub websocket_endpoint: String,
    /// Require `lxm` to be the method. `ENFORCE_LXM`.
    pub enforce_lxm: bool,
    /// Require `jti` and accept it once. `ENFORCE_JTI`.
    pub enforce_jti: bool,
    /// How long a used development token is remembered at least; never shorter than it lives. `JTI_TTL_SECONDS`.
    pub jti_ttl: Duration,
    /// The did:plc directory. `PLC_DIRECTORY_URL`.
    pub plc_directory_url: String,
    /// Fetch DID documents from loopback and private addresses too, and over plain HTTP. `ALLOW_PRIVATE_DID_HOSTS`.
    pub allow_private_did_hosts: bool,
}

impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthConfig").field("service_did", &self.service_did).finish_non_exhaustive()
    }
}

/// Everything that is wrong with the environment, one line each.
#[derive(Debug, thiserror::Error)]
#[error("the configuration is not usable:\n{}", .0.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError(Vec<String>);

/// Reads variables one by one and collects what is wrong with them.
struct Reader {
    variables: BTreeMap<String, String>,
    problems: Vec<String>,
}

impl Reader {
    /// Takes secrets from the files that `<NAME>_FILE` name, without the end of their last line.
    fn read_secrets(&mut self) {
        for name in SECRETS {
            let setting = format!("{name}_FILE");
            let Some(path) = self.text(&setting) else { continue };
            if self.text(name).is_some() {
                self.problems.push(format!("{name} and {setting} are both set; leave one out"));
                continue;
            }
            match std::fs::read_to_string(&path) {
                Ok(secret) if !secret.trim().is_empty() => {
                    self.variables.insert(name.to_owned(), secret.trim_end_matches(['\r', '\n']).to_owned());
                }
                Ok(_) => self.problems.push(format!("{setting}: {path} is empty")),
                Err(cause) => self.problems.push(format!("{setting}: {path} cannot be read: {cause}")),
            }
        }
    }

    fn text(&self, name: &str) -> Option<String> {
        self.variables.get(name).filter(|value| !value.is_empty()).cloned()
    }

    fn parse<T>(&mut self, name: &str, default: T, wanted: &str, parse: impl Fn(&str) -> Option<T>) -> T {
        match self.text(name) {
            None => default,
            Some(value) => parse(&value).unwrap_or_else(|| {
                self.problems.push(format!("{name} must be {wanted}"));
                default
            }),
        }
    }

    /// The spellings that operators of the earlier server used; anything else is refused rather than guessed.
    fn flag(&mut self, name: &str, default: bool) -> bool {
        self.parse(name, default, "true, 1, false or 0", |value| match value {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        })
    }

    fn number(&mut self, name: &str, default: u64, least: u64, most: u64) -> u64 {
        self.parse(name, default, &format!("a whole number from {least} to {most}"), |value| {
            value.parse().ok().filter(|n| (least..=most).contains(n))
        })
    }
}

/// Where a service is reached if nobody says: where its did:web points, unless that is this machine.
fn url_of(service: &Did, port: u16) -> String {
    match service.as_str().strip_prefix("did:web:").map(|place| place.split(':').next().unwrap_or(place)) {
        Some(host) if !host.starts_with("localhost") => format!("https://{}", host.replace("%3A", ":")),
        _ => format!("http://localhost:{port}"),
    }
}

impl Config {
    /// Reads the process environment, after `.env` in the working directory where there is one.
    #[allow(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
    pub fn from_env() -> Result<Self, ConfigError> {
        if let Err(e) = dotenvy::dotenv()
            && !e.not_found()
        {
            return Err(ConfigError(vec![unreadable(&e)]));
        }
        Self::from_variables(std::env::vars())
    }

    /// The same from any list of variables, as tests give it.
    pub fn from_variables(
        variables: impl IntoIterator<Item = (impl Into<String>, impl Into<String>)>,
    ) -> Result<Self, ConfigError> {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        let mut env = Reader { variables, problems: Vec::new() };
        env.read_secrets();

        let port = env.number("SERVER_PORT", 3000, 0, 65_535) as u16;
        let service_did: Did =
            format!("did:web:localhost%3A{port}").parse().expect("a port number makes a well-formed did:web");
        let service_did = env.parse("SERVICE_DID", service_did, "a DID without fragment", |value| value.parse().ok());
        let public_url = env.text("PUBLIC_URL").unwrap_or_else(|| url_of(&service_did, port));
        let public_url = public_url.trim_end_matches('/').to_owned();
        let config =
            Config {
                host: env.text("SERVER_HOST").unwrap_or_else(|| "127.0.0.1".to_owned()),
                port,
                admin: env.text("ADMIN_PORT").map(|_| {
                    let host = env.text("ADMIN_HOST").unwrap_or_else(|| "127.0.0.1".to_owned());
                    (host, env.number("ADMIN_PORT", 0, 0, 65_535) as u16)
                }),
                database_url: env.text("DATABASE_URL"),
                database_max_connections: env.number("DATABASE_MAX_CONNECTIONS", 10, 2, 10_000) as usize,
                database_pooler: env.flag("DATABASE_POOLER", false),
                data_dir: env.text("DATA_DIR").unwrap_or_else(|| ".data".to_owned()).into(),
                pg_bin_dir: env.text("PG_BIN_DIR").map(PathBuf::from),
                redis_url: env.text("REDIS_URL"),
                actors: env.flag("ENABLE_ACTOR_SYSTEM", false),
                actor_idle: Duration::from_secs(env.number("ACTOR_IDLE_SECONDS", 3_600, 1, 86_400)),
                message_epoch_window: env.number("MESSAGE_EPOCH_WINDOW", 0, 0, 1_000) as i64,
                allow_development_tokens: env.flag("ALLOW_DEVELOPMENT_TOKENS", false),
                mls_validation: env.parse("MLS_VALIDATION", MlsValidation::Strict, "strict or framing", |value| {
                    match value {
                        "strict" => Some(MlsValidation::Strict),
                        "framing" => Some(MlsValidation::Framing),
                        _ => None,
                    }
                }),
                rates: Rates {
                    per_did: env.number("RATE_LIMIT_PER_DID", 100, 0, MOST_PER_SECOND) as u32,
                    per_convo: env.number("RATE_LIMIT_PER_CONVO", 500, 0, MOST_PER_SECOND) as u32,
                    commits: env.number("COMMITS_PER_MINUTE", 30, 0, MOST_PER_SECOND) as u32,
                },
                quotas: QuotaLimits {
                    stored_bytes: env.number("STORED_BYTES_PER_DAY", 2 << 30, 0, MOST_BYTES),
                    convos: env.number("CONVOS_PER_DAY", 500, 0, MOST_PER_DAY),
                    strangers: env.number("STRANGERS_PER_DAY", 2_000, 0, MOST_PER_DAY),
                    invitations: env.number("INVITATIONS_PER_HOUR", 20, 0, MOST_PER_DAY),
                    key_packages: env.number("KEY_PACKAGES_PER_CALLER", 10, 0, MOST_PER_DAY),
                },
                sse_buffer: env.number("SSE_BUFFER_SIZE", 5_000, 1, 1_000_000) as usize,
                max_connections: env.number("MAX_CONNECTIONS", 22_000, 1, 1_000_000) as usize,
                drain_delay: Duration::from_secs(env.number("DRAIN_DELAY_SECONDS", 3, 0, 60)),
                retention: Retention {
                    messages: days(env.number("MESSAGE_TTL_DAYS", 30, 0, MOST_DAYS)),
                    unread: days(env.number("COMMIT_HOLD_DAYS", 90, 0, MOST_DAYS)),
                    abandoned: days(env.number("ABANDONED_AFTER_DAYS", 180, 0, MOST_DAYS)),
                    events: days(env.number("EVENT_STREAM_TTL_DAYS", 7, 0, MOST_DAYS)),
                    every: Duration::from_secs(env.number("RETENTION_INTERVAL_SECONDS", 3_600, 1, 86_400)),
                },
                mailboxes: MailboxConfig {
                    timeout: Duration::from_secs(env.number("MAILBOX_TIMEOUT_SECONDS", 10, 1, 60)),
                    first_retry: Duration::from_secs(env.number("MAILBOX_RETRY_SECONDS", 5, 1, 3_600)),
                    max_attempts: env.number("MAILBOX_MAX_ATTEMPTS", 16, 1, 1_000) as i32,
                    allow_private_hosts: env.flag("ALLOW_PRIVATE_MAILBOX_HOSTS", false),
                },
                auth: AuthConfig {
                    service_did,
                    websocket_endpoint: env.text("WEBSOCKET_ENDPOINT").unwrap_or_else(|| {
                        format!("{}/xrpc/{}", public_url.replacen("http", "ws", 1), nsid::SUBSCRIBE_CONVO_EVENTS)
                    }),
                    public_url,
                    ticket_secret: env.text("TICKET_SECRET").or_else(|| env.text("JWT_SECRET")),
                    jwt_secret: env.text("JWT_SECRET"),
                    enforce_lxm: env.flag("ENFORCE_LXM", true),
                    enforce_jti: env.flag("ENFORCE_JTI", true),
                    jti_ttl: Duration::from_secs(env.number("JTI_TTL_SECONDS", 120, 1, 86_400)),
                    plc_directory_url: env
                        .text("PLC_DIRECTORY_URL")
                        .unwrap_or_else(|| "https://plc.directory".to_owned())
                        .trim_end_matches('/')
                        .to_owned(),
                    allow_private_did_hosts: env.flag("ALLOW_PRIVATE_DID_HOSTS", false),
                },
                log: env.text("RUST_LOG").unwrap_or_else(|| DEFAULT_LOG.to_owned()),
            };
        for name in ["JWT_SECRET", "TICKET_SECRET"] {
            if env.text(name).is_some_and(|secret| secret.len() < MIN_JWT_SECRET_BYTES) {
                env.problems.push(format!("{name} must have at least {MIN_JWT_SECRET_BYTES} bytes"));
            }
        }
        let endpoint = reqwest::Url::parse(&config.auth.websocket_endpoint);
        if env.text("WEBSOCKET_ENDPOINT").is_some()
            && !endpoint.is_ok_and(|url| matches!(url.scheme(), "ws" | "wss") && url.has_host())
        {
            env.problems.push("WEBSOCKET_ENDPOINT must be a ws or wss URL".to_owned());
        }
        for (name, url) in
            [("PUBLIC_URL", &config.auth.public_url), ("PLC_DIRECTORY_URL", &config.auth.plc_directory_url)]
        {
            if !reqwest::Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host()) {
                env.problems.push(format!("{name} must be an http or https URL"));
            }
        }
        if let Err(cause) = tracing_subscriber::EnvFilter::try_new(&config.log) {
            env.problems.push(format!("RUST_LOG is not a log filter: {cause}"));
        }
        for name in ["DATABASE_URL", "REDIS_URL"] {
            let Some(url) = env.text(name) else { continue };
            let usable = match name {
                "DATABASE_URL" => url.parse::<tokio_postgres::Config>().is_ok(),
                _ => is_redis(&url) && fred::types::config::Config::from_url(&url).is_ok(),
            };
            if !usable {
                env.problems.push(format!("{name} is not a connection URL"));
            }
        }
        if env.problems.is_empty() { Ok(config) } else { Err(ConfigError(env.problems)) }
    }

    /// The same if a server may accept requests with it. Commands that accept none work with any.
    pub fn to_serve(self) -> Result<Self, ConfigError> {
        if self.auth.jwt_secret.is_some() && !self.allow_development_tokens && !self.is_for_development() {
            let problem = "JWT_SECRET lets whoever knows it be anybody, and this service is reached by others; leave it out, or set ALLOW_DEVELOPMENT_TOKENS=true";
            return Err(ConfigError(vec![problem.to_owned()]));
        }
        Ok(self)
    }

    /// Whether only this machine is meant to reach the server.
    fn is_for_development(&self) -> bool {
        let place = self.auth.service_did.as_str().strip_prefix("did:web:localhost");
        is_loopback(&self.host) || place.is_some_and(|rest| rest.is_empty() || rest.starts_with('%'))
    }

    /// Whether everybody who reaches the methods reaches the pages for operators as well, others than this machine among them.
    pub fn shows_operators_pages(&self) -> bool {
        self.admin.is_none() && !is_loopback(&self.host)
    }

    /// The settings in effect that a service which others reach should not have, each with what it means.
    pub fn unsafe_settings(&self) -> Vec<&'static str> {
        let directory = reqwest::Url::parse(&self.auth.plc_directory_url).ok();
        let by_anybody = directory.is_some_and(|url| {
            let host = url.host_str().unwrap_or_default();
            url.scheme() == "http" && !is_loopback(host.trim_matches(['[', ']']))
        });
        [
            (
                self.auth.jwt_secret.is_some() && !self.is_for_development(),
                "ALLOW_DEVELOPMENT_TOKENS=true: whoever knows JWT_SECRET can be anybody",
            ),
            (!self.auth.enforce_lxm, "ENFORCE_LXM=false: a token for one method is good for all"),
            (!self.auth.enforce_jti, "ENFORCE_JTI=false: a token can be used again until it expires"),
            (
                self.auth.allow_private_did_hosts,
                "ALLOW_PRIVATE_DID_HOSTS=true: strangers can make the server talk to its own network",
            ),
            (
                self.mailboxes.allow_private_hosts,
                "ALLOW_PRIVATE_MAILBOX_HOSTS=true: members can make the server talk to its own network",
            ),
            (
                self.mls_validation == MlsValidation::Framing,
                "MLS_VALIDATION=framing: key packages are not checked to be their owners'",
            ),
            (by_anybody, "PLC_DIRECTORY_URL is plain HTTP: whoever is on the way there can be anybody"),
        ]
        .into_iter()
        .filter_map(|(in_effect, meaning)| in_effect.then_some(meaning))
        .collect()
    }

    /// The configuration in effect, as pairs to print at start. Secrets and everything that may hold one are left out.
    pub fn describe(&self) -> Vec<(&'static str, String)> {
        let given = |value: bool| if value { "set" } else { "not set" }.to_owned();
        vec![
            ("SERVER_HOST", self.host.clone()),
            ("SERVER_PORT", self.port.to_string()),
            ("ADMIN_HOST", self.admin.as_ref().map_or("not set".to_owned(), |(host, _)| host.clone())),
            ("ADMIN_PORT", self.admin.as_ref().map_or("not set".to_owned(), |(_, port)| port.to_string())),
            ("DATABASE_URL", self.database_url.as_ref().map_or("embedded".to_owned(), |_| "set".to_owned())),
            ("DATABASE_MAX_CONNECTIONS", self.database_max_connections.to_string()),
            ("DATABASE_POOLER", self.database_pooler.to_string()),
            ("DATA_DIR", self.data_dir.display().to_string()),
            ("REDIS_URL", given(self.redis_url.is_some())),
            ("ENABLE_ACTOR_SYSTEM", self.actors.to_string()),
            ("ACTOR_IDLE_SECONDS", self.actor_idle.as_secs().to_string()),
            ("MESSAGE_EPOCH_WINDOW", self.message_epoch_window.to_string()),
            ("ALLOW_DEVELOPMENT_TOKENS", self.allow_development_tokens.to_string()),
            ("MLS_VALIDATION", format!("{:?}", self.mls_validation).to_lowercase()),
            ("RATE_LIMIT_PER_DID", self.rates.per_did.to_string()),
            ("RATE_LIMIT_PER_CONVO", self.rates.per_convo.to_string()),
            ("COMMITS_PER_MINUTE", self.rates.commits.to_string()),
            ("KEY_PACKAGES_PER_CALLER", self.quotas.key_packages.to_string()),
            ("STORED_BYTES_PER_DAY", self.quotas.stored_bytes.to_string()),
            ("CONVOS_PER_DAY", self.quotas.convos.to_string()),
            ("STRANGERS_PER_DAY", self.quotas.strangers.to_string()),
            ("INVITATIONS_PER_HOUR", self.quotas.invitations.to_string()),
            ("SSE_BUFFER_SIZE", self.sse_buffer.to_string()),
            ("MAX_CONNECTIONS", self.max_connections.to_string()),
            ("DRAIN_DELAY_SECONDS", self.drain_delay.as_secs().to_string()),
            ("MESSAGE_TTL_DAYS", in_days(self.retention.messages)),
            ("COMMIT_HOLD_DAYS", in_days(self.retention.unread)),
            ("ABANDONED_AFTER_DAYS", in_days(self.retention.abandoned)),
            ("EVENT_STREAM_TTL_DAYS", in_days(self.retention.events)),
            ("RETENTION_INTERVAL_SECONDS", self.retention.every.as_secs().to_string()),
            ("MAILBOX_TIMEOUT_SECONDS", self.mailboxes.timeout.as_secs().to_string()),
            ("MAILBOX_RETRY_SECONDS", self.mailboxes.first_retry.as_secs().to_string()),
            ("MAILBOX_MAX_ATTEMPTS", self.mailboxes.max_attempts.to_string()),
            ("ALLOW_PRIVATE_MAILBOX_HOSTS", self.mailboxes.allow_private_hosts.to_string()),
            ("SERVICE_DID", self.auth.service_did.to_string()),
            ("PUBLIC_URL", self.auth.public_url.clone()),
            ("JWT_SECRET", given(self.auth.jwt_secret.is_some())),
            (
                "TICKET_SECRET",
                match &self.auth.ticket_secret {
                    None => "not set: no WebSockets".to_owned(),
                    secret if *secret == self.auth.jwt_secret => "as JWT_SECRET".to_owned(),
                    Some(_) => "set".to_owned(),
                },
            ),
            ("WEBSOCKET_ENDPOINT", self.auth.websocket_endpoint.clone()),
            ("ENFORCE_LXM", self.auth.enforce_lxm.to_string()),
            ("ENFORCE_JTI", self.auth.enforce_jti.to_string()),
            ("JTI_TTL_SECONDS", self.auth.jti_ttl.as_secs().to_string()),
            ("PLC_DIRECTORY_URL", self.auth.plc_directory_url.clone()),
            ("ALLOW_PRIVATE_DID_HOSTS", self.auth.allow_private_did_hosts.to_string()),
            ("RUST_LOG", self.log.clone()),
        ]
    }
}

/// The settings that can also be in files, since they are secrets or hold one.
const SECRETS: [&str; 4] = ["DATABASE_URL", "REDIS_URL", "JWT_SECRET", "TICKET_SECRET"];

/// Requests and what goes wrong. Not actix's remarks about bytes that are no HTTP, which anybody can send.
const DEFAULT_LOG: &str = "warn,catbird_server=info,actix_http=off";

/// The highest rate limit that can be set. A request costs ten microseconds then, which the clocks behind it still tell apart.
const MOST_PER_SECOND: u64 = 100_000;

/// The highest quotas that can be set.
const MOST_PER_DAY: u64 = 1_000_000_000;
const MOST_BYTES: u64 = 1 << 50;

/// The longest that anything can be told to be kept: a century.
const MOST_DAYS: u64 = 36_500;

/// Whether a host's name or address means this machine.
fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn is_redis(url: &str) -> bool {
    url.split_once("://").is_some_and(|(scheme, _)| ["redis", "rediss", "valkey", "valkeys"].contains(&scheme))
}

/// Why `.env` cannot be read. Of a line that makes no sense only the name is told, since the rest may be a secret.
fn unreadable(error: &dotenvy::Error) -> String {
    let dotenvy::Error::LineParse(line, _) = error else { return format!(".env cannot be read: {error}") };
    let name = line.split('=').next().unwrap_or_default().trim().trim_start_matches("export ").trim();
    let is_name =
        !name.is_empty() && name.len() < line.len() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let which = if is_name { format!("that of {name}") } else { "one without a name".to_owned() };
    format!(".env cannot be read: a line, {which}, is not of the form NAME=value, with every quote closed")
}

/// A number of days; 0 is for ever.
fn days(days: u64) -> Option<TimeDelta> {
    (days > 0).then(|| TimeDelta::days(days as i64))
}

fn in_days(kept: Option<TimeDelta>) -> String {
    kept.map_or(0, |kept| kept.num_days()).to_string()
}

/// Shortest secret for development tokens and tickets: a full HMAC-SHA-256 block would be 64, its output is 32 (RFC 7518, 3.2).
pub const MIN_JWT_SECRET_BYTES: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: [(&str, &str); 0] = [];

    #[test]
    fn an_empty_environment_is_a_working_configuration() {
        let config = Config::from_variables(NOTHING).unwrap();
        assert_eq!(config.port, 3000);
        assert!(!config.actors && config.auth.enforce_jti && config.auth.enforce_lxm);
        assert_eq!(config.auth.service_did.as_str(), "did:web:localhost%3A3000");
        assert_eq!((config.rates.per_did, config.rates.per_convo), (100, 500));
    }

    #[test]
    fn pages_for_operators_are_for_others_too_unless_they_have_a_place_of_their_own() {
        let with = |settings: &[(&str, &str)]| Config::from_variables(settings.iter().copied()).unwrap();
        assert!(!with(&[]).shows_operators_pages());
        assert!(with(&[("SERVER_HOST", "0.0.0.0")]).shows_operators_pages());
        let apart = with(&[("SERVER_HOST", "0.0.0.0"), ("ADMIN_PORT", "3001")]);
        assert!(!apart.shows_operators_pages());
        assert_eq!(apart.admin, Some(("127.0.0.1".to_owned(), 3001)));
    }

    #[test]
    fn rate_limits_can_be_off_and_have_a_range() {
        let names = ["RATE_LIMIT_PER_DID", "RATE_LIMIT_PER_CONVO", "COMMITS_PER_MINUTE"];
        let off = Config::from_variables(names.map(|name| (name, "0"))).unwrap();
        assert_eq!(off.rates, Rates { per_did: 0, per_convo: 0, commits: 0 });
        for (name, text) in [("RATE_LIMIT_PER_DID", "100001"), ("RATE_LIMIT_PER_CONVO", "-1")] {
            let error = Config::from_variables([(name, text)]).unwrap_err().to_string();
            assert!(error.contains(&format!("{name} must be a whole number from 0 to 100000")), "{error}");
        }
    }

    #[test]
    fn quotas_have_defaults_and_can_be_off() {
        let most = QuotaLimits {
            stored_bytes: 2_147_483_648,
            convos: 500,
            strangers: 2_000,
            invitations: 20,
            key_packages: 10,
        };
        assert_eq!(Config::from_variables(NOTHING).unwrap().quotas, most);
        let names = [
            "STORED_BYTES_PER_DAY",
            "CONVOS_PER_DAY",
            "STRANGERS_PER_DAY",
            "INVITATIONS_PER_HOUR",
            "KEY_PACKAGES_PER_CALLER",
        ];
        let off = Config::from_variables(names.map(|name| (name, "0"))).unwrap().quotas;
        assert_eq!(off, QuotaLimits { stored_bytes: 0, convos: 0, strangers: 0, invitations: 0, key_packages: 0 });
    }

    #[test]
    fn a_line_of_env_that_makes_no_sense_is_named_and_not_shown() {
        let said = |line: &str| unreadable(&dotenvy::Error::LineParse(line.to_owned(), 3));
        assert!(said("JWT_SECRET=\"hunter2 hunter2").contains("that of JWT_SECRET"));
        for line in ["JWT_SECRET=\"hunter2", "export A='hunter2", "hunter2", "hunter2 = 'x", "\"hunter2=x"] {
            assert!(!said(line).contains("hunter2") || line.starts_with("hunter2 ="), "{}", said(line));
        }
    }

    #[test]
    fn redis_is_told_by_its_scheme() {
        for (url, good) in [("redis://x:6379", true), ("rediss://x", true), ("http://x", false), ("x:6379", false)] {
            assert_eq!(Config::from_variables([("REDIS_URL", url)]).is_ok(), good, "{url}");
        }
    }

    #[test]
    fn retention_is_in_days_and_nought_is_for_ever() {
        let kept = |settings: &[(&str, &str)]| Config::from_variables(settings.iter().copied()).unwrap().retention;
        assert_eq!(kept(&[]).messages, Some(TimeDelta::days(30)));
        assert_eq!(kept(&[]).events, Some(TimeDelta::days(7)));
        assert_eq!((kept(&[]).unread, kept(&[]).abandoned), (Some(TimeDelta::days(90)), Some(TimeDelta::days(180))));
        let forever = kept(&[("MESSAGE_TTL_DAYS", "0"), ("EVENT_STREAM_TTL_DAYS", "0")]);
        assert_eq!((forever.messages, forever.events), (None, None));
        assert!(Config::from_variables([("MESSAGE_TTL_DAYS", "-1")]).is_err());
    }

    #[test]
    fn the_actor_flag_takes_four_spellings_and_refuses_the_rest() {
        for (text, actors) in [("true", true), ("1", true), ("false", false), ("0", false)] {
            assert_eq!(Config::from_variables([("ENABLE_ACTOR_SYSTEM", text)]).unwrap().actors, actors);
        }
        for text in ["TRUE", "yes", "on", "2"] {
            let error = Config::from_variables([("ENABLE_ACTOR_SYSTEM", text)]).unwrap_err().to_string();
            assert!(error.contains("ENABLE_ACTOR_SYSTEM must be true, 1, false or 0"), "{error}");
        }
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let error = Config::from_variables([("SERVER_PORT", "x"), ("MLS_VALIDATION", "lax"), ("JWT_SECRET", "short")])
            .unwrap_err()
            .to_string();
        for name in ["SERVER_PORT", "MLS_VALIDATION", "JWT_SECRET"] {
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn a_service_is_reached_where_its_did_points_unless_told_otherwise() {
        let url = |settings: &[(&str, &str)]| Config::from_variables(settings.iter().copied()).unwrap().auth.public_url;
        assert_eq!(url(&[]), "http://localhost:3000");
        assert_eq!(url(&[("SERVICE_DID", "did:web:mls.catbird.blue")]), "https://mls.catbird.blue");
        assert_eq!(url(&[("SERVICE_DID", "did:web:mls.catbird.blue%3A8443:x")]), "https://mls.catbird.blue:8443");
        assert_eq!(url(&[("SERVICE_DID", "did:web:a.b"), ("PUBLIC_URL", "https://c.d/")]), "https://c.d");
    }

    #[test]
    fn websockets_are_where_the_service_is_and_their_tickets_have_a_secret() {
        let auth = |settings: &[(&str, &str)]| Config::from_variables(settings.iter().copied()).unwrap().auth;
        let path = "/xrpc/blue.catbird.mls.subscribeConvoEvents";
        assert_eq!(auth(&[]).websocket_endpoint, format!("ws://localhost:3000{path}"));
        assert_eq!(auth(&[("PUBLIC_URL", "https://c.d/")]).websocket_endpoint, format!("wss://c.d{path}"));
        assert_eq!(auth(&[("WEBSOCKET_ENDPOINT", "wss://e.f/ws")]).websocket_endpoint, "wss://e.f/ws");
        let (one, two) = ("0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210");
        assert_eq!(auth(&[]).ticket_secret, None);
        assert_eq!(auth(&[("JWT_SECRET", one)]).ticket_secret.as_deref(), Some(one));
        assert_eq!(auth(&[("JWT_SECRET", one), ("TICKET_SECRET", two)]).ticket_secret.as_deref(), Some(two));
        for (name, text) in [("TICKET_SECRET", "short"), ("WEBSOCKET_ENDPOINT", "https://e.f")] {
            let error = Config::from_variables([(name, text)]).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn development_tokens_are_for_this_machine_unless_allowed() {
        let secret = ("JWT_SECRET", "0123456789abcdef0123456789abcdef");
        let (everywhere, known) = (("SERVER_HOST", "0.0.0.0"), ("SERVICE_DID", "did:web:mls.catbird.blue"));
        for settings in
            [&[secret][..], &[secret, everywhere], &[secret, known], &[secret, known, ("SERVER_HOST", "::1")]]
        {
            let config = Config::from_variables(settings.iter().copied()).unwrap().to_serve().unwrap();
            assert_eq!(config.unsafe_settings(), [""; 0], "{settings:?}");
        }
        for did in [known.1, "did:web:localhost.example", "did:plc:abc"] {
            let config = Config::from_variables([secret, everywhere, ("SERVICE_DID", did)]).unwrap();
            let error = config.to_serve().unwrap_err().to_string();
            assert!(error.contains("ALLOW_DEVELOPMENT_TOKENS"), "{error}");
        }
        let allowed =
            Config::from_variables([secret, everywhere, known, ("ALLOW_DEVELOPMENT_TOKENS", "true")]).unwrap();
        assert_eq!(allowed.to_serve().unwrap().unsafe_settings().len(), 1);
        let without = Config::from_variables([everywhere, known]).unwrap().to_serve();
        assert!(without.is_ok(), "without a secret there is nothing to allow");
    }

    #[test]
    fn every_unsafe_setting_is_named() {
        for (name, value) in [
            ("ENFORCE_LXM", "false"),
            ("ENFORCE_JTI", "false"),
            ("ALLOW_PRIVATE_DID_HOSTS", "true"),
            ("ALLOW_PRIVATE_MAILBOX_HOSTS", "true"),
            ("MLS_VALIDATION", "framing"),
            ("PLC_DIRECTORY_URL", "http://plc.example"),
        ] {
            let named = Config::from_variables([(name, value)]).unwrap().unsafe_settings();
            assert!(named.len() == 1 && named[0].starts_with(name), "{named:?}");
        }
        for url in ["https://plc.example", "http://127.0.0.1:2582", "http://localhost:2582", "http://[::1]:2582"] {
            let named = Config::from_variables([("PLC_DIRECTORY_URL", url)]).unwrap().unsafe_settings();
            assert!(named.is_empty(), "{named:?}");
        }
    }

    #[test]
    fn secrets_can_be_in_files() {
        let path = std::env::temp_dir().join(format!("catbird-config-{}", ulid::Ulid::new()));
        let text = path.to_str().unwrap().to_owned();
        let file = |contents: &str| std::fs::write(&path, contents).unwrap();
        file("postgres://user:hunter2@db/catbird\r\n");
        let config = Config::from_variables([("DATABASE_URL_FILE", text.as_str())]).unwrap();
        assert_eq!(config.database_url.as_deref(), Some("postgres://user:hunter2@db/catbird"));
        file(" a secret of 32 bytes, with spaces ");
        let config = Config::from_variables([("TICKET_SECRET_FILE", text.as_str())]).unwrap();
        assert_eq!(config.auth.ticket_secret.as_deref(), Some(" a secret of 32 bytes, with spaces "));

        let refused =
            |settings: &[(&str, &str)]| Config::from_variables(settings.iter().copied()).unwrap_err().to_string();
        let both = refused(&[("JWT_SECRET_FILE", &text), ("JWT_SECRET", "0123456789abcdef0123456789abcdef")]);
        assert!(both.contains("JWT_SECRET and JWT_SECRET_FILE are both set"), "{both}");
        file("\n");
        assert!(refused(&[("DATABASE_URL_FILE", &text)]).contains("is empty"), "never the embedded one by accident");
        std::fs::remove_file(&path).unwrap();
        assert!(refused(&[("REDIS_URL_FILE", &text)]).contains("REDIS_URL_FILE"));
    }

    #[test]
    fn secrets_are_never_described() {
        let secret = "0123456789abcdef0123456789abcdef";
        let ticket = "fedcba9876543210fedcba9876543210";
        let url = "postgres://user:hunter2@db/catbird";
        let settings = [("JWT_SECRET", secret), ("TICKET_SECRET", ticket), ("DATABASE_URL", url)];
        let config = Config::from_variables(settings).unwrap();
        let shown = format!("{:?}{:?}", config.describe(), config.auth);
        for secret in [secret, ticket, "hunter2"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}
