//! MLS messages as a server sees them: plaintext framing around opaque bytes.
//!
//! They are assembled by hand, because real ones cost a thousand times more to create than to send. The server cannot
//! detect the difference: it parses the frame (RFC 9420, section 6.3) and reads group, epoch and kind.

use super::mix::{fresh, mix};

/// Size of one message in every scenario in bytes, including framing.
pub const MESSAGE_BYTES: usize = 512;

/// The content types of RFC 9420, section 6.
#[derive(Clone, Copy)]
pub enum Content {
    Application = 1,
    Commit = 3,
}

/// Returns a PrivateMessage of [`MESSAGE_BYTES`] for a group and an epoch. It differs from all others of this process.
pub fn private_message(group_id: &[u8], epoch: u64, content: Content) -> Vec<u8> {
    const SENDER_DATA_BYTES: usize = 28;
    let mut message = Vec::with_capacity(MESSAGE_BYTES);
    message.extend([0, 1, 0, 2]); // mls10, mls_private_message
    opaque(&mut message, group_id);
    message.extend(epoch.to_be_bytes());
    message.push(content as u8);
    opaque(&mut message, &[]); // authenticated_data
    let mut noise = Noise::new();
    opaque(&mut message, &noise.bytes(SENDER_DATA_BYTES));
    // The length of the remainder takes two bytes.
    let left = MESSAGE_BYTES - message.len() - 2;
    opaque(&mut message, &noise.bytes(left));
    message
}

/// Appends a vector after its length, in the variable-size encoding of RFC 9420, section 2.1.2.
fn opaque(to: &mut Vec<u8>, bytes: &[u8]) {
    match bytes.len() {
        short @ 0..64 => to.push(short as u8),
        long => to.extend((0x4000 | long as u16).to_be_bytes()),
    }
    to.extend(bytes);
}

/// Bytes in place of ciphertext.
struct Noise(u64);

impl Noise {
    fn new() -> Self {
        Self(mix(fresh()))
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let words = std::iter::repeat_with(|| {
            self.0 = mix(self.0);
            self.0.to_be_bytes()
        });
        words.flatten().take(count).collect()
    }
}
