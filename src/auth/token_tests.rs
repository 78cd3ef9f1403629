use std::time::Duration;

use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const NSID: &str = "blue.catbird.mls.sendMessage";
const NOW: i64 = 1_800_000_000;

fn config() -> AuthConfig {
    AuthConfig {
        service_did: "did:web:mls.example".parse().unwrap(),
        public_url: "https://mls.example".to_owned(),
        jwt_secret: None,
        ticket_secret: None,
        websocket_endpoint: String::new(),
        enforce_lxm: true,
        enforce_jti: true,
        jti_ttl: Duration::from_secs(120),
        plc_directory_url: "https://plc.directory".to_owned(),
        allow_private_did_hosts: false,
    }
}

fn encode(part: &Value) -> String {
    URL_SAFE_NO_PAD.encode(part.to_string())
}

fn good_claims() -> Value {
    json!({"iss": "did:plc:ewvi7nxzyoun6zhxrhs64oiz", "aud": "did:web:mls.example", "iat": NOW, "exp": NOW + 60, "lxm": NSID, "jti": "a1"})
}

/// The good claims with these changes; null removes a claim.
fn claims(changes: Value) -> Value {
    let mut claims = good_claims();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => claims.as_object_mut().unwrap().remove(name),
            value => claims.as_object_mut().unwrap().insert(name.clone(), value.clone()),
        };
    }
    claims
}

fn check(header: Value, claims: Value, config: &AuthConfig) -> Result<Did, Code> {
    let text = format!("{}.{}.c2ln", encode(&header), encode(&claims));
    // Padding changes nothing.
    let padded = format!("{}.{}.c2ln", URL_SAFE.encode(header.to_string()), URL_SAFE.encode(claims.to_string()));
    let now = DateTime::from_timestamp(NOW, 0).unwrap();
    let outcome = Token::parse(&text, NSID, config, now).map(|token| token.issuer).map_err(|error| error.code);
    let the_same = Token::parse(&padded, NSID, config, now).map(|token| token.issuer).map_err(|error| error.code);
    assert_eq!(outcome, the_same);
    outcome
}

fn check_claims(changes: Value) -> Result<Did, Code> {
    check(json!({"alg": "ES256", "typ": "JWT"}), claims(changes), &config())
}

#[test]
fn a_header_without_a_bearer_token_asks_for_one() {
    for absent in [None, Some(""), Some("Bearer"), Some("Bearer "), Some("Basic abc"), Some("abc")] {
        assert_eq!(bearer(absent).unwrap_err().code, Code::AuthenticationRequired, "{absent:?}");
    }
    for present in ["Bearer a.b.c", "bearer a.b.c", "BEARER   a.b.c"] {
        assert_eq!(bearer(Some(present)).unwrap(), "a.b.c");
    }
}

#[test]
fn the_issuer_is_the_identity_and_the_subject_is_ignored() {
    let issuer = check_claims(json!({"sub": "did:plc:victim"})).unwrap();
    assert_eq!(issuer.as_str(), "did:plc:ewvi7nxzyoun6zhxrhs64oiz");
}

#[test]
fn an_issuer_that_is_not_a_plain_did_is_refused() {
    for iss in [
        json!(null),
        json!(7),
        json!(""),
        json!("alice"),
        json!("did:plc:ewvi7nxzyoun6zhxrhs64oiz#atproto"),
        json!("did:plc:a/b"),
    ] {
        assert_eq!(check_claims(json!({"iss": iss})), Err(Code::InvalidToken), "{iss}");
    }
}

#[test]
fn the_audience_is_this_service_alone_or_with_its_fragment() {
    for aud in ["did:web:mls.example", "did:web:mls.example#atproto_mls"] {
        assert!(check_claims(json!({"aud": aud})).is_ok(), "{aud}");
    }
    for aud in [
        json!(null),
        json!(""),
        json!("did:web:other.example"),
        json!("did:web:mls.example#bsky_appview"),
        json!("did:web:mls.example#"),
        json!("did:web:mls.example#atproto_mls#atproto_mls"),
        json!("#atproto_mls"),
        json!(["did:web:mls.example"]),
        json!("DID:WEB:MLS.EXAMPLE"),
    ] {
        assert_eq!(check_claims(json!({"aud": aud})), Err(Code::InvalidToken), "{aud}");
    }
}

