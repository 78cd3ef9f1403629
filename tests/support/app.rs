//! A server in the test's own process, on its own database, used over real HTTP.
//!
//! Every reply is validated against the lexicon documents, and [`TestApp::finish`] checks the invariants of the
//! database.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;

use actix_web::dev::ServerHandle;
use catbird_client::persona::Persona;
use catbird_client::random_did;
use catbird_client::xrpc::{OnReply, Xrpc, facts};
use catbird_server::app::App;
use catbird_server::check;
use catbird_server::clock::Clock;
use catbird_server::config::Config;
use catbird_server::lifecycle::Lifecycle;
use catbird_server::server;
use serde_json::Value;

use super::cluster::{TestDatabase, blob_folder, database};
use super::lexicon;

/// Secret of development tokens in tests.
pub const SECRET: &str = "a secret that only tests ever use, 32+";
/// DID of the service in tests.
pub const SERVICE_DID: &str = "did:web:mls.test";

/// A running server with its database.
pub struct TestApp {
    pub app: App,
    pub base: String,
    pub database: TestDatabase,
    server: ServerHandle,
}

impl TestApp {
    /// Starts a server with the default serializer.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// Starts a server with these settings on top of the tests' own.
    pub async fn with(settings: &[(&str, &str)]) -> Self {
        Self::at(Clock::system(), settings).await
    }

    /// Starts a server with a manual clock.
    pub async fn at(clock: Clock, settings: &[(&str, &str)]) -> Self {
        Self::listening(None, clock, settings, |_| {}).await
    }

    /// Starts a server whose address must be known before it listens.
    pub async fn on(listener: TcpListener, settings: &[(&str, &str)]) -> Self {
        Self::listening(Some(listener), Clock::system(), settings, |_| {}).await
    }

    /// Starts a server with a configuration that settings cannot give.
    pub async fn adjusted(adjust: impl FnOnce(&mut Config)) -> Self {
        Self::listening(None, Clock::system(), &[], adjust).await
    }

    async fn listening(
        listener: Option<TcpListener>,
        clock: Clock,
        settings: &[(&str, &str)],
        adjust: impl FnOnce(&mut Config),
    ) -> Self {
        let database = database().await;
        let blobs = format!("file://{}", blob_folder(&database.config).display());
        let settings: Vec<_> = std::iter::once(("BLOB_STORE_URL", &*blobs)).chain(settings.iter().copied()).collect();
        let mut config = Config::from_variables(variables(&settings)).unwrap().to_serve().unwrap();
        adjust(&mut config);
        let app = App::new(config, database.config.clone(), clock).await.unwrap();
        app.enter(Lifecycle::Serving);
        let listener = listener.unwrap_or_else(|| server::bind(&app.config).unwrap());
        let (address, running) = server::build(app.clone(), listener).unwrap();
        let server = running.handle();
        tokio::spawn(running);
        Self { app, base: format!("http://{address}"), database, server }
    }

    /// Creates a new persona.
    pub fn persona(&self) -> Persona {
        Persona::new(self.xrpc(&random_did()))
    }

    /// Creates a new persona with published key packages.
    pub async fn published_persona(&self) -> Persona {
        let persona = self.persona();
        persona.publish_key_packages(2).await.unwrap();
        persona
    }

    /// Creates a conversation of `n`: its creator first, all joined and caught up.
    pub async fn conversation(&self, n: usize) -> Vec<Persona> {
        let mut creator = self.persona();
        creator.create(random_did().as_bytes(), "test").await.unwrap();
        let mut others = Vec::new();
        for _ in 1..n {
            others.push(self.published_persona().await);
        }
        for others in others.chunks(50) {
            let dids: Vec<&str> = others.iter().map(Persona::did).collect();
            creator.add(&dids).await.unwrap();
        }
        let convo = creator.convo().unwrap().to_owned();
        let mut members = vec![creator];
        for mut other in others {
            other.join(&convo).await.unwrap();
            other.catch_up().await.unwrap();
            members.push(other);
        }
        members[0].catch_up().await.unwrap();
        members
    }

