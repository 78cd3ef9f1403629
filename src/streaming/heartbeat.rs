//! Pings of a WebSocket, which find out whether its client is still there.

use std::time::{Duration, Instant};

/// Time between two pings of a client, in keepalives of its stream.
pub const PING_KEEPALIVES: u32 = 2;
/// Longest silence of a client after a ping, in keepalives. A large event may be on its way to it first.
pub const PONG_KEEPALIVES: u32 = 4;

/// State of the pings of one client. It is checked at the keepalives of the stream.
pub(super) struct Heartbeat {
    /// Time between two keepalives.
    keepalive: Duration,
    /// Time of the last ping, or of the connection.
    pinged: Instant,
    /// Time of the first ping that nothing has followed.
    unanswered: Option<Instant>,
}

/// Action that is due at a keepalive.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Beat {
    /// No ping is due.
    Quiet,
    /// The client is to be pinged.
    Ping,
    /// The client has not answered in time.
    Dead,
}

impl Heartbeat {
    pub(super) fn new(keepalive: Duration, now: Instant) -> Self {
        Self { keepalive, pinged: now, unanswered: None }
    }

    /// Notes that the client has sent something. Any frame counts as an answer.
    pub(super) fn received(&mut self) {
        self.unanswered = None;
    }

    /// Decides what is due at a keepalive. An `unscheduled` one asks for a ping at once, unless one is unanswered.
    pub(super) fn beat(&mut self, now: Instant, unscheduled: bool) -> Beat {
        if self.unanswered.is_some_and(|since| now.duration_since(since) >= self.keepalive * PONG_KEEPALIVES) {
            return Beat::Dead;
        }
        // Keepalives may be a little early or late.
        let due = now.duration_since(self.pinged) >= self.keepalive * PING_KEEPALIVES - self.keepalive / 2;
        let wanted = unscheduled && self.unanswered.is_none();
        if !due && !wanted {
            return Beat::Quiet;
        }
        self.pinged = now;
        self.unanswered.get_or_insert(now);
        Beat::Ping
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_pinged_at_every_other_keepalive_and_given_up_when_it_stays_silent() {
        let start = Instant::now();
        let mut heartbeat = Heartbeat::new(Duration::from_secs(15), start);
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        assert_eq!(heartbeat.beat(at(15), false), Beat::Quiet);
        assert_eq!(heartbeat.beat(at(30), false), Beat::Ping);
        heartbeat.received();
        assert_eq!(heartbeat.beat(at(45), false), Beat::Quiet);
        assert_eq!(heartbeat.beat(at(59), false), Beat::Ping, "a keepalive may be early");
        assert_eq!(heartbeat.beat(at(75), false), Beat::Quiet);
        assert_eq!(heartbeat.beat(at(90), false), Beat::Ping);
        assert_eq!(heartbeat.beat(at(118), false), Beat::Ping);
        assert_eq!(heartbeat.beat(at(119), false), Beat::Dead, "a minute after the first unanswered ping");
        heartbeat.received();
        assert_eq!(heartbeat.beat(at(120), false), Beat::Quiet);
        assert_eq!(heartbeat.beat(at(121), true), Beat::Ping, "an unscheduled keepalive asks for a ping");
        assert_eq!(heartbeat.beat(at(122), true), Beat::Quiet, "a ping is unanswered");
    }
}
