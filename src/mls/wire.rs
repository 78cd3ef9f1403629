//! Presentation language of MLS (RFC 9420, section 2.1): integers and vectors, read from the beginning of bytes.
//! Nothing is copied, so a message of a million small structures costs no memory. `None`: the bytes end too early, or a
//! length is not in its shortest form.

use tls_codec::vlen;

/// Bytes that remain to be read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    pub fn new(bytes: &'b [u8]) -> Self {
        Self(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn take(&mut self, bytes: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    pub fn u8(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    pub fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    pub fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    pub fn u64(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }

    /// Reads a vector of variable size (section 2.1.2), without its length.
    pub fn vector(&mut self) -> Option<&'b [u8]> {
        let (length, _) = vlen::read_length(&mut self.0).ok()?;
        self.take(length)
    }

    /// Reads a vector element by element.
    pub fn list(&mut self, mut element: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        let mut elements = Self(self.vector()?);
        while !elements.is_empty() {
            element(&mut elements)?;
        }
        Some(())
    }

    /// Returns the result of `read`, and the bytes that it consumed.
    pub fn span<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<(T, &'b [u8])> {
        let before = self.0;
        let value = read(self)?;
        Some((value, &before[..before.len() - self.0.len()]))
    }
}

/// Encodes a vector: its length, then its bytes.
pub(super) fn vector(bytes: &[u8]) -> Vec<u8> {
    let mut written = Vec::with_capacity(bytes.len() + 4);
    vlen::write_length(&mut written, bytes.len()).expect("a Vec takes everything, and no request has 2^30 bytes");
    written.extend_from_slice(bytes);
    written
}
