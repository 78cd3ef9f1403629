//! resetConvo: one reset wins, nothing of the group before is accepted after it, and members come into the new group.

use catbird_client::mls::Handshake;
use catbird_client::persona::{Persona, hex, sha256_hex};
use catbird_client::random_did;
use catbird_client::xrpc::{Reply, base64_text, bytes_value};
use catbird_testkit::app::TestApp;
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::spoken::in_public;
use crate::events::{follow, resume};
use crate::harness::*;

either_serializer! {
    members_come_into_the_new_group_by_a_welcome_and_by_a_commit;
    p1_of_resets_at_two_replicas_at_once_one_wins;
    p1_nothing_of_the_group_before_is_accepted_at_a_replica_that_does_not_know_of_the_reset;
    p1_an_epoch_of_the_same_number_is_not_the_same_epoch;
    p4_a_reset_and_the_commits_before_it_are_known_when_they_come_again;
    p4_a_public_commit_is_not_compared_with_the_leaves_of_a_later_group;
    p5_a_stream_shows_the_reset_in_its_place;
    the_log_and_the_commits_of_the_group_before_stay_readable;
    the_admin_may_reset_and_any_member_while_the_conversation_is_wedged;
    a_group_id_is_taken_once_in_all_generations;
    a_reset_of_another_state_is_refused_and_says_where_the_conversation_is;
    a_reset_that_contradicts_itself_changes_nothing;
}
any_serializer! {
    p9_a_public_commit_of_the_group_before_is_told_of_the_new_group;
    replies_and_events_name_the_generation;
}

/// A reset that was made and not sent.
pub struct Made {
    group_id: Vec<u8>,
    pub body: Value,
}

/// Makes a new group with these members, by key packages that the server issues.
pub async fn make(member: &mut Persona, others: &[&Persona]) -> Made {
    let group_id = random_did().into_bytes();
    member.mls.create_group(&group_id, member.handshake).unwrap();
    let epoch = ok(get(member, "getEpoch", &[("convoId", &convo(member))]).await);
    let mut body = json!({
        "convoId": convo(member),
        "prior": { "generation": epoch.body["generation"], "epoch": epoch.body["currentEpoch"] },
        "newGroupId": hex(&group_id),
    });
    if !others.is_empty() {
        let mut packages = Vec::new();
        for other in others {
            packages.push(claim(member, other.did()).await.unwrap());
        }
        let staged = member.mls.add(&group_id, &packages).unwrap();
        member.mls.merge_pending(&group_id).unwrap();
        let welcome = json!({
            "commit": base64_text(&staged.commit),
            "welcomeMessage": base64_text(&staged.welcome),
            "keyPackageHashes": hashes(others, &packages),
        });
        body = with(&body, welcome);
    }
    let group_info = json!({ "groupInfo": base64_text(&member.mls.group_info(&group_id).unwrap()) });
    Made { body: with(&body, group_info), group_id }
}

/// Resets the conversation with these members in the new group.
async fn reset(member: &mut Persona, others: &[&Persona]) -> Reply {
    let made = make(member, others).await;
    let reply = ok(ask(member, "resetConvo", &made.body).await);
    member.group_id = made.group_id;
    member.last_seq = reply.number("seq").unwrap();
    reply
}

/// A commit in the member's epoch that it does not keep.
fn commit(member: &mut Persona) -> Value {
    let staged = member.mls.self_update(&member.group_id).unwrap();
    member.mls.discard_pending(&member.group_id).unwrap();
    json!({ "convoId": convo(member), "commit": base64_text(&staged.commit) })
}

/// Checks that the caller is told of the group that the conversation has now.
#[track_caller]
fn is_stale(reply: Reply, generation: u64, group_id: &[u8]) -> Reply {
    let reply = refused(reply, 409, "StaleGeneration");
    let told = (reply.number("generation").unwrap(), reply.body["groupId"].as_str().unwrap());
    assert_eq!((told, &reply.body["recovery"]), ((generation, &*hex(group_id)), &json!("rejoin")), "{reply}");
    assert!(reply.number("serverEpoch").is_ok(), "{reply}");
    reply
}

