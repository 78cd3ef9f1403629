//! One race: the commits of a conversation that are at this replica, and the members who have lost.
//!
//! A member has been trying since the arrival of its first commit, until one is accepted. It has one place, however many of its commits are
//! here. Of the commits that may be accepted, that of the member who has been trying for the longest goes next. It waits for members who
//! have been trying for longer and were told just now that they lost: they are expected back.
//!
//! A commit whose epoch is over is a loser and has to be told. One loser is told after each turn, the one that has been trying for the longest,
//! because only one commit can be accepted next and the others would try in vain. While no turn follows, twice as many are told each time.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::ids::Did;

/// Longest time for which a turn waits for members who were told that they lost, each for so long after that.
const PLACE_KEPT: Duration = Duration::from_millis(100);
/// Losses of a member, since its last accepted commit, after which no turn waits for it. It still goes before others if it is there.
const MAX_LOSSES: u32 = 32;
/// Interval at which losers are told while no turn follows.
const PACE: Duration = Duration::from_millis(10);
/// Epochs after which a loser is told in any case. The error for it holds the commits since its epoch, of which it has place for some.
const MAX_BEHIND: i64 = 16;
/// Most members whose places are remembered beside those with commits here.
const MAX_MEMBERS: usize = 512;

#[derive(Default)]
pub(super) struct Race {
    /// The latest epoch that a result has shown.
    epoch: Option<i64>,
    members: HashMap<Did, Member>,
    waiting: Vec<Waiter>,
    /// Tickets of the commits whose turn it is. There are several only if some have waited for too long.
    running: Vec<u64>,
    turn_ended: Option<Instant>,
    /// When losers were last told since the end of the last turn, and how many are told next.
    told: Option<Instant>,
    telling: usize,
    /// A task looks at it at intervals.
    pub has_clock: bool,
}

struct Waiter {
    ticket: u64,
    did: Did,
    made_in: Option<i64>,
    go: oneshot::Sender<()>,
}

struct Member {
    /// Its place, the ticket of its first commit: the lowest has been trying for the longest.
    since: u64,
    /// Its commits that are here.
    here: usize,
    lost_at: Option<Instant>,
    losses: u32,
    /// After its last loss it was back too late.
    slow: bool,
}

impl Member {
    fn new(since: u64) -> Self {
        Self { since, here: 0, lost_at: None, losses: 0, slow: false }
    }

    /// Returns whether turns of members who have been trying for a shorter time wait for it.
    fn is_expected(&self, now: Instant) -> bool {
        let is_late = self.slow || self.losses > MAX_LOSSES;
        !is_late && (self.here > 0 || self.lost_at.is_some_and(|at| now < at + PLACE_KEPT))
    }
}

/// The end of a commit here.
#[derive(Clone, Copy)]
pub(super) enum Outcome {
    /// It was accepted, now or by an earlier equal request, and made the epoch `next`.
    Won { next: Option<i64> },
    /// Another one was accepted, and the conversation is in the epoch `present`.
    Lost { present: Option<i64> },
    /// It was refused for another reason, or its request is gone.
    Other,
}

