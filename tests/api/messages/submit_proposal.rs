//! submitProposal, and leaveConvo with a proposal: a proposal is of the current epoch, lies in the log before the commit that
//! refers to it, and is known by its bytes.

use catbird_client::mls::Handshake;
use catbird_client::persona::Persona;
use catbird_client::random_did;
use catbird_client::xrpc::base64_text;
use catbird_testkit::app::TestApp;
use futures_util::future::join_all;
use serde_json::json;

use crate::harness::*;

/// Maximum number of one member's proposals in one epoch.
const MAX_PROPOSALS: usize = 32;

either_serializer! {
    p3_a_proposal_is_in_the_log_before_the_commit_that_refers_to_it;
    p1_every_accepted_proposal_is_of_the_epoch_that_the_next_commit_ends;
    p4_the_same_bytes_of_the_same_member_are_one_proposal;
    p9_a_loser_gets_the_proposals_that_the_winner_refers_to;
    p9_a_proposal_of_another_epoch_gets_the_missing_commits with ("MESSAGE_EPOCH_WINDOW", "2");
    a_member_has_at_most_32_proposals_in_an_epoch;
    p2_a_departure_and_its_proposal_happen_together_or_not_at_all;
    p4_a_departure_with_a_proposal_is_known_by_its_key_and_by_itself;
}
any_serializer! {
    a_proposal_counts_nowhere_as_unread;
    a_public_proposal_from_outside_the_group_is_refused;
    a_public_proposal_that_is_no_departure_does_not_leave;
    a_proposal_to_leave_excludes_a_commit_and_another_target;
}

/// Creates a conversation of `n` members whose handshake messages are framed like this.
async fn group(app: &TestApp, n: usize, handshake: Handshake) -> Vec<Persona> {
    let mut admin = app.persona();
    admin.handshake = handshake;
    admin.create(random_did().as_bytes(), "test").await.unwrap();
    let mut members = vec![admin];
    for _ in 1..n {
        let mut joiner = app.published_persona().await;
        joiner.handshake = handshake;
        members[0].add(&[joiner.did()]).await.unwrap();
        joiner.join(&convo(&members[0])).await.unwrap();
        members.push(joiner);
    }
    for member in &mut members {
        member.catch_up().await.unwrap();
    }
    members
}

async fn p3_a_proposal_is_in_the_log_before_the_commit_that_refers_to_it(app: &TestApp) {
    for handshake in [Handshake::Private, Handshake::Public] {
        let mut members = group(app, 3, handshake).await;
        let dave = app.published_persona().await;
        let package = claim(&members[1], dave.did()).await.unwrap();
        let Persona { mls, group_id, .. } = &mut members[1];
        let proposal = mls.propose_add(group_id, &package).unwrap();
        let sent = ok(ask(&members[1], "submitProposal", &proposal_body(&members[1], &proposal)).await);
        for member in &mut members {
            member.catch_up().await.unwrap();
        }
        // A member commits the proposal of another by reference.
        let Persona { mls, group_id, .. } = &mut members[0];
        let staged = mls.self_update(group_id).unwrap();
        assert!(!staged.welcome.is_empty());
        let commit = json!({
            "convoId": convo(&members[0]), "didList": [dave.did()], "commit": base64_text(&staged.commit),
            "welcomeMessage": base64_text(&staged.welcome),
        });
        let (epoch, seq) = landed(&ok(ask(&members[0], "addMembers", &commit).await));
        assert_eq!(landed(&sent), (epoch - 1, seq - 1));
        merge(&mut members[0]);
        let mut dave = dave;
        dave.handshake = handshake;
        dave.join(&convo(&members[0])).await.unwrap();
        members.push(dave);
        for member in &mut members {
            member.catch_up().await.unwrap();
        }
        let authenticators: Vec<_> = members.iter().map(|member| member.epoch_authenticator().unwrap()).collect();
        assert!(authenticators.iter().all(|one| *one == authenticators[0]));
        let log = ok(get(&members[2], "getMessages", &[("convoId", &convo(&members[2])), ("peek", "true")]).await);
        let entry = log.list("messages").unwrap().iter().find(|one| one["messageType"] == "proposal").unwrap();
        assert_eq!(
            (&entry["id"], &entry["seq"], &entry["epoch"], &entry["sender"], &entry["ciphertext"]),
            (
                &sent.body["messageId"],
                &sent.body["seq"],
                &sent.body["epoch"],
                &json!(members[1].did()),
                &catbird_client::xrpc::bytes_value(&proposal)
            )
        );
    }
}

