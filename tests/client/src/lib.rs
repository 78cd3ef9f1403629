//! A small real client: MLS state, XRPC over HTTP, and the persona that joins the two into a member of a conversation.
//!
//! It exists to hold the server to what it promises, so it keeps real keys, decrypts what it is sent and refuses whatever a
//! careful client would refuse. It knows the server only through the wire. Callers: the integration tests, the benches and
//! `catbird-server smoke-test`.

pub mod mls;
pub mod persona;
pub mod xrpc;

use openmls::prelude::{OpenMlsProvider, OpenMlsRand};
use openmls_rust_crypto::OpenMlsRustCrypto;

/// Returns a new DID: `did:plc:` and 24 characters of base32 (15 random bytes), as PLC writes them.
pub fn random_did() -> String {
    const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let bytes: [u8; 15] = OpenMlsRustCrypto::default().rand().random_array().expect("the system has random bytes");
    let bits: u128 = bytes.iter().fold(0, |bits, byte| bits << 8 | u128::from(*byte));
    let letters = (0..24).rev().map(|place| char::from(BASE32[(bits >> (place * 5) & 31) as usize]));
    format!("did:plc:{}", letters.collect::<String>())
}
