//! The part of a DID document that names the account's signing key (<https://www.w3.org/TR/did-core/>).
//!
//! A document must carry the DID that was requested. Only its key [`ACCOUNT_KEY`] is kept, because only that key speaks
//! for the account: other keys of the document serve other purposes, such as labels, and other parties often hold them.
//! Verification methods of unsupported kinds, or with another controller, are skipped; they do not invalidate the
//! others.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::key::{Curve, PublicKey};
use crate::ids::Did;

/// Fragment of the key that signs for an account, whatever key the token names
/// (<https://atproto.com/specs/did#did-documents>).
pub const ACCOUNT_KEY: &str = "atproto";

/// Maximum number of verification methods that are read; real documents have one to three.
const MAX_METHODS: usize = 32;

/// Signing key of one DID.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    key: Option<PublicKey>,
}

/// Reasons for which bytes are not a document of this DID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unusable {
    NotADocument,
    OfAnother,
}

impl Unusable {
    /// The reason as a sentence for the client's developer.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotADocument => "its host did not return a DID document",
            Self::OfAnother => "its host returned the document of another DID",
        }
    }
}

#[derive(Deserialize)]
struct Wire {
    id: String,
    #[serde(default, rename = "verificationMethod")]
    verification_method: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Method {
    id: String,
    #[serde(default, rename = "type")]
    kind: String,
    controller: Option<String>,
    public_key_multibase: Option<String>,
    public_key_jwk: Option<Jwk>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    crv: String,
    x: String,
    y: String,
}

impl Document {
    /// Parses the document of `did` from the JSON that its host returned.
    pub fn parse(did: &Did, json: &[u8]) -> Result<Self, Unusable> {
        let wire: Wire = serde_json::from_slice(json).map_err(|_| Unusable::NotADocument)?;
        if wire.id != did.as_str() {
            return Err(Unusable::OfAnother);
        }
        let key = wire
            .verification_method
            .into_iter()
            .take(MAX_METHODS)
            .filter_map(|method| serde_json::from_value::<Method>(method).ok())
            .filter(|method| method.controller.as_ref().is_none_or(|controller| controller == did.as_str()))
            .filter(|method| fragment(did, &method.id) == Some(ACCOUNT_KEY))
            .find_map(|method| method.key());
        Ok(Self { key })
    }

    /// Creates a document with this key, given as a Multikey. `None` if the key does not decode.
    pub fn with_key(multibase: &str) -> Option<Self> {
        PublicKey::from_multibase(multibase).map(|key| Self { key: Some(key) })
    }

    /// Returns the account's key if the document has one of a supported kind.
    pub fn key(&self) -> Option<&PublicKey> {
        self.key.as_ref()
    }
}

/// Returns the fragment of `#fragment` or `did:…#fragment` in the document of `did`; `None` if it belongs to another
/// DID.
fn fragment<'a>(did: &Did, id: &'a str) -> Option<&'a str> {
    let (owner, fragment) = id.split_once('#')?;
    (owner.is_empty() || owner == did.as_str()).then_some(fragment).filter(|fragment| !fragment.is_empty())
}

impl Method {
    /// Returns the curve that the method's type names, for the two legacy types. Their keys are points without a codec,
    /// and development networks still write them.
    fn curve(&self) -> Option<Curve> {
        match self.kind.as_str() {
            "EcdsaSecp256r1VerificationKey2019" => Some(Curve::P256),
            "EcdsaSecp256k1VerificationKey2019" => Some(Curve::Secp256k1),
            _ => None,
        }
    }

    fn key(&self) -> Option<PublicKey> {
        match (&self.public_key_multibase, &self.public_key_jwk) {
            (Some(text), None) => {
                let bare = self.curve().and_then(|curve| PublicKey::from_bare_point(curve, text));
                bare.or_else(|| PublicKey::from_multibase(text))
            }
            (None, Some(jwk)) => jwk.key(),
            _ => None,
        }
    }
}

impl Jwk {
    fn key(&self) -> Option<PublicKey> {
        let curve = match (self.kty.as_str(), self.crv.as_str()) {
            ("EC", "P-256") => Curve::P256,
            ("EC", "secp256k1") => Curve::Secp256k1,
            _ => return None,
        };
        PublicKey::from_coordinates(curve, &coordinate(&self.x)?, &coordinate(&self.y)?)
    }
}

