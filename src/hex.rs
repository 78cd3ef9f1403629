//! Lower-case hex, as hashes and group ids travel.

/// Returns `bytes` in lower-case hex.
pub fn encode(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns whether `text` is a whole number of bytes in hex, at least one, in either case.
pub fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.len().is_multiple_of(2) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Returns the bytes that `text` spells in hex, in either case.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    is_hex(text).then(|| text.as_bytes().chunks_exact(2).map(byte).collect())?
}

/// Returns the SHA-256 hash that `text` spells in hex, in either case.
pub fn decode_hash(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 {
        return None;
    }
    decode(text)?.try_into().ok()
}
