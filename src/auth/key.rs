//! A public key of a DID document, and the signatures that it verifies.
//!
//! The key determines the curve and the curve determines the algorithm, so a token cannot make the server read its key
//! in another way.

use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use secp256k1::Message;
use sha2::{Digest, Sha256};

/// Asymmetric algorithms of AT Protocol tokens (RFC 7518 section 3.4, RFC 8812 section 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Curve {
    /// `ES256`.
    P256,
    /// `ES256K`.
    Secp256k1,
}

/// A decoded key, validated as a point of its curve.
#[derive(Debug, Clone, PartialEq)]
pub enum PublicKey {
    P256(p256::ecdsa::VerifyingKey),
    Secp256k1(secp256k1::PublicKey),
}

/// Maximum length of a `publicKeyMultibase`, in characters; a Multikey takes 48 or 49, and an uncompressed point 89.
/// Base58 decoding takes time quadratic in the length, so the length must be limited.
const MAX_MULTIBASE_CHARS: usize = 96;

/// Bytes of a compressed point: its sign and x (SEC 1 section 2.3.3).
const COMPRESSED_POINT_BYTES: usize = 33;

/// Bytes of an uncompressed point: both coordinates (SEC 1 section 2.3.3).
const WHOLE_POINT_BYTES: usize = 65;

/// Multicodec prefixes, as varints: p256-pub 0x1200 and secp256k1-pub 0xe7.
const P256_PUB: [u8; 2] = [0x80, 0x24];
const SECP256K1_PUB: [u8; 2] = [0xe7, 0x01];

impl PublicKey {
    /// Decodes a Multikey's `publicKeyMultibase`: `z`, then base58btc of a multicodec prefix and a compressed point
    /// (<https://atproto.com/specs/cryptography#public-key-encoding>). `None` for every other kind of key.
    pub fn from_multibase(text: &str) -> Option<Self> {
        let bytes = base58btc(text)?;
        let (codec, point) = bytes.split_first_chunk::<2>()?;
        if point.len() != COMPRESSED_POINT_BYTES {
            return None;
        }
        match *codec {
            P256_PUB => Self::from_point(Curve::P256, point),
            SECP256K1_PUB => Self::from_point(Curve::Secp256k1, point),
            _ => None,
        }
    }

    /// Decodes the `publicKeyMultibase` of a verification method whose type names the curve: `z`, then base58btc of the
    /// bare point, compressed or not (<https://atproto.com/specs/did#did-documents>, legacy representation). `None` for
    /// everything else.
    pub fn from_bare_point(curve: Curve, text: &str) -> Option<Self> {
        Self::from_point(curve, &base58btc(text)?)
    }

    /// Decodes a point of the curve in one of its two usual encodings.
    fn from_point(curve: Curve, point: &[u8]) -> Option<Self> {
        match (point.first()?, point.len()) {
            (2 | 3, COMPRESSED_POINT_BYTES) | (4, WHOLE_POINT_BYTES) => {}
            _ => return None,
        }
        match curve {
            Curve::P256 => p256::ecdsa::VerifyingKey::from_sec1_bytes(point).ok().map(Self::P256),
            Curve::Secp256k1 => secp256k1::PublicKey::from_slice(point).ok().map(Self::Secp256k1),
        }
    }

    /// Builds a key from the affine coordinates of a JWK (RFC 7518 section 6.2.1). `None` if they are not a point of
    /// the curve.
    pub fn from_coordinates(curve: Curve, x: &[u8; 32], y: &[u8; 32]) -> Option<Self> {
        Self::from_point(curve, &[&[4], &x[..], &y[..]].concat())
    }

    /// Encodes the key as [`PublicKey::from_multibase`] reads it.
    pub fn to_multibase(&self) -> String {
        let (codec, point) = match self {
            Self::P256(key) => (P256_PUB, key.to_encoded_point(true).as_bytes().to_vec()),
            Self::Secp256k1(key) => (SECP256K1_PUB, key.serialize().to_vec()),
        };
        format!("z{}", bs58::encode([&codec[..], &point].concat()).into_string())
    }

    pub fn curve(&self) -> Curve {
        match self {
            Self::P256(_) => Curve::P256,
            Self::Secp256k1(_) => Curve::Secp256k1,
        }
    }

