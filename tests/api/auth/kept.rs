//! Stored DID documents: a replica that starts later knows the DIDs that have called before, and no others.

use catbird_server::auth::fetch::STRANGERS_BURST;
use catbird_server::auth::resolver::{DOCUMENT_LIFETIME, FRESH_FOR};
use catbird_server::error::Code;
use catbird_testkit::account::Key;
use catbird_testkit::cluster::{TestDatabase, database};
use catbird_testkit::directory::{Answer, Directory};
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;

use crate::auth::resolution::stranger;
use crate::auth::service::{ALICE, NOW, Service, Setup, publish, store, token};

/// A replica that has just started.
fn replica(directory: &Directory, database: &TestDatabase) -> Service {
    let mut setup = Setup::new(directory);
    setup.store = store(database.config.clone());
    setup.start()
}

fn path() -> String {
    format!("/{ALICE}")
}

/// Waits until the stored documents satisfy the condition, and returns the DIDs and keys.
async fn kept(database: &TestDatabase, so: impl Fn(&[(String, String)]) -> bool) -> Vec<(String, String)> {
    let db = database.connect().await;
    for _ in 0..1_000 {
        let rows = db.query("select did, account_key from did_documents order by did", &[]).await.unwrap();
        let rows: Vec<_> = rows.iter().map(|row| (row.get("did"), row.get("account_key"))).collect();
        if so(&rows) {
            return rows;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("what is kept did not become what it should");
}

/// Makes the stored documents older.
async fn age(database: &TestDatabase, by: TimeDelta) {
    let fetched_at: DateTime<Utc> = DateTime::from_timestamp(*NOW, 0).unwrap() - by;
    database.connect().await.execute("update did_documents set fetched_at = $1", &[&fetched_at]).await.unwrap();
}

#[tokio::test]
async fn a_replica_that_has_just_started_knows_earlier_callers() {
    let (directory, database) = (Directory::start(), database().await);
    for key in [Key::p256(1), Key::secp256k1(1)] {
        publish(&directory, &key);
        let first = replica(&directory, &database);
        first.clock.advance(TimeDelta::seconds(1));
        assert_eq!(first.outcome(&token(&key, ALICE)).await.as_deref(), Ok(ALICE));
        kept(&database, |rows| rows.len() == 1).await;

        directory.put(&path(), Answer::Status(503));
        let asked = directory.hits(&path());
        let second = replica(&directory, &database);
        assert_eq!(second.outcome(&token(&key, ALICE)).await.as_deref(), Ok(ALICE));
        assert_eq!(directory.hits(&path()), asked);
        database.connect().await.execute("delete from did_documents", &[]).await.unwrap();
    }
}

#[tokio::test]
async fn strangers_that_use_up_their_budget_do_not_lock_out_known_dids() {
    let (directory, database) = (Directory::start(), database().await);
    let key = Key::p256(1);
    publish(&directory, &key);
    assert!(replica(&directory, &database).outcome(&token(&key, ALICE)).await.is_ok());
    kept(&database, |rows| rows.len() == 1).await;
    for outdated in [TimeDelta::zero(), DOCUMENT_LIFETIME] {
        age(&database, outdated).await;
        let second = replica(&directory, &database);
        let tokens: Vec<_> = (0..4 * STRANGERS_BURST as usize).map(|n| token(&key, &stranger(n))).collect();
        let outcomes = join_all(tokens.iter().map(|token| second.outcome(token))).await;
        assert!(outcomes.contains(&Err(Code::IdentityUnavailable)), "the budget is used up");
        let asked = directory.hits(&path());
        assert_eq!(second.outcome(&token(&key, ALICE)).await.as_deref(), Ok(ALICE));
        assert_eq!(directory.hits(&path()) - asked, usize::from(!outdated.is_zero()));
    }
}

#[tokio::test]
async fn a_token_that_is_not_genuine_makes_no_did_known() {
    let (directory, database) = (Directory::start(), database().await);
    let service = replica(&directory, &database);
    let key = Key::p256(1);
    publish(&directory, &key);
    assert_eq!(service.outcome(&token(&Key::p256(2), ALICE)).await, Err(Code::InvalidToken));
    let web = format!("did:web:127.0.0.1%3A{}", directory.port);
    let method = key.method("#atproto", catbird_testkit::account::Spelling::Jwk);
    let document = catbird_testkit::account::document(&web, &[method]);
    directory.put("/.well-known/did.json", Answer::Document(document));
    assert!(service.outcome(&token(&key, &web)).await.is_ok());
    // Documents are written in order.
    assert_eq!(kept(&database, |rows| !rows.is_empty()).await[0].0, web);
    assert!(service.outcome(&token(&key, ALICE)).await.is_ok());
    assert_eq!(kept(&database, |rows| rows.len() == 2).await[0].0, ALICE);
}

#[tokio::test]
async fn a_key_that_was_changed_does_not_come_back_with_a_restart() {
    let (directory, database) = (Directory::start(), database().await);
    let (old, new) = (Key::p256(1), Key::p256(2));
    publish(&directory, &old);
    let first = replica(&directory, &database);
    assert!(first.outcome(&token(&old, ALICE)).await.is_ok());
    let before = kept(&database, |rows| rows.len() == 1).await;
    publish(&directory, &new);
    first.clock.advance(FRESH_FOR);
    // Signed with the old key, which causes a background fetch.
    let late = crate::auth::service::token_at(&old, ALICE, first.clock.now());
    assert!(first.outcome(&late).await.is_ok());
    kept(&database, |rows| rows != before).await;

    directory.put(&path(), Answer::Status(503));
    let second = replica(&directory, &database);
    assert!(second.outcome(&token(&new, ALICE)).await.is_ok());
    assert_eq!(second.outcome(&token(&old, ALICE)).await, Err(Code::IdentityUnavailable));
}

#[tokio::test]
async fn a_did_that_the_directory_gave_up_is_forgotten() {
    let (directory, database) = (Directory::start(), database().await);
    let key = Key::p256(1);
    publish(&directory, &key);
    let service = replica(&directory, &database);
    assert!(service.outcome(&token(&key, ALICE)).await.is_ok());
    kept(&database, |rows| rows.len() == 1).await;
    directory.put(&path(), Answer::Status(410));
    service.clock.advance(FRESH_FOR);
    let late = crate::auth::service::token_at(&key, ALICE, service.clock.now());
    assert!(service.outcome(&late).await.is_ok(), "it is noticed behind this request");
    kept(&database, <[_]>::is_empty).await;
    assert_eq!(replica(&directory, &database).outcome(&token(&key, ALICE)).await, Err(Code::InvalidToken));
}

#[tokio::test]
async fn stored_documents_serve_for_a_day_without_the_directory_and_no_longer() {
    let (directory, database) = (Directory::start(), database().await);
    let key = Key::p256(1);
    publish(&directory, &key);
    assert!(replica(&directory, &database).outcome(&token(&key, ALICE)).await.is_ok());
    kept(&database, |rows| rows.len() == 1).await;
    directory.put(&path(), Answer::Status(503));
    for (old, outcome) in [
        (DOCUMENT_LIFETIME - TimeDelta::seconds(1), Ok(ALICE.to_owned())),
        (DOCUMENT_LIFETIME, Err(Code::IdentityUnavailable)),
    ] {
        age(&database, old).await;
        assert_eq!(replica(&directory, &database).outcome(&token(&key, ALICE)).await, outcome);
    }
}
