//! Five races that operators know by name.

use catbird_client::persona::Persona;
use catbird_client::xrpc::{base64_text, bytes_value};
use catbird_testkit::fleet::Fleet;
use futures_util::future::join_all;
use serde_json::{Value, json};

/// Ten members add another one at the same time; each rebases until it succeeds.
pub async fn concurrent_add_members(fleet: &Fleet) {
    let members = fleet.conversation(10).await;
    let before = members[0].epoch().unwrap();
    let mut landed: Vec<_> = join_all(members.into_iter().enumerate().map(|(n, mut member)| async move {
        let newcomer = fleet.persona(n).await;
        let landed = member.add(&[newcomer.did()]).await.unwrap();
        (landed.epoch, landed.seq)
    }))
    .await;
    landed.sort_unstable();
    let epochs: Vec<u64> = landed.iter().map(|(epoch, _)| *epoch).collect();
    assert_eq!(epochs, (before + 1..=before + 10).collect::<Vec<_>>(), "each commit made an epoch of its own");
    assert!(landed.windows(2).all(|pair| pair[0].1 + 1 == pair[1].1), "and the log has them in that order: {landed:?}");
}

/// One member sends while another reads; afterwards the counts are exact.
pub async fn concurrent_send_and_read(fleet: &Fleet) {
    let mut members = fleet.conversation(3).await;
    let mut idle = members.pop().unwrap();
    let mut reader = members.pop().unwrap();
    let mut sender = members.pop().unwrap();
    let sending = async {
        for n in 0..50 {
            sender.send(&format!("message {n}")).await.unwrap();
        }
    };
    let reading = async {
        let mut read = Vec::new();
        while read.len() < 50 {
            read.extend(reader.catch_up().await.unwrap());
        }
        read
    };
    let ((), read) = tokio::join!(sending, reading);
    assert_eq!(read, (0..50).map(|n| format!("message {n}")).collect::<Vec<_>>(), "each message once and in order");
    assert_eq!(unread(&idle).await, 50, "who has read nothing has everything unread");
    assert_eq!(idle.catch_up().await.unwrap().len(), 50);
    // Read positions are written after the reply.
    for persona in [&reader, &idle, &sender] {
        while unread(persona).await != 0 {
            tokio::task::yield_now().await;
        }
    }
}

async fn unread(persona: &Persona) -> u64 {
    let reply = persona.xrpc.query("getConvos", &[]).await.unwrap();
    reply.body["conversations"][0]["unreadCount"].as_u64().unwrap()
}

/// Twenty concurrent messages get twenty consecutive numbers.
pub async fn sequence_numbers(fleet: &Fleet) {
    let members = fleet.conversation(5).await;
    let last = members[0].last_seq;
    let requests = (0..20).map(|n| {
        let sender = &members[n % members.len()];
        let body = opaque_message(sender, n as u8);
        async move { sender.xrpc.procedure("sendMessage", &body).await.unwrap() }
    });
    let mut seqs: Vec<u64> = join_all(requests).await.iter().map(|reply| reply.number("seq").unwrap()).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (last + 1..=last + 20).collect::<Vec<_>>());
}

/// A commit for a past epoch is always refused, and so is one for a future epoch.
pub async fn out_of_order_commits(fleet: &Fleet) {
    let mut members = fleet.conversation(5).await;
    let first = members[0].epoch().unwrap();
    // Each member makes a commit for the same epoch, and sends it later.
    let mut kept = Vec::new();
    for member in &mut members {
        let newcomer = fleet.persona(0).await;
        let package = newcomer.mls.key_package().unwrap();
        let staged = member.mls.add(&member.group_id, &[package]).unwrap();
        kept.push(add_request(member, newcomer.did(), &staged.commit, &staged.welcome));
        member.mls.discard_pending(&member.group_id).unwrap();
    }
    for (n, member) in members.iter_mut().enumerate() {
        let newcomer = fleet.persona(n).await;
        let landed = member.add(&[newcomer.did()]).await.unwrap();
        assert_eq!(landed.epoch, first + 1 + n as u64);
    }
    let now = first + 5;
    for (member, request) in members.iter().zip(&kept) {
        let reply = member.xrpc.procedure("addMembers", request).await.unwrap();
        assert_eq!((reply.status, reply.error()), (409, Some("EpochMismatch")));
        assert_eq!((reply.body["reason"].as_str(), reply.number("serverEpoch").unwrap()), (Some("stale"), now));
        assert_eq!(reply.list("missing").unwrap().len(), 5);
    }
    // A member that merged its own commit without asking is ahead of the others.
    let ahead = &mut members[4];
    ahead.mls.self_update(&ahead.group_id).unwrap();
    ahead.mls.merge_pending(&ahead.group_id).unwrap();
    let newcomer = fleet.persona(0).await;
    let staged = ahead.mls.add(&ahead.group_id, &[newcomer.mls.key_package().unwrap()]).unwrap();
    let request = add_request(ahead, newcomer.did(), &staged.commit, &staged.welcome);
    let reply = ahead.xrpc.procedure("addMembers", &request).await.unwrap();
    assert_eq!((reply.status, reply.error()), (409, Some("EpochAhead")));
    assert_eq!(members[0].server_epoch().await.unwrap(), now, "nothing of this moved the epoch");
    let range = [("convoId", members[0].convo().unwrap().to_owned()), ("fromEpoch", "0".to_owned())];
    let commits = members[0].xrpc.query("getCommits", &range).await.unwrap();
    let epochs: Vec<u64> = commits.list("commits").unwrap().iter().map(|c| c["epoch"].as_u64().unwrap()).collect();
    assert_eq!(epochs, (1..=now).collect::<Vec<_>>(), "the log has one commit per epoch, in order");
}

/// Concurrent additions, messages and departures.
pub async fn mixed_operations(fleet: &Fleet) {
    let mut members = fleet.conversation(12).await;
    let seq = members[0].last_seq;
    let leavers = members.split_off(10);
    let senders = members.split_off(5);
    let adding = join_all(members.into_iter().enumerate().map(|(n, mut member)| async move {
        let newcomer = fleet.persona(n).await;
        member.add(&[newcomer.did()]).await.unwrap().seq
    }));
    let sending =
        join_all(senders.into_iter().map(|mut sender| async move { sender.send("hello").await.unwrap().seq }));
    let leaving = join_all(leavers.into_iter().map(|mut leaver| async move { leaver.leave().await.unwrap() }));
    let (added, sent, _) = tokio::join!(adding, sending, leaving);
    let mut seqs: Vec<u64> = added.into_iter().chain(sent).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (seq + 1..=seq + 10).collect::<Vec<_>>(), "ten entries, and leaving is none");
}

/// An opaque message.
fn opaque_message(sender: &Persona, byte: u8) -> Value {
    json!({
        "convoId": sender.convo().unwrap(),
        "ciphertext": bytes_value(&[byte; 64]),
        "epoch": sender.epoch().unwrap(),
        "senderDid": sender.did(),
    })
}

fn add_request(member: &Persona, newcomer: &str, commit: &[u8], welcome: &[u8]) -> Value {
    json!({
        "convoId": member.convo().unwrap(),
        "didList": [newcomer],
        "commit": base64_text(commit),
        "welcomeMessage": base64_text(welcome),
    })
}
