//! Key packages built field by field (RFC 9420, sections 7.2 and 10), with parts that no library here makes: signatures
//! over P-521, and unknown extensions.

use openmls_rust_crypto::RustCrypto;
use openmls_traits::crypto::OpenMlsCrypto;
use openmls_traits::types::SignatureScheme;
use p521::ecdsa::signature::Signer;
use sha2::{Digest, Sha512};

pub struct Handmade {
    pub suite: u16,
    /// Types of the extensions of the leaf, of the package, and of those that the leaf lists as supported.
    pub leaf_extensions: Vec<u16>,
    pub extensions: Vec<u16>,
    pub supported: Vec<u16>,
    pub lifetime: (u64, u64),
    pub source: u8,
}

impl Handmade {
    /// A plain package with Ed25519.
    pub fn living(lifetime: (u64, u64)) -> Self {
        Self {
            suite: 1,
            leaf_extensions: Vec::new(),
            extensions: Vec::new(),
            supported: Vec::new(),
            lifetime,
            source: 1,
        }
    }

    /// Builds the package of a DID as an MLSMessage. `seed` distinguishes packages.
    pub fn make(&self, did: &str, seed: &str) -> Vec<u8> {
        let digest = |what: &str| Sha512::digest(format!("{seed} {what}")).to_vec();
        let signer = SigningKey::new(self.suite, &digest("signature"));
        let numbers = |numbers: &[u16]| vector(&numbers.iter().flat_map(|n| n.to_be_bytes()).collect::<Vec<u8>>());
        let listed = |kinds: &[u16]| {
            let extensions = kinds.iter().map(|kind| [&kind.to_be_bytes()[..], &vector(b"whatever")].concat());
            vector(&extensions.collect::<Vec<_>>().concat())
        };
        let leaf = [
            vector(&digest("encryption")[..32]),
            vector(&signer.public()),
            vec![0, 1],
            vector(did.as_bytes()),
            numbers(&[1]),
            numbers(&[self.suite, 0x1a1a]),
            numbers(&self.supported),
            numbers(&[0x2a2a]),
            numbers(&[1, 0x3a3a]),
            vec![self.source],
            [self.lifetime.0.to_be_bytes(), self.lifetime.1.to_be_bytes()].concat(),
            listed(&self.leaf_extensions),
        ]
        .concat();
        let leaf_signature = signer.sign("LeafNodeTBS", &leaf);
        let package = [
            vec![0, 1],
            self.suite.to_be_bytes().to_vec(),
            vector(&digest("init")[..32]),
            leaf,
            vector(&leaf_signature),
            listed(&self.extensions),
        ]
        .concat();
        let signature = signer.sign("KeyPackageTBS", &package);
        [vec![0, 1, 0, 5], package, vector(&signature)].concat()
    }
}

/// Encodes a vector with its length (section 2.1.2).
fn vector(bytes: &[u8]) -> Vec<u8> {
    let length = match bytes.len() {
        n @ 0..64 => vec![n as u8],
        n => (n as u16 | 0x4000).to_be_bytes().to_vec(),
    };
    [length, bytes.to_vec()].concat()
}

enum SigningKey {
    Ed25519 { private: Vec<u8>, public: Vec<u8> },
    P521(p521::ecdsa::SigningKey),
}

impl SigningKey {
    fn new(suite: u16, seed: &[u8]) -> Self {
        if suite == 5 {
            return Self::P521(p521::ecdsa::SigningKey::from_slice(&[&[0, 0], seed].concat()).unwrap());
        }
        let (private, public) = RustCrypto::default().signature_key_gen(SignatureScheme::ED25519).unwrap();
        Self::Ed25519 { private, public }
    }

    fn public(&self) -> Vec<u8> {
        match self {
            Self::Ed25519 { public, .. } => public.clone(),
            Self::P521(key) => p521::ecdsa::VerifyingKey::from(key).to_encoded_point(false).as_bytes().to_vec(),
        }
    }

    /// SignWithLabel (section 5.1.2).
    fn sign(&self, label: &str, content: &[u8]) -> Vec<u8> {
        let signed = [vector(format!("MLS 1.0 {label}").as_bytes()), vector(content)].concat();
        match self {
            Self::Ed25519 { private, .. } => {
                RustCrypto::default().sign(SignatureScheme::ED25519, &signed, private).unwrap()
            }
            Self::P521(key) => {
                let signature: p521::ecdsa::Signature = key.sign(&signed);
                signature.to_der().as_bytes().to_vec()
            }
        }
    }
}