async fn members_come_into_the_new_group_by_a_welcome_and_by_a_commit(app: &TestApp) {
    let mut members = app.conversation(3).await;
    for member in &members {
        member.publish_key_packages(2).await.unwrap();
    }
    let before = only_convo(&members[0]).await;
    let [alice, bob, carol] = &mut members[..] else { panic!() };
    let seq = before["seq"].as_u64().unwrap();
    let reply = reset(alice, &[bob]).await;
    assert_eq!((landed(&reply), reply.number("generation").unwrap()), ((1, seq + 1), 2), "{reply}");
    let view = only_convo(carol).await;
    assert_eq!(
        (&view["generation"], &view["groupId"], &view["epoch"]),
        (&json!(2), &json!(hex(&alice.group_id)), &json!(1))
    );
    assert_eq!((&view["members"], &view["seq"]), (&before["members"], &json!(seq + 1)), "the members stay");

    // The one with a Welcome joins by it.
    let id = convo(bob);
    let welcome = ok(get(bob, "getWelcome", &[("convoId", &id)]).await);
    assert_eq!((welcome.number("generation").unwrap(), landed(&welcome)), (2, (1, seq + 1)), "{welcome}");
    bob.join(&id).await.unwrap();
    alice.send("a new beginning").await.unwrap();
    assert_eq!(bob.catch_up().await.unwrap(), ["a new beginning"]);

    // The other one by a commit, since it is not in the group.
    refused(get(carol, "getWelcome", &[("convoId", &id)]).await, 404, "WelcomeNotFound");
    alice.add(&[carol.did()]).await.unwrap();
    carol.join(&id).await.unwrap();
    bob.catch_up().await.unwrap();
    carol.send("here again").await.unwrap();
    for member in [alice, bob] {
        assert_eq!(member.catch_up().await.unwrap().last().unwrap(), "here again");
        assert_eq!(member.epoch_authenticator().unwrap(), carol.epoch_authenticator().unwrap());
    }
}

async fn p1_of_resets_at_two_replicas_at_once_one_wins(app: &TestApp) {
    let beside = Beside::start(app, app.app.serializer.registry().is_none()).await;
    let mut members = app.conversation(2).await;
    sql(app, "insert into wedged_convos (convo_id, generation, epoch) values ($1, 1, 1)", &[&convo(&members[0])]).await;
    let mut made = Vec::new();
    for n in 0..10 {
        made.push((n % 2, make(&mut members[n % 2], &[]).await));
    }
    let replies = join_all(made.iter().map(async |(n, made)| {
        let xrpc = if *n == 0 { members[*n].xrpc.clone() } else { beside.xrpc(&members[*n]) };
        xrpc.procedure("resetConvo", &made.body).await.unwrap()
    }))
    .await;
    let winners: Vec<usize> = (0..10).filter(|n| replies[*n].status == 200).collect();
    assert_eq!(winners.len(), 1, "one winner");
    let winner = &made[winners[0]].1;
    assert_eq!(only_convo(&members[0]).await["groupId"], json!(hex(&winner.group_id)));
    for (n, reply) in replies.into_iter().enumerate().filter(|(n, _)| *n != winners[0]) {
        is_stale(reply, 2, &winner.group_id);
        let result = with(&made[n].1.body, json!({ "conflict": "result" }));
        let told = ok(ask(&members[made[n].0], "resetConvo", &result).await);
        assert_eq!((&told.body["error"], &told.body["generation"]), (&json!("StaleGeneration"), &json!(2)), "{told}");
    }
    beside.stop().await;
}