    /// Returns a signed-in connection whose replies are validated.
    pub fn xrpc(&self, did: &str) -> Xrpc {
        validated(&self.base, did)
    }

    /// Waits until read positions are written.
    pub async fn settle(&self) {
        self.app.read_positions.flush().await;
    }

    /// Stops the server and checks the invariants.
    pub async fn finish(self) {
        server::drain(&self.app, &self.server).await;
        let report = check::with_objects(&self.database.config, &self.app.objects).await.unwrap();
        assert!(report.is_clean(), "{report}");
    }
}

/// Returns a connection to any test server, whose replies are validated.
pub fn validated(base: &str, did: &str) -> Xrpc {
    let mut xrpc = Xrpc::new(base, did, SECRET, SERVICE_DID).unwrap();
    xrpc.on_reply = Some(on_reply());
    xrpc
}

/// Panics on a reply that violates its lexicon document.
fn on_reply() -> OnReply {
    Arc::new(|nsid, reply| {
        let checked = match reply.status {
            200 | 206 | 304 | 307 if lexicon::sends_bytes(nsid) => {
                lexicon::validate_bytes(reply.status, &reply.headers)
            }
            200 => lexicon::validate_output(nsid, &reply.body),
            _ => lexicon::validate_error(nsid, &reply.body).and_then(|()| tells_its_facts(&reply.body)),
        };
        if let Err(why) = checked {
            panic!(
                "{nsid} answered {} with a body that its lexicon does not allow: {why}\n{}",
                reply.status, reply.body
            );
        }
    })
}

/// Checks that an error's message ends with the details that the body has as fields.
fn tells_its_facts(body: &Value) -> Result<(), String> {
    let message = body["message"].as_str().unwrap_or_default();
    let (_, facts) = facts(message).ok_or_else(|| format!("no facts in {message:?}"))?;
    let fields = body.as_object().into_iter().flatten();
    let beside = fields.filter(|(name, _)| !matches!(name.as_str(), "error" | "message" | "missing" | "groupInfo"));
    let told: BTreeMap<&str, String> = facts.into_iter().map(|(name, value)| (name, value.to_owned())).collect();
    let had = beside.map(|(name, value)| (&**name, value.as_str().map_or_else(|| value.to_string(), str::to_owned)));
    let had: BTreeMap<&str, String> = had.collect();
    if told == had { Ok(()) } else { Err(format!("the message tells {told:?} and the body has {had:?}")) }
}

/// Settings of a server under test, some of them replaced. By default there are no limits or quotas, and a drain does
/// not wait for load balancers.
pub fn variables(settings: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut all = vec![
        ("SERVER_PORT".to_owned(), "0".to_owned()),
        ("SERVICE_DID".to_owned(), SERVICE_DID.to_owned()),
        ("JWT_SECRET".to_owned(), SECRET.to_owned()),
        ("DRAIN_DELAY_SECONDS".to_owned(), "0".to_owned()),
        ("RATE_LIMIT_PER_DID".to_owned(), "0".to_owned()),
        ("RATE_LIMIT_PER_CONVO".to_owned(), "0".to_owned()),
        ("COMMITS_PER_MINUTE".to_owned(), "0".to_owned()),
        ("KEY_PACKAGES_PER_CALLER".to_owned(), "0".to_owned()),
        ("STORED_BYTES_PER_DAY".to_owned(), "0".to_owned()),
        ("CONVOS_PER_DAY".to_owned(), "0".to_owned()),
        ("STRANGERS_PER_DAY".to_owned(), "0".to_owned()),
        ("INVITATIONS_PER_HOUR".to_owned(), "0".to_owned()),
    ];
    if let Some((_, url)) = settings.iter().find(|(name, _)| *name == "DATABASE_URL")
        && let Ok(database) = url.parse()
    {
        all.push(("BLOB_STORE_URL".to_owned(), format!("file://{}", blob_folder(&database).display())));
    }
    for (name, value) in settings {
        all.retain(|(known, _)| known != name);
        all.push(((*name).to_owned(), (*value).to_owned()));
    }
    all
}
