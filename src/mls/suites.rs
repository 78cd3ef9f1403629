//! Cipher suites (RFC 9420, section 17.1): the table of those that key packages, Welcomes and conversations may have.
//! The server decrypts nothing, so it needs only the signature and hash of a suite.

use openmls_rust_crypto::RustCrypto;
use openmls_traits::crypto::OpenMlsCrypto;
use openmls_traits::types::SignatureScheme;
use p521::ecdsa::signature::Verifier;
use sha2::{Digest, Sha256, Sha384, Sha512};

use super::wire::vector;
use crate::error::{Code, Error};

/// A cipher suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suite {
    /// Name in the IANA registry.
    pub name: &'static str,
    /// Number in the IANA registry.
    pub id: u16,
    signature: Signature,
    hash: Hash,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signature {
    Ed25519,
    P256,
    P384,
    P521,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

/// Maximum length of a signature key, that of P-521, in bytes.
const MAX_SIGNATURE_KEY_BYTES: usize = 133;

/// Returns true if a public signature key has the length of one of the suites' schemes.
pub fn is_signature_key(bytes: &[u8]) -> bool {
    [32, 65, 97, MAX_SIGNATURE_KEY_BYTES].contains(&bytes.len())
}

/// The suite that every client must support, and the default of `getKeyPackages`.
pub const DEFAULT_SUITE: &str = SUITES[0].name;

/// Accepted suites. The two with Ed448 (4 and 6) are not accepted, because no library that this server could rely on
/// verifies Ed448. X-Wing has no number in the registry yet; this is the one that its implementations use.
pub const SUITES: [Suite; 6] = [
    suite("MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519", 1, Signature::Ed25519, Hash::Sha256),
    suite("MLS_128_DHKEMP256_AES128GCM_SHA256_P256", 2, Signature::P256, Hash::Sha256),
    suite("MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519", 3, Signature::Ed25519, Hash::Sha256),
    suite("MLS_256_DHKEMP521_AES256GCM_SHA512_P521", 5, Signature::P521, Hash::Sha512),
    suite("MLS_256_DHKEMP384_AES256GCM_SHA384_P384", 7, Signature::P384, Hash::Sha384),
    suite("MLS_256_XWING_CHACHA20POLY1305_SHA256_Ed25519", 0x004d, Signature::Ed25519, Hash::Sha256),
];

const fn suite(name: &'static str, id: u16, signature: Signature, hash: Hash) -> Suite {
    Suite { name, id, signature, hash }
}

impl Suite {
    /// Returns the suite of this name. Fails with `InvalidCipherSuite`.
    pub fn named(name: &str) -> Result<Self, Error> {
        SUITES.iter().find(|suite| suite.name == name).copied().ok_or_else(|| {
            let known: Vec<&str> = SUITES.iter().map(|suite| suite.name).collect();
            Code::InvalidCipherSuite.because(format!("cipherSuite must be one of {}", known.join(", ")))
        })
    }

    /// Returns the suite with this number, if the table has it.
    pub(super) fn numbered(id: u16) -> Option<Self> {
        SUITES.iter().find(|suite| suite.id == id).copied()
    }

    /// Checks `signature` over `content` under `label` with `key` (`VerifyWithLabel`, RFC 9420, section 5.1.2).
    pub(super) fn verifies(self, key: &[u8], label: &str, content: &[u8], signature: &[u8]) -> bool {
        let signed = [vector(format!("MLS 1.0 {label}").as_bytes()), vector(content)].concat();
        let scheme = match self.signature {
            Signature::Ed25519 => SignatureScheme::ED25519,
            Signature::P256 => SignatureScheme::ECDSA_SECP256R1_SHA256,
            Signature::P384 => SignatureScheme::ECDSA_SECP384R1_SHA384,
            Signature::P521 => return verifies_p521(key, &signed, signature).is_some(),
        };
        RustCrypto::default().verify_signature(scheme, &signed, key, signature).is_ok()
    }

    /// Computes `RefHash` (RFC 9420, section 5.2), by which a Welcome names a key package.
    pub(super) fn reference(self, label: &str, value: &[u8]) -> Vec<u8> {
        self.digest(&[vector(label.as_bytes()), vector(value)].concat())
    }

    /// Computes the suite's hash.
    pub(super) fn digest(self, input: &[u8]) -> Vec<u8> {
        match self.hash {
            Hash::Sha256 => Sha256::digest(input).to_vec(),
            Hash::Sha384 => Sha384::digest(input).to_vec(),
            Hash::Sha512 => Sha512::digest(input).to_vec(),
        }
    }
}

/// Verifies ECDSA over P-521 with SHA-512; the signature is in DER as in RFC 9420 (section 5.1.2).
fn verifies_p521(key: &[u8], message: &[u8], signature: &[u8]) -> Option<()> {
    let key = p521::ecdsa::VerifyingKey::from_sec1_bytes(key).ok()?;
    let signature = p521::ecdsa::Signature::from_der(signature).ok()?;
    key.verify(message, &signature).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_library() {
        use openmls::prelude::Ciphersuite;
        for suite in &SUITES {
            let theirs = Ciphersuite::try_from(suite.id).unwrap();
            assert_eq!(format!("{theirs:?}"), suite.name);
        }
    }
}
