//! How documents are found, remembered and refreshed, and what their hosts cannot make this server do.

use std::time::Instant;

use catbird_server::auth::fetch::{FETCH_TIMEOUT, MAX_DOCUMENT_BYTES};
use catbird_server::error::Code;
use futures_util::future::join_all;
use serde_json::json;

use crate::service::{ALICE, Service, Setup, publish, token};
use crate::support::account::{Key, Spelling, document};
use crate::support::directory::{Answer, Directory};

fn alice_path() -> String {
    format!("/{ALICE}")
}

#[tokio::test]
async fn did_web_is_found_at_its_well_known_place_and_at_its_path() {
    let directory = Directory::start();
    let service = Service::start(&directory);
    let key = Key::p256(1);
    for (did, path) in [
        (format!("did:web:127.0.0.1%3A{}", directory.port), "/.well-known/did.json"),
        (format!("did:web:127.0.0.1%3A{}:users:alice", directory.port), "/users/alice/did.json"),
        (format!("did:web:localhost%3A{}:bob", directory.port), "/bob/did.json"),
    ] {
        directory.put(path, Answer::Document(document(&did, &[key.method("#atproto", Spelling::Multikey)])));
        assert_eq!(service.outcome(&token(&key, &did)).await.as_deref(), Ok(did.as_str()));
        assert_eq!(directory.hits(path), 1);
    }
}

#[tokio::test]
async fn a_document_is_fetched_once_and_then_remembered() {
    let directory = Directory::start();
    let service = Service::start(&directory);
    let key = Key::p256(1);
    publish(&directory, &key);
    for _ in 0..5 {
        assert_eq!(service.outcome(&token(&key, ALICE)).await.as_deref(), Ok(ALICE));
    }
    assert_eq!(directory.hits(&alice_path()), 1);
}

#[tokio::test]
async fn fifty_requests_that_miss_together_share_one_fetch() {
    let directory = Directory::start();
    let service = Service::start(&directory);
    let key = Key::p256(1);
    let document = document(ALICE, &[key.method("#atproto", Spelling::Multikey)]);
    directory.put(&alice_path(), Answer::Held(document));

    let tokens: Vec<_> = (0..50).map(|_| token(&key, ALICE)).collect();
    let requests = join_all(tokens.iter().map(|token| service.outcome(token)));
    let (outcomes, ()) = tokio::join!(requests, async {
        directory.asked().await;
        directory.release();
    });
    assert!(outcomes.iter().all(|outcome| outcome.as_deref() == Ok(ALICE)), "{outcomes:?}");
    assert_eq!(directory.hits(&alice_path()), 1);
}

#[tokio::test]
async fn a_new_key_is_accepted_after_one_more_fetch() {
    let directory = Directory::start();
    let service = Service::start(&directory);
    let (old, new) = (Key::p256(1), Key::secp256k1(2));
    publish(&directory, &old);
    assert!(service.outcome(&token(&old, ALICE)).await.is_ok());
    publish(&directory, &new);
    assert_eq!(service.outcome(&token(&new, ALICE)).await.as_deref(), Ok(ALICE));
    assert_eq!(directory.hits(&alice_path()), 2);

    assert_eq!(service.outcome(&token(&old, ALICE)).await, Err(Code::InvalidToken));
    assert_eq!(service.outcome(&token(&new, ALICE)).await.as_deref(), Ok(ALICE));
    assert_eq!(directory.hits(&alice_path()), 2);
}

#[tokio::test]
async fn garbage_does_not_hammer_the_directory() {
    let directory = Directory::start();
    let service = Service::start(&directory);
    let key = Key::p256(1);
    publish(&directory, &key);
    let forged: Vec<_> = (0..50).map(|_| token(&Key::p256(9), ALICE)).collect();
    for token in &forged {
        assert_eq!(service.outcome(token).await, Err(Code::InvalidToken));
    }
    let outcomes = join_all(forged.iter().map(|token| service.outcome(token))).await;
    assert!(outcomes.iter().all(|outcome| *outcome == Err(Code::InvalidToken)));
    assert_eq!(directory.hits(&alice_path()), 2, "the first fetch and one refresh");
    assert!(service.outcome(&token(&key, ALICE)).await.is_ok());
}

#[tokio::test]
async fn a_key_that_was_withdrawn_is_noticed_with_the_document() {
    let directory = Directory::start();
    let service = Service::start(&directory);
    let key = Key::p256(1);
    publish(&directory, &key);
    assert!(service.outcome(&token(&key, ALICE)).await.is_ok());
    directory.put(&alice_path(), Answer::Status(410));
    assert_eq!(service.outcome(&token(&Key::p256(9), ALICE)).await, Err(Code::InvalidToken));
    assert_eq!(service.outcome(&token(&key, ALICE)).await, Err(Code::InvalidToken), "the refresh found a tombstone");
}

