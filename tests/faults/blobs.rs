//! P2 and P4 for blobs: a replica is killed at every step of an upload, of a message that refers to a blob, and of a sweep. What was
//! acknowledged is there afterwards, and nothing else stays: no reference to nothing, no bytes without a row.

use catbird_client::persona::{Persona, unique};
use catbird_client::xrpc::bytes_value;
use catbird_server::check;
use catbird_server::config::BlobStore;
use catbird_server::objects::{ObjectMetrics, Objects};
use catbird_testkit::app::variables;
use catbird_testkit::cluster::database;
use catbird_testkit::fleet::{Mode, Replica};
use catbird_testkit::s3::{Fault, S3Server};
use futures_util::TryStreamExt;
use serde_json::json;
use tokio_postgres::Client;

use super::tools::{eventually, lock_waiters};

const PART: usize = 256 * 1024;

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Upload,
    InParts,
    Send,
    Sweep,
}

/// The step that does not go on.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// A statement that changes rows of a table.
    Rows(&'static str, &'static str),
    /// A request to the blob store.
    Store(&'static str),
}

/// Every step at which something is written.
const STEPS: &[(Work, Step)] = &[
    (Work::Upload, Step::Rows("insert", "blobs")),
    (Work::Upload, Step::Store("PUT")),
    (Work::Upload, Step::Store("HEAD")),
    (Work::Upload, Step::Rows("update", "blobs")),
    (Work::InParts, Step::Rows("insert", "blob_parts")),
    (Work::InParts, Step::Store("PUT")),
    (Work::InParts, Step::Rows("update", "blob_parts")),
    (Work::InParts, Step::Store("GET")),
    (Work::InParts, Step::Rows("delete", "blob_parts")),
    (Work::Send, Step::Rows("insert", "messages")),
    (Work::Send, Step::Rows("insert", "blob_references")),
    (Work::Sweep, Step::Rows("delete", "blobs")),
    (Work::Sweep, Step::Store("DELETE")),
    (Work::Sweep, Step::Rows("delete", "blob_deletions")),
];

/// Lets statements of a kind on a table wait until the test goes on.
pub(super) async fn block(holder: &Client, event: &str, table: &str) {
    let trigger = format!(
        "select pg_advisory_lock(4242);
         create or replace function wait_here() returns trigger language plpgsql as $$
         begin perform pg_advisory_xact_lock(4242); return coalesce(new, old); end $$;
         create trigger wait_here before {event} on {table} for each row execute function wait_here()"
    );
    holder.batch_execute(&trigger).await.unwrap();
}

pub(super) async fn unblock(holder: &Client, table: &str) {
    holder.batch_execute("select pg_advisory_unlock(4242)").await.unwrap();
    // The killed replica's statement may still be running, and ends before the trigger goes.
    holder.batch_execute(&format!("drop trigger wait_here on {table}")).await.unwrap();
}

struct Scene {
    s3: S3Server,
    settings: Vec<(&'static str, String)>,
    url: String,
    mode: Mode,
    replica: Replica,
    member: Persona,
    /// Blobs that a message refers to, with their bytes.
    acknowledged: Vec<(String, Vec<u8>)>,
}

impl Scene {
    async fn start(mode: Mode, url: &str) -> Self {
        let s3 = S3Server::start();
        let mut settings = s3.settings();
        settings.push(("RETENTION_INTERVAL_SECONDS", "1".to_owned()));
        let replica = Self::replica(mode, url, &settings).await;
        let mut member = Persona::new(catbird_testkit::app::validated(&replica.base, &catbird_client::random_did()));
        member.create(unique().as_bytes(), "blobs").await.unwrap();
        Self { s3, settings, url: url.to_owned(), mode, replica, member, acknowledged: Vec::new() }
    }

    async fn replica(mode: Mode, url: &str, settings: &[(&'static str, String)]) -> Replica {
        let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, &**value)).collect();
        Replica::start(mode, url, &settings).await
    }

