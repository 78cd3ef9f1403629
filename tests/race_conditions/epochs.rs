//! All members commit in the same epoch, repeatedly.

use std::sync::Arc;

use catbird_client::mls::MlsClient;
use catbird_client::persona::Persona;
use catbird_client::random_did;
use catbird_client::xrpc::{Reply, base64_text};
use catbird_testkit::fleet::Fleet;
use futures_util::future::join_all;
use serde_json::json;

const RACERS: usize = 64;
/// Epochs of each race. Four fleets race, so a defect that shows in one epoch of ten is found with a probability of 98 %. `ops/test --races`
/// sets another number.
const EPOCHS: u64 = 10;

/// A member, and the candidate that it tries to add.
struct Racer {
    persona: Persona,
    candidate: MlsClient,
}

/// In each epoch 64 members commit at once: exactly one commit is accepted, and the other 63 catch up from
/// their refusal alone. In the end all clients share one history.
pub async fn sixty_four_for_one(fleet: &Fleet) {
    let members = fleet.conversation(RACERS).await;
    let mut racers: Vec<_> =
        members.into_iter().map(|persona| Racer { persona, candidate: MlsClient::new(random_did()) }).collect();
    for _ in 0..crate::epochs(EPOCHS) {
        let epoch = racers[0].persona.epoch().unwrap();
        let (back, replies): (Vec<_>, Vec<_>) = join_all(racers.into_iter().map(commit)).await.into_iter().unzip();
        racers = back;
        let winners: Vec<_> = replies.iter().filter(|reply| reply.status == 200).collect();
        assert_eq!(winners.len(), 1, "one winner for epoch {epoch}");
        assert_eq!(winners[0].number("newEpoch").unwrap(), epoch + 1);
        let following = racers
            .into_iter()
            .zip(replies)
            .map(|(racer, reply)| tokio::task::spawn_blocking(move || follow(racer, &reply, epoch)));
        racers = join_all(following).await.into_iter().map(Result::unwrap).collect();
    }
    let secrets: Vec<_> = racers.iter().map(|racer| racer.persona.epoch_authenticator().unwrap()).collect();
    assert!(secrets.iter().all(|secret| *secret == secrets[0]), "all clients share one history");
    assert_eq!(racers[0].persona.server_epoch().await.unwrap(), racers[0].persona.epoch().unwrap());
}

/// Makes a commit that adds the candidate, and sends it.
async fn commit(mut racer: Racer) -> (Racer, Reply) {
    let (racer, staged) = tokio::task::spawn_blocking(move || {
        let package = racer.candidate.key_package().unwrap();
        let staged = racer.persona.mls.add(&racer.persona.group_id, &[package]).unwrap();
        (racer, Arc::new(staged))
    })
    .await
    .unwrap();
    let request = json!({
        "convoId": racer.persona.convo().unwrap(),
        "didList": [racer.candidate.did()],
        "commit": base64_text(&staged.commit),
        "welcomeMessage": base64_text(&staged.welcome),
    });
    let reply = racer.persona.xrpc.procedure("addMembers", &request).await.unwrap();
    (racer, reply)
}

/// Advances to the next epoch: the winner with its own commit, a loser with the refusal's commits.
fn follow(mut racer: Racer, reply: &Reply, epoch: u64) -> Racer {
    let Racer { persona, candidate } = &mut racer;
    if reply.status == 200 {
        persona.mls.merge_pending(&persona.group_id).unwrap();
        *candidate = MlsClient::new(random_did());
        return racer;
    }
    assert_eq!((reply.status, reply.error()), (409, Some("EpochMismatch")), "{}", reply.body);
    assert_eq!((reply.body["reason"].as_str(), reply.number("serverEpoch").unwrap()), (Some("stale"), epoch + 1));
    assert_eq!(reply.body["recovery"], "catchUpThenRebase");
    persona.mls.discard_pending(&persona.group_id).unwrap();
    for commit in reply.list("missing").unwrap() {
        persona.mls.process(&persona.group_id, &reply.bytes_in(commit, "commitData").unwrap()).unwrap();
    }
    assert_eq!(persona.epoch().unwrap(), epoch + 1, "the refusal was enough to follow");
    racer
}
