//! A token's text, and everything that can be said about it without a key.
//!
//! A [`Token`] that exists is complete and within its limits, is meant for this service and method, and lives now; only
//! its signature is open. These checks cost nothing, so they all come before anybody's DID document is fetched.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::key::Curve;
use super::service;
use crate::config::AuthConfig;
use crate::error::{Code, Error};
use crate::ids::Did;

/// Longest token, in bytes. A service token has some 400.
pub const MAX_TOKEN_BYTES: usize = 4_096;

/// Longest `jti`, in bytes. A UUID has 36.
pub const MAX_JTI_BYTES: usize = 128;

/// How far the clocks of issuer and server may be apart, in seconds.
pub const LEEWAY_SECONDS: i64 = 10;

/// How far ahead `exp` may lie in a token signed with an account's key, in seconds. A PDS mints them for one minute.
pub const SERVICE_TOKEN_SECONDS: i64 = 5 * 60;

/// How far ahead `exp` may lie in a development token, in seconds.
pub const DEVELOPMENT_TOKEN_SECONDS: i64 = 24 * 60 * 60;

/// What proves a token: the shared secret, or a key of this curve in the issuer's DID document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    Secret,
    Key(Curve),
}

/// A token for this service and method that lives now. Its signature is not verified.
#[derive(Debug)]
pub struct Token<'a> {
    pub proof: Proof,
    /// The claim `iss`: who is speaking. `sub` plays no part.
    pub issuer: Did,
    pub jti: Option<String>,
    /// When the token is refused by every replica: `exp` and the leeway.
    pub dead_at: DateTime<Utc>,
    /// What is signed: header and claims as they were sent.
    pub signed: &'a str,
    /// The signature as it was sent, in base64url.
    pub signature: &'a str,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    typ: Option<String>,
    crit: Option<IgnoredAny>,
}

/// RFC 7519 allows `aud` to be a list and times to be fractions; AT Protocol's service tokens have neither, and what is
/// not in use is not accepted.
#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    exp: i64,
    iat: Option<i64>,
    nbf: Option<i64>,
    lxm: Option<String>,
    jti: Option<String>,
}

/// The token in an `Authorization` header (RFC 6750 section 2.1; schemes are case-insensitive).
pub fn bearer(authorization: Option<&str>) -> Result<&str, Error> {
    let missing = || Code::AuthenticationRequired.because("send an Authorization header with a Bearer token");
    let (scheme, token) = authorization.and_then(|header| header.split_once(' ')).ok_or_else(missing)?;
    let token = token.trim_matches(' ');
    if scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() { Ok(token) } else { Err(missing()) }
}

impl<'a> Token<'a> {
    /// Reads `text` and checks all but the signature, for a request to `nsid` at `now`.
    pub fn parse(text: &'a str, nsid: &str, config: &AuthConfig, now: DateTime<Utc>) -> Result<Self, Error> {
        if text.len() > MAX_TOKEN_BYTES {
            return Err(invalid(format!("the token is longer than {MAX_TOKEN_BYTES} bytes")));
        }
        let (signed, signature) = text.rsplit_once('.').ok_or_else(not_a_jwt)?;
        let (header, claims) =
            signed.split_once('.').filter(|(_, claims)| !claims.contains('.')).ok_or_else(not_a_jwt)?;
        let header: Header = decode(header)?;
        let claims: Claims = decode(claims)?;

        let proof = header.proof(config)?;
        let issuer = claims.issuer()?;
        claims.check_audience(&config.service_did)?;
        let dead_at = claims.check_times(proof, now)?;
        claims.check_method(nsid, config.enforce_lxm)?;
        claims.check_jti(config.enforce_jti)?;
        Ok(Self { proof, issuer, jti: claims.jti, dead_at, signed, signature })
    }
}

