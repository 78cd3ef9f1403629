//! Development tokens by the thousand: the same that `catbird-server token` mints, from parts that are prepared once.
//!
//! A token is good for one request, so each request costs its sender a signature as well. It is made between two requests, on
//! the generator's thread: HMAC and base64 are cheap beside the system calls of a request, and the scenario `generator`, whose
//! figures include them, shows that there is room.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use catbird_server::clock::Clock;
use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::mix::{fresh, mix};

/// What servers on the stage know as `JWT_SECRET`.
pub const SECRET: &str = "a secret that only benches ever use, 32+";
/// Who servers on the stage are.
pub const SERVICE_DID: &str = "did:web:mls.bench";
/// How long a token lives: what an account's host gives it.
const LIFETIME_SECONDS: i64 = 60;

/// Mints tokens. Keeps its buffers, so it belongs to one client.
#[derive(Clone)]
pub struct Minter {
    clock: Clock,
    /// The secret, already worked into the hash.
    keyed: Hmac<Sha256>,
    /// Header and dot.
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

    /// A token by which `did` may call the method `nsid` once, now.
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
