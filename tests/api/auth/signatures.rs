//! Signatures that are accepted for a caller.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use catbird_client::xrpc::Token;
use catbird_server::auth;
use catbird_server::auth::token::MAX_TOKEN_BYTES;
use catbird_server::error::Code;
use catbird_testkit::account::{Key, Spelling, document, signing_input};
use catbird_testkit::directory::{Answer, Directory};
use serde_json::json;

use crate::auth::service::{ALICE, NOW, NSID, SECRET, SERVICE_DID, Service, Setup, claims, publish, token};

#[tokio::test]
async fn p12_keys_of_both_curves_in_every_spelling_sign() {
    for key in [Key::p256(1), Key::secp256k1(1)] {
        let bare = [true, false].map(|compress| Spelling::Bare { compress });
        for spelling in [Spelling::Multikey, Spelling::Jwk, bare[0], bare[1]] {
            for id in ["#atproto".to_owned(), format!("{ALICE}#atproto")] {
                let directory = Directory::start();
                let service = Service::start(&directory);
                directory.put(&format!("/{ALICE}"), Answer::Document(document(ALICE, &[key.method(&id, spelling)])));
                assert_eq!(
                    service.outcome(&token(&key, ALICE)).await.as_deref(),
                    Ok(ALICE),
                    "{} {spelling:?}",
                    key.alg()
                );
                let forged = service.outcome(&token(&Key::p256(2), ALICE)).await;
                assert_eq!(forged, Err(Code::InvalidToken), "{} {spelling:?}", key.alg());
            }
        }
    }
}

#[tokio::test]
async fn p12_only_the_accounts_key_speaks_for_it_whatever_kid_says() {
    let directory = Directory::start();
    let (account, label) = (Key::secp256k1(1), Key::p256(2));
    let methods = [label.method("#atproto_label", Spelling::Jwk), account.method("#atproto", Spelling::Multikey)];
    directory.put(&format!("/{ALICE}"), Answer::Document(document(ALICE, &methods)));

    let full = format!("{ALICE}#atproto_label");
    let kids = ["atproto", "#atproto", "#atproto_label", &full, "did:plc:other#atproto"];
    for kid in [None].into_iter().chain(kids.map(Some)) {
        let service = Service::start(&directory);
        for (key, outcome) in [(&account, Ok(ALICE)), (&label, Err(Code::InvalidToken))] {
            let token = key.token(&json!({"alg": key.alg(), "kid": kid}), &claims(ALICE));
            assert_eq!(service.outcome(&token).await.as_deref(), outcome.as_ref().copied(), "{} {kid:?}", key.alg());
        }
    }
}

#[tokio::test]
async fn p12_both_forms_of_a_signature_are_accepted() {
    for key in [Key::p256(1), Key::secp256k1(1)] {
        let directory = Directory::start();
        let service = Service::start(&directory);
        publish(&directory, &key);
        let signed = signing_input(&json!({"alg": key.alg()}), &claims(ALICE));
        for signature in key.sign_both_ways(&signed) {
            let der = match &key {
                Key::P256(_) => p256::ecdsa::Signature::from_slice(&signature).unwrap().to_der().as_bytes().to_vec(),
                Key::Secp256k1(_) => {
                    k256::ecdsa::Signature::from_slice(&signature).unwrap().to_der().as_bytes().to_vec()
                }
            };
            let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
            // The signed text is the same, and so is its single use.
            for token in [token.clone(), format!("{token}==")] {
                assert_eq!(service.outcome(&token).await.as_deref(), Ok(ALICE));
            }
            let in_der = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(der));
            assert_eq!(service.outcome(&in_der).await, Err(Code::InvalidToken), "it has another length");
        }
    }
}

#[tokio::test]
async fn p12_an_algorithm_does_not_turn_one_kind_of_key_into_another() {
    let directory = Directory::start();
    let key = Key::p256(1);
    publish(&directory, &key);
    let mut setup = Setup::new(&directory);
    setup.config.jwt_secret = Some(SECRET.to_owned());
    let service = setup.start();

    // The public key is not a secret, in any encoding.
    for public in [key.point(true), key.point(false)] {
        let token = Token::new(&public).mint(&claims(ALICE));
        assert_eq!(service.outcome(&token).await, Err(Code::InvalidToken));
    }
    for alg in ["none", "HS512", "RS256", "EdDSA", "ES256K"] {
        assert_eq!(
            service.outcome(&key.token(&json!({"alg": alg}), &claims(ALICE))).await,
            Err(Code::InvalidToken),
            "{alg}"
        );
    }
    let unsigned = format!("{}.", signing_input(&json!({"alg": "none"}), &claims(ALICE)));
    assert_eq!(service.outcome(&unsigned).await, Err(Code::InvalidToken));
    let stripped = format!("{}.", signing_input(&json!({"alg": "ES256"}), &claims(ALICE)));
    assert_eq!(service.outcome(&stripped).await, Err(Code::InvalidToken));
}

