//! Finds the end of a request's head (RFC 9112, section 2): the first empty line after a line that is not empty.

/// Scanner for the end of a head in bytes that arrive in pieces. It scans each byte once.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    /// Number of bytes that were scanned.
    seen: usize,
    line: Line,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// Before the first line. Empty lines are skipped here.
    #[default]
    None,
    /// In the middle of a line.
    Within,
    /// At the beginning of a line, or after a CR there.
    Begun,
}

impl Scanner {
    /// Returns the length of the head at the beginning of `bytes`; `None` if it is incomplete. The bytes of an earlier
    /// call must be the same.
    pub(super) fn end(&mut self, bytes: &[u8]) -> Option<usize> {
        while let Some(byte) = bytes.get(self.seen) {
            self.seen += 1;
            self.line = match (self.line, byte) {
                (Line::None, b'\r' | b'\n') => Line::None,
                (Line::Begun, b'\n') => {
                    let length = self.seen;
                    *self = Self::default();
                    return Some(length);
                }
                (Line::Begun, b'\r') => Line::Begun,
                (_, b'\n') => Line::Begun,
                _ => Line::Within,
            };
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_ends_at_its_first_empty_line_however_it_comes() {
        for head in [
            "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET / HTTP/1.1\nHost: x\n\n",
            "\r\n\r\n\nGET / HTTP/1.1\r\nA: b\n\r\n",
        ] {
            let bytes = format!("{head}GET /next HTTP/1.1\r\n\r\n").into_bytes();
            assert_eq!(Scanner::default().end(&bytes), Some(head.len()), "{head:?}");
            let mut scanner = Scanner::default();
            let found = (1..=bytes.len()).find_map(|come| scanner.end(&bytes[..come]));
            assert_eq!(found, Some(head.len()), "{head:?} byte by byte");
        }
    }

    #[test]
    fn half_a_head_has_no_end() {
        for half in ["", "\r\n\r\n", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: x\r\n\r"] {
            assert_eq!(Scanner::default().end(half.as_bytes()), None, "{half:?}");
        }
    }
}
