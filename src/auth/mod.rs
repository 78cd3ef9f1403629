//! Authentication: tokens, the keys that sign them, and their single use.
//!
//! A request authenticates its caller with a bearer token that is signed with the key in the caller's DID document,
//! made for this service and this method, valid for minutes and used once. [`Authenticator::verify`] checks everything
//! except single use, and [`Authenticator::consume`] enforces that. They are separate so that a request which is refused
//! for another reason does not use up its token. The pipeline of every XRPC route calls both before the method runs.
//!
//! The identity is the claim `iss`. No other claim of a token, in particular not `sub`, identifies the caller.

mod archive;
mod budget;
pub(crate) mod development;
pub(crate) mod document;
pub mod fetch;
pub mod hs256;
pub(crate) mod key;
mod location;
mod metrics;
pub mod replay;
pub mod resolver;
pub(crate) mod service;
pub mod ticket;
pub mod token;

use base64::Engine;
use chrono::{DateTime, TimeDelta, Utc};

pub use self::development::mint;
pub use self::metrics::AuthMetrics;
pub use self::replay::Replay;
pub use self::service::document as service_document;

use self::archive::Archive;
use self::document::Document;
use self::fetch::Unresolved;
use self::key::{Curve, PublicKey};
use self::replay::TokenId;
use self::resolver::{Resolver, SetupError};
use self::ticket::{Issued, Ticket, Tickets};
use self::token::{Proof, SERVICE_TOKEN_SECONDS, Token, invalid};
use crate::background::Background;
use crate::clock::{Clock, LEEWAY_SECONDS};
use crate::config::AuthConfig;
use crate::error::{Code, Error};
use crate::ids::{ConvoId, Did};
use crate::store::Store;

/// Bytes of an ECDSA signature over either curve, `r || s`.
const SIGNATURE_BYTES: usize = 64;

/// Checks tokens. There is one per process; it holds the cache of DID documents.
pub struct Authenticator {
    config: AuthConfig,
    clock: Clock,
    replay: Replay,
    resolver: Resolver,
    tickets: Tickets,
    metrics: AuthMetrics,
}

/// Reasons for which the authenticator cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    #[error(transparent)]
    Resolver(#[from] SetupError),
}

/// A caller whose token is genuine and current. Its single use has not been checked.
#[derive(Debug, Clone)]
pub struct Verified {
    /// DID of the caller.
    pub did: Did,
    /// Key of its DID document that verified the token; `None` for a development token.
    pub key: Option<PublicKey>,
    jti: Option<String>,
    issued_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
}

impl Authenticator {
    /// Creates the authenticator. `store` keeps the documents of DIDs that have authenticated.
    pub fn new(
        config: AuthConfig,
        clock: Clock,
        replay: Replay,
        store: &Store,
        metrics: AuthMetrics,
        background: &Background,
    ) -> Result<Self, AuthError> {
        let resolver = Resolver::new(&config, clock.clone(), Archive::new(store, background), metrics.clone())?;
        let tickets = Tickets::new(config.service_did.clone(), config.ticket_secret.as_deref());
        Ok(Self { config, clock, replay, resolver, tickets, metrics })
    }

    /// Authenticates the caller of a request to `nsid` by its `Authorization` header.
    ///
    /// Fails with `AuthenticationRequired`, `InvalidToken` or `ExpiredToken`, and with `IdentityUnavailable` if the
    /// caller's DID document is unavailable.
    pub async fn verify(&self, authorization: Option<&str>, nsid: &str) -> Result<Verified, Error> {
        let verified = self.check(authorization, nsid).await;
        verified.inspect_err(|error| self.metrics.authentication(error.code.name()))
    }

    /// Refuses a token that this replica knows to be used, without asking the database. Other tokens may be used too.
    pub fn refuse_known(&self, verified: &Verified) -> Result<(), Error> {
        match self.token_id(verified).is_some_and(|token_id| self.replay.knows(&token_id)) {
            true => {
                self.metrics.authentication(Code::TokenReplayed.name());
                Err(replayed())
            }
            false => Ok(()),
        }
    }

    /// Checks whether the token was used, without using it. Returns false if the database cannot be asked.
    pub fn is_used(&self, verified: &Verified) -> impl Future<Output = bool> + Send + use<> {
        let (token_id, replay, now) = (self.token_id(verified), self.replay.clone(), self.clock.now());
        async move {
            match token_id {
                Some(token_id) => replay.is_used(&token_id, now).await,
                None => false,
            }
        }
    }

    /// Identity of a token in the replay register; `None` if single use is not enforced for it.
    fn token_id(&self, verified: &Verified) -> Option<TokenId> {
        let jti = verified.jti.clone().filter(|_| self.config.enforce_jti)?;
        let Verified { did, issued_at, expires_at, .. } = verified;
        // A development token may live for a day.
        let long_lived = *expires_at - *issued_at > TimeDelta::seconds(SERVICE_TOKEN_SECONDS + 2 * LEEWAY_SECONDS);
        Some(TokenId { issuer: did.clone(), jti, issued_at: *issued_at, expires_at: *expires_at, long_lived })
    }

    /// Uses the token. Fails with `TokenReplayed` if it was used before at any replica, with `ExpiredToken` if it
    /// expired since it was verified, and with the database's error if the register cannot be asked.
    pub async fn consume(&self, verified: &Verified) -> Result<(), Error> {
        let outcome = self.consume_token(verified).await;
        self.metrics.authentication(outcome.as_ref().map_or_else(|error| error.code.name(), |()| "accepted"));
        outcome
    }

