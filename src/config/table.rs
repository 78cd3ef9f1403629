//! The table of settings: one row for each environment variable.
//!
//! `--help`, the configuration that is printed at start, the table in the documentation and `.env.example` are made from it. A new
//! setting is one row here and one line in [`Config::from_variables`](super::Config::from_variables).

use std::fmt;

use super::blob_store::BlobPlace;
use super::{DEFAULT_LOG, MIN_SECRET_BYTES};
use crate::ids::Did;
use crate::trace::SAMPLERS;

/// One environment variable that the server reads.
#[derive(Debug)]
pub struct Setting {
    pub name: &'static str,
    pub kind: Kind,
    pub default: Default,
    /// Its value is never printed, and can be in the file that `<NAME>_FILE` names.
    pub is_secret: bool,
    /// What it does, in one line of Markdown.
    pub meaning: &'static str,
    /// What follows if replicas have different values; `None` if each may have its own.
    pub difference: Option<Difference>,
}

/// Consequence of different values at different replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Difference {
    /// True if a promise does not hold then.
    pub breaks: bool,
    pub consequence: &'static str,
}

/// Settings that belong together.
#[derive(Debug)]
pub struct Section {
    pub title: &'static str,
    pub settings: &'static [Setting],
}

/// The values that a setting accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Path,
    Flag,
    /// A whole number from the first to the second.
    Number(u64, u64),
    /// A fraction, from 0 to 1.
    Ratio,
    OneOf(&'static [&'static str]),
    /// Names with their values, as in `a=b,c=d`.
    Pairs,
    /// The same for headers of requests, which may authenticate this server.
    Headers,
    Did,
    /// A URL of one of two schemes, with a host.
    Url([&'static str; 2]),
    Secret,
    PostgresUrl,
    RedisUrl,
    BlobStoreUrl,
    /// A key of another service, or its secret.
    Credential,
    LogFilter,
}

/// The value in effect where the variable is missing or empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Default {
    /// This value.
    Value(&'static str),
    /// None, which means this.
    Unset(&'static str),
    /// A value that follows from other settings in this way.
    Derived(&'static str),
}

/// The highest rate limit. A request costs ten microseconds then, which the clocks behind the limit still measure.
const MAX_PER_SECOND: u64 = 100_000;
/// The highest quotas.
const MAX_PER_DAY: u64 = 1_000_000_000;
const MAX_BYTES: u64 = 1 << 50;
/// The longest retention: a century.
const MAX_DAYS: u64 = 36_500;

use self::Default::{Derived, Unset, Value};
use self::Kind::{
    BlobStoreUrl, Credential, Flag, Headers, LogFilter, Number, OneOf, Pairs, Path, PostgresUrl, Ratio, RedisUrl,
    Secret, Text, Url,
};

const fn setting(name: &'static str, kind: Kind, default: Default, meaning: &'static str) -> Setting {
    Setting { name, kind, default, is_secret: false, meaning, difference: None }
}

const fn secret(name: &'static str, kind: Kind, default: Default, meaning: &'static str) -> Setting {
    Setting { name, kind, default, is_secret: true, meaning, difference: None }
}

impl Setting {
    /// A promise does not hold if replicas have different values.
    const fn breaks(self, consequence: &'static str) -> Self {
        Self { difference: Some(Difference { breaks: true, consequence }), ..self }
    }

    /// A promise is weaker if replicas have different values.
    const fn weakens(self, consequence: &'static str) -> Self {
        Self { difference: Some(Difference { breaks: false, consequence }), ..self }
    }
}

const LIMITS: &str = "P10: what a caller may do depends on the replica";
const SWEEPS: &str = "P4: the replica that happens to sweep decides what is old";
const BLOBS: &str = "P4: a replica does not find the blobs that another one has stored";
const TOKENS: &str = "P12: which tokens are accepted depends on the replica";

/// Every setting, by section.
#[rustfmt::skip]
pub const SECTIONS: &[Section] = &[
    Section { title: "HTTP", settings: &[
        setting("SERVER_HOST", Text, Value("127.0.0.1"),
            "Address on which the server accepts requests."),
        setting("SERVER_PORT", Number(0, 65_535), Value("3000"),
            "Port on which the server accepts requests; 0 takes a free one."),
        setting("ADMIN_HOST", Text, Value("127.0.0.1"),
            "Address of `/metrics` and `/health` where `ADMIN_PORT` is set."),
        setting("ADMIN_PORT", Number(0, 65_535), Unset("none"),
            "Port of `/metrics` and `/health`; without it every client that reaches `SERVER_PORT` can read them. 0 takes a free one."),
        setting("MAX_CONNECTIONS", Number(1, 1_000_000), Value("22000"),
            "HTTP connections at once, streams included; others wait to be accepted. Fewer if the process may open fewer files."),
        setting("DRAIN_DELAY_SECONDS", Number(0, 60), Value("3"),
            "Seconds after SIGTERM in which requests are still accepted, so that load balancers notice."),
    ]},
    Section { title: "PostgreSQL and Redis", settings: &[
        secret("DATABASE_URL", PostgresUrl, Unset("embedded"),
            "PostgreSQL 14 or newer; without it the server runs its own under `DATA_DIR`. `sslmode=require` enables TLS; with several hosts add `target_session_attrs=read-write`."),
        setting("DATABASE_MAX_CONNECTIONS", Number(2, 10_000), Value("10"),
            "Pooled connections of this replica. Without Redis it holds one more, to listen for notifications."),
        setting("DATABASE_POOLER", Flag, Value("false"),
            "`true` behind PgBouncer in transaction mode: no prepared statements, no start-up parameters, no LISTEN."),
        setting("DATA_DIR", Path, Value(".data"),
            "Directory of the embedded PostgreSQL, and of blobs unless `BLOB_STORE_URL` names another place."),
        setting("PG_BIN_DIR", Path, Unset("search"),
            "Directory with PostgreSQL's programs, for the embedded one."),
        secret("REDIS_URL", RedisUrl, Unset("none"),
            "One Redis, not a cluster, that speeds up what replicas tell each other: used tokens, events, typing and rate limits.")
            .weakens("P11: replicas with another Redis learn of events up to a second late, and count rate limits alone"),
    ]},
    Section { title: "Blob store", settings: &[
        setting("BLOB_STORE_URL", BlobStoreUrl, Unset("the folder `blobs` in `DATA_DIR`"),
            "Where blobs are: `file:///folder`, or `s3://bucket` or `s3://bucket/prefix` at a service with the API of S3. Replicas share it, so on several machines a folder must be one that all of them have mounted.")
            .breaks(BLOBS),
        setting("BLOB_REDIRECT", Flag, Value("false"),
            "`true` answers `getBlob` with an address at an `s3://` store, from which whoever has it can read the blob for 60 seconds. It has to be reachable for clients."),
        setting("AWS_ENDPOINT_URL", Url(["https", "http"]), Unset("Amazon S3 in `AWS_REGION`"),
            "Service of an `s3://` store, such as MinIO or R2. With `http` nothing is encrypted on the way to it.")
            .breaks(BLOBS),
        setting("AWS_REGION", Text, Value("us-east-1"),
            "Region of an `s3://` store; R2 has `auto`."),
        secret("AWS_ACCESS_KEY_ID", Credential, Unset("none"),
            "Key of an `s3://` store, which lets the server read, write, delete and list objects. It needs one."),
        secret("AWS_SECRET_ACCESS_KEY", Credential, Unset("none"),
            "Secret of that key."),
    ]},
    Section { title: "Identity and tokens", settings: &[
        setting("SERVICE_DID", Kind::Did, Derived("did:web:localhost%3A<SERVER_PORT>"),
            "DID of the service: the audience of tokens, with or without `#atproto_mls`.")
            .breaks(TOKENS),
        setting("PUBLIC_URL", Url(["http", "https"]), Derived("the host of a did:web"),
            "URL at which clients reach the service; it is in `/.well-known/did.json`.")
            .weakens("P12: `/.well-known/did.json` depends on the replica"),
        secret("TICKET_SECRET", Secret, Derived("as JWT_SECRET"),
            "Signs the tickets of WebSockets, the same at all replicas. Without any secret there are only server-sent events.")
            .breaks("P12: a ticket of one replica is refused by another, so WebSockets open only by luck"),
        setting("WEBSOCKET_ENDPOINT", Url(["ws", "wss"]), Derived("below PUBLIC_URL"),
            "URL at which clients open WebSockets, as `getSubscriptionTicket` returns it."),
        setting("PLC_DIRECTORY_URL", Url(["http", "https"]), Value("https://plc.directory"),
            "Directory of `did:plc` documents.")
            .weakens("P12: replicas may find different keys of one person"),
        setting("ENFORCE_LXM", Flag, Value("true"),
            "Tokens must name the method that they are for.")
            .breaks(TOKENS),
        setting("ENFORCE_JTI", Flag, Value("true"),
            "Tokens must have a `jti`, and each is accepted once.")
            .breaks(TOKENS),
        secret("JWT_SECRET", Secret, Unset("none"),
            "Enables HS256 development tokens; a client that knows it can act as any account.")
            .breaks(TOKENS),
        setting("ALLOW_DEVELOPMENT_TOKENS", Flag, Value("false"),
            "Lets `serve` start with `JWT_SECRET` although other machines can reach the service."),
        setting("JTI_TTL_SECONDS", Number(1, 86_400), Value("120"),
            "Shortest time for which a used development token is remembered, if it lives for more than an hour."),
        setting("ALLOW_PRIVATE_DID_HOSTS", Flag, Value("false"),
            "Allows DID documents on private addresses, at other ports and over plain HTTP, for tests."),
    ]},
    Section { title: "Writes", settings: &[
        setting("ENABLE_ACTOR_SYSTEM", Flag, Value("false"),
            "Serializes the writes of a conversation by an actor in the process instead of PostgreSQL's advisory lock."),
        setting("ACTOR_IDLE_SECONDS", Number(1, 86_400), Value("3600"),
            "Seconds without work after which an actor stops."),
        setting("MESSAGE_EPOCH_WINDOW", Number(0, 1_000), Value("0"),
            "How many epochs behind the current one an application message may be.")
            .breaks("P9: whether a message of an earlier epoch is accepted or stale depends on the replica"),
        setting("WEDGED_QUORUM_PERCENT", Number(1, 100), Value("33"),
            "Percentage of a conversation's members who are in its MLS group, two at least, that makes it wedged by reporting that they cannot apply its commits.")
            .weakens("P13: whether a conversation becomes wedged depends on the replica"),
        setting("MAX_DEVICES", Number(1, 10), Value("10"),
            "Registered devices of one person. A commit brings in at most ten devices of a person, so more would be left out.")
            .weakens(LIMITS),
        setting("MLS_VALIDATION", OneOf(&["strict", "framing"]), Value("strict"),
            "`framing` skips the signatures, lifetimes and identities of key packages, the members that public commits add or remove, the signatures of public messages, and the trees and signatures of GroupInfos.")
            .breaks("P15: what is checked depends on the replica"),
    ]},
    Section { title: "Rate limits and quotas (0: no limit)", settings: &[
        setting("RATE_LIMIT_PER_DID", Number(0, MAX_PER_SECOND), Value("100"),
            "Requests of one caller per second, twice as many in a burst; an expensive request counts as several.")
            .weakens(LIMITS),
        setting("RATE_LIMIT_PER_CONVO", Number(0, MAX_PER_SECOND), Value("500"),
            "Accepted writes to one conversation per second, by all its members; twice as many in a burst.")
            .weakens(LIMITS),
        setting("COMMITS_PER_MINUTE", Number(0, MAX_PER_SECOND), Value("30"),
            "Accepted commits of one member in one conversation per minute, all of them at once if need be.")
            .weakens(LIMITS),
        setting("EXTERNAL_COMMIT_SECONDS", Number(0, 3_600), Value("60"),
            "Time in which one device joins the MLS group of a conversation by an external commit at most once, in seconds.")
            .weakens(LIMITS),
        setting("EXTERNAL_COMMITS_PER_CONVO", Number(0, 1_000), Value("10"),
            "External commits in one conversation, by all devices, in EXTERNAL_COMMIT_SECONDS.")
            .weakens(LIMITS),
        setting("KEY_PACKAGES_PER_CALLER", Number(0, MAX_PER_DAY), Value("10"),
            "One-time key packages of one person for one caller in ten minutes; ten times as many for all callers together.")
            .weakens(LIMITS),
        setting("STORED_BYTES_PER_DAY", Number(0, MAX_BYTES), Value("2147483648"),
            "Bytes that one caller stores per day, 256 for each row included.")
            .weakens(LIMITS),
        setting("BLOB_BYTES_PER_DAY", Number(0, MAX_BYTES), Value("1073741824"),
            "Bytes of blobs that one caller uploads per day.")
            .weakens(LIMITS),
        setting("BLOB_BYTES_PER_CONVO", Number(0, MAX_BYTES), Value("10737418240"),
            "Bytes of all blobs of one conversation.")
            .weakens(LIMITS),
        setting("BLOB_UPLOADS_PER_CALLER", Number(0, 1_000), Value("16"),
            "Uploads of one caller that are not complete.")
            .weakens(LIMITS),
        setting("CONVOS_PER_DAY", Number(0, MAX_PER_DAY), Value("500"),
            "Conversations that one caller creates per day.")
            .weakens(LIMITS),
        setting("STRANGERS_PER_DAY", Number(0, MAX_PER_DAY), Value("2000"),
            "People whom one caller invites per day without sharing a conversation in which they have been active.")
            .weakens(LIMITS),
        setting("INVITATIONS_PER_HOUR", Number(0, MAX_PER_DAY), Value("20"),
            "Invitations of one person per hour by such callers; a quarter of that by one of them.")
            .weakens(LIMITS),
    ]},
    Section { title: "Events", settings: &[
        setting("SSE_BUFFER_SIZE", Number(1, 1_000_000), Value("5000"),
            "Events that wait for one client of a stream; beyond that the stream ends, and the client resumes from its cursor."),
    ]},
    Section { title: "Retention (0: for ever)", settings: &[
        setting("MESSAGE_TTL_DAYS", Number(0, MAX_DAYS), Value("30"),
            "Days until messages and idempotency records are deleted, and commits that every active member has read.")
            .weakens(SWEEPS),
        setting("COMMIT_HOLD_DAYS", Number(0, MAX_DAYS), Value("90"),
            "Days for which a commit waits for members that have not read it, and a Welcome for its recipients.")
            .weakens(SWEEPS),
        setting("ABANDONED_AFTER_DAYS", Number(0, MAX_DAYS), Value("180"),
            "Days without a change after which a conversation ends in which at most one member was ever present.")
            .weakens(SWEEPS),
        setting("EVENT_STREAM_TTL_DAYS", Number(0, MAX_DAYS), Value("7"),
            "Days until stored events are deleted.")
            .weakens(SWEEPS),
        setting("RETENTION_INTERVAL_SECONDS", Number(1, 86_400), Value("3600"),
            "Seconds between two sweeps, of all replicas together."),
    ]},
    Section { title: "Mailboxes", settings: &[
        setting("MAILBOX_TIMEOUT_SECONDS", Number(1, 60), Value("10"),
            "Seconds in which a mailbox has to answer."),
        setting("MAILBOX_RETRY_SECONDS", Number(1, 3_600), Value("5"),
            "Seconds before the second attempt; the delay doubles with each attempt, up to an hour."),
        setting("MAILBOX_MAX_ATTEMPTS", Number(1, 1_000), Value("16"),
            "Attempts after which an envelope is dead; with the default delays that is after three to six hours."),
        setting("ALLOW_PRIVATE_MAILBOX_HOSTS", Flag, Value("false"),
            "Allows mailboxes on private addresses, at ports other than 443 and over plain HTTP, for tests."),
    ]},
    Section { title: "Traces (OpenTelemetry)", settings: &[
        setting("OTEL_EXPORTER_OTLP_ENDPOINT", Url(["http", "https"]), Unset("none"),
            "Collector of traces: the base URL of its OTLP over HTTP, such as `http://127.0.0.1:4318`. Without it there are no traces."),
        secret("OTEL_EXPORTER_OTLP_HEADERS", Headers, Unset("none"),
            "Headers of each export, such as `authorization=Bearer%20…`; values are percent-decoded."),
        setting("OTEL_TRACES_SAMPLER", OneOf(&SAMPLERS), Value("parentbased_always_on"),
            "Which requests are traced. With `parentbased_…`, the flag in a caller's `traceparent` decides for its requests."),
        setting("OTEL_TRACES_SAMPLER_ARG", Ratio, Value("1"),
            "Share of the requests that `…traceidratio` samples."),
        setting("OTEL_SERVICE_NAME", Text, Value("catbird-server"),
            "Name of the service in traces."),
        setting("OTEL_RESOURCE_ATTRIBUTES", Pairs, Unset("none"),
            "Further attributes of this replica in traces, such as `deployment.environment.name=production`."),
    ]},
    Section { title: "Log", settings: &[
        setting("RUST_LOG", LogFilter, Value(DEFAULT_LOG),
            "Log filter, as `tracing_subscriber::EnvFilter` reads it."),
    ]},
];

/// Every setting, in order.
pub fn settings() -> impl Iterator<Item = &'static Setting> {
    SECTIONS.iter().flat_map(|section| section.settings)
}

/// The row of a setting.
pub(super) fn row(name: &str) -> &'static Setting {
    settings().find(|setting| setting.name == name).expect("every setting that is read has a row in the table")
}

/// The table as text for `--help`.
pub fn help() -> String {
    let mut text =
        "Settings (environment variables, or lines of .env; <NAME>_FILE names a file with a secret):".to_owned();
    for section in SECTIONS {
        text += &format!("\n\n{}:", section.title);
        for Setting { name, kind, default, meaning, .. } in section.settings {
            text += &format!("\n  {name}  ({kind}; default: {default})\n      {}", meaning.replace('`', ""));
        }
    }
    text
}

impl Kind {
    /// Checks a value. The error completes a sentence that begins with the setting's name.
    pub(super) fn check(self, value: &str) -> Result<(), String> {
        let fits = match self {
            Text | Path => true,
            Flag => ["true", "1", "false", "0"].contains(&value),
            Number(min, max) => value.parse().is_ok_and(|number: u64| (min..=max).contains(&number)),
            Ratio => value.parse().is_ok_and(|ratio: f64| (0.0..=1.0).contains(&ratio)),
            OneOf(values) => values.contains(&value),
            Pairs | Headers => value.split(',').all(|pair| pair.trim().is_empty() || parse_pair(pair).is_some()),
            Kind::Did => value.parse::<Did>().is_ok(),
            Url(schemes) => {
                reqwest::Url::parse(value).is_ok_and(|url| schemes.contains(&url.scheme()) && url.has_host())
            }
            Secret => value.len() >= MIN_SECRET_BYTES,
            PostgresUrl => value.parse::<tokio_postgres::Config>().is_ok(),
            RedisUrl => is_redis(value) && fred::types::config::Config::from_url(value).is_ok(),
            Credential => value.bytes().all(|b| b.is_ascii_graphic()),
            BlobStoreUrl => match BlobPlace::parse(value) {
                Ok(_) => true,
                Err(problem) => return Err(problem.to_owned()),
            },
            LogFilter => match tracing_subscriber::EnvFilter::try_new(value) {
                Ok(_) => true,
                Err(cause) => return Err(format!("is not a log filter: {cause}")),
            },
        };
        match (fits, self) {
            (true, _) => Ok(()),
            (false, Secret) => Err(format!("must have at least {MIN_SECRET_BYTES} bytes")),
            (false, PostgresUrl | RedisUrl) => Err("is not a connection URL".to_owned()),
            (false, Credential) => Err("must be visible ASCII characters without spaces".to_owned()),
            (false, Number(min, max)) => Err(format!("must be a whole number from {min} to {max}")),
            (false, Url([one, other])) => Err(format!("must be a URL with {one} or {other}")),
            (false, Kind::Did) => Err("must be a DID without a fragment".to_owned()),
            (false, kind) => Err(format!("must be {kind}")),
        }
    }
}

/// Returns the names and values of a text such as `a=b,c=d`.
pub(super) fn pairs(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split(',').filter_map(parse_pair)
}

/// Parses `a=b`. The name is one that an HTTP header can have, and the value is visible ASCII with spaces.
fn parse_pair(text: &str) -> Option<(&str, &str)> {
    let (name, value) = text.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    (is_name && value.bytes().all(|b| b == b' ' || b.is_ascii_graphic())).then_some((name, value))
}

fn is_redis(url: &str) -> bool {
    url.split_once("://").is_some_and(|(scheme, _)| ["redis", "rediss", "valkey", "valkeys"].contains(&scheme))
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Text => write!(f, "text"),
            Path => write!(f, "path"),
            // The spellings that operators of the earlier server used.
            Flag => write!(f, "true, 1, false or 0"),
            Number(min, max) => write!(f, "{min} to {max}"),
            Ratio => write!(f, "0 to 1"),
            Pairs | Headers => write!(f, "name=value pairs, with commas between them"),
            OneOf(values) => write!(f, "{}", values.join(" or ")),
            Kind::Did => write!(f, "DID"),
            Url([one, other]) => write!(f, "{one} or {other} URL"),
            Secret => write!(f, "secret of at least {MIN_SECRET_BYTES} bytes"),
            PostgresUrl => write!(f, "PostgreSQL URL"),
            RedisUrl => write!(f, "Redis URL"),
            BlobStoreUrl => write!(f, "s3 or file URL"),
            Credential => write!(f, "text"),
            LogFilter => write!(f, "log filter"),
        }
    }
}

impl fmt::Display for Default {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value(text) | Unset(text) | Derived(text) => f.write_str(text),
        }
    }
}
