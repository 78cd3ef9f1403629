//! Parsing of a token, and every check that needs no key.
//!
//! A [`Token`] is complete and within its limits, is meant for this service and method, and is current; only its
//! signature is not verified. These checks are cheap, so they come before any DID document is fetched.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::key::Curve;
use super::service;
use crate::clock::LEEWAY_SECONDS;
use crate::config::AuthConfig;
use crate::error::{Code, Error};
use crate::ids::Did;

/// Maximum length of a token, in bytes. A service token has some 400.
pub const MAX_TOKEN_BYTES: usize = 4_096;

/// Maximum length of a `jti`, in bytes. A UUID has 36.
pub const MAX_JTI_BYTES: usize = 128;

/// Maximum lifetime ahead of `exp` in a token signed with an account's key, in seconds: as long as a PDS mints them, if
/// the token is bound to one method (`lxm`) and one use (`jti`) and says when it was made (`iat`), which decides after
/// a crash of the register.
pub const SERVICE_TOKEN_SECONDS: i64 = 60 * 60;

/// Maximum lifetime ahead of a token that is not bound so, if the server accepts it, in seconds.
pub const LOOSE_TOKEN_SECONDS: i64 = 5 * 60;

/// Maximum lifetime ahead of a development token, in seconds.
pub const DEVELOPMENT_TOKEN_SECONDS: i64 = 24 * 60 * 60;

/// Base64url without padding, as RFC 7515 requires, or with padding, as some libraries write it. The signature covers
/// the text as it was sent.
pub(super) const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Proof of a token: the shared secret, or a key of this curve in the issuer's DID document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    Secret,
    Key(Curve),
}

/// A current token for this service and method. Its signature is not verified.
#[derive(Debug)]
pub struct Token<'a> {
    pub proof: Proof,
    /// The claim `iss`, which identifies the caller. `sub` is ignored.
    pub issuer: Did,
    pub jti: Option<String>,
    /// Time at which it was made: no replica has accepted it earlier than this less the leeway.
    pub issued_at: DateTime<Utc>,
    /// Time from which every replica refuses it: `exp` plus the leeway.
    pub expires_at: DateTime<Utc>,
    /// Signed text: header and claims as they were sent.
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

/// Claims of a token. RFC 7519 allows `aud` to be a list; AT Protocol's service tokens name one service, and a list is
/// refused.
#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    exp: Seconds,
    iat: Option<Seconds>,
    nbf: Option<Seconds>,
    lxm: Option<String>,
    jti: Option<String>,
}

/// A time in seconds since 1970; fractions are dropped (RFC 7519 section 2, NumericDate).
#[derive(Clone, Copy, Deserialize)]
#[serde(from = "Number")]
struct Seconds(i64);

#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Whole(i64),
    Other(f64),
}

impl From<Number> for Seconds {
    fn from(number: Number) -> Self {
        match number {
            Number::Whole(seconds) => Self(seconds),
            // Values out of range saturate.
            Number::Other(seconds) => Self(seconds.floor() as i64),
        }
    }
}

/// Returns the token in an `Authorization` header (RFC 6750 section 2.1; schemes are case-insensitive).
pub fn bearer(authorization: Option<&str>) -> Result<&str, Error> {
    let missing = || Code::AuthenticationRequired.because("send an Authorization header with a Bearer token");
    let (scheme, token) = authorization.and_then(|header| header.split_once(' ')).ok_or_else(missing)?;
    let token = token.trim_matches(' ');
    if scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() { Ok(token) } else { Err(missing()) }
}

impl<'a> Token<'a> {
    /// Parses `text` and checks everything but the signature, for a request to `nsid` at `now`.
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
        let (issued_at, expires_at) = claims.check_times(claims.longest(proof, config), now)?;
        claims.check_method(nsid, config.enforce_lxm)?;
        claims.check_jti(config.enforce_jti)?;
        Ok(Self { proof, issuer, jti: claims.jti, issued_at, expires_at, signed, signature })
    }
}