/// Decodes a coordinate. It has the full width of its field, leading zeros included (RFC 7518 section 6.2.1.2).
fn coordinate(text: &str) -> Option<[u8; 32]> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const P256: &str = "zDnaembgSGUhZULN2Caob4HLJPaxBh92N7rtH21TErzqf8HQo";
    const SECP256K1: &str = "zQ3shqwJEJyMBsBXCWyCBpUBMqxcon9oHB7mCvx4sSpMdLJwc";

    fn alice() -> Did {
        "did:plc:ewvi7nxzyoun6zhxrhs64oiz".parse().unwrap()
    }

    fn with_methods(methods: Value) -> Document {
        let json = json!({"id": alice(), "verificationMethod": methods});
        Document::parse(&alice(), json.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn only_the_accounts_key_is_kept() {
        let account = PublicKey::from_multibase(SECP256K1).unwrap();
        for id in ["#atproto".to_owned(), format!("{}#atproto", alice())] {
            let document = with_methods(json!([
                {"id": "#atproto_label", "type": "Multikey", "publicKeyMultibase": P256},
                {"id": id, "type": "Multikey", "controller": alice(), "publicKeyMultibase": SECP256K1},
            ]));
            assert_eq!(document.key(), Some(&account), "{id}");
        }
        for id in ["#laptop", "atproto", "#", "#atproto#atproto", "did:plc:other#atproto"] {
            let document = with_methods(json!([{"id": id, "type": "Multikey", "publicKeyMultibase": P256}]));
            assert_eq!(document.key(), None, "{id}");
        }
    }

    #[test]
    fn jwks_of_both_curves_are_read() {
        // RFC 7515 appendix A.3, and the generator of secp256k1 (SEC 2 section 2.4.1).
        for (jwk, curve) in [
            (
                json!({"kty": "EC", "crv": "P-256",
                "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}),
                Some(Curve::P256),
            ),
            (
                json!({"kty": "EC", "crv": "secp256k1",
                "x": "eb5mfvncu6xVoGKVzocLBwKb_NstzijZWfKBWxb4F5g", "y": "SDradyajxGVdpPv8DhEIqP0XtEimhVQZnEfQj_sQ1Lg"}),
                Some(Curve::Secp256k1),
            ),
            (json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"}), None),
            (json!({"kty": "EC", "crv": "P-256", "x": "AQAB", "y": "AQAB"}), None),
        ] {
            let document = with_methods(json!([{"id": "#atproto", "publicKeyJwk": jwk}]));
            assert_eq!(document.key().map(PublicKey::curve), curve);
        }
    }

    #[test]
    fn points_alone_are_read_where_the_type_names_their_curve() {
        for (multikey, kind) in
            [(P256, "EcdsaSecp256r1VerificationKey2019"), (SECP256K1, "EcdsaSecp256k1VerificationKey2019")]
        {
            let key = PublicKey::from_multibase(multikey).unwrap();
            let points = match &key {
                PublicKey::P256(key) => [true, false].map(|short| key.to_encoded_point(short).as_bytes().to_vec()),
                PublicKey::Secp256k1(key) => [key.serialize().to_vec(), key.serialize_uncompressed().to_vec()],
            };
            let read = |kind: &str, text: String| {
                with_methods(
                    json!([{"id": "#atproto", "type": kind, "controller": alice(), "publicKeyMultibase": text}]),
                )
                .key()
                .cloned()
            };
            for point in points {
                let text = format!("z{}", bs58::encode(&point).into_string());
                assert_eq!(read(kind, text.clone()).as_ref(), Some(&key), "{kind}, {} bytes", point.len());
                for other in ["Multikey", "", "Ed25519VerificationKey2020"] {
                    assert_eq!(read(other, text.clone()), None, "{other} does not say which curve");
                }
                for broken in [&point[1..], &[&[5], &point[1..]].concat(), &[point.as_slice(), &[0]].concat()] {
                    assert_eq!(read(kind, format!("z{}", bs58::encode(broken).into_string())), None, "{kind}");
                }
                assert_eq!(read(kind, format!("f{}", crate::hex::encode(&point))), None, "in another base");
            }
            // With its codec a key says which curve it is on, whatever the type is called.
            assert_eq!(read(kind, multikey.to_owned()).as_ref(), Some(&key));
        }
    }

    #[test]
    fn methods_that_cannot_be_used_do_not_spoil_the_others() {
        let document = with_methods(json!([
            "did:plc:elsewhere#key", 7, {"type": "Multikey"}, {"id": "#atproto", "publicKeyMultibase": "z6Mk"},
            {"id": "#atproto", "controller": "did:plc:other", "publicKeyMultibase": P256},
            {"id": "did:plc:other#atproto", "publicKeyMultibase": P256},
            {"id": "#atproto", "publicKeyMultibase": P256, "publicKeyJwk": {"kty": "EC", "crv": "P-256", "x": "", "y": ""}},
            {"id": "#atproto", "publicKeyMultibase": SECP256K1},
        ]));
        assert_eq!(document.key().map(PublicKey::curve), Some(Curve::Secp256k1));
    }

    #[test]
    fn the_document_of_another_did_is_refused() {
        let json = json!({"id": "did:plc:other"}).to_string();
        assert_eq!(Document::parse(&alice(), json.as_bytes()), Err(Unusable::OfAnother));
        for garbage in ["", "[]", "null", "{}", r#"{"id": 7}"#, "<html>"] {
            assert_eq!(Document::parse(&alice(), garbage.as_bytes()), Err(Unusable::NotADocument), "{garbage}");
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let text = prop_oneof![
            "[a-zA-Z0-9_-]{0,50}",
            Just("EC".to_owned()),
            Just("P-256".to_owned()),
            Just("#atproto".to_owned()),
            Just(P256.to_owned()),
            Just("did:plc:ewvi7nxzyoun6zhxrhs64oiz".to_owned()),
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            text.prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 48, 6, |inner| {
            let name = prop_oneof![
                Just("id"),
                Just("verificationMethod"),
                Just("type"),
                Just("publicKeyMultibase"),
                Just("publicKeyJwk"),
                Just("controller"),
                Just("kty"),
                Just("crv"),
                Just("x"),
                Just("y"),
            ];
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::vec((name, inner), 0..6)
                    .prop_map(|fields| fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_json_makes_the_decoder_panic(methods in any_json(), whole in any_json(), bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let framed = json!({"id": alice(), "verificationMethod": methods});
            for json in [framed.to_string().into_bytes(), whole.to_string().into_bytes(), bytes] {
                if let Ok(document) = Document::parse(&alice(), &json) {
                    document.key();
                }
            }
        }
    }
}
