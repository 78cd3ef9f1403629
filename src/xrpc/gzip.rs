//! A stream as gzip (RFC 1952), for proxies that compress replies by themselves and keep what they have until it is much: one that is
//! encoded already they leave alone. The blocks are stored, not compressed (RFC 1951, section 3.2.4). What is in them is encrypted, and a
//! compressor for each stream would take more memory than everything else about it.

use actix_web::http::header::{self, HeaderMap};
use actix_web::web::Bytes;
use crc32fast::Hasher;

/// The magic number, the method deflate, no flags, no time, no extra flags, an unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// Most bytes of a stored block.
const BLOCK: usize = 0xffff;
/// The block without bytes that is the last one.
const LAST: [u8; 5] = [1, 0, 0, 0xff, 0xff];

/// Whether a client takes gzip, by name (RFC 9110, section 12.5.3).
pub(super) fn is_taken(headers: &HeaderMap) -> bool {
    let listed = headers.get_all(header::ACCEPT_ENCODING).filter_map(|value| value.to_str().ok());
    listed.flat_map(|value| value.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let never = weight.trim().strip_prefix("q=").is_some_and(|q| q.trim().parse() == Ok(0.0));
        matches!(name.trim().to_ascii_lowercase().as_str(), "gzip" | "x-gzip") && !never
    })
}

/// Bytes as they stand in a stream. Nothing in them depends on what comes before, so all streams can share them.
#[derive(Debug)]
pub struct Stored {
    blocks: Bytes,
    /// Of the bytes before they became blocks.
    crc: u32,
    length: u64,
}

impl Stored {
    pub fn new(bytes: &[u8]) -> Self {
        let mut blocks = Vec::with_capacity(bytes.len() + bytes.len().div_ceil(BLOCK) * 5);
        for block in bytes.chunks(BLOCK) {
            let length = block.len() as u16;
            blocks.push(0);
            blocks.extend_from_slice(&length.to_le_bytes());
            blocks.extend_from_slice(&(!length).to_le_bytes());
            blocks.extend_from_slice(block);
        }
        Self { blocks: blocks.into(), crc: crc32fast::hash(bytes), length: bytes.len() as u64 }
    }
}

/// What has been written of a stream.
#[derive(Debug)]
pub struct Gzip {
    begun: bool,
    ended: bool,
    sum: Hasher,
    /// Modulo 2^32.
    length: u32,
}

impl Gzip {
    pub fn begin() -> Self {
        Self { begun: false, ended: false, sum: Hasher::new(), length: 0 }
    }

    /// The next part. Whoever has it can decode all of it. After the first one it is not copied.
    pub fn part(&mut self, stored: &Stored) -> Bytes {
        self.sum.combine(&Hasher::new_with_initial_len(stored.crc, stored.length));
        self.length = self.length.wrapping_add(stored.length as u32);
        match self.begins() {
            true => [&HEADER, &*stored.blocks].concat().into(),
            false => stored.blocks.clone(),
        }
    }

    /// The end, once.
    pub fn end(&mut self) -> Option<Bytes> {
        if std::mem::replace(&mut self.ended, true) {
            return None;
        }
        let head = if self.begins() { &HEADER[..] } else { &[] };
        let sum = self.sum.clone().finalize();
        Some([head, &LAST, &sum.to_le_bytes(), &self.length.to_le_bytes()].concat().into())
    }

    /// Whether what comes is the beginning.
    fn begins(&mut self) -> bool {
        !std::mem::replace(&mut self.begun, true)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn what_has_come_can_be_decoded_and_the_end_proves_it() {
        let texts = [b"retry: 1000\n\n".to_vec(), vec![b'x'; 3 * BLOCK + 7], vec![], b"data: {}\n\n".to_vec()];
        let (mut gzip, mut whole, mut so_far) = (Gzip::begin(), Vec::new(), Vec::new());
        for text in &texts {
            let part = gzip.part(&Stored::new(text));
            let mut decoder = flate2::write::GzDecoder::new(Vec::new());
            whole.extend_from_slice(&part);
            so_far.extend_from_slice(text);
            decoder.write_all(&whole).unwrap();
            decoder.flush().unwrap();
            assert!(*decoder.get_ref() == so_far);
        }
        whole.extend_from_slice(&gzip.end().unwrap());
        assert!(gzip.end().is_none());
        let mut decoded = Vec::new();
        flate2::read::GzDecoder::new(&*whole).read_to_end(&mut decoded).unwrap();
        assert!(decoded == so_far);
    }

    #[test]
    fn what_goes_to_many_is_made_once() {
        let large = Stored::new(&vec![b'x'; 3 * BLOCK]);
        for before in ["", "retry: 1000\n\n"] {
            let mut gzip = Gzip::begin();
            let first = gzip.part(&Stored::new(before.as_bytes()));
            let shared = gzip.part(&large);
            assert_eq!(shared.as_ptr(), large.blocks.as_ptr());
            let whole = [first, shared, gzip.end().unwrap()].concat();
            let mut decoded = Vec::new();
            flate2::read::GzDecoder::new(&*whole).read_to_end(&mut decoded).unwrap();
            assert!(decoded == [before.as_bytes(), &[b'x'; 3 * BLOCK]].concat());
        }
    }

    #[test]
    fn it_is_taken_by_who_names_it_and_does_not_exclude_it() {
        for (given, taken) in [
            ("gzip", true),
            ("br, GZIP;q=0.5", true),
            ("deflate, gzip ; q=1.0, *;q=0", true),
            ("identity", false),
            ("gzip;q=0", false),
            ("br;q=1.0, gzip; q=0.000", false),
            ("*", false),
        ] {
            let value = header::HeaderValue::from_static(given);
            let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, value)]);
            assert_eq!(is_taken(&headers), taken, "{given}");
        }
        assert!(!is_taken(&HeaderMap::new()));
    }
}
