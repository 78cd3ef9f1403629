//! A stream in gzip (RFC 1952). Some proxies compress replies and buffer them for that; a reply that is encoded already passes unbuffered.
//! The blocks are stored, not compressed (RFC 1951, section 3.2.4): their content is encrypted, and a compressor would take more memory
//! than the rest of the stream.

use actix_web::web::Bytes;
use crc32fast::Hasher;

/// Magic number, method deflate, no flags, no time, no extra flags, unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// Most bytes of a stored block.
const BLOCK: usize = 0xffff;
/// Empty block that is the last one.
const LAST: [u8; 5] = [1, 0, 0, 0xff, 0xff];

/// A part of a stream as stored blocks, followed by the CRC (4 bytes) and the length (8 bytes) of the part before it became blocks. It
/// does not depend on what comes before, so all streams can share it.
#[derive(Debug)]
pub struct Stored(pub(super) Bytes);

/// Bytes of the CRC and the length at the end of [`Stored`].
const SUMS: usize = 12;

impl Stored {
    pub fn new(bytes: &[u8]) -> Self {
        let mut stored = Vec::with_capacity(bytes.len() + bytes.len().div_ceil(BLOCK) * 5 + SUMS);
        for block in bytes.chunks(BLOCK) {
            let length = block.len() as u16;
            stored.push(0);
            stored.extend_from_slice(&length.to_le_bytes());
            stored.extend_from_slice(&(!length).to_le_bytes());
            stored.extend_from_slice(block);
        }
        stored.extend_from_slice(&crc32fast::hash(bytes).to_le_bytes());
        stored.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        Self(stored.into())
    }

    /// Returns the blocks, and the CRC and the length of what is in them.
    fn parts(&self) -> (Bytes, u32, u64) {
        let blocks = self.0.slice(..self.0.len() - SUMS);
        let (crc, length) = self.0[blocks.len()..].split_at(4);
        let crc = u32::from_le_bytes(crc.try_into().expect("four bytes were split off"));
        (blocks, crc, u64::from_le_bytes(length.try_into().expect("eight bytes are left")))
    }
}

/// State of one stream's encoding.
#[derive(Debug)]
pub struct Gzip {
    begun: bool,
    ended: bool,
    sum: Hasher,
    /// Length of the content, modulo 2^32.
    length: u32,
}

impl Gzip {
    pub fn begin() -> Self {
        Self { begun: false, ended: false, sum: Hasher::new(), length: 0 }
    }

    /// Returns the next part. A client can decode it completely when it arrives. Only the first part of a stream is copied.
    pub fn part(&mut self, stored: &Stored) -> Bytes {
        let (blocks, crc, length) = stored.parts();
        self.sum.combine(&Hasher::new_with_initial_len(crc, length));
        self.length = self.length.wrapping_add(length as u32);
        match self.begins() {
            true => [&HEADER, &*blocks].concat().into(),
            false => blocks,
        }
    }

    /// Returns the end of the stream, once.
    pub fn end(&mut self) -> Option<Bytes> {
        if std::mem::replace(&mut self.ended, true) {
            return None;
        }
        let head = if self.begins() { &HEADER[..] } else { &[] };
        let sum = self.sum.clone().finalize();
        Some([head, &LAST, &sum.to_le_bytes(), &self.length.to_le_bytes()].concat().into())
    }

    /// Returns true at the first call.
    fn begins(&mut self) -> bool {
        !std::mem::replace(&mut self.begun, true)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn every_part_can_be_decoded_when_it_arrives_and_the_end_verifies_it() {
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
    fn a_shared_part_is_not_copied() {
        let large = Stored::new(&vec![b'x'; 3 * BLOCK]);
        for before in ["", "retry: 1000\n\n"] {
            let mut gzip = Gzip::begin();
            let first = gzip.part(&Stored::new(before.as_bytes()));
            let shared = gzip.part(&large);
            assert_eq!(shared.as_ptr(), large.0.as_ptr());
            let whole = [first, shared, gzip.end().unwrap()].concat();
            let mut decoded = Vec::new();
            flate2::read::GzDecoder::new(&*whole).read_to_end(&mut decoded).unwrap();
            assert!(decoded == [before.as_bytes(), &[b'x'; 3 * BLOCK]].concat());
        }
    }
}