#[tokio::test]
async fn p12_a_signature_covers_the_claims_and_the_header() {
    let directory = Directory::start();
    let service = Service::start(&directory);
    let key = Key::secp256k1(1);
    publish(&directory, &key);
    let good = token(&key, ALICE);
    let (_, signature) = good.rsplit_once('.').unwrap();
    for (header, body) in [
        (json!({"alg": "ES256K", "typ": "JWT"}), claims(ALICE)),
        (json!({"alg": "ES256K", "typ": "JWT", "x": 1}), claims(ALICE)),
    ] {
        let spliced = format!("{}.{signature}", signing_input(&header, &body));
        assert_eq!(service.outcome(&spliced).await, Err(Code::InvalidToken));
    }
}

#[tokio::test]
async fn p12_the_identity_is_the_issuer_whatever_the_subject_says() {
    let directory = Directory::start();
    let service = Service::start(&directory);
    let key = Key::p256(1);
    publish(&directory, &key);
    let mut claims = claims(ALICE);
    claims["sub"] = json!("did:plc:victimvictimvictimvictim");
    let token = key.token(&json!({"alg": "ES256"}), &claims);
    assert_eq!(service.outcome(&token).await.as_deref(), Ok(ALICE));
}

#[tokio::test]
async fn p12_an_obviously_invalid_token_causes_no_fetch() {
    let directory = Directory::start();
    let service = Service::start(&directory);
    let key = Key::p256(1);
    publish(&directory, &key);
    for (claim, value, code) in [
        ("aud", json!("did:web:other.example"), Code::InvalidToken),
        ("aud", json!(format!("{SERVICE_DID}#bsky_appview")), Code::InvalidToken),
        ("aud", json!([SERVICE_DID]), Code::InvalidToken),
        ("lxm", json!("blue.catbird.mls.leaveConvo"), Code::InvalidToken),
        ("lxm", json!(null), Code::InvalidToken),
        ("exp", json!(*NOW - 60), Code::ExpiredToken),
        ("exp", json!(*NOW + 3_700), Code::InvalidToken),
        ("exp", json!(1.5), Code::ExpiredToken),
        ("exp", json!(null), Code::InvalidToken),
        ("iat", json!(*NOW + 3_600), Code::InvalidToken),
        ("jti", json!(null), Code::InvalidToken),
        ("iss", json!(format!("{ALICE}#atproto")), Code::InvalidToken),
        ("jti", json!("x".repeat(MAX_TOKEN_BYTES)), Code::InvalidToken),
    ] {
        let mut claims = claims(ALICE);
        claims[claim] = value.clone();
        let token = key.token(&json!({"alg": "ES256"}), &claims);
        assert_eq!(service.outcome(&token).await, Err(code), "{claim} {value}");
    }
    let long_and_loose = json!({"iss": ALICE, "aud": SERVICE_DID, "exp": *NOW + 3_600, "jti": "once"});
    let loose = key.token(&json!({"alg": "ES256"}), &long_and_loose);
    assert_eq!(service.outcome(&loose).await, Err(Code::InvalidToken));
    let short = format!("{}.c2hvcnQ", signing_input(&json!({"alg": "ES256"}), &claims(ALICE)));
    assert_eq!(service.outcome(&short).await, Err(Code::InvalidToken));
    assert_eq!(service.authenticator.verify(None, NSID).await.unwrap_err().code, Code::AuthenticationRequired);
    assert_eq!(directory.hits(&format!("/{ALICE}")), 0);

    let mut with_fragment = claims(ALICE);
    with_fragment["aud"] = json!(format!("{SERVICE_DID}#atproto_mls"));
    assert!(service.outcome(&key.token(&json!({"alg": "ES256"}), &with_fragment)).await.is_ok());
}

#[tokio::test]
async fn p12_development_tokens_work_where_there_is_a_secret_and_nowhere_else() {
    let directory = Directory::start();
    let mut setup = Setup::new(&directory);
    setup.config.jwt_secret = Some(SECRET.to_owned());
    let development = setup.start();
    let production = Service::start(&directory);
    let did = ALICE.parse().unwrap();
    let mint =
        |config, lifetime| auth::mint(config, &development.clock, &did, Some(NSID), Duration::from_secs(lifetime));

    let token = mint(&development.config, 3_600).unwrap();
    assert_eq!(development.outcome(&token).await.as_deref(), Ok(ALICE));
    assert_eq!(production.outcome(&token).await, Err(Code::InvalidToken));

    let mut other = development.config.clone();
    other.jwt_secret = Some(SECRET.chars().rev().collect());
    assert_eq!(development.outcome(&mint(&other, 60).unwrap()).await, Err(Code::InvalidToken));
    assert!(mint(&production.config, 60).is_err());
    assert!(mint(&development.config, 0).is_err() && mint(&development.config, 100_000).is_err());
}

#[tokio::test]
async fn the_service_publishes_where_it_is() {
    let directory = Directory::start();
    let document = auth::service_document(&Service::start(&directory).config);
    assert_eq!(document["id"], SERVICE_DID);
    let service =
        json!([{"id": "#atproto_mls", "type": "AtprotoMlsService", "serviceEndpoint": "https://mls.example"}]);
    assert_eq!(document["service"], service);
}
