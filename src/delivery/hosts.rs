//! State of mailbox hosts, as this replica has seen them, and the number of concurrent attempts for each.
//!
//! A host that has accepted nothing here yet gets few attempts, so invented names cannot hold all of them. A host that
//! fails repeatedly pauses, and then gets one attempt at a time, each after a longer pause, until one succeeds.
//! Envelopes wait meanwhile and lose no attempt.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Maximum number of concurrent attempts at one host, so that a slow one cannot take them all.
pub(super) const MAX_PER_HOST: usize = 8;
/// The same limit for a host that has accepted nothing yet.
pub(super) const MAX_AT_NEW_HOST: usize = 2;
/// Consecutive failures after which a host pauses.
const MAX_FAILURES: u32 = 8;
/// Maximum number of hosts in memory.
const MAX_HOSTS: usize = 10_000;

/// Result of an attempt for its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HostResult {
    /// The host answered correctly.
    Succeeded,
    /// The host failed. It may have asked for a wait.
    Failed(Option<Duration>),
    /// The host was not called.
    NotCalled,
}

/// Known hosts by name.
#[derive(Default)]
pub(super) struct Hosts(HashMap<String, Host>);

#[derive(Default)]
struct Host {
    running: usize,
    /// True once the host has accepted something.
    proved: bool,
    /// Consecutive failures.
    failures: u32,
    rests_until: Option<Instant>,
}

impl Host {
    fn room(&self, now: Instant) -> usize {
        let most = match self {
            Host { rests_until: Some(end), .. } if *end > now => 0,
            Host { failures: MAX_FAILURES.., .. } => 1,
            Host { proved: true, .. } => MAX_PER_HOST,
            _ => MAX_AT_NEW_HOST,
        };
        most.saturating_sub(self.running)
    }

    /// Returns true if there is nothing to store.
    fn is_new(&self) -> bool {
        self.running == 0 && !self.proved && self.failures == 0
    }
}

impl Hosts {
    /// Records the start of an attempt.
    pub fn begun(&mut self, host: &str) {
        if self.0.len() >= MAX_HOSTS && !self.0.contains_key(host) {
            // Hosts in good standing are dropped, which costs them little.
            self.0.retain(|_, host| host.running > 0 || host.failures > 0);
        }
        self.0.entry(host.to_owned()).or_default().running += 1;
    }

    /// Records the end of an attempt. `rest` returns the pause after the n-th failure beyond the limit.
    pub fn ended(&mut self, name: &str, verdict: HostResult, now: Instant, rest: impl FnOnce(i32) -> Duration) {
        let Some(host) = self.0.get_mut(name) else { return };
        host.running = host.running.saturating_sub(1);
        match verdict {
            HostResult::Succeeded => {
                *host = Host { running: host.running, proved: true, failures: 0, rests_until: None }
            }
            HostResult::Failed(asked) => {
                host.failures = host.failures.saturating_add(1);
                let too_many = host.failures.saturating_sub(MAX_FAILURES - 1);
                let rest = if too_many > 0 { rest(too_many.try_into().unwrap_or(i32::MAX)) } else { Duration::ZERO };
                let rest = rest.max(asked.unwrap_or_default());
                host.rests_until = host.rests_until.max((!rest.is_zero()).then(|| now + rest));
            }
            HostResult::NotCalled => {}
        }
        if host.is_new() || self.0.len() > MAX_HOSTS {
            self.0.remove(name);
        }
    }

    /// Returns how many more attempts each host may have; unknown hosts may have [`MAX_AT_NEW_HOST`].
    pub fn room(&self, now: Instant) -> impl Iterator<Item = (String, usize)> {
        self.0.iter().map(move |(name, host)| (name.clone(), host.room(now)))
    }

    /// Returns the pausing hosts and the rest of their pause.
    pub fn resting(&self, now: Instant) -> Vec<(&str, Duration)> {
        let rest = |host: &Host| host.rests_until?.checked_duration_since(now).filter(|rest| !rest.is_zero());
        self.0.iter().filter_map(|(name, host)| Some((name.as_str(), rest(host)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: Duration = Duration::from_secs(10);

    fn room(hosts: &Hosts, now: Instant) -> Option<usize> {
        hosts.room(now).find(|(name, _)| name == "h").map(|(_, room)| room)
    }

    fn attempt(hosts: &mut Hosts, verdict: HostResult, now: Instant) {
        hosts.begun("h");
        hosts.ended("h", verdict, now, |n| REST * n.cast_unsigned());
    }

    #[test]
    fn a_host_has_few_attempts_until_it_takes_something() {
        let (mut hosts, now) = (Hosts::default(), Instant::now());
        hosts.begun("h");
        assert_eq!(room(&hosts, now), Some(MAX_AT_NEW_HOST - 1));
        hosts.ended("h", HostResult::NotCalled, now, |_| REST);
        assert_eq!(room(&hosts, now), None, "nothing to remember");
        attempt(&mut hosts, HostResult::Succeeded, now);
        assert_eq!(room(&hosts, now), Some(MAX_PER_HOST));
    }

    #[test]
    fn a_host_that_fails_rests_and_is_then_asked_by_one_attempt_at_a_time() {
        let (mut hosts, now) = (Hosts::default(), Instant::now());
        attempt(&mut hosts, HostResult::Succeeded, now);
        for _ in 1..MAX_FAILURES {
            attempt(&mut hosts, HostResult::Failed(None), now);
            assert_eq!(room(&hosts, now), Some(MAX_PER_HOST));
        }
        attempt(&mut hosts, HostResult::Failed(None), now);
        assert_eq!((room(&hosts, now), hosts.resting(now)), (Some(0), vec![("h", REST)]));
        let later = now + REST;
        assert_eq!((room(&hosts, later), hosts.resting(later)), (Some(1), vec![]));
        hosts.begun("h");
        assert_eq!(room(&hosts, later), Some(0));
        hosts.ended("h", HostResult::Failed(None), later, |n| REST * n.cast_unsigned());
        assert_eq!(room(&hosts, later + REST), Some(0), "twice as long");
        assert_eq!(room(&hosts, later + 2 * REST), Some(1));
        attempt(&mut hosts, HostResult::Succeeded, later + 2 * REST);
        assert_eq!(room(&hosts, later + 2 * REST), Some(MAX_PER_HOST));
    }

    #[test]
    fn a_host_that_asks_for_a_rest_has_it() {
        let (mut hosts, now) = (Hosts::default(), Instant::now());
        attempt(&mut hosts, HostResult::Failed(Some(REST)), now);
        assert_eq!(room(&hosts, now), Some(0));
        assert_eq!(room(&hosts, now + REST), Some(MAX_AT_NEW_HOST));
    }

    #[test]
    fn endless_host_names_take_bounded_memory() {
        let (mut hosts, now) = (Hosts::default(), Instant::now());
        for n in 0..2 * MAX_HOSTS {
            let name = n.to_string();
            hosts.begun(&name);
            hosts.ended(&name, HostResult::Failed(None), now, |_| REST);
        }
        assert!(hosts.0.len() <= MAX_HOSTS);
    }
}