    /// Issues a ticket with which `did`, authenticated by this key, may open a WebSocket once, at any replica.
    pub fn issue_ticket(&self, did: &Did, key: Option<&PublicKey>, convo: Option<&ConvoId>) -> Result<Issued, Error> {
        self.tickets.issue(did, key, convo, self.clock.now())
    }

    /// Checks whether a key has certainly been revoked for a DID: the current document has another key or none, or the
    /// directory says that the DID does not exist. Returns false if the document is unavailable.
    pub async fn is_revoked(&self, did: &Did, key: &PublicKey) -> bool {
        match self.resolver.current(did).await {
            Some(Ok(document)) => document.key() != Some(key),
            Some(Err(_)) => true,
            None => false,
        }
    }

    /// Verifies a ticket except for its single use. Fails with `InvalidToken` or `ExpiredToken`.
    pub fn verify_ticket(&self, text: &str) -> Result<Ticket, Error> {
        let verified = self.tickets.check(text, self.clock.now());
        verified.inspect_err(|error| self.metrics.authentication(error.code.name()))
    }

    /// Refuses a ticket that this replica knows to be used, without asking the database.
    pub fn refuse_known_ticket(&self, ticket: &Ticket) -> Result<(), Error> {
        if self.replay.knows(&self.ticket_id(ticket)) {
            self.metrics.authentication(Code::TokenReplayed.name());
            return Err(used_ticket());
        }
        Ok(())
    }

    fn ticket_id(&self, ticket: &Ticket) -> TokenId {
        let (issuer, jti) = (self.tickets.issuer().clone(), ticket.jti.clone());
        TokenId { issuer, jti, issued_at: ticket.issued_at, expires_at: ticket.expires_at, long_lived: false }
    }

    /// Uses a ticket, also if single use of tokens is not enforced. Fails as [`Authenticator::consume`] does.
    pub async fn consume_ticket(&self, ticket: &Ticket) -> Result<(), Error> {
        let outcome = match self.consume_once(self.ticket_id(ticket)).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(used_ticket()),
            Err(error) => Err(error),
        };
        self.metrics.authentication(outcome.as_ref().map_or_else(|error| error.code.name(), |()| "accepted"));
        outcome
    }

    async fn check(&self, authorization: Option<&str>, nsid: &str) -> Result<Verified, Error> {
        let text = token::bearer(authorization)?;
        let token = Token::parse(text, nsid, &self.config, self.clock.now())?;
        let key = match token.proof {
            Proof::Secret => {
                self.check_secret(&token)?;
                None
            }
            Proof::Key(curve) => Some(self.check_key(&token, curve).await?),
        };
        Ok(Verified {
            did: token.issuer,
            key,
            jti: token.jti,
            issued_at: token.issued_at,
            expires_at: token.expires_at,
        })
    }

    async fn consume_token(&self, verified: &Verified) -> Result<(), Error> {
        let Some(token_id) = self.token_id(verified) else { return Ok(()) };
        if self.consume_once(token_id).await? { Ok(()) } else { Err(replayed()) }
    }

    /// Returns false if the token was used before at any replica.
    async fn consume_once(&self, token_id: TokenId) -> Result<bool, Error> {
        let (now, expires_at) = (self.clock.now(), token_id.expires_at);
        // The record of an expired token may be deleted, so an expired token is refused even if it was verified in
        // time.
        if expires_at <= now {
            return Err(Code::ExpiredToken.because("the token has expired"));
        }
        self.replay.consume(token_id, expires_at.max(now + self.config.jti_ttl), now).await
    }

    fn check_secret(&self, token: &Token<'_>) -> Result<(), Error> {
        let secret = self.config.jwt_secret.as_ref();
        if secret.is_some_and(|secret| development::verifies(secret, token.signed, token.signature)) {
            Ok(())
        } else {
            Err(invalid("the token's signature does not match the shared secret"))
        }
    }

    /// Returns the key that verifies the token.
    async fn check_key(&self, token: &Token<'_>, curve: Curve) -> Result<PublicKey, Error> {
        let signature = token::BASE64URL
            .decode(token.signature)
            .ok()
            .filter(|signature| signature.len() == SIGNATURE_BYTES)
            .ok_or_else(|| invalid(format!("the token's signature must be {SIGNATURE_BYTES} bytes in base64url")))?;
        let proves = |document: &Document| {
            let key = document.key().filter(|key| key.curve() == curve)?;
            key.verifies(token.signed.as_bytes(), &signature).then(|| key.clone())
        };

        let mut found = self.resolver.find(&token.issuer).await.map_err(refusal)?;
        loop {
            if let Some(key) = proves(&found.document) {
                self.resolver.keep(&token.issuer, &found);
                return Ok(key);
            }
            if found.fresh {
                return Err(invalid("the token's signature does not match the key in the issuer's DID document"));
            }
            // The account may have changed its key since the document was fetched.
            found = self.resolver.newer(&token.issuer, &found).await.map_err(refusal)?;
        }
    }
}

fn used_ticket() -> Error {
    Code::TokenReplayed.because("the ticket was already used; get a new one for each connection")
}

fn replayed() -> Error {
    Code::TokenReplayed.because("the token was already used; mint a new one for each request")
}

fn refusal(unresolved: Unresolved) -> Error {
    match unresolved {
        Unresolved::Absent(why) => invalid(format!("the issuer's DID does not resolve: {why}")),
        Unresolved::Unavailable { retry_after, .. } => {
            let mut error = Code::IdentityUnavailable.because("the issuer's DID document is unavailable");
            if let Some(wait) = retry_after {
                let ms = wait.as_nanos().div_ceil(1_000_000);
                error.details.retry_after_ms = Some(u64::try_from(ms).unwrap_or(u64::MAX));
            }
            error
        }
    }
}
