//! Development tokens: HS256 with the secret that client and server share.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use serde::Serialize;
use sha2::Sha256;

/// Lifetime of a token, in seconds. Development tokens may live for a day; hours allow a test to advance the server's
/// clock.
const LIFETIME: i64 = 3 * 3_600;

/// Claims of a token. The fields are public, so that a test can make one invalid.
#[derive(Debug, Clone, Serialize)]
pub struct Claims {
    /// DID of the caller.
    pub iss: String,
    /// DID of the service.
    pub aud: String,
    /// Method that the token is for, as a full NSID.
    pub lxm: String,
    /// Seconds since 1970.
    pub iat: i64,
    /// Seconds since 1970.
    pub exp: i64,
    /// Different in every token, since a token is used once.
    pub jti: String,
}

impl Claims {
    #[expect(clippy::disallowed_methods, reason = "a client has a clock of its own")]
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

/// Signing key.
#[derive(Clone)]
pub struct Token(Hmac<Sha256>);

impl Token {
    pub fn new(secret: impl AsRef<[u8]>) -> Self {
        Self(Hmac::new_from_slice(secret.as_ref()).expect("HMAC takes keys of any length"))
    }

    pub fn mint(&self, claims: &impl Serialize) -> String {
        let header = URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"HS256"}"#);
        let claims = URL_SAFE_NO_PAD.encode(serde_json::to_vec(claims).expect("claims are JSON"));
        let signed = format!("{header}.{claims}");
        let signature = self.0.clone().chain_update(&signed).finalize().into_bytes();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}
