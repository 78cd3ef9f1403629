//! leaveConvo: leaving, being removed, and the commit that removes a leaf of a member that left. A conversation always
//! has a member, and always one that may remove others.

use catbird_client::persona::Persona;
use catbird_client::random_did;
use catbird_client::xrpc::base64_text;
use catbird_testkit::app::TestApp;
use serde_json::json;

use crate::harness::*;

either_serializer! {
    leaving_keeps_the_epoch_and_says_where_it_happened;
    leaving_again_gives_the_same_answer_as_the_first_time;
    a_removal_is_a_commit_and_ends_the_membership;
    only_the_admin_removes_others;
    when_the_creator_leaves_the_longest_standing_member_may_remove;
    a_creator_that_rejoins_may_remove_again;
    the_last_member_cannot_leave;
    two_concurrent_departures_do_not_both_succeed;
    any_member_commits_the_removal_of_a_former_member;
    p10_one_member_cannot_advance_the_epoch_without_end with ("COMMITS_PER_MINUTE", "3");
    a_removal_without_a_commit_changes_the_roster_only;
    p9_a_stale_removal_gets_the_missing_commits_and_removes_no_member;
    p2_a_refused_removal_takes_its_swap_back;
    p7_a_welcome_that_waited_is_gone_with_the_membership;
    a_removed_member_hears_that_it_is_one_no_more;
}
any_serializer! {
    every_spelling_of_base64_and_of_fields_is_accepted;
    a_did_that_was_never_a_member_cannot_be_removed;
}

/// Builds a request to remove `target`, with its commit.
fn removal(remover: &mut Persona, target: &str) -> serde_json::Value {
    let staged = remover.mls.remove(&remover.group_id, &[target]).unwrap();
    json!({ "convoId": convo(remover), "targetDid": target, "commit": base64_text(&staged.commit) })
}

async fn leave(member: &Persona) -> catbird_client::xrpc::Reply {
    ask(member, "leaveConvo", &json!({ "convoId": convo(member) })).await
}

async fn leaving_keeps_the_epoch_and_says_where_it_happened(app: &TestApp) {
    let mut members = app.conversation(3).await;
    members[0].send("one").await.unwrap();
    let reply = ok(leave(&members[1]).await);
    assert_eq!(reply.body, json!({ "success": true, "newEpoch": 1, "epoch": 1, "seq": 2 }));
    assert_eq!(roster(&members[0]).await, [members[0].did(), members[2].did()]);
    assert_eq!(members[0].server_epoch().await.unwrap(), 1);
    members[0].send("two").await.unwrap();
    for method in ["getMessages", "getEpoch"] {
        refused(get(&members[1], method, &[("convoId", &convo(&members[1]))]).await, 403, "NotMember");
    }
    let convos = ok(get(&members[1], "getConvos", &[]).await);
    assert_eq!(convos.list("conversations").unwrap().len(), 0);
}

async fn leaving_again_gives_the_same_answer_as_the_first_time(app: &TestApp) {
    let mut members = app.conversation(3).await;
    let first = ok(leave(&members[1]).await);
    members[0].send("the log goes on").await.unwrap();
    let before = contents(app).await;
    assert_eq!(ok(leave(&members[1]).await).body, first.body);
    let named = json!({ "convoId": convo(&members[1]), "targetDid": members[1].did() });
    assert_eq!(ok(ask(&members[1], "leaveConvo", &named).await).body, first.body);
    assert_eq!(contents(app).await, before);
}

async fn a_removal_is_a_commit_and_ends_the_membership(app: &TestApp) {
    let mut members = app.conversation(3).await;
    let target = members[2].did().to_owned();
    let asked = removal(&mut members[0], &target);
    let reply = ok(ask(&members[0], "leaveConvo", &asked).await);
    assert_eq!(reply.body, json!({ "success": true, "generation": 1, "newEpoch": 2, "epoch": 2, "seq": 2 }));
    assert_eq!(roster(&members[0]).await, [members[0].did(), members[1].did()]);
    members[1].catch_up().await.unwrap();
    assert_eq!(members[1].mls.members(&members[1].group_id).unwrap().len(), 2);
}

async fn only_the_admin_removes_others(app: &TestApp) {
    let mut members = app.conversation(3).await;
    let (creator, third) = (members[0].did().to_owned(), members[2].did().to_owned());
    let before = contents(app).await;
    for target in [&creator, &third] {
        let asked = removal(&mut members[1], target);
        refused(ask(&members[1], "leaveConvo", &asked).await, 403, "NotAuthorized");
        discard(&mut members[1]);
        let roster_only = with(&asked, json!({ "commit": null }));
        refused(ask(&members[1], "leaveConvo", &roster_only).await, 403, "NotAuthorized");
    }
    assert_eq!(contents(app).await, before);
}

