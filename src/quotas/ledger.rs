//! State of each account at this replica: usage of all replicas as of the last settlement, usage here since, and
//! reservations of running requests.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Account;

/// Maximum number of accounts in memory. Beyond it, settled accounts are dropped first; an account for which there is
/// no room is not limited.
pub(super) const MAX_ACCOUNTS: usize = 262_144;
/// Number of maps that the accounts are spread over, so that threads rarely contend.
const SHARDS: usize = 16;
/// Minimum time between two searches of a full map for room.
const SEARCH_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Ledger {
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Default)]
struct Shard {
    accounts: HashMap<Account, Entry>,
    searched: Option<Instant>,
}

struct Entry {
    /// Usage of all replicas in this window, as of the last settlement.
    known: u64,
    /// Usage here since then.
    unsettled: u64,
    /// Reservations of running requests.
    reserved: u64,
    /// End of the window; counted from the first use here until the table has returned the real end.
    ends: Instant,
}

impl Entry {
    fn new(account: Account, now: Instant) -> Self {
        Self { known: 0, unsettled: 0, reserved: 0, ends: now + account.0.window() }
    }

    /// Starts the next window if this one is over. Unsettled usage then counts for the next window.
    fn roll_window(&mut self, account: Account, now: Instant) {
        if now >= self.ends {
            (self.known, self.ends) = (0, now + account.0.window());
        }
    }

    /// Returns true if the table has all of it.
    fn is_settled(&self) -> bool {
        self.unsettled == 0 && self.reserved == 0
    }
}

impl Ledger {
    fn shard(&self, account: Account) -> MutexGuard<'_, Shard> {
        // No code panics while it holds this lock, and a map of numbers has no broken state.
        let place = usize::from(account.1.bytes()[0]) % SHARDS;
        self.shards[place].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves an amount, or returns the time to the end of the window in which it would exceed `most`.
    pub(super) fn reserve(&self, account: Account, amount: u64, most: u64, now: Instant) -> Result<(), Duration> {
        let mut shard = self.shard(account);
        let Some(entry) = shard.entry(account, now) else { return Ok(()) };
        let used = entry.known.saturating_add(entry.unsettled).saturating_add(entry.reserved);
        if used.saturating_add(amount) > most {
            return Err(entry.ends - now);
        }
        entry.reserved += amount;
        Ok(())
    }

    /// Ends a reservation that was used or not.
    pub(super) fn finish(&self, account: Account, amount: u64, used: bool, now: Instant) {
        let mut shard = self.shard(account);
        let Some(entry) = shard.entry(account, now) else { return };
        entry.reserved = entry.reserved.saturating_sub(amount);
        if used {
            entry.unsettled = entry.unsettled.saturating_add(amount);
        }
    }

    /// Returns the usage that is not settled.
    pub(super) fn unsettled(&self) -> Vec<(Account, u64)> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let used = shard.accounts.iter().filter(|(_, entry)| entry.unsettled > 0);
            all.extend(used.map(|(account, entry)| (*account, entry.unsettled)));
        }
        all
    }

    /// Returns the usage of an account that is not in the table: here since the last settlement, and reserved.
    pub(super) fn unsettled_of(&self, account: Account) -> u64 {
        self.shard(account).accounts.get(&account).map_or(0, |entry| entry.unsettled + entry.reserved)
    }

    /// Records a settlement: `sent` was added to the table, and all replicas have used `used` in a window with this
    /// end.
    pub(super) fn settled(&self, account: Account, sent: u64, used: u64, ends: Instant) {
        if let Some(entry) = self.shard(account).accounts.get_mut(&account) {
            entry.unsettled = entry.unsettled.saturating_sub(sent);
            (entry.known, entry.ends) = (used, ends);
        }
    }
}

impl Shard {
    /// Returns the account in its present window; `None` if there is no room for it.
    fn entry(&mut self, account: Account, now: Instant) -> Option<&mut Entry> {
        if !self.accounts.contains_key(&account) && !self.has_room(now) {
            return None;
        }
        let entry = self.accounts.entry(account).or_insert_with(|| Entry::new(account, now));
        entry.roll_window(account, now);
        Some(entry)
    }