async fn p1_nothing_of_the_group_before_is_accepted_at_a_replica_that_does_not_know_of_the_reset(app: &TestApp) {
    let beside = Beside::start(app, app.app.serializer.registry().is_none()).await;
    let mut members = app.conversation(2).await;
    // Both replicas know the group, and their actors where the conversation stands.
    let there = beside.xrpc(&members[1]);
    for member in &mut members {
        let text = member.mls.encrypt(&member.group_id, b"hello").unwrap();
        ok(ask(member, "sendMessage", &message(member, &text)).await);
        ok(beside.xrpc(member).procedure("sendMessage", &message(member, &text)).await.unwrap());
    }
    let old = members[1].group_id.clone();
    let epoch = members[1].epoch().unwrap();
    let late = commit(&mut members[1]);
    let text = members[1].mls.encrypt(&old, b"too late").unwrap();
    reset(&mut members[0], &[]).await;
    let new = members[0].group_id.clone();
    let before = contents(app).await;
    let addition = with(&late, json!({ "didList": ["did:plc:somebody"] }));
    let leaving = with(&late, json!({ "targetDid": members[1].did() }));
    let sending = json!({ "convoId": convo(&members[1]), "ciphertext": bytes_value(&text), "epoch": epoch });
    let opaque = with(&sending, json!({ "ciphertext": bytes_value(b"opaque"), "epoch": 0, "generation": 1 }));
    for xrpc in [there, members[1].xrpc.clone()] {
        for (method, body) in
            [("addMembers", &addition), ("leaveConvo", &leaving), ("sendMessage", &sending), ("sendMessage", &opaque)]
        {
            is_stale(xrpc.procedure(method, body).await.unwrap(), 2, &new);
            let result = xrpc.procedure(method, &with(body, json!({ "conflict": "result" }))).await.unwrap();
            assert_eq!(ok(result).body["error"], "StaleGeneration", "{method}");
        }
    }
    assert_eq!(contents(app).await, before);
    // What is of the new group, or says so, is accepted at both.
    let there = beside.xrpc(&members[1]);
    for xrpc in [there, members[1].xrpc.clone()] {
        ok(xrpc.procedure("sendMessage", &with(&opaque, json!({ "generation": 2 }))).await.unwrap());
        ok(xrpc.procedure("sendMessage", &with(&opaque, json!({ "generation": null }))).await.unwrap());
    }
    beside.stop().await;
}

async fn p1_an_epoch_of_the_same_number_is_not_the_same_epoch(app: &TestApp) {
    let beside = Beside::start(app, app.app.serializer.registry().is_none()).await;
    let mut members = app.conversation(3).await;
    let bob = members.remove(1);
    bob.publish_key_packages(1).await.unwrap();
    let epoch = members[1].epoch().unwrap();
    let late = commit(&mut members[1]);
    let there = beside.xrpc(&members[1]);
    // The other replica knows the group before.
    refused(
        there.procedure("leaveConvo", &with(&late, json!({ "targetDid": bob.did() }))).await.unwrap(),
        403,
        "NotAuthorized",
    );
    let reply = reset(&mut members[0], &[&bob]).await;
    assert_eq!(reply.number("epoch").unwrap(), epoch, "the new group is in an epoch of the same number");
    let new = members[0].group_id.clone();
    let races = (0..10).map(async |n| {
        let xrpc = if n % 2 == 0 { &there } else { &members[1].xrpc };
        xrpc.procedure("addMembers", &with(&late, json!({ "didList": ["did:plc:somebody"] }))).await.unwrap()
    });
    for reply in join_all(races).await {
        is_stale(reply, 2, &new);
    }
    beside.stop().await;
}

/// The GroupInfo of the new group is of an epoch of the same number, and says nothing of the commit.
async fn p9_a_public_commit_of_the_group_before_is_told_of_the_new_group(app: &TestApp) {
    let mut members = in_public(app).await;
    let bob = members.remove(1);
    let epoch = members[0].epoch().unwrap();
    let (late, proposal) = (commit(&mut members[1]), propose_leave(&mut members[1]));
    bob.publish_key_packages(2).await.unwrap();
    let mut made = make(&mut members[0], &[&bob]).await;
    // The new group gets to the epoch of the old one.
    while members[0].mls.epoch(&made.group_id).unwrap() < epoch {
        let staged = members[0].mls.self_update(&made.group_id).unwrap();
        members[0].mls.merge_pending(&made.group_id).unwrap();
        let info = members[0].mls.group_info(&made.group_id).unwrap();
        made.body = with(&made.body, json!({ "commit": base64_text(&staged.commit), "groupInfo": base64_text(&info) }));
    }
    assert_eq!(landed(&ok(ask(&members[0], "resetConvo", &made.body).await)).0, epoch);
    let before = contents(app).await;
    is_stale(ask(&members[1], "submitCommit", &late).await, 2, &made.group_id);
    let body = proposal_body(&members[1], &proposal);
    is_stale(ask(&members[1], "submitProposal", &body).await, 2, &made.group_id);
    assert_eq!(contents(app).await, before);
}

