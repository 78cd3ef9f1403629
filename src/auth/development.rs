//! Development tokens: HS256 with the secret `JWT_SECRET`, for `catbird-server token` and for tests.
//!
//! Any client that knows the secret can act as any DID. A service that strangers use leaves the secret unset, which
//! refuses these tokens.

use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use serde::Serialize;
use ulid::Ulid;

use super::hs256;
use super::token::DEVELOPMENT_TOKEN_SECONDS;
use crate::clock::Clock;
use crate::config::AuthConfig;
use crate::ids::Did;

/// Reasons for which no development token can be minted.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    #[error(
        "development tokens need the server's own JWT_SECRET, of at least 32 bytes, in the environment or in .env; ops/run makes one"
    )]
    NoSecret,
    #[error("a development token's lifetime must be 1 to {DEVELOPMENT_TOKEN_SECONDS} seconds")]
    Lifetime,
    #[error("the token cannot be signed: {0}")]
    Signing(#[from] jsonwebtoken::errors::Error),
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a Did,
    aud: &'a Did,
    iat: i64,
    exp: i64,
    jti: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    lxm: Option<&'a str>,
}

/// Mints a token with which `did` may call `lxm` at this service once, within `lifetime`. A token without `lxm` is
/// accepted only if `ENFORCE_LXM` is off.
pub fn mint(
    config: &AuthConfig,
    clock: &Clock,
    did: &Did,
    lxm: Option<&str>,
    lifetime: Duration,
) -> Result<String, MintError> {
    let secret = config.jwt_secret.as_ref().ok_or(MintError::NoSecret)?;
    let seconds = i64::try_from(lifetime.as_secs()).map_err(|_| MintError::Lifetime)?;
    if !(1..=DEVELOPMENT_TOKEN_SECONDS).contains(&seconds) {
        return Err(MintError::Lifetime);
    }
    let now = clock.now().timestamp();
    let claims =
        Claims { iss: did, aud: &config.service_did, iat: now, exp: now + seconds, jti: Ulid::new().to_string(), lxm };
    hs256::install();
    Ok(jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(secret.as_bytes()))?)
}

/// Checks `signature` (base64url) over `signed` against the secret, in constant time.
pub fn verifies(secret: &str, signed: &str, signature: &str) -> bool {
    hs256::install();
    let key = DecodingKey::from_secret(secret.as_bytes());
    // The only possible error is a signature that is not base64url.
    matches!(jsonwebtoken::crypto::verify(signature, signed.as_bytes(), &key, Algorithm::HS256), Ok(true))
}