    /// Checks that `signature` is 64 bytes `r || s` over the SHA-256 of `message`. Both possible values of `s` are
    /// accepted: JOSE libraries write both, and AT Protocol requires the lower one in repositories only. This is safe
    /// because the `jti` makes a token single-use, not the signature.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            // ring also does TLS here; its assembler takes a third of the time of the pure Rust implementation.
            Self::P256(key) => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.to_encoded_point(false))
                .verify(message, signature)
                .is_ok(),
            // Bitcoin's library takes a third of the time of the pure Rust implementation.
            Self::Secp256k1(key) => secp256k1::ecdsa::Signature::from_compact(signature).is_ok_and(|mut signature| {
                // It accepts the lower value only.
                signature.normalize_s();
                let message = Message::from_digest(Sha256::digest(message).into());
                signature.verify(message, key).is_ok()
            }),
        }
    }
}

/// Decodes base58btc, the multibase in which all keys of DID documents are written.
fn base58btc(text: &str) -> Option<Vec<u8>> {
    let encoded = text.strip_prefix('z').filter(|encoded| encoded.len() <= MAX_MULTIBASE_CHARS)?;
    bs58::decode(encoded).into_vec().ok()
}

#[cfg(test)]
mod tests {
    use k256::ecdsa::signature::Signer;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_examples_of_the_specification_decode() {
        for (text, curve) in [
            ("zDnaembgSGUhZULN2Caob4HLJPaxBh92N7rtH21TErzqf8HQo", Curve::P256),
            ("zQ3shqwJEJyMBsBXCWyCBpUBMqxcon9oHB7mCvx4sSpMdLJwc", Curve::Secp256k1),
        ] {
            let key = PublicKey::from_multibase(text).unwrap();
            assert_eq!((key.curve(), key.to_multibase().as_str()), (curve, text));
        }
    }

    #[test]
    fn keys_of_other_kinds_are_not_decoded() {
        for other in ["", "z", "z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK", "uDnaembg", "zIl0O"] {
            assert_eq!(PublicKey::from_multibase(other), None, "{other}");
        }
        let not_on_the_curve = [0xff; 32];
        assert_eq!(PublicKey::from_coordinates(Curve::P256, &not_on_the_curve, &not_on_the_curve), None);
    }

    fn secp256k1_key(secret: &k256::ecdsa::SigningKey) -> PublicKey {
        let point = secret.verifying_key().to_encoded_point(true);
        PublicKey::from_point(Curve::Secp256k1, point.as_bytes()).unwrap()
    }

    #[test]
    fn both_forms_of_a_signature_verify_and_nothing_else_does() {
        let message = b"header.claims";
        let p256_secret = p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap();
        let k256_secret = k256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap();
        let p256_signature: p256::ecdsa::Signature = p256_secret.sign(message);
        let k256_signature: k256::ecdsa::Signature = k256_secret.sign(message);
        let (r, s) = p256_signature.normalize_s().unwrap_or(p256_signature).split_scalars();
        let p256_pair = [(*s).to_bytes(), (-*s).to_bytes()].map(|s| [r.to_bytes(), s].concat());
        let (r, s) = k256_signature.normalize_s().unwrap_or(k256_signature).split_scalars();
        let k256_pair = [(*s).to_bytes(), (-*s).to_bytes()].map(|s| [r.to_bytes(), s].concat());

        for (key, [low, high]) in
            [(PublicKey::P256(*p256_secret.verifying_key()), p256_pair), (secp256k1_key(&k256_secret), k256_pair)]
        {
            assert!(key.verifies(message, &low));
            assert!(key.verifies(message, &high));
            assert!(!key.verifies(b"another", &low));
            assert!(!key.verifies(message, &low[..63]));
            assert!(!key.verifies(message, &[low.clone(), vec![0]].concat()));
            assert!(!key.verifies(message, &[0; 64]));
        }
    }

    proptest! {
        #[test]
        fn no_text_and_no_signature_makes_the_decoders_panic(text in ".{0,80}", tail in "[1-9A-HJ-NP-Za-km-z]{0,70}", bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let key = PublicKey::from_multibase("zDnaembgSGUhZULN2Caob4HLJPaxBh92N7rtH21TErzqf8HQo").unwrap();
            prop_assert!(!key.verifies(&bytes, &bytes));
            PublicKey::from_multibase(&text);
            PublicKey::from_multibase(&format!("z{tail}"));
            let encoded = format!("z{}", bs58::encode(&bytes).into_string());
            PublicKey::from_multibase(&encoded);
            for curve in [Curve::P256, Curve::Secp256k1] {
                PublicKey::from_bare_point(curve, &encoded);
            }
        }
    }
}