#[test]
fn a_token_lives_until_its_expiry_and_not_too_long() {
    for exp in [
        json!(NOW - LEEWAY_SECONDS + 1),
        json!(NOW + 1),
        json!(NOW as f64 + 60.5),
        json!(1.8e9),
        json!(NOW + SERVICE_TOKEN_SECONDS + LEEWAY_SECONDS),
        json!((NOW + SERVICE_TOKEN_SECONDS + LEEWAY_SECONDS) as f64 + 0.9),
    ] {
        assert!(check_claims(json!({"exp": exp})).is_ok(), "{exp}");
    }
    for exp in [json!(NOW - LEEWAY_SECONDS), json!(0), json!(-1), json!(i64::MIN), json!(-1e300), json!(1.5)] {
        assert_eq!(check_claims(json!({"exp": exp})), Err(Code::ExpiredToken), "{exp}");
    }
    for exp in [
        json!(null),
        json!(NOW + SERVICE_TOKEN_SECONDS + LEEWAY_SECONDS + 1),
        json!(i64::MAX),
        json!(u64::MAX),
        json!(1e300),
        json!("1800000060"),
    ] {
        assert_eq!(check_claims(json!({"exp": exp})), Err(Code::InvalidToken), "{exp}");
    }
}

/// A PDS mints hour-long tokens if they are bound to one method; this server also requires that they are for one use.
#[test]
fn only_a_token_that_is_bound_to_a_method_and_a_use_lives_for_an_hour() {
    let bound = |config: AuthConfig, changes: Value| {
        let long = claims(changes);
        [LOOSE_TOKEN_SECONDS, LOOSE_TOKEN_SECONDS + 60, SERVICE_TOKEN_SECONDS, SERVICE_TOKEN_SECONDS + 60].map(
            |ahead| {
                let mut claims = long.clone();
                claims["exp"] = json!(NOW + ahead);
                check(json!({"alg": "ES256"}), claims, &config).is_ok()
            },
        )
    };
    let no_lxm = AuthConfig { enforce_lxm: false, ..config() };
    let no_jti = AuthConfig { enforce_jti: false, ..config() };
    for (config, changes, outcome) in [
        (config(), json!({}), [true, true, true, false]),
        (no_lxm.clone(), json!({}), [true, true, true, false]),
        (no_lxm, json!({"lxm": null}), [true, false, false, false]),
        (no_jti.clone(), json!({}), [true, false, false, false]),
        (no_jti, json!({"jti": null}), [true, false, false, false]),
    ] {
        assert_eq!(bound(config, changes.clone()), outcome, "{changes}");
    }
}

/// No replica has accepted it earlier than this less the leeway, whatever the claims say.
#[test]
fn when_a_token_was_made_is_never_earlier_than_it_can_have_been_accepted() {
    let now = DateTime::from_timestamp(NOW, 0).unwrap();
    for (iat, exp, made) in [
        (json!(NOW - 5), NOW + 3_600, -5),
        (json!(NOW + 10), NOW + 60, 10),
        (json!(null), NOW + 300, -10),
        (json!(null), NOW + 60, 60 - 310),
        (json!(-1e300), NOW + 60, 60 - 3_610),
        (json!(i64::MIN), NOW + 60, 60 - 3_610),
    ] {
        let text =
            format!("{}.{}.c2ln", encode(&json!({"alg": "ES256"})), encode(&claims(json!({"iat": iat, "exp": exp}))));
        let token = Token::parse(&text, NSID, &config(), now).unwrap();
        assert_eq!(token.issued_at.timestamp() - NOW, made, "{iat} {exp}");
    }
}

#[test]
fn a_token_from_the_future_is_refused() {
    for claim in ["iat", "nbf"] {
        assert!(check_claims(json!({claim: NOW + LEEWAY_SECONDS})).is_ok(), "{claim}");
        assert_eq!(check_claims(json!({claim: NOW + LEEWAY_SECONDS + 1})), Err(Code::InvalidToken), "{claim}");
        assert!(check_claims(json!({claim: NOW as f64 - 0.5})).is_ok(), "{claim}");
    }
    assert!(check_claims(json!({"iat": null})).is_ok());
}

#[test]
fn a_token_is_good_for_the_method_that_it_names() {
    let lax = AuthConfig { enforce_lxm: false, ..config() };
    let header = json!({"alg": "ES256"});
    for (lxm, strictly, laxly) in [
        (json!(NSID), true, true),
        (json!(null), false, true),
        (json!("blue.catbird.mls.leaveConvo"), false, false),
        (json!(""), false, false),
        (json!([NSID]), false, false),
    ] {
        assert_eq!(check(header.clone(), claims(json!({"lxm": lxm})), &config()).is_ok(), strictly, "{lxm}");
        assert_eq!(check(header.clone(), claims(json!({"lxm": lxm})), &lax).is_ok(), laxly, "{lxm}");
    }
}

