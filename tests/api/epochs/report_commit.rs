//! reportCommit: reports are counted exactly, members are told of a fork once for each epoch, and of a wedged conversation once.

use catbird_client::persona::{Persona, sha256_hex};
use catbird_client::xrpc::{Reply, bytes_value};
use catbird_testkit::app::TestApp;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::events::{Follower, follow, resume};
use crate::harness::*;

either_serializer! {
    members_that_applied_a_commit_report_it_and_nothing_happens;
    members_are_told_once_of_a_fork_by_another_commit;
    members_are_told_of_a_fork_by_another_authenticator;
    a_quorum_and_no_single_member_makes_a_conversation_wedged;
    members_that_are_in_the_group_again_or_have_left_do_not_count;
    members_that_are_only_named_do_not_count;
    an_epoch_must_be_recent_and_visible;
    reports_at_two_replicas_at_once_are_counted_exactly;
}

/// Returns the SHA-256 of the accepted commit that creates an epoch.
async fn accepted(member: &Persona, epoch: u64) -> String {
    let epoch = epoch.to_string();
    let range = [("convoId", member.convo().unwrap()), ("fromEpoch", &*epoch), ("toEpoch", &*epoch)];
    let page = ok(get(member, "getCommits", &range).await);
    sha256_hex(&page.bytes_in(&page.list("commits").unwrap()[0], "commitData").unwrap())
}

fn body(member: &Persona, epoch: u64, hash: &str, applied: bool) -> Value {
    json!({ "convoId": convo(member), "epoch": epoch, "commitHash": hash, "applied": applied })
}

async fn report(member: &Persona, epoch: u64, hash: &str, applied: bool) -> Reply {
    ok(ask(member, "reportCommit", &body(member, epoch, hash, applied)).await)
}

/// Returns the state of a conversation in a reply, and how many members cannot apply its commits.
fn state(reply: &Reply) -> (&str, u64) {
    (reply.body["state"].as_str().unwrap(), reply.number("cannotApply").unwrap())
}

/// Checks that the next event is a message, so no other has come.
async fn expect_message(stream: &mut Follower, sender: &mut Persona) {
    sender.send("and now this").await.unwrap();
    stream.expect("messageEvent").await;
}

async fn members_that_applied_a_commit_report_it_and_nothing_happens(app: &TestApp) {
    let mut members = app.conversation(3).await;
    let carol = app.published_persona().await;
    members[0].add(&[carol.did()]).await.unwrap();
    for member in &mut members[1..] {
        member.catch_up().await.unwrap();
    }
    let mut stream = follow(&members[1]).await;
    let hash = accepted(&members[0], 2).await;
    for member in &members {
        let own = json!({ "epochAuthenticator": bytes_value(&member.epoch_authenticator().unwrap()) });
        let asked = with(&body(member, 2, &hash, true), own);
        let reply = ok(ask(member, "reportCommit", &asked).await);
        assert_eq!((state(&reply), landed(&reply)), (("active", 0), (2, 2)), "{reply}");
        assert_eq!((reply.number("quorum").unwrap(), reply.number("generation").unwrap()), (2, 1), "{reply}");
        ok(ask(member, "reportCommit", &asked).await);
    }
    assert_eq!(contents(app).await.count("commit_reports"), 3);
    expect_message(&mut stream, &mut members[0]).await;
}

