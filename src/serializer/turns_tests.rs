//! Turns of commits: who goes next, who waits for whom and for how long, and what is remembered.

use std::pin::Pin;

use futures_util::FutureExt;
use tokio::task::unconstrained;

use super::*;

/// Longest time for which a turn waits for losers ([`race`]).
const KEPT: Duration = Duration::from_millis(100);

type Arrival = Pin<Box<dyn Future<Output = Result<Turn, Error>>>>;

struct Setting {
    turns: Turns,
    convo: ConvoId,
}

impl Setting {
    fn new() -> Self {
        Self { turns: Turns::new(), convo: "c".parse().unwrap() }
    }

    /// A member's commit that was made in that epoch.
    fn commit(&self, who: &str, made_in: impl Into<Option<i64>>) -> Arrival {
        let (turns, convo, did) = (self.turns.clone(), self.convo.clone(), did(who));
        let made_in = made_in.into();
        let mut arrival: Arrival = Box::pin(async move { turns.wait(&convo, &did, made_in).await });
        // It arrives when it is first polled.
        match unconstrained(&mut arrival).now_or_never() {
            Some(turn) => Box::pin(std::future::ready(turn)),
            None => arrival,
        }
    }

    /// A member's commit that goes at once.
    fn goes(&self, who: &str, made_in: impl Into<Option<i64>>) -> Turn {
        gone(&mut self.commit(who, made_in)).expect("it goes at once")
    }
}

fn did(who: &str) -> Did {
    format!("did:plc:{who}").parse().unwrap()
}

/// Returns the turn of a commit that may go now.
fn gone(arrival: &mut Arrival) -> Option<Turn> {
    unconstrained(arrival).now_or_never().map(Result::unwrap)
}

fn wins(turn: Turn, made_in: i64) {
    turn.end(Some(made_in), &Ok(()));
}

fn loses(turn: Turn, present: i64) {
    let mut error = Code::EpochMismatch.because("lost");
    error.details.server_epoch = Some(present);
    turn.end::<()>(None, &Err(error));
}