#[test]
fn a_token_carries_a_usable_jti() {
    let lax = AuthConfig { enforce_jti: false, ..config() };
    assert_eq!(check_claims(json!({"jti": null})), Err(Code::InvalidToken));
    assert!(check(json!({"alg": "ES256"}), claims(json!({"jti": null})), &lax).is_ok());
    for jti in [json!(""), json!(7), json!("a b"), json!("a\u{0}"), json!("é"), json!("x".repeat(MAX_JTI_BYTES + 1))] {
        assert_eq!(check_claims(json!({"jti": jti})), Err(Code::InvalidToken), "{jti}");
    }
}

#[test]
fn only_the_two_curves_sign_and_the_secret_where_there_is_one() {
    for alg in [
        json!(null),
        json!("none"),
        json!("None"),
        json!(""),
        json!("EdDSA"),
        json!("RS256"),
        json!("ES384"),
        json!("es256"),
        json!("HS256"),
        json!("HS512"),
    ] {
        assert_eq!(check(json!({"alg": alg}), good_claims(), &config()), Err(Code::InvalidToken), "{alg}");
    }
    let development = AuthConfig { jwt_secret: Some("0123456789abcdef0123456789abcdef".to_owned()), ..config() };
    assert!(check(json!({"alg": "HS256"}), good_claims(), &development).is_ok());
    assert!(
        check(json!({"alg": "HS256"}), claims(json!({"exp": NOW + DEVELOPMENT_TOKEN_SECONDS})), &development).is_ok()
    );
    assert!(
        check(json!({"alg": "ES256"}), claims(json!({"exp": NOW + DEVELOPMENT_TOKEN_SECONDS})), &development).is_err()
    );
}

#[test]
fn tokens_of_other_types_and_with_unknown_critical_parameters_are_refused() {
    for typ in [json!("JWT"), json!("jwt"), json!("application/jwt"), json!(null)] {
        assert!(check(json!({"alg": "ES256", "typ": typ}), good_claims(), &config()).is_ok(), "{typ}");
    }
    for header in [
        json!({"alg": "ES256", "typ": "service+jwt"}),
        json!({"alg": "ES256", "typ": ""}),
        json!({"alg": "ES256", "typ": "at+jwt"}),
        json!({"alg": "ES256", "typ": "refresh+jwt"}),
        json!({"alg": "ES256", "typ": "dpop+jwt"}),
        json!({"alg": "ES256", "crit": ["b64"], "b64": false}),
    ] {
        assert_eq!(check(header.clone(), good_claims(), &config()), Err(Code::InvalidToken), "{header}");
    }
}

#[test]
fn a_text_that_is_not_three_parts_of_json_is_refused() {
    let (header, body) = (encode(&json!({"alg": "ES256"})), encode(&good_claims()));
    let twice = URL_SAFE_NO_PAD.encode(good_claims().to_string().replacen('{', r#"{"iss":"did:plc:victim","#, 1));
    let long = format!("{header}.{body}.{}", "A".repeat(MAX_TOKEN_BYTES));
    for text in [
        String::new(),
        "..".to_owned(),
        header.clone(),
        format!("{header}.{body}"),
        format!("{header}.{body}.c2ln.c2ln"),
        format!("{header}=====.{body}.c2ln"),
        format!("{header} .{body}.c2ln"),
        format!("{header}.{twice}.c2ln"),
        long,
    ] {
        let now = DateTime::from_timestamp(NOW, 0).unwrap();
        assert_eq!(Token::parse(&text, NSID, &config(), now).unwrap_err().code, Code::InvalidToken, "{text}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_decoder_panic(text in ".{0,200}", header in ".{0,60}", body in ".{0,60}", exp in any::<i64>(), iat in any::<i64>()) {
        let now = DateTime::from_timestamp(NOW, 0).unwrap();
        let framed = format!("{}.{}.x", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(body));
        for text in [text, framed] {
            prop_assert!(Token::parse(&text, NSID, &config(), now).is_err());
            let _ = bearer(Some(&text));
        }
        let _ = check_claims(json!({"exp": exp, "iat": iat}));
    }
}

#[test]
fn a_development_token_is_refused_with_the_reason_without_a_secret() {
    let text = format!("{}.{}.c2ln", encode(&json!({"alg": "HS256"})), encode(&good_claims()));
    let now = DateTime::from_timestamp(NOW, 0).unwrap();
    let refused = Token::parse(&text, NSID, &config(), now).expect_err("there is no secret to check it by");
    assert_eq!(refused.code, Code::InvalidToken);
    assert!(refused.message.contains("no JWT_SECRET"), "{refused}");
}
