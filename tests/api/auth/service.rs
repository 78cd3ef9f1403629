//! Service under test: an authenticator with a directory on loopback and a manual clock.

use std::sync::LazyLock;
use std::time::Duration;

use catbird_server::auth::replay::PURPOSE;
use catbird_server::auth::{AuthMetrics, Authenticator, Replay, Verified};
use catbird_server::background::Background;
use catbird_server::clock::Clock;
use catbird_server::config::AuthConfig;
use catbird_server::error::{Code, Error};
use catbird_server::metrics::Registry;
use catbird_server::redis::{Redis, RedisMetrics};
use catbird_server::store::{Store, StoreConfig, StoreMetrics};
use catbird_testkit::account::{Key, Spelling, document};
use catbird_testkit::directory::{Answer, Directory};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use ulid::Ulid;

pub const NSID: &str = "blue.catbird.mls.sendMessage";
pub const SERVICE_DID: &str = "did:web:mls.example";
pub const ALICE: &str = "did:plc:ewvi7nxzyoun6zhxrhs64oiz";
pub const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Time of the clock, in seconds since 1970.
pub static NOW: LazyLock<i64> = LazyLock::new(|| Clock::system().now().timestamp());

pub struct Service {
    pub config: AuthConfig,
    pub clock: Clock,
    pub authenticator: Authenticator,
}

/// Settings of a test.
pub struct Setup {
    pub config: AuthConfig,
    /// Without one, no token can be used.
    pub replay: Option<Replay>,
    /// Store of the documents.
    pub store: Store,
}

/// A store whose database does not exist.
pub fn absent_store() -> Store {
    let database = "postgresql://catbird@127.0.0.1:1/none".parse().unwrap();
    store(database)
}

pub fn store(database: tokio_postgres::Config) -> Store {
    let metrics = StoreMetrics::register(&mut Registry::default());
    Store::new(StoreConfig { database, max_connections: 10, pooler: false }, metrics).unwrap()
}

/// The register of used tokens, with Redis if there is a URL.
pub fn replay(redis_url: Option<&str>, store: Store) -> Replay {
    let metrics = RedisMetrics::register(&mut Registry::default());
    Replay::with(redis_url.map(|url| Redis::connect(url, PURPOSE, metrics).unwrap()), store, &Background::new())
}

impl Setup {
    pub fn new(directory: &Directory) -> Self {
        let config = AuthConfig {
            service_did: SERVICE_DID.parse().unwrap(),
            public_url: "https://mls.example".to_owned(),
            jwt_secret: None,
            ticket_secret: None,
            websocket_endpoint: String::new(),
            enforce_lxm: true,
            enforce_jti: true,
            jti_ttl: Duration::from_secs(120),
            plc_directory_url: directory.url(),
            allow_private_did_hosts: true,
        };
        Self { config, replay: None, store: absent_store() }
    }

    pub fn start(self) -> Service {
        let clock = Clock::manual(DateTime::from_timestamp(*NOW, 0).unwrap());
        let replay = self.replay.unwrap_or_else(|| Replay::with(None, absent_store(), &Background::new()));
        let metrics = AuthMetrics::register(&mut Registry::default());
        let authenticator =
            Authenticator::new(self.config.clone(), clock.clone(), replay, &self.store, metrics, &Background::new())
                .unwrap();
        Service { config: self.config, clock, authenticator }
    }
}

impl Service {
    pub fn start(directory: &Directory) -> Self {
        Setup::new(directory).start()
    }

    /// Verifies a token for [`NSID`] without using it.
    pub async fn check(&self, token: &str) -> Result<Verified, Error> {
        self.authenticator.verify(Some(&format!("Bearer {token}")), NSID).await
    }

    /// Like [`Service::check`], reduced to the DID or the error code.
    pub async fn outcome(&self, token: &str) -> Result<String, Code> {
        self.check(token).await.map(|verified| verified.did.to_string()).map_err(|error| error.code)
    }
}

/// Valid claims with a new `jti`.
pub fn claims(iss: &str) -> Value {
    json!({"iss": iss, "aud": SERVICE_DID, "iat": *NOW, "exp": *NOW + 60, "lxm": NSID, "jti": Ulid::new().to_string()})
}

/// Signs a token as a PDS would at this time.
pub fn token_at(key: &Key, iss: &str, now: DateTime<Utc>) -> String {
    let mut claims = claims(iss);
    (claims["iat"], claims["exp"]) = (json!(now.timestamp()), json!(now.timestamp() + 60));
    key.token(&json!({"alg": key.alg(), "typ": "JWT"}), &claims)
}

/// Signs a token as a PDS would now.
pub fn token(key: &Key, iss: &str) -> String {
    key.token(&json!({"alg": key.alg(), "typ": "JWT"}), &claims(iss))
}

/// Publishes Alice's document with this key.
pub fn publish(directory: &Directory, key: &Key) {
    let method = key.method(&format!("{ALICE}#atproto"), Spelling::Multikey);
    directory.put(&format!("/{ALICE}"), Answer::Document(document(ALICE, &[method])));
}
