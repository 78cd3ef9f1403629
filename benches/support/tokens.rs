//! Thousands of development tokens, as `catbird-server token` creates them, from parts that are prepared once.
//!
//! A token is valid for one request, so each request also costs its sender a signature. The generator's thread creates
//! it between two requests. HMAC and base64 are cheap compared with the system calls of a request; the figures of the
//! scenario `generator` include them.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use catbird_server::clock::Clock;
use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::mix::{fresh, mix};

/// `JWT_SECRET` of the servers on the stage.
pub const SECRET: &str = "a secret that only benches ever use, 32+";
/// DID of the servers on the stage.
pub const SERVICE_DID: &str = "did:web:mls.bench";
/// Lifetime of a token, as a PDS sets it.
const LIFETIME_SECONDS: i64 = 60;

/// Creates tokens. It reuses its buffers, so each client has its own.
#[derive(Clone)]
pub struct Minter {
    clock: Clock,
    /// HMAC state after the secret.
    keyed: Hmac<Sha256>,
    /// The encoded header and the dot.
    header: String,
    claims: String,
    token: String,
}

impl Minter {
    pub fn new() -> Self {
        Self {
            clock: Clock::system(),
            keyed: Hmac::new_from_slice(SECRET.as_bytes()).expect("HMAC takes keys of any length"),
            header: URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#) + ".",
            claims: String::new(),
            token: String::new(),
        }
    }

    /// Creates a token with which `did` may call the method `nsid` once, now.
    pub fn token(&mut self, did: &str, nsid: &str) -> &str {
        let now = self.clock.now().timestamp();
        let (jti, exp) = (mix(fresh()), now + LIFETIME_SECONDS);
        self.claims.clear();
        // Writing to a string does not fail.
        let _ = write!(
            self.claims,
            r#"{{"iss":"{did}","aud":"{SERVICE_DID}","iat":{now},"exp":{exp},"jti":"bench-{jti:016x}","lxm":"{nsid}"}}"#
        );
        self.token.clear();
        self.token.push_str(&self.header);
        URL_SAFE_NO_PAD.encode_string(&self.claims, &mut self.token);
        let signature = self.keyed.clone().chain_update(&self.token).finalize().into_bytes();
        self.token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut self.token);
        &self.token
    }
}
