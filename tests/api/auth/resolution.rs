//! Resolution of DID documents: fetch, cache and refresh, and abuse that their hosts cannot cause.

use std::time::Instant;

use catbird_server::auth::fetch::{FETCH_TIMEOUT, MAX_DOCUMENT_BYTES, STRANGERS_BURST, STRANGERS_PER_SECOND};
use catbird_server::auth::resolver::{REFRESH_INTERVAL, REFRESHES_PER_DID};
use catbird_server::error::Code;
use catbird_testkit::account::{Key, Spelling, document};
use catbird_testkit::directory::{Answer, Directory};
use chrono::TimeDelta;
use futures_util::future::join_all;
use serde_json::json;

use crate::auth::service::{ALICE, Service, Setup, publish, token, token_at};

fn alice_path() -> String {
    format!("/{ALICE}")
}

#[tokio::test]
async fn did_web_is_found_at_its_well_known_place_and_nowhere_else() {
    let directory = Directory::start();
    let service = Service::start(&directory);
    let key = Key::p256(1);
    let path = "/.well-known/did.json";
    for (host, hits) in [("127.0.0.1", 1), ("localhost", 2)] {
        let did = format!("did:web:{host}%3A{}", directory.port);
        directory.put(path, Answer::Document(document(&did, &[key.method("#atproto", Spelling::Multikey)])));
        assert_eq!(service.outcome(&token(&key, &did)).await.as_deref(), Ok(did.as_str()));
        assert_eq!(directory.hits(path), hits);
    }
    let did = format!("did:web:127.0.0.1%3A{}:users:alice", directory.port);
    directory.put("/users/alice/did.json", Answer::Document(document(&did, &[key.method("#atproto", Spelling::Jwk)])));
    assert_eq!(service.outcome(&token(&key, &did)).await, Err(Code::InvalidToken));
    assert_eq!(directory.hits("/users/alice/did.json"), 0);
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
    assert_eq!(directory.hits(&alice_path()), 3, "the old one may have come back");
}