async fn when_the_creator_leaves_the_longest_standing_member_may_remove(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let mut late = app.published_persona().await;
    members[0].add(&[late.did()]).await.unwrap();
    late.join(&convo(&members[0])).await.unwrap();
    members[1].catch_up().await.unwrap();
    ok(leave(&members[0]).await);
    let seen = only_convo(&late).await;
    let admins: Vec<_> = seen["members"].as_array().unwrap().iter().filter(|one| one["isAdmin"] == true).collect();
    assert_eq!((admins.len(), &admins[0]["did"]), (1, &json!(members[1].did())), "{seen}");
    let asked = removal(&mut late, members[1].did());
    refused(ask(&late, "leaveConvo", &asked).await, 403, "NotAuthorized");
    let asked = removal(&mut members[1], late.did());
    ok(ask(&members[1], "leaveConvo", &asked).await);
    assert_eq!(roster(&members[1]).await, [members[1].did()]);
}

async fn a_creator_that_rejoins_may_remove_again(app: &TestApp) {
    let members = app.conversation(3).await;
    ok(leave(&members[0]).await);
    let back = json!({ "convoId": convo(&members[1]), "didList": [members[0].did()] });
    ok(ask(&members[1], "addMembers", &back).await);
    let asked = json!({ "convoId": convo(&members[0]), "targetDid": members[1].did() });
    ok(ask(&members[0], "leaveConvo", &asked).await);
}

async fn the_last_member_cannot_leave(app: &TestApp) {
    let members = app.conversation(2).await;
    ok(leave(&members[1]).await);
    let before = contents(app).await;
    refused(leave(&members[0]).await, 409, "LastMember");
    assert_eq!(contents(app).await, before);
    ok(ask(&members[0], "sendMessage", &message(&members[0], b"still here")).await);
}

async fn two_concurrent_departures_do_not_both_succeed(app: &TestApp) {
    for _ in 0..5 {
        let members = app.conversation(2).await;
        let (one, other) = tokio::join!(leave(&members[0]), leave(&members[1]));
        let mut statuses = [one.status, other.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 409], "{one} {other}");
    }
}

/// The server cannot see which leaf an encrypted commit removes, so it asks for no right where the roster stays.
async fn any_member_commits_the_removal_of_a_former_member(app: &TestApp) {
    let mut members = app.conversation(4).await;
    let gone = members[2].did().to_owned();
    ok(leave(&members[2]).await);
    let asked = removal(&mut members[1], &gone);
    let reply = ok(ask(&members[1], "leaveConvo", &asked).await);
    assert_eq!(landed(&reply), (2, 2));
    merge(&mut members[1]);
    members[3].catch_up().await.unwrap();
    assert!(!members[3].mls.members(&members[3].group_id).unwrap().contains(&gone));
    let bare = json!({ "convoId": convo(&members[0]), "targetDid": gone });
    refused(ask(&members[0], "leaveConvo", &bare).await, 409, "TargetNotMember");
}

async fn p10_one_member_cannot_advance_the_epoch_without_end(app: &TestApp) {
    // That takes the creator one commit.
    let mut members = app.conversation(3).await;
    let gone = members[2].did().to_owned();
    ok(leave(&members[2]).await);
    let asked = removal(&mut members[0], &gone);
    ok(ask(&members[0], "leaveConvo", &asked).await);
    merge(&mut members[0]);
    let third = offer(&mut members[0], &[&app.persona()]);
    ok(ask(&members[0], "addMembers", &third.body).await);
    merge(&mut members[0]);
    let before = contents(app).await;
    let fourth = offer(&mut members[0], &[&app.persona()]);
    let cleaning = json!({ "convoId": convo(&members[0]), "targetDid": gone, "commit": fourth.body["commit"] });
    let general = json!({ "convoId": convo(&members[0]), "commit": fourth.body["commit"] });
    for (method, body) in [
        ("addMembers", &fourth.body),
        ("leaveConvo", &cleaning),
        ("removeMember", &cleaning),
        ("submitCommit", &general),
    ] {
        let reply = refused(ask(&members[0], method, body).await, 429, "RateLimitExceeded");
        let wait = reply.number("retryAfterMs").unwrap();
        assert!((1_000..=20_000).contains(&wait), "{reply}");
        refused(ask(&app.persona(), method, body).await, 404, "ConvoNotFound");
    }
    assert_eq!(contents(app).await, before);
    discard(&mut members[0]);
    members[1].catch_up().await.unwrap();
    ok(ask(&members[0], "sendMessage", &message(&members[0], b"not a commit")).await);
    let others = offer(&mut members[1], &[&app.persona()]);
    ok(ask(&members[1], "addMembers", &others.body).await);
}

