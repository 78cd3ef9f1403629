//! Binary values in JSON and CBOR.
//!
//! In JSON, input is `{"$bytes": "…"}` or a plain string, in the standard or the URL-safe alphabet, padded or not.
//! Output is [`LexBytes`] as `{"$bytes": …}` in the standard alphabet without padding
//! (<https://atproto.com/specs/data-model#bytes>), and plain strings ([`to_base64`]) in the standard alphabet with
//! padding, as the version 1 lexicons have them. In CBOR they are byte strings.

use std::fmt;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose};
use serde::de::{self, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// Bytes that are read from `{"$bytes": …}` or a plain string, and written as the former.
#[derive(Clone, PartialEq, Eq)]
pub struct LexBytes(pub Vec<u8>);

/// Returns the bytes of a base64 text in either alphabet (not a mixture), padded or not.
pub fn from_base64(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    let engine = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    engine.decode(text)
}

/// Returns bytes as a lexicon declares them as a string: standard alphabet, padded.
pub fn to_base64(bytes: &[u8]) -> String {
    general_purpose::STANDARD.encode(bytes)
}

impl fmt::Debug for LexBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LexBytes({} bytes)", self.0.len())
    }
}

impl Serialize for LexBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize(&self.0, serializer)
    }
}

/// Writes bytes as [`LexBytes`] are written.
pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    if !serializer.is_human_readable() {
        return serializer.serialize_bytes(bytes);
    }
    let mut map = serializer.serialize_map(Some(1))?;
    map.serialize_entry("$bytes", &general_purpose::STANDARD_NO_PAD.encode(bytes))?;
    map.end()
}

impl<'de> Deserialize<'de> for LexBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Spellings;

        impl<'de> Visitor<'de> for Spellings {
            type Value = LexBytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("base64 text or {\"$bytes\": base64 text}")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<LexBytes, E> {
                from_base64(text).map(LexBytes).map_err(|e| E::custom(format_args!("not base64: {e}")))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LexBytes, A::Error> {
                let mut bytes = None;
                while let Some(key) = map.next_key::<String>()? {
                    if key != "$bytes" {
                        return Err(de::Error::unknown_field(&key, &["$bytes"]));
                    }
                    if bytes.is_some() {
                        return Err(de::Error::duplicate_field("$bytes"));
                    }
                    bytes = Some(self.visit_str(&map.next_value::<std::borrow::Cow<'_, str>>()?)?);
                }
                bytes.ok_or_else(|| de::Error::missing_field("$bytes"))
            }
        }

        impl Clone for Spellings {
            fn clone(&self) -> Self {
                *self
            }
        }
        impl Copy for Spellings {}

        deserializer.deserialize_any(Spellings)
    }
}