impl Header {
    fn proof(&self, config: &AuthConfig) -> Result<Proof, Error> {
        // Access and refresh tokens of an account are signed with keys that its document may list too; their types keep
        // them from being passed off as service tokens (RFC 8725 section 3.11).
        let is_jwt = |typ: &String| ["JWT", "application/JWT"].iter().any(|jwt| typ.eq_ignore_ascii_case(jwt));
        if !self.typ.as_ref().is_none_or(is_jwt) {
            return Err(invalid("the token's typ must be JWT"));
        }
        if self.crit.is_some() {
            return Err(invalid("the token has critical header parameters (crit), and none are supported"));
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
        self.iss.parse().map_err(|_| invalid("the token's iss must be a DID without a fragment"))
    }

    fn check_audience(&self, service: &Did) -> Result<(), Error> {
        let did = self.aud.strip_suffix(service::FRAGMENT).unwrap_or(&self.aud);
        if did == service.as_str() {
            return Ok(());
        }
        Err(invalid(format!("the token's aud must be {service}, alone or with {}", service::FRAGMENT)))
    }

    /// Maximum lifetime ahead of `exp`, in seconds.
    fn longest(&self, proof: Proof, config: &AuthConfig) -> i64 {
        match proof {
            Proof::Secret => DEVELOPMENT_TOKEN_SECONDS,
            Proof::Key(_) => {
                let is_bound = self.lxm.is_some() && self.jti.is_some() && self.iat.is_some() && config.enforce_jti;
                if is_bound { SERVICE_TOKEN_SECONDS } else { LOOSE_TOKEN_SECONDS }
            }
        }
    }

    /// Returns when the token was made and when it ends, if it is current.
    fn check_times(&self, longest: i64, now: DateTime<Utc>) -> Result<(DateTime<Utc>, DateTime<Utc>), Error> {
        let now = now.timestamp();
        let Seconds(exp) = self.exp;
        let expires_at = exp.saturating_add(LEEWAY_SECONDS);
        if expires_at <= now {
            return Err(Code::ExpiredToken.because("the token has expired"));
        }
        if exp > now + longest + LEEWAY_SECONDS {
            return Err(invalid(format!("the token's exp is more than {longest} seconds in the future")));
        }
        if [self.iat, self.nbf].into_iter().flatten().any(|Seconds(start)| start > now + LEEWAY_SECONDS) {
            return Err(invalid("the token's iat or nbf is in the future"));
        }
        let expires_at =
            DateTime::from_timestamp(expires_at, 0).ok_or_else(|| invalid("the token's exp is not a valid time"))?;
        // Before that, `exp` was too far in the future, whatever `iat` says.
        let earliest = expires_at - TimeDelta::seconds(longest + 2 * LEEWAY_SECONDS);
        let issued_at = self.iat.and_then(|Seconds(iat)| DateTime::from_timestamp(iat, 0));
        Ok((issued_at.map_or(earliest, |issued_at| issued_at.max(earliest)), expires_at))
    }

    /// A token that names a method is valid for that method only, also if `lxm` is not required.
    fn check_method(&self, nsid: &str, required: bool) -> Result<(), Error> {
        match &self.lxm {
            Some(lxm) if lxm == nsid => Ok(()),
            Some(_) => Err(invalid(format!("the token's lxm must be {nsid}"))),
            None if required => Err(invalid(format!("the token has no lxm; it must be {nsid}"))),
            None => Ok(()),
        }
    }

    fn check_jti(&self, required: bool) -> Result<(), Error> {
        match &self.jti {
            Some(jti) if (1..=MAX_JTI_BYTES).contains(&jti.len()) && jti.bytes().all(|b| b.is_ascii_graphic()) => {
                Ok(())
            }
            Some(_) => Err(invalid(format!("the token's jti must have 1 to {MAX_JTI_BYTES} visible ASCII characters"))),
            None if required => Err(invalid("the token has no jti")),
            None => Ok(()),
        }
    }
}

fn decode<T: DeserializeOwned>(part: &str) -> Result<T, Error> {
    let json = BASE64URL.decode(part).map_err(|_| not_a_jwt())?;
    serde_json::from_slice(&json).map_err(|cause| invalid(format!("the token's header or claims are invalid: {cause}")))
}

fn not_a_jwt() -> Error {
    invalid("the token is not a JWT (three base64url parts)")
}

/// Returns the error for a token with which a retry cannot succeed.
pub fn invalid(message: impl Into<String>) -> Error {
    Code::InvalidToken.because(message)
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