async fn p1_every_accepted_proposal_is_of_the_epoch_that_the_next_commit_ends(app: &TestApp) {
    let mut members = app.conversation(4).await;
    let mut admin = members.remove(0);
    let mut bodies = Vec::new();
    for member in &mut members {
        for _ in 0..6 {
            let proposal = propose_leave(member);
            bodies.push((member.did().to_owned(), proposal_body(member, &proposal)));
        }
    }
    let newcomer = app.published_persona().await;
    let proposing = join_all(bodies.iter().map(async |(did, body)| {
        let sender = members.iter().find(|member| member.did() == did).unwrap();
        ask(sender, "submitProposal", body).await
    }));
    let (replies, added) = tokio::join!(proposing, async { admin.add(&[newcomer.did()]).await.unwrap() });
    for reply in replies {
        match reply.is_ok() {
            // `check` proves that it lies before the commit, when the test ends.
            true => assert_eq!(landed(&reply).0, added.epoch - 1),
            false => _ = refused(reply, 409, "EpochMismatch"),
        }
    }
}

async fn p4_the_same_bytes_of_the_same_member_are_one_proposal(app: &TestApp) {
    let mut members = app.conversation(3).await;
    let proposal = propose_leave(&mut members[1]);
    let body = proposal_body(&members[1], &proposal);
    let replies = join_all((0..20).map(|_| ask(&members[1], "submitProposal", &body))).await;
    let first = ok(replies[0].clone());
    for reply in replies {
        assert_eq!(ok(reply).body, first.body);
    }
    // Also after its epoch is over.
    let newcomer = app.published_persona().await;
    members[0].catch_up().await.unwrap();
    discard_proposals(&mut members[0]);
    members[0].add(&[newcomer.did()]).await.unwrap();
    let before = contents(app).await;
    assert_eq!(ok(ask(&members[1], "submitProposal", &body).await).body, first.body);
    assert_eq!(contents(app).await, before);
    // Another member that sends the bytes is another sender, in another epoch.
    refused(ask(&members[2], "submitProposal", &body).await, 409, "EpochMismatch");
}

/// Makes the member forget the proposals that it has received, so that its commits do not refer to them.
fn discard_proposals(member: &mut Persona) {
    // Making a proposal of its own to leave clears all of them.
    propose_leave(member);
}

async fn p9_a_loser_gets_the_proposals_that_the_winner_refers_to(app: &TestApp) {
    let mut members = app.conversation(4).await;
    for member in &mut members {
        member.catch_up().await.unwrap();
    }
    let leaver = members.remove(3);
    let mut leaver = leaver;
    let proposal = propose_leave(&mut leaver);
    ok(ask(&leaver, "leaveConvo", &proposal_body(&leaver, &proposal)).await);
    let mut winner = members.remove(0);
    winner.catch_up().await.unwrap();
    let Persona { mls, group_id, .. } = &mut winner;
    let staged = mls.self_update(group_id).unwrap();
    let commit = json!({ "convoId": convo(&winner), "targetDid": leaver.did(), "commit": base64_text(&staged.commit) });
    ok(ask(&winner, "leaveConvo", &commit).await);
    merge(&mut winner);
    // The loser has read nothing: it rebases on the reply alone, and reads the log afterwards.
    let mut loser = members.remove(0);
    let newcomer = app.published_persona().await;
    let landed = loser.add(&[newcomer.did()]).await.unwrap();
    assert_eq!(landed.conflicts, 1);
    loser.catch_up().await.unwrap();
    assert!(!loser.mls.members(&loser.group_id).unwrap().contains(&leaver.did().to_owned()));
    let commits = ok(get(&loser, "getCommits", &[("convoId", &convo(&loser)), ("fromEpoch", "1")]).await);
    let commits = commits.list("commits").unwrap();
    let [.., by_reference, addition] = commits else { panic!("{commits:?}") };
    assert_eq!(by_reference["proposals"].as_array().unwrap().len(), 1);
    assert_eq!(by_reference["proposals"][0]["proposal"], catbird_client::xrpc::bytes_value(&proposal));
    assert!(addition.get("proposals").is_none(), "{addition}");
}