async fn members_are_told_once_of_a_fork_by_another_commit(app: &TestApp) {
    let mut members = app.conversation(3).await;
    let joined = members[2].epoch().unwrap();
    members[0].add(&[app.published_persona().await.did()]).await.unwrap();
    let (epoch, hash) = (joined + 1, accepted(&members[0], joined + 1).await);
    let (mut stream, cursor) = {
        let mut stream = follow(&members[2]).await;
        let cursor = stream.next_id().await;
        (stream, cursor)
    };
    report(&members[1], epoch, &hash, true).await;
    report(&members[2], epoch, &sha256_hex(b"another commit"), false).await;
    let told = stream.expect("forkSuspectedEvent").await;
    assert_eq!((&told["convoId"], &told["epoch"]), (&json!(convo(&members[0])), &json!(epoch)), "{told}");
    assert_eq!(told["generation"], 1, "{told}");
    report(&members[1], epoch, &sha256_hex(b"a third commit"), true).await;
    report(&members[2], epoch, &hash, true).await;
    report(&members[2], epoch, &sha256_hex(b"another commit"), true).await;
    expect_message(&mut stream, &mut members[0]).await;
    // A device that was away is told too, by the same name.
    let mut again = resume(&members[1], &cursor).await;
    let events = again.until(|event| event.name == "forkSuspectedEvent").await;
    assert_eq!(events.last().unwrap().data["epoch"], json!(epoch));
}

async fn members_are_told_of_a_fork_by_another_authenticator(app: &TestApp) {
    let mut members = app.conversation(3).await;
    members[0].add(&[app.published_persona().await.did()]).await.unwrap();
    let epoch = members[0].epoch().unwrap();
    let hash = accepted(&members[0], epoch).await;
    let mut stream = follow(&members[1]).await;
    for (member, authenticator) in [(0, [1; 32]), (1, [1; 32]), (2, [2; 32])] {
        let asked = with(
            &body(&members[member], epoch, &hash, true),
            json!({ "epochAuthenticator": bytes_value(&authenticator) }),
        );
        ok(ask(&members[member], "reportCommit", &asked).await);
        if member < 2 {
            assert_eq!(sql(app, "select from event_stream where event_type = 'fork'", &[]).await, 0);
        }
    }
    assert_eq!(stream.expect("forkSuspectedEvent").await["epoch"], json!(epoch));
}

async fn a_quorum_and_no_single_member_makes_a_conversation_wedged(app: &TestApp) {
    let mut members = app.conversation(5).await;
    members[0].add(&[app.published_persona().await.did()]).await.unwrap();
    let epoch = members[0].epoch().unwrap();
    let hash = accepted(&members[0], epoch).await;
    let mut stream = follow(&members[0]).await;
    for _ in 0..2 {
        assert_eq!(state(&report(&members[1], epoch, &hash, false).await), ("active", 1));
    }
    assert_eq!(only_convo(&members[0]).await["state"], "active");
    let reply = report(&members[2], epoch, &hash, false).await;
    assert_eq!((state(&reply), reply.number("quorum").unwrap()), (("wedged", 2), 2), "a third of six");
    assert_eq!(state(&report(&members[3], epoch, &hash, false).await), ("wedged", 3));
    let told = stream.expect("conversationWedgedEvent").await;
    assert_eq!((&told["state"], &told["epoch"]), (&json!("wedged"), &json!(epoch)), "{told}");
    assert_eq!(only_convo(&members[4]).await["state"], "wedged");
    // Nothing else is restricted.
    expect_message(&mut stream, &mut members[0]).await;

    // It ends when fewer than a quorum cannot apply it.
    assert_eq!(state(&report(&members[3], epoch, &hash, true).await), ("wedged", 2));
    assert_eq!(state(&report(&members[2], epoch, &hash, true).await), ("active", 1));
    assert_eq!(stream.expect("conversationWedgedEvent").await["state"], "active");
    assert_eq!(only_convo(&members[4]).await["state"], "active");
}