#[tokio::test]
async fn a_directory_that_hangs_is_an_outage_within_the_limit() {
    let directory = Directory::start();
    let service = Service::start(&directory);
    directory.put(&alice_path(), Answer::Hang);
    let start = Instant::now();
    let error = service.check(&token(&Key::p256(1), ALICE)).await.unwrap_err();
    assert_eq!(error.code, Code::IdentityUnavailable);
    assert_eq!(error.code.status(), 503);
    assert!(error.details.retry_after_ms.is_some());
    assert!(start.elapsed() < FETCH_TIMEOUT * 2, "{:?}", start.elapsed());
}

#[tokio::test]
async fn an_outage_is_not_remembered() {
    let directory = Directory::start();
    let service = Service::start(&directory);
    let key = Key::p256(1);
    for status in [500, 502, 503, 429] {
        directory.put(&alice_path(), Answer::Status(status));
        assert_eq!(service.outcome(&token(&key, ALICE)).await, Err(Code::IdentityUnavailable), "{status}");
    }
    publish(&directory, &key);
    assert_eq!(service.outcome(&token(&key, ALICE)).await.as_deref(), Ok(ALICE));
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_an_outage() {
    let directory = Directory::start();
    let mut setup = Setup::new(&directory);
    setup.config.plc_directory_url = "http://127.0.0.1:1".to_owned();
    let service = setup.start();
    assert_eq!(service.outcome(&token(&Key::p256(1), ALICE)).await, Err(Code::IdentityUnavailable));
}

#[tokio::test]
async fn an_answer_that_is_no_document_is_the_tokens_fault_and_remembered() {
    let of_another =
        document("did:plc:otherotherotherotheroth2", &[Key::p256(1).method("#atproto", Spelling::Multikey)]);
    let huge = document(ALICE, &[json!({"id": "#x", "padding": "x".repeat(MAX_DOCUMENT_BYTES)})]);
    for answer in [
        Answer::Status(404),
        Answer::Status(410),
        Answer::Body(b"<html>not found</html>".to_vec()),
        Answer::Body(Vec::new()),
        Answer::Body(vec![b' '; 10 * 1024 * 1024]),
        Answer::Document(huge),
        Answer::Document(of_another),
    ] {
        let directory = Directory::start();
        let service = Service::start(&directory);
        directory.put(&alice_path(), answer);
        for _ in 0..3 {
            assert_eq!(service.outcome(&token(&Key::p256(1), ALICE)).await, Err(Code::InvalidToken));
        }
        assert_eq!(directory.hits(&alice_path()), 1);
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let directory = Directory::start();
    let inside = Directory::start();
    let service = Service::start(&directory);
    let key = Key::p256(1);
    let web = format!("did:web:127.0.0.1%3A{}", directory.port);
    inside.put("/secret", Answer::Document(document(&web, &[key.method("#atproto", Spelling::Multikey)])));
    for to in [format!("{}/secret", inside.url()), "http://169.254.169.254/latest/meta-data/".to_owned()] {
        directory.put("/.well-known/did.json", Answer::Redirect(to.clone()));
        directory.put(&alice_path(), Answer::Redirect(to));
        for did in [web.as_str(), ALICE] {
            assert_eq!(service.outcome(&token(&key, did)).await, Err(Code::InvalidToken), "{did}");
        }
    }
    assert_eq!(inside.hits("/secret"), 0);
}

#[tokio::test]
async fn private_addresses_are_not_contacted_by_any_name() {
    let directory = Directory::start();
    let mut setup = Setup::new(&directory);
    setup.config.allow_private_did_hosts = false;
    let service = setup.start();
    let key = Key::p256(1);
    let port = directory.port;
    for host in ["127.0.0.1", "127.1", "0x7f000001", "2130706433", "localhost", "169.254.169.254", "10.0.0.1"] {
        for did in [format!("did:web:{host}%3A{port}"), format!("did:web:{host}")] {
            directory.put(
                "/.well-known/did.json",
                Answer::Document(document(&did, &[key.method("#atproto", Spelling::Jwk)])),
            );
            let error = service.check(&token(&key, &did)).await.unwrap_err();
            assert_eq!(error.code, Code::InvalidToken, "{did}: {error}");
        }
    }
    assert_eq!(directory.hits("/.well-known/did.json"), 0);

    publish(&directory, &key);
    assert!(service.outcome(&token(&key, ALICE)).await.is_ok(), "the directory is the operator's own choice");
}

#[tokio::test]
async fn dids_of_other_methods_and_malformed_ones_are_refused() {
    let directory = Directory::start();
    let service = Service::start(&directory);
    for did in ["did:key:zDnaembgSGUhZULN2Caob4HLJPaxBh92N7rtH21TErzqf8HQo", "did:plc:short", "did:web:127.0.0.1%2Fx"] {
        assert_eq!(service.outcome(&token(&Key::p256(1), did)).await, Err(Code::InvalidToken), "{did}");
    }
}