    /// Checks whether another account fits, after dropping those whose window is over and, if need be, all settled
    /// ones.
    fn has_room(&mut self, now: Instant) -> bool {
        const MAX_PER_SHARD: usize = MAX_ACCOUNTS / SHARDS;
        if self.accounts.len() < MAX_PER_SHARD {
            return true;
        }
        if self.searched.is_none_or(|at| now >= at + SEARCH_INTERVAL) {
            self.searched = Some(now);
            self.accounts.retain(|_, entry| !entry.is_settled() || now < entry.ends);
            if self.accounts.len() > MAX_PER_SHARD / 2 {
                self.accounts.retain(|_, entry| !entry.is_settled());
            }
        }
        self.accounts.len() < MAX_PER_SHARD
    }
}

#[cfg(test)]
mod tests {
    use super::super::Quota;
    use super::*;
    use crate::limits::Key;

    const SECOND: Duration = Duration::from_secs(1);

    fn account(name: &str) -> Account {
        (Quota::Invitations, Key::of(name))
    }

    #[test]
    fn reservations_count_and_unused_ones_are_given_back() {
        let (ledger, alice, now) = (Ledger::default(), account("alice"), Instant::now());
        assert_eq!(ledger.reserve(alice, 6, 10, now), Ok(()));
        assert_eq!(ledger.reserve(alice, 5, 10, now + SECOND), Err(Duration::from_secs(3_599)));
        assert_eq!(ledger.reserve(account("bob"), 10, 10, now), Ok(()), "each caller has its own account");
        ledger.finish(alice, 6, false, now);
        assert_eq!(ledger.reserve(alice, 10, 10, now), Ok(()));
        ledger.finish(alice, 10, true, now);
        assert_eq!(ledger.reserve(alice, 1, 10, now), Err(Duration::from_secs(3_600)));
        assert_eq!(ledger.unsettled(), [(alice, 10)]);
    }

    #[test]
    fn usage_of_other_replicas_counts_with_their_window() {
        let (ledger, alice, now) = (Ledger::default(), account("alice"), Instant::now());
        ledger.finish(alice, 2, true, now);
        // One more is used while it is settled.
        ledger.finish(alice, 1, true, now);
        ledger.settled(alice, 2, 8, now + 60 * SECOND);
        assert_eq!(ledger.unsettled(), [(alice, 1)]);
        assert_eq!(ledger.reserve(alice, 1, 10, now), Ok(()));
        assert_eq!(ledger.reserve(alice, 1, 10, now), Err(60 * SECOND));
    }

    #[test]
    fn a_window_that_is_over_leaves_only_unsettled_usage() {
        let (ledger, alice, now) = (Ledger::default(), account("alice"), Instant::now());
        ledger.finish(alice, 9, true, now);
        ledger.settled(alice, 9, 10, now + 60 * SECOND);
        ledger.finish(alice, 1, true, now);
        assert_eq!(ledger.reserve(alice, 1, 10, now + 59 * SECOND), Err(SECOND));
        assert_eq!(ledger.reserve(alice, 9, 10, now + 60 * SECOND), Ok(()));
        assert_eq!(ledger.reserve(alice, 1, 10, now + 60 * SECOND), Err(3_600 * SECOND));
    }

    #[test]
    fn memory_is_bounded_and_unsettled_usage_is_dropped_last() {
        let (ledger, now) = (Ledger::default(), Instant::now());
        let kept = || -> usize { ledger.shards.iter().map(|shard| shard.lock().unwrap().accounts.len()).sum() };
        let alice = account("alice");
        ledger.finish(alice, 10, true, now);
        for n in 0..2 * MAX_ACCOUNTS {
            ledger.finish(account(&n.to_string()), 0, true, now + SECOND * (n as u32 / 100_000));
        }
        assert!(kept() <= MAX_ACCOUNTS, "{}", kept());
        assert!(ledger.reserve(alice, 1, 10, now).is_err());
    }
}
