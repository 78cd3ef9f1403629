//! Finds the end of a chunked body (RFC 9112, section 7.1): after the empty line that follows the zero-length chunk and
//! its trailers.

/// Parser of a chunked body that arrives in pieces. Bytes that are not a chunked body have no end here; the HTTP
/// library refuses them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chunks {
    /// In the digits of a chunk's size, with the value so far.
    Size(u64),
    /// After the digits, up to the end of the line.
    Extension(u64),
    /// In a chunk; this many bytes remain, including the line end after it.
    Data(u64),
    /// At the beginning of a line of the trailers, or after a CR there.
    Trailer,
    /// In a line of the trailers.
    TrailerLine,
    End,
}

impl Default for Chunks {
    fn default() -> Self {
        Self::Size(0)
    }
}

impl Chunks {
    /// Returns how many of the next bytes belong to the body.
    pub(super) fn take(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while taken < bytes.len() && *self != Self::End {
            if let Self::Data(left @ 1..) = *self {
                let part = left.min((bytes.len() - taken) as u64);
                *self = Self::Data(left - part);
                taken += part as usize;
            } else {
                *self = self.after(bytes[taken]);
                taken += 1;
            }
        }
        taken
    }

    fn after(self, byte: u8) -> Self {
        match (self, byte) {
            (Self::Size(0) | Self::Extension(0), b'\n') => Self::Trailer,
            (Self::Size(size) | Self::Extension(size), b'\n') => Self::Data(size.saturating_add(2)),
            // After a chunk, the size of the next one starts at zero.
            (Self::Size(size) | Self::Data(size), _) => match (byte as char).to_digit(16) {
                Some(digit) => Self::Size(size.saturating_mul(16).saturating_add(digit.into())),
                None => Self::Extension(size),
            },
            (Self::Extension(size), _) => Self::Extension(size),
            (Self::Trailer, b'\n') => Self::End,
            (Self::Trailer, b'\r') | (Self::TrailerLine, b'\n') => Self::Trailer,
            (Self::Trailer | Self::TrailerLine, _) => Self::TrailerLine,
            (Self::End, _) => Self::End,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_ends_after_its_last_chunk_however_it_comes() {
        for body in [
            "0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "1A; name=value\r\nabcdefghijklmnopqrstuvwxyz\r\n000\r\nTrailer: of it\r\nSecond: one\r\n\r\n",
            "3\r\n0\r\n\r\n4\r\n\r\n\r\n\r\n0\r\n\r\n",
        ] {
            let bytes = format!("{body}GET / HTTP/1.1\r\n\r\n").into_bytes();
            assert_eq!(Chunks::default().take(&bytes), body.len(), "{body:?}");
            let mut chunks = Chunks::default();
            let taken: usize = bytes.iter().map(|byte| chunks.take(&[*byte])).sum();
            assert_eq!((taken, chunks), (body.len(), Chunks::End), "{body:?} byte by byte");
        }
    }

    #[test]
    fn bytes_that_are_not_a_chunked_body_have_no_end() {
        for bytes in ["", "5\r\nhel", "0\r\nTrailer: of it\r\n", "ffffffffffffffffffff\r\n0\r\n\r\n", "x\r"] {
            let mut chunks = Chunks::default();
            assert_eq!(chunks.take(bytes.as_bytes()), bytes.len(), "{bytes:?}");
            assert_ne!(chunks, Chunks::End, "{bytes:?}");
        }
    }
}