async fn a_removal_without_a_commit_changes_the_roster_only(app: &TestApp) {
    let members = app.conversation(3).await;
    let asked = json!({ "convoId": convo(&members[0]), "targetDid": members[2].did() });
    assert_eq!(landed(&ok(ask(&members[0], "leaveConvo", &asked).await)), (1, 1));
    assert_eq!(roster(&members[0]).await.len(), 2);
    refused(ask(&members[0], "leaveConvo", &asked).await, 409, "TargetNotMember");
}

async fn p9_a_stale_removal_gets_the_missing_commits_and_removes_no_member(app: &TestApp) {
    let mut members = app.conversation(3).await;
    let target = members[2].did().to_owned();
    let asked = removal(&mut members[0], &target);
    let winner = offer(&mut members[1], &[&app.persona()]);
    ok(ask(&members[1], "addMembers", &winner.body).await);
    let before = contents(app).await;
    let reply = refused(ask(&members[0], "leaveConvo", &asked).await, 409, "EpochMismatch");
    assert_eq!((&reply.body["serverEpoch"], &reply.body["reason"]), (&json!(2), &json!("stale")));
    let missing = reply.list("missing").unwrap();
    assert_eq!(reply.bytes_in(&missing[0], "commitData").unwrap(), winner.staged.commit);
    assert_eq!((missing.len(), &reply.body["moreMissing"]), (1, &json!(false)));
    assert_eq!(contents(app).await, before);
    assert!(roster(&members[0]).await.contains(&target));
}

async fn p2_a_refused_removal_takes_its_swap_back(app: &TestApp) {
    let mut members = app.conversation(3).await;
    let target = members[2].did().to_owned();
    let asked = removal(&mut members[1], &target);
    let before = contents(app).await;
    refused(ask(&members[1], "leaveConvo", &asked).await, 403, "NotAuthorized");
    let never = with(&asked, json!({ "targetDid": random_did() }));
    refused(ask(&members[1], "leaveConvo", &never).await, 409, "TargetNotMember");
    assert_eq!(contents(app).await, before);
    assert_eq!(members[0].add(&[app.published_persona().await.did()]).await.unwrap().epoch, 2);
}

async fn p7_a_welcome_that_waited_is_gone_with_the_membership(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let carol = app.published_persona().await;
    members[0].add(&[carol.did()]).await.unwrap();
    let id = convo(&members[0]);
    ok(get(&carol, "getWelcome", &[("convoId", &id)]).await);
    ok(ask(&members[0], "leaveConvo", &json!({ "convoId": id, "targetDid": carol.did() })).await);
    refused(get(&carol, "getWelcome", &[("convoId", &id)]).await, 403, "NotMember");
    assert_eq!(contents(app).await.count("welcomes"), 0);
    ok(ask(&members[0], "addMembers", &json!({ "convoId": id, "didList": [carol.did()] })).await);
    let reply = refused(get(&carol, "getWelcome", &[("convoId", &id)]).await, 404, "WelcomeNotFound");
    assert_eq!(reply.body["recovery"], "waitForWelcome");
}

async fn a_removed_member_hears_that_it_is_one_no_more(app: &TestApp) {
    let members = app.conversation(2).await;
    let asked = json!({ "convoId": convo(&members[0]), "targetDid": members[1].did() });
    ok(ask(&members[0], "leaveConvo", &asked).await);
    // A removed member did not leave, so this is not a retry.
    let reply = refused(leave(&members[1]).await, 403, "NotMember");
    assert_eq!(reply.body["recovery"], "rejoin");
}

async fn every_spelling_of_base64_and_of_fields_is_accepted(app: &TestApp) {
    let mut members = app.conversation(9).await;
    let others: Vec<String> = members[1..].iter().map(|one| one.did().to_owned()).collect();
    for (n, target) in others.iter().enumerate() {
        let Persona { mls, group_id, .. } = &mut members[0];
        let staged = mls.remove(group_id, &[target]).unwrap();
        let commit = &spellings(&staged.commit)[n];
        let asked = match n % 2 {
            0 => json!({ "convoId": convo(&members[0]), "targetDid": target, "commit": commit, "colour": 1 }),
            _ => {
                json!({ "convo_id": convo(&members[0]), "target_did": target, "commit": commit, "idempotency_key": n.to_string() })
            }
        };
        assert_eq!(landed(&ok(ask(&members[0], "leaveConvo", &asked).await)).0, n as u64 + 2);
        merge(&mut members[0]);
    }
    assert_eq!(roster(&members[0]).await.len(), 1);
}

async fn a_did_that_was_never_a_member_cannot_be_removed(app: &TestApp) {
    let members = app.conversation(2).await;
    let asked = json!({ "convoId": convo(&members[0]), "targetDid": random_did() });
    let reply = refused(ask(&members[0], "leaveConvo", &asked).await, 409, "TargetNotMember");
    assert_eq!(reply.body["recovery"], "giveUp", "the caller is a member all right");
}