impl Header {
    fn proof(&self, config: &AuthConfig) -> Result<Proof, Error> {
        // Access and refresh tokens of an account are signed with keys that its document may list too; their types keep
        // them from being passed off as service tokens (RFC 8725 section 3.11).
        if self.typ.as_ref().is_some_and(|typ| !typ.eq_ignore_ascii_case("JWT")) {
            return Err(invalid("the token's typ must be JWT"));
        }
        if self.crit.is_some() {
            return Err(invalid("the token has critical header parameters, and none are known here"));
        }
        match self.alg.as_str() {
            "ES256" => Ok(Proof::Key(Curve::P256)),
            "ES256K" => Ok(Proof::Key(Curve::Secp256k1)),
            "HS256" if config.jwt_secret.is_some() => Ok(Proof::Secret),
            "HS256" => Err(invalid("development tokens (HS256) are not accepted here: the server has no JWT_SECRET")),
            _ => Err(invalid("the token's alg must be ES256 or ES256K")),
        }
    }
}

impl Claims {
    fn issuer(&self) -> Result<Did, Error> {
        self.iss.parse().map_err(|_| invalid("the token's iss must be a DID without fragment"))
    }

    fn check_audience(&self, service: &Did) -> Result<(), Error> {
        let did = self.aud.strip_suffix(service::FRAGMENT).unwrap_or(&self.aud);
        if did == service.as_str() {
            return Ok(());
        }
        Err(invalid(format!("the token's aud must be {service}, alone or with {}", service::FRAGMENT)))
    }

    fn check_times(&self, proof: Proof, now: DateTime<Utc>) -> Result<DateTime<Utc>, Error> {
        let longest = match proof {
            Proof::Secret => DEVELOPMENT_TOKEN_SECONDS,
            Proof::Key(_) => SERVICE_TOKEN_SECONDS,
        };
        let now = now.timestamp();
        let dead_at = self.exp.saturating_add(LEEWAY_SECONDS);
        if dead_at <= now {
            return Err(Code::ExpiredToken.because("the token has expired"));
        }
        if self.exp > now + longest + LEEWAY_SECONDS {
            return Err(invalid(format!("the token's exp lies more than {longest} seconds ahead")));
        }
        if [self.iat, self.nbf].into_iter().flatten().any(|start| start > now + LEEWAY_SECONDS) {
            return Err(invalid("the token's iat or nbf lies in the future"));
        }
        DateTime::from_timestamp(dead_at, 0).ok_or_else(|| invalid("the token's exp is no time"))
    }

    /// A token that names a method is good for that one, whether or not naming one is required.
    fn check_method(&self, nsid: &str, required: bool) -> Result<(), Error> {
        match &self.lxm {
            Some(lxm) if lxm == nsid => Ok(()),
            Some(_) => Err(invalid(format!("the token's lxm must be {nsid}"))),
            None if required => Err(invalid(format!("the token lacks lxm, which must be {nsid}"))),
            None => Ok(()),
        }
    }

    fn check_jti(&self, required: bool) -> Result<(), Error> {
        match &self.jti {
            Some(jti) if (1..=MAX_JTI_BYTES).contains(&jti.len()) && jti.bytes().all(|b| b.is_ascii_graphic()) => {
                Ok(())
            }
            Some(_) => Err(invalid(format!("the token's jti must have 1 to {MAX_JTI_BYTES} visible ASCII characters"))),
            None if required => Err(invalid("the token lacks jti")),
            None => Ok(()),
        }
    }
}

fn decode<T: DeserializeOwned>(part: &str) -> Result<T, Error> {
    let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| not_a_jwt())?;
    serde_json::from_slice(&json)
        .map_err(|cause| invalid(format!("the token's header or claims are not usable: {cause}")))
}

fn not_a_jwt() -> Error {
    invalid("the token is not a JWT: three parts in base64url without padding")
}

/// The error for a token that no retry makes better.
pub fn invalid(message: impl Into<String>) -> Error {
    Code::InvalidToken.because(message)
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