#[tokio::test(start_paused = true)]
async fn the_member_goes_next_who_has_been_trying_for_the_longest() {
    let s = Setting::new();
    let alice = s.goes("alice", 7);
    let [mut bob, mut carol] = ["bob", "carol"].map(|who| s.commit(who, 7));
    assert!(gone(&mut bob).is_none() && gone(&mut carol).is_none(), "one goes at a time");
    wins(alice, 7);
    let mut alice = s.commit("alice", 8);
    let bob = gone(&mut bob).expect("he is told");
    assert!(gone(&mut carol).is_none(), "one is told at a time");
    loses(bob, 8);
    let mut dave = s.commit("dave", 8);
    assert!(gone(&mut alice).is_none() && gone(&mut dave).is_none(), "they wait for bob");
    let bob = s.goes("bob", 8);
    wins(bob, 8);
    loses(gone(&mut carol).expect("she is told next"), 9);
    let mut bob = s.commit("bob", 9);
    wins(s.goes("carol", 9), 9);
    loses(gone(&mut alice).expect("and then alice"), 10);
    wins(s.goes("alice", 10), 10);
    loses(gone(&mut dave).expect("dave had not lost before"), 11);
    wins(s.goes("dave", 11), 11);
    assert!(gone(&mut bob).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_turn_waits_for_a_loser_that_does_not_come_back_once_and_not_for_long() {
    let s = Setting::new();
    let alice = s.goes("alice", 7);
    let bob = s.commit("bob", 7);
    wins(alice, 7);
    loses(bob.await.unwrap(), 8);
    let start = Instant::now();
    wins(s.commit("alice", 8).await.unwrap(), 8);
    assert!((KEPT..KEPT + 2 * TICK).contains(&start.elapsed()), "{:?}", start.elapsed());
    wins(s.goes("alice", 9), 9);
    loses(s.goes("bob", 8), 10);
    wins(s.goes("alice", 10), 10);
    let alice = s.goes("alice", 11);
    let (mut bob, mut carol) = (s.commit("bob", 11), s.commit("carol", 11));
    drop(alice);
    assert!(gone(&mut carol).is_none() && gone(&mut bob).is_some(), "he still goes before those that came later");
}

#[tokio::test(start_paused = true)]
async fn a_member_has_one_place_however_many_of_its_commits_are_here() {
    let s = Setting::new();
    let first = s.goes("mallory", 7);
    let mut others = [8, 9, 10].map(|epoch| s.commit("mallory", epoch));
    let mut bob = s.commit("bob", 7);
    wins(first, 7);
    loses(gone(&mut bob).unwrap(), 8);
    assert!(others.iter_mut().all(|other| gone(other).is_none()));
    wins(s.goes("bob", 8), 8);
}

#[tokio::test(start_paused = true)]
async fn whoever_goes_on_losing_is_not_waited_for() {
    let s = Setting::new();
    wins(s.goes("alice", 7), 7);
    loses(s.goes("mallory", 0), 8);
    let (start, mut losses) = (Instant::now(), 1);
    for epoch in 8..100 {
        let mut alice = s.commit("alice", epoch);
        let turn = loop {
            match gone(&mut alice) {
                Some(turn) => break turn,
                None => loses(s.commit("mallory", 0).await.unwrap(), epoch),
            }
            losses += 1;
        };
        wins(turn, epoch);
    }
    assert_eq!(losses, 33);
    assert!(start.elapsed() < 33 * KEPT, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn all_losers_are_told_soon_if_no_turn_follows() {
    let s = Setting::new();
    let alice = s.goes("alice", 7);
    let mut losers: Vec<_> = (0..63).map(|n| s.commit(&format!("a{n}"), 7)).collect();
    wins(alice, 7);
    let mut told = Vec::new();
    while !losers.is_empty() {
        let before = losers.len();
        losers.retain_mut(|loser| gone(loser).map(|turn| loses(turn, 8)).is_none());
        told.push(before - losers.len());
        tokio::time::sleep(2 * TICK + Duration::from_millis(1)).await;
    }
    assert!(told.starts_with(&[1, 2]) && told.len() < 10, "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_loser_is_told_before_it_lacks_many_commits() {
    let s = Setting::new();
    let first = s.goes("first", 0);
    let names: Vec<_> = (0..20).map(|n| format!("a{n}")).collect();
    let mut losers: Vec<_> = names.iter().map(|name| s.commit(name, 0)).collect();
    wins(first, 0);
    for epoch in 1..16 {
        loses(gone(&mut losers.remove(0)).unwrap(), epoch);
        assert!(losers.iter_mut().all(|loser| gone(loser).is_none()), "epoch {epoch}");
        wins(s.goes(&names[epoch as usize - 1], epoch), epoch);
    }
    assert!(losers.iter_mut().all(|loser| gone(loser).is_some()));
}

#[tokio::test(start_paused = true)]
async fn no_commit_waits_for_its_turn_for_long() {
    let s = Setting::new();
    let _alice = s.goes("alice", 7);
    let start = Instant::now();
    let bob = s.commit("bob", 7).await.unwrap();
    assert!((MAX_WAIT..MAX_WAIT + TICK).contains(&start.elapsed()), "{:?}", start.elapsed());
    let mut carol = s.commit("carol", 7);
    drop(bob);
    assert!(gone(&mut carol).is_none(), "alice's commit is still there");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_goes_away_leaves_its_place() {
    let s = Setting::new();
    let alice = s.goes("alice", 7);
    let (bob, mut carol) = (s.commit("bob", 7), s.commit("carol", 7));
    drop(bob);
    drop(alice);
    drop(gone(&mut carol).expect("it is her turn"));
    assert!(s.turns.state().races.is_empty());
    let alice = s.goes("alice", 7);
    let bob = s.commit("bob", 7);
    wins(alice, 7);
    drop(bob);
    wins(s.goes("carol", 8), 8);
    assert!(s.turns.state().races.is_empty());
}

#[tokio::test(start_paused = true)]
async fn after_a_reset_the_epochs_begin_again() {
    let s = Setting::new();
    let reset = s.goes("alice", 90);
    let (next, mut bob) = (s.commit("alice", None), s.commit("bob", 0));
    wins(reset, 90);
    loses(gone(&mut bob).expect("he is told"), 91);
    let mut bob = s.commit("bob", 0);
    next.await.unwrap().end(None, &Ok(()));
    assert!(gone(&mut bob).is_some());
}

#[tokio::test(start_paused = true)]
async fn what_waits_and_what_is_remembered_is_bounded() {
    let s = Setting::new();
    let first = s.goes("a", 7);
    let mut losers: Vec<_> = (0..MAX_WAITING).map(|n| s.commit(&format!("b{n}"), 7)).collect();
    let refused = s.commit("c", 7).await.err().expect("there is no room");
    assert_eq!(refused.code, Code::Overloaded);
    wins(first, 7);
    tokio::time::sleep(MAX_WAIT).await;
    losers.iter_mut().for_each(|loser| loses(gone(loser).unwrap(), 8));
    for n in 0..600 {
        loses(s.commit(&format!("d{n}"), 7).await.unwrap(), 8);
    }
    assert_eq!(s.turns.state().places.len(), 512, "the limit of one race");
    for n in 0..MAX_PLACES {
        let other = Setting { convo: format!("c{n}").parse().unwrap(), turns: s.turns.clone() };
        loses(other.goes("a", 7), 8);
    }
    assert_eq!(s.turns.state().places.len(), MAX_PLACES);
    assert_eq!(s.turns.state().races.len(), MAX_PLACES);
    tokio::time::advance(REMEMBERED_FOR + TICK).await;
    drop(s.goes("a", 7));
    let state = s.turns.state();
    assert!(state.races.is_empty() && state.places.is_empty());
}
