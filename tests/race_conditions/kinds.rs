//! All members commit in the same epoch, each another kind of commit, while others talk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use catbird_client::mls::MlsClient;
use catbird_client::persona::{Persona, unique};
use catbird_client::random_did;
use catbird_client::xrpc::{Reply, base64_text};
use catbird_testkit::fleet::Fleet;
use futures_util::future::join_all;
use serde_json::{Value, json};

const RACERS: usize = 64;
const TALKERS: usize = 4;
/// Pause of a talker after each message.
const PAUSE: Duration = Duration::from_millis(20);
/// Epochs of a usual race. `ops/test --races` sets another number.
const EPOCHS: u64 = 6;

/// Kinds of commits, of which the racers take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// addMembers of a new person.
    Add,
    /// submitCommit without changes of the roster.
    Rotate,
    /// removeMember, or leaveConvo, of a person who has left.
    Clean,
    /// submitCommit that removes a person who has left and adds a new one.
    Replace,
}

const KINDS: [Kind; 4] = [Kind::Add, Kind::Rotate, Kind::Clean, Kind::Replace];

struct Racer {
    persona: Persona,
    kind: Kind,
    /// Person that it may add.
    candidate: MlsClient,
}

/// In each epoch 64 members commit at once, by all methods: exactly one commit is accepted, and the other members follow from their
/// refusals alone. Others send messages meanwhile. In the end all clients share one history.
pub async fn sixty_four_of_all_kinds(fleet: &Fleet) {
    let mut members = fleet.conversation(RACERS + TALKERS).await;
    let talkers = members.split_off(RACERS);
    let mut racers: Vec<_> = members
        .into_iter()
        .map(|persona| Racer { persona, kind: Kind::Add, candidate: MlsClient::new(random_did()) })
        .collect();
    let over = Arc::new(AtomicBool::new(false));
    let talking: Vec<_> = talkers.into_iter().map(|talker| tokio::spawn(talk(talker, over.clone()))).collect();
    let (mut gone, mut won) = (Vec::new(), Vec::new());
    for round in 0..crate::epochs(EPOCHS) {
        let epoch = racers[0].persona.epoch().unwrap();
        for (n, racer) in racers.iter_mut().enumerate() {
            racer.kind = match KINDS[(n + round as usize) % KINDS.len()] {
                Kind::Clean | Kind::Replace if gone.is_empty() => Kind::Rotate,
                kind => kind,
            };
        }
        let target: Option<String> = gone.first().cloned();
        let making = racers.into_iter().map(|racer| {
            let target = target.clone();
            tokio::task::spawn_blocking(move || make(racer, target.as_deref()))
        });
        let mut made: Vec<_> = join_all(making).await.into_iter().map(Result::unwrap).collect();
        // The first ones are the likeliest to win, so each kind has its turn to begin.
        let begins = round as usize % KINDS.len();
        made.sort_by_key(|(racer, ..)| (racer.kind as usize + KINDS.len() - begins) % KINDS.len());
        let replies = join_all(
            made.iter().map(async |(racer, method, body)| racer.persona.xrpc.procedure(method, body).await.unwrap()),
        )
        .await;
        racers = made.into_iter().map(|(racer, ..)| racer).collect();
        let winners: Vec<usize> = (0..RACERS).filter(|n| replies[*n].status == 200).collect();
        assert_eq!(winners.len(), 1, "one winner for epoch {epoch}");
        let winner = &racers[winners[0]];
        assert_eq!(replies[winners[0]].number("epoch").unwrap(), epoch + 1);
        won.push(winner.kind);
        if matches!(winner.kind, Kind::Clean | Kind::Replace) {
            gone.remove(0);
        }
        if matches!(winner.kind, Kind::Add | Kind::Replace) {
            // The newcomer leaves again, so that others can clean up after it.
            let newcomer = winner.persona.xrpc.signed_in_as(winner.candidate.did());
            let left = newcomer.procedure("leaveConvo", &json!({ "convoId": winner.persona.convo().unwrap() })).await;
            assert_eq!(left.unwrap().status, 200);
            gone.push(winner.candidate.did().to_owned());
        }
        let following = racers
            .into_iter()
            .zip(replies)
            .map(|(racer, reply)| tokio::task::spawn_blocking(move || follow(racer, &reply, epoch)));
        racers = join_all(following).await.into_iter().map(Result::unwrap).collect();
    }
    over.store(true, Ordering::SeqCst);
    let mut secrets = Vec::new();
    for talker in join_all(talking).await {
        secrets.push(talker.unwrap().epoch_authenticator().unwrap());
    }
    secrets.extend(racers.iter().map(|racer| racer.persona.epoch_authenticator().unwrap()));
    assert!(secrets.iter().all(|secret| *secret == secrets[0]), "all clients share one history");
    assert_eq!(racers[0].persona.server_epoch().await.unwrap(), racers[0].persona.epoch().unwrap());
    println!("winners: {won:?}");
}

/// Sends messages until the race is over, and reads the log to its end then.
async fn talk(mut talker: Persona, over: Arc<AtomicBool>) -> Persona {
    while !over.load(Ordering::SeqCst) {
        talker.send("hello").await.unwrap();
        tokio::time::sleep(PAUSE).await;
    }
    talker.catch_up().await.unwrap();
    talker
}

/// Makes a commit of the racer's kind.
fn make(mut racer: Racer, target: Option<&str>) -> (Racer, &'static str, Value) {
    let Racer { persona, kind, candidate } = &mut racer;
    let group = persona.group_id.clone();
    let package = candidate.key_package().unwrap();
    let mut body = json!({ "convoId": persona.convo().unwrap(), "idempotencyKey": unique() });
    let (staged, method) = match (*kind, target) {
        (Kind::Add, _) => {
            body["didList"] = json!([candidate.did()]);
            (persona.mls.add(&group, &[package]), "addMembers")
        }
        (Kind::Clean, Some(target)) => {
            body["targetDid"] = json!(target);
            (
                persona.mls.remove(&group, &[target]),
                if package.last() > Some(&127) { "removeMember" } else { "leaveConvo" },
            )
        }
        (Kind::Replace, Some(target)) => {
            body["addedDids"] = json!([candidate.did()]);
            body["removedDids"] = json!([target]);
            (persona.mls.change(&group, &[package], &[target]), "submitCommit")
        }
        _ => (persona.mls.self_update(&group), "submitCommit"),
    };
    let staged = staged.unwrap();
    body["commit"] = json!(base64_text(&staged.commit));
    if !staged.welcome.is_empty() {
        body["welcomeMessage"] = json!(base64_text(&staged.welcome));
    }
    (racer, method, body)
}

/// Advances to the next epoch: the winner with its own commit, a loser with the refusal's commits.
fn follow(mut racer: Racer, reply: &Reply, epoch: u64) -> Racer {
    let Racer { persona, candidate, .. } = &mut racer;
    if reply.status == 200 {
        persona.mls.merge_pending(&persona.group_id).unwrap();
        *candidate = MlsClient::new(random_did());
        return racer;
    }
    assert_eq!((reply.status, reply.error()), (409, Some("EpochMismatch")), "{}", reply.body);
    assert_eq!(reply.number("serverEpoch").unwrap(), epoch + 1);
    persona.mls.discard_pending(&persona.group_id).unwrap();
    for commit in reply.list("missing").unwrap() {
        persona.mls.process(&persona.group_id, &reply.bytes_in(commit, "commitData").unwrap()).unwrap();
    }
    assert_eq!(persona.epoch().unwrap(), epoch + 1, "the refusal was enough to follow");
    racer
}