async fn p9_a_proposal_of_another_epoch_gets_the_missing_commits(app: &TestApp) {
    let mut members = app.conversation(3).await;
    let proposal = propose_leave(&mut members[1]);
    let body = proposal_body(&members[1], &proposal);
    let newcomer = app.published_persona().await;
    members[0].add(&[newcomer.did()]).await.unwrap();
    let before = contents(app).await;
    let reply = refused(ask(&members[1], "submitProposal", &body).await, 409, "EpochMismatch");
    assert_eq!((reply.list("missing").unwrap().len(), reply.number("serverEpoch").unwrap()), (1, 2), "{reply}");
    let reply = ok(ask(&members[1], "submitProposal", &with(&body, json!({ "conflict": "result" }))).await);
    assert_eq!(reply.body["$type"], "blue.catbird.mls.submitProposal#stale", "{reply}");
    // The leaver of a past epoch stays.
    let leaving = ask(&members[1], "leaveConvo", &body).await;
    refused(leaving, 409, "EpochMismatch");
    assert_eq!(contents(app).await, before);
}

async fn a_member_has_at_most_32_proposals_in_an_epoch(app: &TestApp) {
    let mut members = app.conversation(3).await;
    for _ in 0..MAX_PROPOSALS {
        let proposal = propose_leave(&mut members[1]);
        ok(ask(&members[1], "submitProposal", &proposal_body(&members[1], &proposal)).await);
    }
    let before = contents(app).await;
    let more = propose_leave(&mut members[1]);
    let more = proposal_body(&members[1], &more);
    refused(ask(&members[1], "submitProposal", &more).await, 409, "TooManyProposals");
    refused(ask(&members[1], "leaveConvo", &more).await, 409, "TooManyProposals");
    assert_eq!(contents(app).await, before);
    // Another member, and the next epoch, have room of their own.
    let proposal = propose_leave(&mut members[2]);
    ok(ask(&members[2], "submitProposal", &proposal_body(&members[2], &proposal)).await);
    let newcomer = app.published_persona().await;
    members[0].add(&[newcomer.did()]).await.unwrap();
    members[1].catch_up().await.unwrap();
    let next = propose_leave(&mut members[1]);
    ok(ask(&members[1], "submitProposal", &proposal_body(&members[1], &next)).await);
}

async fn p2_a_departure_and_its_proposal_happen_together_or_not_at_all(app: &TestApp) {
    let mut members = app.conversation(3).await;
    let proposal = propose_leave(&mut members[1]);
    let reply = ok(ask(&members[1], "leaveConvo", &proposal_body(&members[1], &proposal)).await);
    assert_eq!(reply.body["newEpoch"], reply.body["epoch"]);
    let seq = landed(&reply).1;
    // The next committer takes the leaf out by reference.
    members[0].catch_up().await.unwrap();
    assert_eq!(members[0].last_seq, seq);
    let Persona { mls, group_id, .. } = &mut members[0];
    let staged = mls.self_update(group_id).unwrap();
    let commit = json!({
        "convoId": convo(&members[0]), "targetDid": members[1].did(), "commit": base64_text(&staged.commit),
    });
    ok(ask(&members[0], "leaveConvo", &commit).await);
    merge(&mut members[0]);
    members[2].catch_up().await.unwrap();
    assert_eq!(members[2].mls.members(&members[2].group_id).unwrap(), [members[0].did(), members[2].did()]);
    assert_eq!(members[2].epoch_authenticator().unwrap(), members[0].epoch_authenticator().unwrap());

    // The last member cannot leave, with or without a proposal.
    let mut alone = app.conversation(1).await.remove(0);
    let before = contents(app).await;
    let proposal = alone.mls.propose_leave(&alone.group_id.clone()).unwrap();
    refused(ask(&alone, "leaveConvo", &proposal_body(&alone, &proposal)).await, 409, "LastMember");
    assert_eq!(contents(app).await, before);
}