#[tokio::test]
async fn garbage_does_not_hammer_the_directory() {
    let directory = Directory::start();
    let service = Service::start(&directory);
    let key = Key::p256(1);
    publish(&directory, &key);
    let forged: Vec<_> = (0..50).map(|_| token(&Key::p256(9), ALICE)).collect();
    let looked = REFRESHES_PER_DID as usize;
    for (nth, token) in forged.iter().enumerate() {
        // The first fetch and the budgeted refreshes. After that the server cannot know whether the key is Alice's.
        let expected = if nth <= looked { Code::InvalidToken } else { Code::IdentityUnavailable };
        assert_eq!(service.outcome(token).await, Err(expected));
    }
    let outcomes = join_all(forged.iter().map(|token| service.outcome(token))).await;
    assert!(outcomes.iter().all(|outcome| *outcome == Err(Code::IdentityUnavailable)));
    assert_eq!(directory.hits(&alice_path()), 1 + looked, "the first fetch and what one DID may bring about");
    service.clock.advance(TimeDelta::seconds(60));
    let at_once = join_all(forged.iter().map(|token| service.outcome(token))).await;
    assert!(at_once.iter().all(|outcome| matches!(outcome, Err(Code::InvalidToken | Code::IdentityUnavailable))));
    assert_eq!(directory.hits(&alice_path()), 1 + 2 * looked);
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

/// Answers of a broken directory, except for silence.
fn outages() -> Vec<Answer> {
    let of_another =
        document("did:plc:otherotherotherotheroth2", &[Key::p256(1).method("#atproto", Spelling::Multikey)]);
    let huge = document(ALICE, &[json!({"id": "#x", "padding": "x".repeat(MAX_DOCUMENT_BYTES)})]);
    let mut outages: Vec<_> = [400, 401, 403, 429, 500, 502, 503].map(Answer::Status).into();
    outages.extend([
        Answer::Redirect("http://127.0.0.1:1/".to_owned()),
        Answer::Body(b"<html>try later</html>".to_vec()),
        Answer::Body(Vec::new()),
        Answer::Body(vec![b' '; 10 * 1024 * 1024]),
        Answer::Document(huge),
        Answer::Document(of_another),
    ]);
    outages
}

#[tokio::test]
async fn an_outage_is_not_cached_as_an_absent_document() {
    let directory = Directory::start();
    let service = Service::start(&directory);
    let key = Key::p256(1);
    for outage in outages() {
        directory.put(&alice_path(), outage.clone());
        assert_eq!(service.outcome(&token(&key, ALICE)).await, Err(Code::IdentityUnavailable), "{outage:?}");
    }
    publish(&directory, &key);
    assert_eq!(service.outcome(&token(&key, ALICE)).await.as_deref(), Ok(ALICE));
}

#[tokio::test]
async fn a_document_that_worked_goes_on_working_while_the_directory_does_not() {
    for outage in outages().into_iter().chain([Answer::Hang]) {
        let directory = Directory::start();
        let service = Service::start(&directory);
        let key = Key::p256(1);
        publish(&directory, &key);
        assert!(service.outcome(&token(&key, ALICE)).await.is_ok());
        directory.asked().await;
        directory.put(&alice_path(), outage.clone());
        for after in [TimeDelta::minutes(6), TimeDelta::hours(23)] {
            service.clock.advance(after);
            let start = Instant::now();
            let token = token_at(&key, ALICE, service.clock.now());
            assert_eq!(service.outcome(&token).await.as_deref(), Ok(ALICE), "{outage:?}");
            assert!(start.elapsed() < FETCH_TIMEOUT / 2, "{outage:?} stood in the way for {:?}", start.elapsed());
            directory.asked().await;
        }
        if !matches!(outage, Answer::Hang) {
            service.clock.advance(TimeDelta::hours(1));
            let token = token_at(&key, ALICE, service.clock.now());
            assert_eq!(service.outcome(&token).await, Err(Code::IdentityUnavailable), "{outage:?}");
        }
    }
}

#[tokio::test]
async fn a_stale_document_is_replaced_behind_the_request() {
    let directory = Directory::start();
    let service = Service::start(&directory);
    let (old, new) = (Key::p256(1), Key::p256(2));
    publish(&directory, &old);
    assert!(service.outcome(&token(&old, ALICE)).await.is_ok());
    publish(&directory, &new);
    service.clock.advance(TimeDelta::minutes(5));
    let of_old = token_at(&old, ALICE, service.clock.now());
    assert!(service.outcome(&of_old).await.is_ok(), "the request does not wait for the directory");
    let replaced = async {
        while service.outcome(&of_old).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(FETCH_TIMEOUT, replaced).await.expect("the key that was withdrawn is noticed");
    assert!(service.outcome(&token_at(&new, ALICE, service.clock.now())).await.is_ok());
}

#[tokio::test]
async fn a_stranger_cannot_have_a_good_document_thrown_away() {
    let directory = Directory::start();
    let path = "/.well-known/did.json";
    let web = format!("did:web:127.0.0.1%3A{}", directory.port);
    let key = Key::p256(1);
    let good = |did| Answer::Document(document(did, &[key.method("#atproto", Spelling::Multikey)]));
    for outage in outages().into_iter().chain([Answer::Status(404)]) {
        let service = Service::start(&directory);
        directory.put(path, good(&web));
        directory.put(&alice_path(), good(ALICE));
        for did in [web.as_str(), ALICE] {
            assert!(service.outcome(&token(&key, did)).await.is_ok(), "{did}");
        }
        directory.put(path, outage.clone());
        if !matches!(outage, Answer::Status(404)) {
            directory.put(&alice_path(), outage.clone());
        }
        for did in [web.as_str(), ALICE] {
            assert!(service.outcome(&token(&Key::p256(9), did)).await.is_err());
            assert_eq!(service.outcome(&token(&key, did)).await.as_deref(), Ok(did), "{outage:?}");
        }
    }
}

#[tokio::test]
async fn a_key_that_is_changed_several_times_in_a_row_is_accepted_each_time_and_the_one_before_is_not() {
    let directory = Directory::start();
    let service = Service::start(&directory);
    let keys: Vec<Key> =
        (1..=5).map(|seed| if seed % 2 == 0 { Key::p256(seed) } else { Key::secp256k1(seed) }).collect();
    // The first key is fetched, and each of the next causes a refresh.
    for (nth, key) in keys[..4].iter().enumerate() {
        publish(&directory, key);
        assert_eq!(service.outcome(&token(key, ALICE)).await.as_deref(), Ok(ALICE), "key {nth}");
        assert_eq!(directory.hits(&alice_path()), nth + 1);
    }
    // Beyond the budget of one account: it is told to retry, and when.
    publish(&directory, &keys[4]);
    let error = service.check(&token(&keys[4], ALICE)).await.unwrap_err();
    assert_eq!(error.code, Code::IdentityUnavailable);
    let wait = error.details.retry_after_ms.unwrap();
    assert!((1..=REFRESH_INTERVAL.as_millis() as u64).contains(&wait), "{wait}");
    assert!(service.outcome(&token(&keys[3], ALICE)).await.is_ok(), "the newest document has not been fetched yet");
    service.clock.advance(TimeDelta::milliseconds(wait as i64));
    assert_eq!(service.outcome(&token(&keys[4], ALICE)).await.as_deref(), Ok(ALICE));
    service.clock.advance(TimeDelta::seconds(10));
    for key in &keys[..4] {
        let outcome = service.outcome(&token_at(key, ALICE, service.clock.now())).await;
        assert!(matches!(outcome, Err(Code::InvalidToken | Code::IdentityUnavailable)), "{outcome:?}");
    }
    assert!(service.outcome(&token_at(&keys[4], ALICE, service.clock.now())).await.is_ok());
}

#[tokio::test]
async fn a_directory_that_asks_to_wait_is_left_alone() {
    let directory = Directory::start();
    let service = Service::start(&directory);
    let key = Key::p256(1);
    directory.put(&alice_path(), Answer::Busy(30));
    assert_eq!(service.outcome(&token(&key, ALICE)).await, Err(Code::IdentityUnavailable));
    publish(&directory, &key);
    let error = service.check(&token(&key, ALICE)).await.unwrap_err();
    assert_eq!(error.code, Code::IdentityUnavailable);
    assert!(error.details.retry_after_ms.is_some_and(|ms| (25_000..=30_000).contains(&ms)), "{error:?}");
    assert_eq!(directory.hits(&alice_path()), 1);
}

/// A DID that was never used before.
pub fn stranger(n: usize) -> String {
    let letters: String = format!("{n:024}").bytes().map(|digit| char::from(digit - b'0' + b'a')).collect();
    format!("did:plc:{letters}")
}

#[tokio::test]
async fn strangers_do_not_take_the_permits_of_known_dids() {
    let directory = Directory::start();
    let service = Service::start(&directory);
    let (old, new) = (Key::p256(1), Key::p256(2));
    publish(&directory, &old);
    assert!(service.outcome(&token(&old, ALICE)).await.is_ok());
    let dids: Vec<_> = (0..100).map(stranger).collect();
    dids.iter().for_each(|did| directory.put(&format!("/{did}"), Answer::Hang));
    let tokens: Vec<_> = dids.iter().map(|did| token(&old, did)).collect();
    let start = Instant::now();
    let flood = join_all(tokens.iter().map(|token| service.outcome(token)));
    let known = async {
        directory.asked().await;
        publish(&directory, &new);
        let outcome = service.outcome(&token(&new, ALICE)).await;
        (outcome, start.elapsed())
    };
    let (refused, (outcome, took)) = tokio::join!(flood, known);
    assert_eq!(outcome.as_deref(), Ok(ALICE));
    assert!(took < FETCH_TIMEOUT / 2, "{took:?}");
    assert!(refused.iter().all(|outcome| *outcome == Err(Code::IdentityUnavailable)), "{refused:?}");
}

#[tokio::test]
async fn tokens_of_strangers_do_not_hammer_the_directory() {
    let directory = Directory::start();
    let service = Service::start(&directory);
    let key = Key::p256(1);
    let start = Instant::now();
    let mut waits = 0;
    for n in 0..300 {
        let error = service.check(&token(&key, &stranger(n))).await.unwrap_err();
        match error.code {
            Code::InvalidToken => {}
            Code::IdentityUnavailable => waits += usize::from(error.details.retry_after_ms.is_some()),
            code => panic!("{code:?}"),
        }
    }
    let asked: usize = (0..300).map(|n| directory.hits(&format!("/{}", stranger(n)))).sum();
    let allowed = f64::from(STRANGERS_BURST + 1) + f64::from(STRANGERS_PER_SECOND) * start.elapsed().as_secs_f64();
    assert!(asked as f64 <= allowed, "{asked} fetches, {allowed} allowed");
    assert_eq!(asked + waits, 300);
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
async fn a_did_that_the_directory_does_not_know_is_the_tokens_fault_and_remembered() {
    for status in [404, 410] {
        let directory = Directory::start();
        let service = Service::start(&directory);
        directory.put(&alice_path(), Answer::Status(status));
        for _ in 0..3 {
            assert_eq!(service.outcome(&token(&Key::p256(1), ALICE)).await, Err(Code::InvalidToken));
        }
        assert_eq!(directory.hits(&alice_path()), 1);
    }
}

#[tokio::test]
async fn a_web_host_without_a_document_is_asked_once() {
    let directory = Directory::start();
    let did = format!("did:web:127.0.0.1%3A{}", directory.port);
    for (answer, code) in [
        (Answer::Status(404), Code::InvalidToken),
        (Answer::Body(b"<html>not found</html>".to_vec()), Code::InvalidToken),
        (Answer::Status(403), Code::IdentityUnavailable),
        (Answer::Status(500), Code::IdentityUnavailable),
    ] {
        let service = Service::start(&directory);
        let before = directory.hits("/.well-known/did.json");
        directory.put("/.well-known/did.json", answer);
        for _ in 0..3 {
            assert_eq!(service.outcome(&token(&Key::p256(1), &did)).await, Err(code));
        }
        assert_eq!(directory.hits("/.well-known/did.json"), before + 1);
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
        for (did, code) in [(web.as_str(), Code::InvalidToken), (ALICE, Code::IdentityUnavailable)] {
            assert_eq!(service.outcome(&token(&key, did)).await, Err(code), "{did}");
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
