//! Development tokens: HS256 with the secret that client and server share.

use std::fmt;

use jsonwebtoken::{EncodingKey, Header};
use serde::Serialize;

/// How long a token lives, in seconds. Development tokens may live for a day; hours let a test move the server's clock.
const LIFETIME: i64 = 3 * 3_600;

/// What a token says. The fields are open, so that a test can get one of them wrong.
#[derive(Debug, Clone, Serialize)]
pub struct Claims {
    /// The caller's DID.
    pub iss: String,
    /// The service's DID.
    pub aud: String,
    /// The one method that the token is good for, as a full NSID.
    pub lxm: String,
    /// Seconds since 1970.
    pub iat: i64,
    /// Seconds since 1970.
    pub exp: i64,
    /// Different in every token, so that none can be used twice.
    pub jti: String,
}

impl Claims {
    #[allow(clippy::disallowed_methods, reason = "a client has a clock of its own")]
    pub fn new(iss: &str, aud: &str, lxm: &str) -> Self {
        let iat = chrono::Utc::now().timestamp();
        Self {
            iss: iss.to_owned(),
            aud: aud.to_owned(),
            lxm: lxm.to_owned(),
            iat,
            exp: iat + LIFETIME,
            jti: ulid::Ulid::new().to_string(),
        }
    }
}

/// The key that signs.
#[derive(Clone)]
pub struct Token(EncodingKey);

impl Token {
    pub fn new(secret: &str) -> Self {
        Self(EncodingKey::from_secret(secret.as_bytes()))
    }

    pub fn mint(&self, claims: &impl Serialize) -> String {
        jsonwebtoken::encode(&Header::default(), claims, &self.0).expect("claims are JSON and HS256 takes any secret")
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}
