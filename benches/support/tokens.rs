//! Thousands of tokens, from parts that are prepared once.
//!
//! A token is valid for one request, so each request also costs its sender a signature. The generator's thread creates
//! it between two requests, which must not cost the machine what the server is to have. A signature on a curve costs
//! tens of microseconds, nearly all of it for a new nonce. Here all signatures of a key have the same one, so they cost
//! as little as HMAC. Whoever sees two such signatures can compute the key, which does not matter for a key that only
//! benches use; to verify one costs the same as any other. The figures of the scenario `generator` include them.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use catbird_server::clock::Clock;
use catbird_testkit::account::{Key, Spelling, document};
use hmac::{Hmac, Mac};
use k256::Secp256k1;
use k256::elliptic_curve::ff::{Field, PrimeField};
use k256::elliptic_curve::group::{Curve, Group};
use k256::elliptic_curve::ops::Reduce;
use k256::elliptic_curve::point::AffineCoordinates;
use k256::elliptic_curve::{CurveArithmetic, FieldBytes, PrimeCurve, ProjectivePoint, Scalar};
use p256::NistP256;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::mix::{fresh, mix};

/// `JWT_SECRET` of the servers on the stage.
pub const SECRET: &str = "a secret that only benches ever use, 32+";
/// DID of the servers on the stage.
pub const SERVICE_DID: &str = "did:web:mls.bench";
/// Lifetime of a token, as a PDS sets it.
const LIFETIME_SECONDS: i64 = 60;
/// Bytes of the secret key of all accounts, and of the nonce of all signatures.
const KEY: u8 = 7;
const NONCE: u8 = 9;
/// Beginning of the DIDs whose key is on P-256.
pub const P256_DIDS: &str = "did:plc:p256";

/// Signature of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signing {
    /// Development tokens: the secret of the server.
    Hs256,
    /// The key of an account whose DID begins with [`P256_DIDS`].
    Es256,
    /// The key of any other account. Nearly all accounts of the AT Protocol have such a key.
    Es256k,
}

/// Creates tokens. It reuses its buffers, so each client has its own.
#[derive(Clone)]
pub struct Minter {
    clock: Clock,
    signer: Signer,
    /// The encoded header and the dot.
    header: String,
    claims: String,
    token: String,
}

#[derive(Clone)]
enum Signer {
    /// HMAC state after the secret.
    Secret(Hmac<Sha256>),
    P256(OneNonce<NistP256>),
    Secp256k1(OneNonce<Secp256k1>),
}

impl Minter {
    /// Creates tokens as the PDS of nearly every account signs them.
    pub fn new() -> Self {
        Self::with(Signing::Es256k)
    }

    pub fn with(signing: Signing) -> Self {
        let (alg, signer) = match signing {
            Signing::Hs256 => {
                let keyed = Hmac::new_from_slice(SECRET.as_bytes()).expect("HMAC takes keys of any length");
                ("HS256", Signer::Secret(keyed))
            }
            Signing::Es256 => ("ES256", Signer::P256(OneNonce::new())),
            Signing::Es256k => ("ES256K", Signer::Secp256k1(OneNonce::new())),
        };
        let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{alg}","typ":"JWT"}}"#)) + ".";
        Self { clock: Clock::system(), signer, header, claims: String::new(), token: String::new() }
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
        let signed = self.token.as_bytes();
        let signature = match &self.signer {
            Signer::Secret(keyed) => keyed.clone().chain_update(signed).finalize().into_bytes().to_vec(),
            Signer::P256(key) => key.sign(signed),
            Signer::Secp256k1(key) => key.sign(signed),
        };
        self.token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut self.token);
        &self.token
    }
}

/// A key that signs everything with the same nonce (ECDSA, FIPS 186-5 section 6.4).
#[derive(Clone)]
struct OneNonce<C: PrimeCurve + CurveArithmetic> {
    /// `r`: the x-coordinate of the nonce's point.
    r: FieldBytes<C>,
    inverse_nonce: Scalar<C>,
    /// `r` times the secret key.
    key_share: Scalar<C>,
}

impl<C: PrimeCurve + CurveArithmetic> OneNonce<C> {
    fn new() -> Self {
        let scalar = |byte: u8| {
            let mut bytes = FieldBytes::<C>::default();
            bytes.fill(byte);
            <Scalar<C> as Reduce<C::Uint>>::reduce_bytes(&bytes)
        };
        let (key, nonce) = (scalar(KEY), scalar(NONCE));
        let x = (ProjectivePoint::<C>::generator() * nonce).to_affine().x();
        let r = <Scalar<C> as Reduce<C::Uint>>::reduce_bytes(&x);
        let inverse_nonce = Option::from(nonce.invert()).expect("the nonce is not zero");
        Self { r: r.to_repr(), inverse_nonce, key_share: r * key }
    }

    /// Returns `r` and `s`.
    fn sign(&self, signed: &[u8]) -> Vec<u8> {
        let mut digest = FieldBytes::<C>::default();
        digest.copy_from_slice(&Sha256::digest(signed));
        let hash = <Scalar<C> as Reduce<C::Uint>>::reduce_bytes(&digest);
        let s = self.inverse_nonce * (hash + self.key_share);
        [self.r.as_slice(), s.to_repr().as_slice()].concat()
    }
}

/// The verification method of all accounts whose key is on P-256, and that of all others.
fn methods() -> [Value; 2] {
    [Key::p256(KEY), Key::secp256k1(KEY)].map(|key| key.method("#atproto", Spelling::Multikey))
}

/// The `publicKeyMultibase` of all accounts whose key is on P-256, and that of all others.
pub fn public_keys() -> [String; 2] {
    methods().map(|method| method["publicKeyMultibase"].as_str().unwrap_or_default().to_owned())
}

/// The document of an account, as its directory has it.
pub fn document_of(did: &str) -> Value {
    let [p256, secp256k1] = methods();
    document(did, &[if did.starts_with(P256_DIDS) { p256 } else { secp256k1 }])
}