async fn p4_a_reset_and_the_commits_before_it_are_known_when_they_come_again(app: &TestApp) {
    let mut members = app.conversation(2).await;
    members[1].publish_key_packages(2).await.unwrap();
    let newcomer = app.published_persona().await;
    let addition = offer(&mut members[0], &[&newcomer]);
    let added = ok(ask(&members[0], "addMembers", &addition.body).await).body;
    merge(&mut members[0]);
    let [alice, bob] = &mut members[..] else { panic!() };
    let made = make(alice, &[bob]).await;
    let keyed = with(&make(alice, &[]).await.body, json!({ "idempotencyKey": "k" }));
    let first = ok(ask(alice, "resetConvo", &made.body).await).body;
    let before = contents(app).await;
    for _ in 0..2 {
        assert_eq!(ok(ask(alice, "resetConvo", &made.body).await).body, first);
        assert_eq!(ok(ask(alice, "addMembers", &addition.body).await).body, added, "of the group before");
    }
    is_stale(ask(alice, "resetConvo", &keyed).await, 2, &made.group_id);
    let by_another = with(&made.body, json!({ "groupInfo": null }));
    refused(ask(bob, "resetConvo", &by_another).await, 409, "StaleGeneration");
    assert_eq!(contents(app).await, before);
}

async fn p4_a_public_commit_is_not_compared_with_the_leaves_of_a_later_group(app: &TestApp) {
    let mut alice = app.conversation(1).await.remove(0);
    let (mut bob, carol) = (app.published_persona().await, app.published_persona().await);
    bob.handshake = Handshake::Public;
    alice.add(&[bob.did()]).await.unwrap();
    bob.join(&convo(&alice)).await.unwrap();
    ok(ask(&alice, "addMembers", &json!({ "convoId": convo(&alice), "didList": [carol.did()] })).await);
    let (sent, unsent) = (commit(&mut bob), commit(&mut bob));
    let first = ok(ask(&bob, "submitCommit", &sent).await).body;
    // The leaf that was bob's is carol's in the new group, which is in the epoch of the commits.
    let reply = reset(&mut alice, &[&carol]).await;
    assert_eq!(reply.number("epoch").unwrap(), bob.epoch().unwrap());
    assert_eq!(ok(ask(&bob, "submitCommit", &sent).await).body, first);
    is_stale(ask(&bob, "submitCommit", &unsent).await, 2, &alice.group_id);
}

async fn p5_a_stream_shows_the_reset_in_its_place(app: &TestApp) {
    let mut members = app.conversation(3).await;
    members[1].publish_key_packages(2).await.unwrap();
    let mut stream = follow(&members[1]).await;
    let cursor = stream.next_id().await;
    let [alice, bob, carol] = &mut members[..] else { panic!() };
    alice.send("before").await.unwrap();
    let seq = reset(alice, &[bob]).await.number("seq").unwrap();
    alice.send("after").await.unwrap();
    for mut stream in [stream, resume(bob, &cursor).await] {
        let mut seen = Vec::new();
        stream
            .until(|event| {
                seen.push(event.name.clone());
                event.data["message"]["seq"] == json!(seq + 1) && seen.iter().any(|name| name == "welcomeEvent")
                    || seen.iter().any(|name| name == "welcomeEvent")
                        && seen.iter().filter(|name| *name == "messageEvent").count() == 3
            })
            .await
            .into_iter()
            .filter_map(|event| event.data.get("message").cloned())
            .zip([("app", 1), ("reset", 2), ("app", 2)])
            .for_each(|(entry, (kind, generation))| {
                assert_eq!(
                    (&entry["messageType"], &entry["generation"]),
                    (&json!(kind), &json!(generation)),
                    "{entry}"
                );
            });
        assert!(seen.iter().any(|name| name == "conversationResetEvent"), "{seen:?}");
    }
    // A member without a Welcome is told of the group, and of no Welcome.
    let mut stream = resume(carol, &follow(carol).await.next_id().await).await;
    let seq = reset(alice, &[]).await.number("seq").unwrap();
    let events = stream.until(|event| event.name == "conversationResetEvent").await;
    let told = &events.last().unwrap().data;
    assert_eq!(
        (&told["generation"], &told["seq"], &told["actor"]),
        (&json!(3), &json!(seq), &json!(alice.did())),
        "{told}"
    );
    assert_eq!(told["groupId"], json!(hex(&alice.group_id)), "{told}");
    assert!(events.iter().all(|event| event.name != "welcomeEvent"));
}

