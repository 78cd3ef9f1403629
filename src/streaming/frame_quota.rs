//! Limit of the frames that the client of a WebSocket sends.

use std::time::{Duration, Instant};

/// Most frames of a client in [`FRAME_WINDOW`], pings and fragments included.
pub const MAX_FRAMES: u32 = 100;
/// Window in which frames are counted.
pub(super) const FRAME_WINDOW: Duration = Duration::from_secs(10);

/// Count of one client's frames.
pub(super) struct FrameQuota {
    since: Instant,
    frames: u32,
}

impl FrameQuota {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, frames: 0 }
    }

    /// Counts a frame. Returns false if it exceeds the quota.
    pub(super) fn admit(&mut self, now: Instant) -> bool {
        if now.duration_since(self.since) >= FRAME_WINDOW {
            *self = Self::new(now);
        }
        self.frames += 1;
        self.frames <= MAX_FRAMES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_begins_anew_with_each_window() {
        let start = Instant::now();
        let mut quota = FrameQuota::new(start);
        assert!((0..MAX_FRAMES).all(|_| quota.admit(start)));
        assert!(!quota.admit(start));
        assert!(quota.admit(start + FRAME_WINDOW));
    }
}
