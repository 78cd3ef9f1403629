//! The previous release and this one serve one database, while clients write and follow through both. `ops/test --upgrade` builds the
//! previous release.

use std::path::PathBuf;

use catbird_client::xrpc::Xrpc;
use catbird_testkit::app::{SECRET, SERVICE_DID};
use catbird_testkit::cluster::empty_database;
use catbird_testkit::fleet::{Mode, Replica, run};

use super::previous_migration;
use crate::recovery::conversation::Conversation;
use crate::recovery::servers::{SETTINGS, Servers};

/// Newest migration of the builds that refuse to start on a newer schema with a role that may create tables.
const REFUSES_NEWER: i64 = 40;
/// Number of conversations.
const CONVERSATIONS: usize = 3;

/// Replies of the previous release lack what this one adds, so they are not compared with its lexicons.
fn sign_in(base: &str, did: &str) -> Xrpc {
    Xrpc::new(base, did, SECRET, SERVICE_DID).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "a setting of the test, not of the server")]
fn previous_server() -> PathBuf {
    std::env::var_os("PREVIOUS_SERVER").expect("PREVIOUS_SERVER names the server of the previous release").into()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the previous release, which ops/test --upgrade builds"]
async fn the_previous_release_and_this_one_run_side_by_side() {
    let program = previous_server();
    let database = empty_database().await;
    let old = async |mode: Mode| Replica::of(&program, mode, &database.url, &SETTINGS).await;
    let new = async |mode: Mode| Replica::spawn(mode, &database.url, &SETTINGS).await;

    // The previous release alone, on its schema.
    let first = old(Mode::Advisory).await;
    first.ready().await;
    let second = old(Mode::Actors).await;
    second.ready().await;
    let db = database.connect().await;
    let version = "select max(version)::bigint from refinery_schema_history";
    let before: i64 = db.query_one(version, &[]).await.unwrap().get(0);
    assert_eq!(before, previous_migration(), "sql/previous_release does not fit its revision");
    let mut servers = Servers::of(vec![first, second]).await;
    let mut conversations = Vec::new();
    for _ in 0..CONVERSATIONS {
        conversations.push(Conversation::begin(&servers.urls(), sign_in).await);
    }
    let progress = async |step: &str, conversations: &[Conversation]| {
        for conversation in conversations {
            conversation.progress(3).await;
        }
        let acknowledged: usize = conversations.iter().map(Conversation::acknowledged).sum();
        println!("{step}: {acknowledged} writes acknowledged");
    };
    progress("the previous release alone", &conversations).await;

    let (code, said, errors) = run("migrate", &database.url).await;
    assert_eq!(code, Some(0), "{said}{errors}");
    progress("the previous release on the new schema", &conversations).await;
    servers.replace(0, new(Mode::Advisory).await).await;
    progress("both", &conversations).await;

    // Roll back and forth: a replica of the previous release starts on the new schema.
    if before > REFUSES_NEWER {
        servers.replace(0, old(Mode::Actors).await).await;
        progress("rolled back", &conversations).await;
        servers.replace(0, new(Mode::Actors).await).await;
        progress("both again", &conversations).await;
    } else {
        let mut refused = old(Mode::Actors).await;
        assert_eq!(refused.exit_code().await, Some(2));
        println!("the previous release does not start on a newer schema: its running replicas must stay until the end");
    }
    servers.replace(1, new(Mode::Advisory).await).await;
    progress("this release alone", &conversations).await;

    for conversation in &mut conversations {
        let loss = conversation.all_agree(&db).await;
        println!("{loss}");
        assert_eq!((loss.messages, loss.commits), (0, 0), "{loss}");
        for member in &conversation.members {
            let state = member.state.borrow().clone();
            assert!(
                state.told.is_empty() && state.connections > 1,
                "{:?}, {} connections",
                state.told,
                state.connections
            );
        }
        conversation.is_sound(&database.url).await;
    }
}