async fn the_log_and_the_commits_of_the_group_before_stay_readable(app: &TestApp) {
    let mut members = app.conversation(2).await;
    for _ in 0..3 {
        let newcomer = app.published_persona().await;
        members[0].add(&[newcomer.did()]).await.unwrap();
    }
    members[0].send("in the first group").await.unwrap();
    let epoch = members[0].epoch().unwrap();
    reset(&mut members[0], &[]).await;
    let late = app.published_persona().await;
    members[0].add(&[late.did()]).await.unwrap();
    let id = convo(&members[0]);
    let commits = async |member: &Persona, generation: &str| {
        let range = [("convoId", &*id), ("fromEpoch", "0"), ("generation", generation)];
        let page = ok(get(member, "getCommits", &range).await);
        assert_eq!(page.body["generation"].to_string(), generation, "{page}");
        assert!(page.body.get("firstEpoch").is_none(), "none was deleted: {page}");
        page.list("commits").unwrap().iter().map(|commit| commit["epoch"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(commits(&members[0], "1").await, (1..=epoch).collect::<Vec<_>>());
    assert_eq!(commits(&members[0], "2").await, [1]);
    // Epochs of the second group are lower than the one in which this member joined the first.
    assert_eq!(commits(&members[1], "1").await, (2..=epoch).collect::<Vec<_>>());
    assert_eq!(commits(&members[1], "2").await, [1]);
    assert_eq!(commits(&late, "1").await, [0; 0], "it joined later");
    assert_eq!(commits(&late, "2").await, [0; 0]);
    for generation in ["0", "3"] {
        let range = [("convoId", &*id), ("fromEpoch", "0"), ("generation", generation)];
        refused(get(&members[0], "getCommits", &range).await, 400, "InvalidEpochRange");
    }
    let page = ok(get(&members[0], "getMessages", &[("convoId", &id), ("sinceSeq", "0")]).await);
    let log: Vec<(u64, &str, u64)> = page
        .list("messages")
        .unwrap()
        .iter()
        .map(|entry| {
            let number = |name: &str| entry[name].as_u64().unwrap();
            (number("seq"), entry["messageType"].as_str().unwrap(), number("generation"))
        })
        .collect();
    let commits = (1..=4).map(|seq| (seq, "commit", 1));
    let expected: Vec<_> = commits.chain([(5, "app", 1), (6, "reset", 2), (7, "commit", 2)]).collect();
    assert_eq!(log, expected);
}

async fn the_admin_may_reset_and_any_member_while_the_conversation_is_wedged(app: &TestApp) {
    let mut members = app.conversation(3).await;
    let made = make(&mut members[1], &[]).await;
    let stranger = app.persona();
    refused(ask(&stranger, "resetConvo", &made.body).await, 404, "ConvoNotFound");
    refused(ask(&members[1], "resetConvo", &made.body).await, 403, "NotAuthorized");
    let commit = ok(get(&members[0], "getCommits", &[("convoId", &convo(&members[0])), ("fromEpoch", "1")]).await);
    let hash = sha256_hex(&commit.bytes_in(&commit.list("commits").unwrap()[0], "commitData").unwrap());
    members[0].add(&[app.published_persona().await.did()]).await.unwrap();
    let unable = json!({ "convoId": convo(&members[0]), "epoch": 2, "commitHash": hash });
    for member in &members[1..] {
        ok(ask(member, "reportCommit", &unable).await);
    }
    assert_eq!(only_convo(&members[0]).await["state"], "wedged");
    refused(ask(&members[1], "resetConvo", &made.body).await, 409, "EpochMismatch");
    reset(&mut members[1], &[]).await;
    // The new group has no trouble, and the reports were about the one before.
    assert_eq!(only_convo(&members[0]).await["state"], "active");
    refused(ask(&members[0], "reportCommit", &unable).await, 409, "EpochAhead");
    let made = make(&mut members[2], &[]).await;
    refused(ask(&members[2], "resetConvo", &made.body).await, 403, "NotAuthorized");
    members.remove(2).leave().await.unwrap();
}

async fn a_group_id_is_taken_once_in_all_generations(app: &TestApp) {
    let mut members = app.conversation(1).await;
    let mut other = app.conversation(1).await.remove(0);
    let first = members[0].group_id.clone();
    reset(&mut members[0], &[]).await;
    let second = members[0].group_id.clone();
    let made = make(&mut members[0], &[]).await;
    for taken in [&first, &second, &other.group_id] {
        let changes = json!({ "newGroupId": hex(taken), "groupInfo": null, "idempotencyKey": "k" });
        let body = with(&made.body, changes);
        refused(ask(&members[0], "resetConvo", &body).await, 409, "ConvoAlreadyExists");
    }
    for taken in [&first, &second] {
        let create = json!({ "groupId": hex(taken), "cipherSuite": other.mls.suite_name() });
        refused(ask(&other, "createConvo", &create).await, 409, "ConvoAlreadyExists");
    }
    // Also where the statement has waited for the reset that ends the group of this id.
    let db = app.database.connect().await;
    let taking =
        "begin; update conversations set generation = generation + 1, group_id = 'ab', last_seq = last_seq + 1,
                         group_seq = last_seq + 1, initial_epoch = 0, current_epoch = 0 where group_id = '";
    db.batch_execute(&format!("{taking}{}'", hex(&second))).await.unwrap();
    let create = json!({ "groupId": hex(&second), "cipherSuite": other.mls.suite_name() });
    let creating = async {
        let reply = ask(&other, "createConvo", &create).await;
        refused(reply, 409, "ConvoAlreadyExists");
    };
    let committing = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let entry = "insert into messages (convo_id, seq, id, sender_did, message_type, generation, epoch, ciphertext, body_hash)
                     select id, last_seq, 'r', creator_did, 'reset', generation, 0, '', '' from conversations where group_id = 'ab'; commit";
        db.batch_execute(entry).await.unwrap();
    };
    tokio::join!(creating, committing);
    reset(&mut other, &[]).await;
}

async fn a_reset_of_another_state_is_refused_and_says_where_the_conversation_is(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let made = make(&mut members[0], &[]).await;
    members[0].add(&[app.published_persona().await.did()]).await.unwrap();
    let reply = refused(ask(&members[0], "resetConvo", &made.body).await, 409, "EpochMismatch");
    assert_eq!((reply.number("serverEpoch").unwrap(), reply.number("generation").unwrap()), (2, 1), "{reply}");
    assert_eq!(reply.list("missing").unwrap().len(), 1, "{reply}");
    let ahead = with(&made.body, json!({ "prior": { "generation": 1, "epoch": 9 } }));
    refused(ask(&members[0], "resetConvo", &ahead).await, 409, "EpochAhead");
    let later = with(&made.body, json!({ "prior": { "generation": 2, "epoch": 2 } }));
    refused(ask(&members[0], "resetConvo", &later).await, 409, "StaleGeneration");
}

async fn a_reset_that_contradicts_itself_changes_nothing(app: &TestApp) {
    let mut members = app.conversation(2).await;
    members[1].publish_key_packages(3).await.unwrap();
    let stranger = app.published_persona().await;
    let old = commit(&mut members[0]);
    let foreign = offer(&mut members[0], &[&stranger]).body["welcomeMessage"].clone();
    discard(&mut members[0]);
    let [alice, bob] = &mut members[..] else { panic!() };
    let made = make(alice, &[bob]).await;
    let mut forged = alice.mls.group_info(&made.group_id).unwrap();
    *forged.last_mut().unwrap() ^= 1;
    let of_another_epoch = alice.mls.self_update(&made.group_id).unwrap().group_info;
    let before = contents(app).await;
    let hash = made.body["keyPackageHashes"][0]["hash"].clone();
    let wrong = [
        (json!({ "commit": old["commit"] }), 400, "InvalidCommit"),
        (json!({ "currentEpoch": 5 }), 400, "InvalidCommit"),
        (json!({ "keyPackageHashes": null }), 400, "InvalidRequest"),
        (json!({ "welcomeMessage": null }), 400, "InvalidRequest"),
        (json!({ "cipherSuite": "MLS_128_DHKEMP256_AES128GCM_SHA256_P256" }), 400, "InvalidWelcome"),
        (json!({ "cipherSuite": "none" }), 400, "InvalidCipherSuite"),
        (json!({ "groupInfo": base64_text(&alice.mls.group_info(&alice.group_id).unwrap()) }), 400, "InvalidGroupInfo"),
        (json!({ "groupInfo": base64_text(&forged) }), 400, "InvalidGroupInfo"),
        (json!({ "groupInfo": base64_text(&of_another_epoch) }), 400, "InvalidGroupInfo"),
        (json!({ "newGroupId": "abc" }), 400, "InvalidRequest"),
        (json!({ "prior": { "generation": 0, "epoch": 0 } }), 400, "InvalidRequest"),
        (json!({ "welcomeMessage": foreign }), 400, "InvalidWelcome"),
        (json!({ "keyPackageHashes": [{ "did": stranger.did(), "hash": hash }] }), 400, "InvalidRequest"),
        (json!({ "keyPackageHashes": [{ "did": bob.did(), "hash": sha256_hex(b"none") }] }), 409, "KeyPackageNotFound"),
    ];
    for (change, status, error) in wrong {
        let reply = ask(alice, "resetConvo", &with(&made.body, change.clone())).await;
        assert_eq!((reply.status, reply.error()), (status, Some(error)), "{change}: {reply}");
    }
    assert_eq!(contents(app).await, before);
    ok(ask(alice, "resetConvo", &made.body).await);
}

async fn replies_and_events_name_the_generation(app: &TestApp) {
    let mut members = app.conversation(3).await;
    let id = convo(&members[0]);
    for member in &members {
        member.publish_key_packages(2).await.unwrap();
    }
    let (carol, newcomer) = (members.pop().unwrap(), app.published_persona().await);
    let [alice, bob] = &mut members[..] else { panic!() };
    reset(alice, &[bob, &carol]).await;
    let (mut own, mut theirs, mut gone) = (follow(&newcomer).await, follow(bob).await, follow(&carol).await);
    for stream in [&mut own, &mut theirs, &mut gone] {
        stream.next_id().await;
    }
    let addition = offer(alice, &[&newcomer]).body;
    let first = ok(ask(alice, "addMembers", &addition).await);
    assert_eq!(first.body["generation"], 2, "{first}");
    merge(alice);
    let body = commit(alice);
    let keyed = with(&body, json!({ "idempotencyKey": "k" }));
    let reply = ok(ask(alice, "submitCommit", &keyed).await);
    assert_eq!(reply.body["generation"], 2, "{reply}");
    for again in [keyed, body] {
        assert_eq!(ok(ask(alice, "submitCommit", &again).await).body, reply.body, "by its key and by its bytes");
    }
    // Without a commit, the reply is about no group.
    let removal = json!({ "convoId": id, "targetDid": carol.did() });
    let reply = ok(ask(alice, "removeMember", &removal).await);
    assert_eq!(reply.body.get("generation"), None, "{reply}");
    for name in ["conversationEvent", "welcomeEvent"] {
        assert_eq!(own.expect(name).await["generation"], 2);
    }
    assert_eq!(gone.until(|event| event.name == "removedEvent").await.pop().unwrap().data["generation"], 2);
    let told = theirs.until(|event| event.data["action"] == "removed").await;
    let changes = told.iter().filter(|event| event.name == "membershipChangeEvent");
    assert_eq!(changes.map(|event| &event.data["generation"]).collect::<Vec<_>>(), [2, 2]);
    assert_eq!(ok(ask(alice, "addMembers", &addition).await).body, first.body);
}