impl Race {
    /// Number of commits that wait for their turn.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_over(&self) -> bool {
        self.members.is_empty()
    }

    /// Adds a commit that has arrived.
    pub fn enter(&mut self, did: &Did, made_in: Option<i64>, ticket: u64, go: oneshot::Sender<()>, now: Instant) {
        let member = self.members.entry(did.clone()).or_insert_with(|| Member::new(ticket));
        if member.here == 0 {
            member.slow = member.lost_at.is_some_and(|at| now >= at + PLACE_KEPT);
        }
        member.here += 1;
        self.waiting.push(Waiter { ticket, did: did.clone(), made_in, go });
    }

    /// Removes a commit. If it was accepted, its member gets the place `last`. Returns whether the place of its member is to be remembered.
    pub fn leave(&mut self, did: &Did, ticket: u64, outcome: Outcome, (now, last): (Instant, u64)) -> bool {
        self.waiting.retain(|waiter| waiter.ticket != ticket);
        if self.running.contains(&ticket) {
            self.running.retain(|running| *running != ticket);
            (self.turn_ended, self.told, self.telling) = (Some(now), None, 1);
        }
        let has_room = self.members.len() <= MAX_MEMBERS;
        let Some(member) = self.members.get_mut(did) else { return false };
        member.here -= 1;
        match outcome {
            Outcome::Won { next } => {
                self.epoch = next;
                *member = Member { here: member.here, ..Member::new(last) };
            }
            Outcome::Lost { present } => {
                self.epoch = self.epoch.max(present);
                member.losses = member.losses.saturating_add(1);
                member.lost_at = Some(now).filter(|_| has_room);
            }
            Outcome::Other => {}
        }
        let is_remembered = member.lost_at == Some(now);
        self.remove_if_gone(did);
        is_remembered
    }

    /// Forgets the place of a member, unless it has lost again since.
    pub fn forget(&mut self, did: &Did, lost_at: Instant) {
        if let Some(member) = self.members.get_mut(did).filter(|member| member.lost_at == Some(lost_at)) {
            member.lost_at = None;
            self.remove_if_gone(did);
        }
    }

    fn remove_if_gone(&mut self, did: &Did) {
        if self.members.get(did).is_some_and(|member| member.here == 0 && member.lost_at.is_none()) {
            self.members.remove(did);
        }
    }

    /// Lets those commits go whose time has come.
    pub fn advance(&mut self, now: Instant) {
        self.tell_losers(now);
        if self.running.is_empty()
            && let Some((since, ticket)) = self.in_order(|waiter| self.behind(waiter) <= 0).first().copied()
        {
            let is_waiting = self.turn_ended.is_some_and(|ended| now < ended + PLACE_KEPT);
            if !is_waiting || !self.members.values().any(|member| member.since < since && member.is_expected(now)) {
                self.go(ticket);
            }
        }
    }

    fn tell_losers(&mut self, now: Instant) {
        for (_, ticket) in self.in_order(|waiter| self.behind(waiter) >= MAX_BEHIND) {
            self.go(ticket);
        }
        if !self.running.is_empty() || self.told.is_some_and(|told| now < told + PACE) {
            return;
        }
        let losers = self.in_order(|waiter| self.behind(waiter) > 0);
        if losers.is_empty() {
            return;
        }
        // Those for which no turn waits are not counted.
        let mut telling = self.telling.max(1);
        (self.told, self.telling) = (Some(now), (telling * 2).min(losers.len()));
        for (_, ticket) in losers {
            if telling == 0 {
                return;
            }
            telling -= usize::from(self.is_expected(ticket, now));
            self.go(ticket);
        }
    }

    /// Returns whether the member of a commit that waits is expected back.
    fn is_expected(&self, ticket: u64, now: Instant) -> bool {
        let waiter = self.waiting.iter().find(|waiter| waiter.ticket == ticket);
        waiter.and_then(|waiter| self.members.get(&waiter.did)).is_some_and(|member| member.is_expected(now))
    }

    /// Number of epochs that began after that of a commit, as far as it is known.
    fn behind(&self, waiter: &Waiter) -> i64 {
        self.epoch.zip(waiter.made_in).map_or(0, |(epoch, made_in)| epoch - made_in)
    }

    /// Returns some of the commits that wait, by the time since which their members have been trying.
    fn in_order(&self, which: impl Fn(&Waiter) -> bool) -> Vec<(u64, u64)> {
        let chosen = self.waiting.iter().filter(|waiter| which(waiter));
        let mut chosen: Vec<_> = chosen.map(|waiter| (self.members[&waiter.did].since, waiter.ticket)).collect();
        chosen.sort_unstable();
        chosen
    }

    /// Lets a commit go, if it waits.
    pub fn go(&mut self, ticket: u64) {
        let Some(place) = self.waiting.iter().position(|waiter| waiter.ticket == ticket) else { return };
        let waiter = self.waiting.swap_remove(place);
        if self.behind(&waiter) <= 0 {
            self.running.push(ticket);
        }
        // If its request is gone, it leaves.
        let _ = waiter.go.send(());
    }
}
