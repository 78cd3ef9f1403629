//! Tickets with which a WebSocket opens. Browsers cannot send an `Authorization` header with a WebSocket, so a caller
//! first exchanges its token for a ticket, which goes into the URL, lives for half a minute and is used once.
//!
//! A ticket is a JWT (HS256) of this service for itself. Tickets and bearer tokens cannot be confused: tokens must not
//! have a ticket's `typ` (RFC 8725, 3.11), and the key is derived from the secret for this purpose alone, so that one
//! secret can serve for both. All replicas must have the same secret. A ticket names the key that signed the token, so
//! that the WebSocket closes when that key is revoked.

use chrono::{DateTime, TimeDelta, Utc};
use hmac::{Hmac, Mac};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use ulid::Ulid;

use super::hs256;
use super::key::PublicKey;
use super::token::{MAX_TOKEN_BYTES, invalid};
use crate::clock::LEEWAY_SECONDS;
use crate::error::{Code, Error};
use crate::ids::{ConvoId, Did};
use crate::nsid;

/// Lifetime of a ticket, in seconds; every replica adds the leeway for clocks.
pub const TICKET_SECONDS: i64 = 30;
/// The header's `typ`.
const TYPE: &str = "catbird-ticket+jwt";
/// Purpose of the key derivation.
const PURPOSE: &[u8] = nsid::GET_SUBSCRIPTION_TICKET.as_bytes();

/// Issues and verifies tickets.
pub struct Tickets {
    service: Did,
    keys: Option<(EncodingKey, DecodingKey)>,
}

/// A ticket that was issued.
#[derive(Debug, Clone)]
pub struct Issued {
    pub text: String,
    pub expires_at: DateTime<Utc>,
}