    /// Kills the replica while it waits at the step, then lets a new one do the same work.
    async fn kill_at(&mut self, db: &Client, holder: &Client, work: Work, step: Step) {
        let bytes: Vec<u8> = unique().bytes().cycle().take(PART + 1_000).collect();
        let ready = match work {
            Work::Upload | Work::InParts => None,
            Work::Send | Work::Sweep => Some(self.member.upload(&bytes).await.unwrap()),
        };
        let before = self.s3.requests().len();
        match step {
            Step::Rows(event, table) => block(holder, event, table).await,
            Step::Store(method) => self.s3.fail_at(method, Fault::Hang),
        }
        let doomed = {
            let mut member = Persona::new(self.member.xrpc.with_own_connections());
            member.convo_id.clone_from(&self.member.convo_id);
            let (bytes, ready) = (bytes.clone(), ready.clone());
            tokio::spawn(async move {
                match work {
                    Work::Sweep => Err("a sweep answers nobody".to_owned()),
                    Work::Send => send(&member, &ready.unwrap()).await,
                    Work::Upload | Work::InParts => upload(&member, work, &bytes).await.map(drop),
                }
            })
        };
        if work == Work::Sweep {
            db.execute("update blobs set expires_at = now() - interval '1 s' where key = $1", &[&ready]).await.unwrap();
            db.batch_execute("update blob_deletions set since = now() - interval '2 h'").await.unwrap();
        }
        match step {
            Step::Rows("delete", "blob_deletions") => {
                // Its object was given up a moment ago.
                eventually("a sweep has given up an object", async || {
                    let aged = "update blob_deletions set since = now() - interval '2 h'";
                    db.execute(aged, &[]).await.unwrap() > 0
                })
                .await;
                lock_waiters(db, 1).await;
            }
            Step::Rows(..) => lock_waiters(db, 1).await,
            Step::Store(method) => {
                eventually("the request hangs", async || {
                    self.s3.requests()[before..].iter().any(|request| request.starts_with(method))
                })
                .await;
            }
        }
        self.replica.kill();
        assert!(doomed.await.unwrap().is_err(), "{work:?} at {step:?}: the replica was killed before it could answer");
        match step {
            Step::Rows(_, table) => unblock(holder, table).await,
            Step::Store(_) => self.s3.fail(Fault::None),
        }
        self.replica = Self::replica(self.mode, &self.url, &self.settings).await;
        self.member.xrpc.base = self.replica.base.parse().unwrap();
        if work == Work::Sweep {
            return;
        }
        let blob = match ready {
            Some(blob) => blob,
            None => upload(&self.member, work, &bytes).await.unwrap(),
        };
        send(&self.member, &blob).await.unwrap();
        self.acknowledged.push((blob, bytes));
    }
}

async fn upload(member: &Persona, work: Work, bytes: &[u8]) -> Result<String, String> {
    let uploaded = match work {
        Work::InParts => member.upload_in_parts(bytes, PART).await,
        _ => member.upload(bytes).await,
    };
    uploaded.map_err(|why| why.to_string())
}

/// Sends a message in the conversation's first epoch, in which it stays.
pub(super) async fn send(member: &Persona, blob: &str) -> Result<(), String> {
    let ciphertext = bytes_value(unique().as_bytes());
    let body = json!({"convoId": member.convo().unwrap(), "epoch": 0, "ciphertext": ciphertext, "blobs": [blob]});
    let reply = member.xrpc.procedure("sendMessage", &body).await.map_err(|why| why.to_string())?;
    if reply.is_ok() { Ok(()) } else { Err(reply.to_string()) }
}

pub async fn p4_a_replica_killed_at_any_step_of_a_blob_loses_and_leaks_nothing(mode: Mode) {
    let database = database().await;
    let (db, holder) = (database.connect().await, database.connect().await);
    let mut scene = Scene::start(mode, &database.url).await;
    for (work, step) in STEPS {
        scene.kill_at(&db, &holder, *work, *step).await;
    }
    let settings: Vec<_> = scene.settings.iter().map(|(name, value)| (*name, &**value)).collect();
    only_these_are_left(&db, &database.config, &settings, &scene.member, &scene.acknowledged).await;
}

/// Lets time pass, then checks that the blob store of a server with these settings has the bytes of these blobs, to which messages refer,
/// and no others.
pub(super) async fn only_these_are_left(
    db: &Client,
    database: &tokio_postgres::Config,
    settings: &[(&str, &str)],
    member: &Persona,
    acknowledged: &[(String, Vec<u8>)],
) {
    let config = catbird_server::config::Config::from_variables(variables(settings)).unwrap();
    let mut stored = stored_after_deletions(db, database, &config.blob_store).await;
    stored.sort();
    let mut expected: Vec<String> =
        acknowledged.iter().map(|(blob, _)| format!("blobs/{}/{blob}", &blob[..2])).collect();
    expected.sort();
    assert_eq!(stored, expected, "the bytes of acknowledged blobs and no others");
    for (blob, bytes) in acknowledged {
        let download = member.xrpc.download("getBlob", &[("blobId", blob.clone())], &[]).await.unwrap();
        assert!(download.unwrap().bytes().await.unwrap() == *bytes, "{blob}");
    }
}

/// Lets time pass until what nothing refers to is deleted, checks database and blob store, and returns the names in the blob store.
pub(super) async fn stored_after_deletions(
    db: &Client,
    database: &tokio_postgres::Config,
    store: &BlobStore,
) -> Vec<String> {
    eventually("everything that nothing refers to is deleted", async || {
        db.batch_execute(
            "update blobs set expires_at = now() - interval '1 s' where ref_count = 0;
             update blob_deletions set since = now() - interval '2 h'",
        )
        .await
        .unwrap();
        let left = "select (select count(*) from blobs where ref_count = 0) + (select count(*) from blob_deletions)";
        db.query_one(left, &[]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
    let metrics = ObjectMetrics::register(&mut catbird_server::metrics::Registry::default());
    let objects = Objects::open(store, metrics).unwrap();
    let report = check::with_objects(database, &objects).await.unwrap();
    assert!(report.is_clean(), "{report}");
    let mut stored = Vec::new();
    for prefix in ["blobs/", "parts/"] {
        stored.extend(objects.list(prefix).map_ok(|listed| listed.name).try_collect::<Vec<_>>().await.unwrap());
    }
    stored
}
