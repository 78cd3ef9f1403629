//! An AT Protocol account: a DID, a signing key on either curve, its DID document, and service tokens as its PDS signs
//! them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k256::ecdsa::signature::Signer;
use serde_json::{Value, json};

/// A signing key.
#[derive(Clone)]
pub enum Key {
    P256(p256::ecdsa::SigningKey),
    Secp256k1(k256::ecdsa::SigningKey),
}

/// Encoding of a key in a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    Multikey,
    Jwk,
    /// The bare point, under a type that names its curve; compressed or not.
    Bare {
        compress: bool,
    },
}

impl Key {
    /// Creates a key on P-256 from this seed.
    pub fn p256(seed: u8) -> Self {
        Self::P256(p256::ecdsa::SigningKey::from_slice(&[seed; 32]).unwrap())
    }

    /// Creates a key on secp256k1 from this seed.
    pub fn secp256k1(seed: u8) -> Self {
        Self::Secp256k1(k256::ecdsa::SigningKey::from_slice(&[seed; 32]).unwrap())
    }

    pub fn alg(&self) -> &'static str {
        match self {
            Self::P256(_) => "ES256",
            Self::Secp256k1(_) => "ES256K",
        }
    }

    /// Returns the public key as a compressed or uncompressed SEC 1 point.
    pub fn point(&self, compress: bool) -> Vec<u8> {
        match self {
            Self::P256(key) => key.verifying_key().to_encoded_point(compress).as_bytes().to_vec(),
            Self::Secp256k1(key) => key.verifying_key().to_encoded_point(compress).as_bytes().to_vec(),
        }
    }

    /// Returns the signature with the lower `s` and the equally valid one with the higher `s`.
    pub fn sign_both_ways(&self, message: &str) -> [Vec<u8>; 2] {
        match self {
            Self::P256(key) => {
                let signature: p256::ecdsa::Signature = key.sign(message.as_bytes());
                let (r, s) = signature.normalize_s().unwrap_or(signature).split_scalars();
                [(*s).to_bytes(), (-*s).to_bytes()].map(|s| [r.to_bytes(), s].concat())
            }
            Self::Secp256k1(key) => {
                let signature: k256::ecdsa::Signature = key.sign(message.as_bytes());
                let (r, s) = signature.normalize_s().unwrap_or(signature).split_scalars();
                [(*s).to_bytes(), (-*s).to_bytes()].map(|s| [r.to_bytes(), s].concat())
            }
        }
    }

    /// Returns the verification method `id` with this key.
    pub fn method(&self, id: &str, spelling: Spelling) -> Value {
        let (codec, crv) = match self {
            Self::P256(_) => ([0x80, 0x24], "P-256"),
            Self::Secp256k1(_) => ([0xe7, 0x01], "secp256k1"),
        };
        match spelling {
            Spelling::Multikey => {
                let multikey = [&codec[..], &self.point(true)].concat();
                let text = format!("z{}", bs58::encode(multikey).into_string());
                json!({"id": id, "type": "Multikey", "publicKeyMultibase": text})
            }
            Spelling::Bare { compress } => {
                let kind = match self {
                    Self::P256(_) => "EcdsaSecp256r1VerificationKey2019",
                    Self::Secp256k1(_) => "EcdsaSecp256k1VerificationKey2019",
                };
                let text = format!("z{}", bs58::encode(self.point(compress)).into_string());
                json!({"id": id, "type": kind, "publicKeyMultibase": text})
            }
            Spelling::Jwk => {
                let point = self.point(false);
                let [x, y] = [&point[1..33], &point[33..]].map(|half| URL_SAFE_NO_PAD.encode(half));
                json!({"id": id, "type": "JsonWebKey2020", "publicKeyJwk": {"kty": "EC", "crv": crv, "x": x, "y": y}})
            }
        }
    }

    /// Returns the token with this header and these claims.
    pub fn token(&self, header: &Value, claims: &Value) -> String {
        let signed = signing_input(header, claims);
        let [signature, _] = self.sign_both_ways(&signed);
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// Returns the text that a token's signature covers.
pub fn signing_input(header: &Value, claims: &Value) -> String {
    [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".")
}

/// Returns the document of `did` with these verification methods.
pub fn document(did: &str, methods: &[Value]) -> Value {
    json!({
        "@context": ["https://www.w3.org/ns/did/v1", "https://w3id.org/security/multikey/v1"],
        "id": did,
        "alsoKnownAs": ["at://alice.example"],
        "verificationMethod": methods,
        "service": [{"id": "#atproto_pds", "type": "AtprotoPersonalDataServer", "serviceEndpoint": "https://pds.example"}],
    })
}