async fn p4_a_departure_with_a_proposal_is_known_by_its_key_and_by_itself(app: &TestApp) {
    let mut members = app.conversation(4).await;
    let proposal = propose_leave(&mut members[1]);
    let body = proposal_body(&members[1], &proposal);
    // A proposal that was submitted before is not entered twice.
    let sent = ok(ask(&members[1], "submitProposal", &body).await);
    let keyed = with(&body, json!({ "idempotencyKey": "k" }));
    let replies = join_all((0..10).map(|_| ask(&members[1], "leaveConvo", &keyed))).await;
    for reply in &replies {
        assert_eq!(landed(&ok(reply.clone())), landed(&sent));
    }
    let before = contents(app).await;
    for again in [&keyed, &body] {
        assert_eq!(landed(&ok(ask(&members[1], "leaveConvo", again).await)), landed(&sent));
    }
    let another = propose_leave(&mut members[1]);
    refused(ask(&members[1], "submitProposal", &proposal_body(&members[1], &another)).await, 403, "NotMember");
    assert_eq!(contents(app).await, before);
}

async fn a_proposal_counts_nowhere_as_unread(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let proposal = propose_leave(&mut members[1]);
    let before = only_convo(&members[0]).await;
    ok(ask(&members[1], "submitProposal", &proposal_body(&members[1], &proposal)).await);
    let after = only_convo(&members[0]).await;
    assert_eq!((&after["unreadCount"], &after["lastMessageAt"]), (&before["unreadCount"], &before["lastMessageAt"]));
}

async fn a_public_proposal_from_outside_the_group_is_refused(app: &TestApp) {
    let mut members = group(app, 2, Handshake::Public).await;
    let proposal = propose_leave(&mut members[1]);
    let before = contents(app).await;
    // Version, wire format, group id and epoch precede the sender.
    let at = 4 + 1 + members[1].group_id.len() + 8;
    assert_eq!(proposal[at], 1, "a member");
    let leaf = at + 1..at + 5;
    for (sender, why) in [
        (vec![2, 0, 0, 0, 0], "not in the group"),
        (vec![3], "not in the group"),
        (vec![4], "not in the group"),
        (vec![1, 0xff, 0xff, 0xff, 0xff], "not a leaf"),
    ] {
        let mut forged = [&proposal[..at], &sender, &proposal[leaf.end..]].concat();
        if sender[0] != 1 {
            // Only a member's message has a membership tag: its length and 32 bytes.
            forged.truncate(forged.len() - 33);
        }
        let reply = ask(&members[1], "submitProposal", &proposal_body(&members[1], &forged)).await;
        assert!(refused(reply, 400, "InvalidProposal").body["message"].as_str().unwrap().contains(why));
    }
    assert_eq!(contents(app).await, before);
}

async fn a_public_proposal_that_is_no_departure_does_not_leave(app: &TestApp) {
    let mut members = group(app, 2, Handshake::Public).await;
    let package = app.persona().mls.key_package().unwrap();
    let Persona { mls, group_id, .. } = &mut members[1];
    let proposal = mls.propose_add(group_id, &package).unwrap();
    let before = contents(app).await;
    refused(ask(&members[1], "leaveConvo", &proposal_body(&members[1], &proposal)).await, 400, "InvalidProposal");
    assert_eq!(contents(app).await, before);
    ok(ask(&members[1], "submitProposal", &proposal_body(&members[1], &proposal)).await);
}

async fn a_proposal_to_leave_excludes_a_commit_and_another_target(app: &TestApp) {
    let mut members = app.conversation(3).await;
    let proposal = propose_leave(&mut members[0]);
    let body = proposal_body(&members[0], &proposal);
    let target = members[1].did().to_owned();
    let Persona { mls, group_id, .. } = &mut members[0];
    let commit = base64_text(&mls.remove(group_id, &[&target]).unwrap().commit);
    let before = contents(app).await;
    for more in [json!({ "commit": commit }), json!({ "targetDid": target })] {
        refused(ask(&members[0], "leaveConvo", &with(&body, more)).await, 400, "InvalidRequest");
    }
    assert_eq!(contents(app).await, before);
}