async fn members_that_are_in_the_group_again_or_have_left_do_not_count(app: &TestApp) {
    let mut members = app.conversation(4).await;
    let newcomer = async || app.published_persona().await;
    members[0].add(&[newcomer().await.did()]).await.unwrap();
    let epoch = members[0].epoch().unwrap();
    let hash = accepted(&members[0], epoch).await;
    // The first could not apply it, and has found a way back in: its own commit is accepted.
    assert_eq!(state(&report(&members[1], epoch, &hash, false).await), ("active", 1));
    members[1].catch_up().await.unwrap();
    members[1].add(&[newcomer().await.did()]).await.unwrap();
    assert_eq!(state(&report(&members[2], epoch, &hash, false).await), ("active", 1));
    // The second leaves.
    members.remove(2).leave().await.unwrap();
    assert_eq!(state(&report(&members[2], epoch, &hash, false).await), ("active", 1));
    // The report of the latest epoch counts.
    let next = accepted(&members[0], epoch + 1).await;
    assert_eq!(state(&report(&members[2], epoch + 1, &next, true).await), ("active", 0));
    assert_eq!(state(&report(&members[2], epoch, &hash, false).await), ("active", 0));
}

async fn members_that_are_only_named_do_not_count(app: &TestApp) {
    let mut members = app.conversation(3).await;
    // Nine people on the roster alone, who would make the quorum four.
    let named: Vec<Persona> = (0..9).map(|_| app.persona()).collect();
    let dids: Vec<&str> = named.iter().map(Persona::did).collect();
    ok(ask(&members[0], "addMembers", &json!({ "convoId": convo(&members[0]), "didList": dids })).await);
    members[0].add(&[app.published_persona().await.did()]).await.unwrap();
    let epoch = members[0].epoch().unwrap();
    let hash = accepted(&members[0], epoch).await;
    for one in &named[..2] {
        let reply = ok(ask(one, "reportCommit", &body(&members[0], epoch, &hash, false)).await);
        assert_eq!((state(&reply), reply.number("quorum").unwrap()), (("active", 0), 2), "{reply}");
    }
    assert_eq!(state(&report(&members[1], epoch, &hash, false).await), ("active", 1));
    assert_eq!(state(&report(&members[2], epoch, &hash, false).await), ("wedged", 2));
}

async fn an_epoch_must_be_recent_and_visible(app: &TestApp) {
    let members = app.conversation(2).await;
    let hash = sha256_hex(b"a commit");
    seed_entries(app, &members[0], "commit", 60, 10).await;
    let before = contents(app).await;
    let ahead = refused(ask(&members[0], "reportCommit", &body(&members[0], 62, &hash, true)).await, 409, "EpochAhead");
    assert_eq!((&ahead.body["serverEpoch"], &ahead.body["recovery"]), (&json!(61), &json!("rejoin")), "{ahead}");
    for (member, epoch) in [(0, 0), (1, 1), (0, 10)] {
        let asked = body(&members[member], epoch, &hash, true);
        refused(ask(&members[member], "reportCommit", &asked).await, 400, "InvalidRequest");
    }
    assert_eq!(contents(app).await, before);
    report(&members[0], 11, &hash, true).await;
    report(&members[1], 61, &hash, true).await;
}

async fn reports_at_two_replicas_at_once_are_counted_exactly(app: &TestApp) {
    let beside = Beside::start(app, app.app.serializer.registry().is_none()).await;
    let mut members = app.conversation(10).await;
    members[0].add(&[app.published_persona().await.did()]).await.unwrap();
    let epoch = members[0].epoch().unwrap();
    let hash = accepted(&members[0], epoch).await;
    let reports = members.iter().enumerate().map(async |(n, member)| {
        let asked = body(member, epoch, &hash, false);
        let xrpc = if n % 2 == 0 { member.xrpc.clone() } else { beside.xrpc(member) };
        ok(xrpc.procedure("reportCommit", &asked).await.unwrap())
    });
    let mut counted: Vec<u64> = join_all(reports).await.iter().map(|reply| state(reply).1).collect();
    counted.sort_unstable();
    assert_eq!(counted, (1..=10).collect::<Vec<_>>(), "each report saw those before it and no other");
    assert_eq!(sql(app, "select from event_stream where event_type = 'wedged'", &[]).await, 1, "told once");
    beside.stop().await;
}
