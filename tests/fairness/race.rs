//! The race, and how long each member waits in it.

use std::collections::HashMap;

use catbird_client::persona::{Persona, unique};
use catbird_client::xrpc::{Xrpc, base64_text};
use catbird_testkit::fleet::Fleet;
use futures_util::future::join_all;
use serde_json::json;

const RACERS: usize = 8;
/// Commits that are accepted in the race.
const ACCEPTED: u64 = 5 * RACERS as u64;
/// Longest wait at one replica, in commits of others. It is the number of racers if each is back within the time for which its place is kept
/// (100 ms), and as much again is for those that a busy machine makes late.
pub const IN_TURN: u64 = 2 * RACERS as u64;
/// Longest wait at several replicas, where a racer may be passed by those of another one: it wins at least once.
pub const SOME_TIME: u64 = ACCEPTED - 1;

/// Nobody waits for more than `most` commits of others, from the start of the race, from each of its own to the next, and to the end.
pub async fn everybody_gets_a_turn(fleet: &Fleet, most: u64) {
    let members = fleet.conversation(RACERS).await;
    let first = members[0].epoch().unwrap();
    let racing = members.iter().map(|member| tokio::spawn(race(Racer::of(member), first + ACCEPTED)));
    let raced: Vec<Vec<u64>> = join_all(racing).await.into_iter().map(Result::unwrap).collect();
    let wins: Vec<usize> = raced.iter().map(Vec::len).collect();
    let won: HashMap<u64, usize> =
        raced.iter().enumerate().flat_map(|(racer, epochs)| epochs.iter().map(move |epoch| (*epoch, racer))).collect();
    let order: Vec<usize> = (first + 1..=first + ACCEPTED).map(|epoch| won[&epoch]).collect();
    for racer in 0..RACERS {
        let turns: Vec<u64> = (0..=ACCEPTED).filter(|n| order.get(*n as usize).is_none_or(|it| *it == racer)).collect();
        let waits = std::iter::once(turns[0]).chain(turns.windows(2).map(|pair| pair[1] - pair[0] - 1));
        let longest = waits.max().unwrap();
        assert!(longest <= most, "racer {racer} waited for {longest} commits; wins of each: {wins:?}; all: {order:?}");
    }
}

/// A member that makes commits of no content. The server cannot see that: it reads the frame of a PrivateMessage and no more.
struct Racer {
    xrpc: Xrpc,
    convo: String,
    group_id: Vec<u8>,
    epoch: u64,
}

impl Racer {
    fn of(member: &Persona) -> Self {
        Self {
            xrpc: member.xrpc.with_own_connections(),
            convo: member.convo().unwrap().to_owned(),
            group_id: member.group_id.clone(),
            epoch: member.epoch().unwrap(),
        }
    }

    /// RFC 9420, section 6.3: a PrivateMessage with a commit.
    fn commit(&self) -> Vec<u8> {
        let unique = unique();
        let mut message = vec![0, 1, 0, 2];
        let mut opaque = |bytes: &[u8], rest: &[u8]| {
            message.push(u8::try_from(bytes.len()).ok().filter(|length| *length < 64).expect("a short vector"));
            message.extend(bytes);
            message.extend(rest);
        };
        let [epoch, commit] = [&self.epoch.to_be_bytes()[..], &[3]];
        opaque(&self.group_id, &[epoch, commit].concat());
        opaque(&[], &[]);
        opaque(&[7; 28], &[]);
        opaque(&unique.as_bytes()[..unique.len().min(63)], &[]);
        message
    }
}

/// Commits until an epoch has begun. Returns the epochs that the racer has begun.
async fn race(mut racer: Racer, end: u64) -> Vec<u64> {
    let mut won = Vec::new();
    while racer.epoch < end {
        let request = json!({ "convoId": racer.convo, "commit": base64_text(&racer.commit()) });
        let reply = racer.xrpc.procedure("submitCommit", &request).await.unwrap();
        racer.epoch = match (reply.status, reply.error()) {
            (200, _) => {
                won.push(reply.number("newEpoch").unwrap());
                reply.number("newEpoch").unwrap()
            }
            (409, Some("EpochMismatch")) => reply.number("serverEpoch").unwrap(),
            _ => panic!("{reply}"),
        };
    }
    won
}