/// A ticket that is genuine and current. Its single use has not been checked.
#[derive(Debug, Clone)]
pub struct Ticket {
    /// DID that asked for it.
    pub did: Did,
    /// Key that had authenticated that DID; `None` for a development token.
    pub key: Option<PublicKey>,
    /// The only conversation that it is valid for, if it names one.
    pub convo: Option<ConvoId>,
    pub(super) jti: String,
    pub(super) issued_at: DateTime<Utc>,
    /// Time from which every replica refuses it.
    pub(super) expires_at: DateTime<Utc>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Claims {
    iss: Did,
    aud: Did,
    sub: Did,
    iat: i64,
    exp: i64,
    jti: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    convo_id: Option<ConvoId>,
    /// Encoded as a publicKeyMultibase.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

impl Tickets {
    /// Without a secret, no tickets are issued or accepted.
    pub fn new(service: Did, secret: Option<&str>) -> Self {
        hs256::install();
        let keys = secret.map(|secret| {
            let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
            mac.update(PURPOSE);
            let key = mac.finalize().into_bytes();
            (EncodingKey::from_secret(&key), DecodingKey::from_secret(&key))
        });
        Self { service, keys }
    }

    /// Issues a ticket for `did`, authenticated by `proved_by`, valid for all of its conversations or for one.
    pub fn issue(
        &self,
        did: &Did,
        proved_by: Option<&PublicKey>,
        convo: Option<&ConvoId>,
        now: DateTime<Utc>,
    ) -> Result<Issued, Error> {
        let (key, _) = self.keys.as_ref().ok_or_else(no_secret)?;
        let iat = now.timestamp();
        let claims = Claims {
            iss: self.service.clone(),
            aud: self.service.clone(),
            sub: did.clone(),
            iat,
            exp: iat + TICKET_SECONDS,
            jti: Ulid::new().to_string(),
            convo_id: convo.cloned(),
            key: proved_by.map(PublicKey::to_multibase),
        };
        let header = Header { typ: Some(TYPE.to_owned()), ..Header::new(Algorithm::HS256) };
        let text = jsonwebtoken::encode(&header, &claims, key).map_err(Error::internal)?;
        let expires_at = DateTime::from_timestamp(claims.exp, 0).ok_or_else(|| Error::internal("no such time"))?;
        Ok(Issued { text, expires_at })
    }

    /// Verifies everything except single use. Fails with `InvalidToken` or `ExpiredToken`.
    pub fn check(&self, text: &str, now: DateTime<Utc>) -> Result<Ticket, Error> {
        let (_, key) = self.keys.as_ref().ok_or_else(no_secret)?;
        let wrong = || invalid("the ticket was not issued by getSubscriptionTicket of this service");
        if text.len() > MAX_TOKEN_BYTES {
            return Err(wrong());
        }
        // Times are checked below: the library would use the system's clock and its own leeway.
        let mut signature = Validation::new(Algorithm::HS256);
        signature.validate_exp = false;
        signature.validate_aud = false;
        signature.required_spec_claims.clear();
        let token = jsonwebtoken::decode::<Claims>(text, key, &signature).map_err(|_| wrong())?;
        let claims = token.claims;
        if token.header.typ.as_deref() != Some(TYPE) || claims.iss != self.service || claims.aud != self.service {
            return Err(wrong());
        }
        let issued_at = DateTime::from_timestamp(claims.iat, 0).ok_or_else(wrong)?;
        let expires_at =
            DateTime::from_timestamp(claims.exp, 0).ok_or_else(wrong)? + TimeDelta::seconds(LEEWAY_SECONDS);
        if expires_at <= now {
            return Err(Code::ExpiredToken.because("the ticket has expired; get a new one"));
        }
        let key = claims.key.map(|key| PublicKey::from_multibase(&key).ok_or_else(wrong)).transpose()?;
        Ok(Ticket { did: claims.sub, key, convo: claims.convo_id, jti: claims.jti, issued_at, expires_at })
    }

    /// Issuer under which tickets are recorded as used: the service's own DID, so that they cannot collide with a
    /// caller's token.
    pub(super) fn issuer(&self) -> &Did {
        &self.service
    }
}

fn no_secret() -> Error {
    let message = "this service has no TICKET_SECRET, so WebSockets are off; streamConvoEvents sends the same events";
    Code::MethodNotImplemented.because(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn service() -> Did {
        "did:web:mls.test".parse().unwrap()
    }

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
    }

    #[test]
    fn a_ticket_says_who_and_where_and_lives_for_half_a_minute() {
        let tickets = Tickets::new(service(), Some(SECRET));
        let convo: ConvoId = "c".parse().unwrap();
        let key = PublicKey::from_multibase("zDnaembgSGUhZULN2Caob4HLJPaxBh92N7rtH21TErzqf8HQo").unwrap();
        let issued = tickets.issue(Did::nobody(), Some(&key), Some(&convo), at(0)).unwrap();
        assert_eq!(issued.expires_at, at(TICKET_SECONDS));
        let ticket = tickets.check(&issued.text, at(TICKET_SECONDS + LEEWAY_SECONDS - 1)).unwrap();
        assert_eq!((&ticket.did, &ticket.convo, &ticket.key), (Did::nobody(), &Some(convo), &Some(key)));
        let late = tickets.check(&issued.text, at(TICKET_SECONDS + LEEWAY_SECONDS)).unwrap_err();
        assert_eq!(late.code, Code::ExpiredToken);
    }

    #[test]
    fn tickets_of_another_service_or_secret_are_refused() {
        let tickets = Tickets::new(service(), Some(SECRET));
        let elsewhere = Tickets::new("did:web:other.test".parse().unwrap(), Some(SECRET));
        let forged = Tickets::new(service(), Some("another secret, and 32 bytes of it"));
        for other in [elsewhere, forged] {
            let text = other.issue(Did::nobody(), None, None, at(0)).unwrap().text;
            assert_eq!(tickets.check(&text, at(0)).unwrap_err().code, Code::InvalidToken);
        }
        let mine = tickets.issue(Did::nobody(), None, None, at(0)).unwrap().text;
        let long = "x".repeat(MAX_TOKEN_BYTES + 1);
        for text in ["", "x", "a.b.c", &mine[..mine.len() - 1], &format!("{mine}A"), &long] {
            assert_eq!(tickets.check(text, at(0)).unwrap_err().code, Code::InvalidToken, "{text}");
        }
    }

    #[test]
    fn neither_the_secret_itself_nor_another_type_makes_a_ticket() {
        let tickets = Tickets::new(service(), Some(SECRET));
        let claims = |convo_id| Claims {
            iss: service(),
            aud: service(),
            sub: Did::nobody().clone(),
            iat: 0,
            exp: at(10).timestamp(),
            jti: "1".to_owned(),
            convo_id,
            key: None,
        };
        let (own, _) = tickets.keys.as_ref().unwrap();
        let raw = EncodingKey::from_secret(SECRET.as_bytes());
        let make = |typ: Option<&str>, key: &EncodingKey| {
            let header = Header { typ: typ.map(str::to_owned), ..Header::new(Algorithm::HS256) };
            jsonwebtoken::encode(&header, &claims(None), key).unwrap()
        };
        assert!(tickets.check(&make(Some(TYPE), own), at(0)).is_ok(), "the control");
        for (typ, key) in [(Some("JWT"), own), (None, own), (Some(TYPE), &raw)] {
            assert_eq!(tickets.check(&make(typ, key), at(0)).unwrap_err().code, Code::InvalidToken, "{typ:?}");
        }
    }

    #[test]
    fn without_a_secret_no_ticket_is_accepted() {
        let none = Tickets::new(service(), None);
        assert_eq!(none.issue(Did::nobody(), None, None, at(0)).unwrap_err().code, Code::MethodNotImplemented);
        assert_eq!(none.check("x", at(0)).unwrap_err().code, Code::MethodNotImplemented);
    }
}
