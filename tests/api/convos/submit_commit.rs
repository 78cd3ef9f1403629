//! submitCommit: any commit of a member, with the changes of the roster that it declares, takes effect as a whole or not at all.

use catbird_client::persona::{Persona, hex, sha256_hex};
use catbird_client::random_did;
use catbird_client::xrpc::{Reply, base64_text};
use catbird_testkit::app::TestApp;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::*;

either_serializer! {
    a_commit_may_change_no_roster;
    p7_one_commit_removes_a_member_and_adds_another;
    a_removed_member_may_be_added_by_the_same_commit;
    a_named_member_is_brought_into_the_group_once;
    a_creators_named_members_are_brought_in_too;
    another_device_of_a_member_is_invited_by_its_key_package;
    a_last_resort_package_invites_a_second_time;
    p4_a_repeated_commit_of_each_shape_changes_nothing;
    p9_a_stale_commit_of_each_shape_gets_what_it_lacks;
    only_the_admin_removes_active_members;
    any_member_cleans_up_after_one_that_left;
    p2_each_refusal_leaves_nothing_behind;
    p1_commits_of_all_shapes_at_two_replicas_have_one_winner;
}
any_serializer! {
    a_commit_in_a_public_message_has_to_do_what_the_request_says;
    a_welcome_needs_a_recipient;
}

/// Makes a commit and its request.
fn change(member: &mut Persona, packages: &[Vec<u8>], removed: &[&str]) -> Value {
    let staged = member.mls.change(&member.group_id, packages, removed).unwrap();
    let welcome = (!staged.welcome.is_empty()).then(|| base64_text(&staged.welcome));
    let body = json!({ "convoId": convo(member), "commit": base64_text(&staged.commit), "removedDids": removed });
    with(&body, json!({ "welcomeMessage": welcome }))
}

async fn submit(member: &Persona, body: &Value) -> Reply {
    ask(member, "submitCommit", body).await
}

/// Returns the kinds of event rows of a conversation about its roster, in order, after those of its first members.
async fn told(app: &TestApp, convo: &str) -> Vec<String> {
    let db = app.database.connect().await;
    let rows =
        "select event_type || case when payload->>'welcome' = 'true' then ' with Welcome' else '' end from event_stream
                 where convo_id = $1 and event_type in ('joined', 'left', 'removed') order by id offset 2";
    db.query(rows, &[&convo]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

async fn a_commit_may_change_no_roster(app: &TestApp) {
    let mut members = app.conversation(3).await;
    let before = roster(&members[0]).await;
    for n in 0..3 {
        let body = change(&mut members[n], &[], &[]);
        let reply = ok(submit(&members[n], &body).await);
        let epoch = n as u64 + 2;
        assert_eq!(
            reply.body,
            json!({ "success": true, "generation": 1, "newEpoch": epoch, "epoch": epoch, "seq": epoch })
        );
        merge(&mut members[n]);
        for member in &mut members {
            member.catch_up().await.unwrap();
        }
    }
    assert_eq!(roster(&members[0]).await, before);
    assert_eq!(told(app, &convo(&members[0])).await, [""; 0]);
    let secrets: Vec<_> = members.iter().map(|member| member.epoch_authenticator().unwrap()).collect();
    assert!(secrets.iter().all(|secret| *secret == secrets[0]));
    members[2].send("after").await.unwrap();
    assert_eq!(members[1].catch_up().await.unwrap(), ["after"]);
}

async fn p7_one_commit_removes_a_member_and_adds_another(app: &TestApp) {
    let mut members = app.conversation(3).await;
    let mut carol = app.published_persona().await;
    let (id, gone) = (convo(&members[0]), members[2].did().to_owned());
    let package = claim(&members[0], carol.did()).await.unwrap();
    let body = change(&mut members[0], std::slice::from_ref(&package), &[&gone]);
    let changes = json!({ "addedDids": [carol.did()], "keyPackageHashes": hashes(&[&carol], &[package]) });
    assert_eq!(landed(&ok(submit(&members[0], &with(&body, changes)).await)), (2, 2));
    merge(&mut members[0]);
    carol.join(&id).await.unwrap();
    members[1].catch_up().await.unwrap();
    members[1].send("without the third").await.unwrap();
    assert_eq!(carol.catch_up().await.unwrap(), ["without the third"]);
    assert_eq!(roster(&carol).await, [members[0].did(), members[1].did(), carol.did()]);
    for method in ["getMessages", "getEpoch", "getCommits"] {
        let asked = [("convoId", &*id), ("fromEpoch", "1")];
        let asked = if method == "getCommits" { &asked[..] } else { &asked[..1] };
        refused(get(&members[2], method, asked).await, 403, "NotMember");
    }
    assert_eq!(told(app, &id).await, ["left", "removed", "joined with Welcome"]);
}

async fn a_removed_member_may_be_added_by_the_same_commit(app: &TestApp) {
    let mut members = app.conversation(3).await;
    members[0].send("before").await.unwrap();
    let (id, did) = (convo(&members[0]), members[1].did().to_owned());
    let mut fresh = Persona::new(members[1].xrpc.clone());
    let package = fresh.mls.key_package().unwrap();
    ok(publish(&fresh, &package).await);
    members[0].catch_up().await.unwrap();
    let body = change(&mut members[0], std::slice::from_ref(&package), &[&did]);
    let changes = json!({ "addedDids": [did], "keyPackageHashes": hashes(&[&fresh], &[package]) });
    let asked = with(&body, changes);
    assert_eq!(landed(&ok(submit(&members[0], &asked).await)), (2, 3));
    merge(&mut members[0]);
    fresh.join(&id).await.unwrap();
    members[0].send("after").await.unwrap();
    assert_eq!(fresh.catch_up().await.unwrap(), ["after"]);
    let all = ok(get(&fresh, "getMessages", &[("convoId", &id), ("sinceSeq", "0")]).await);
    assert_eq!(all.list("messages").unwrap().len(), 1, "the membership begins with the commit");
    assert_eq!(only_convo(&fresh).await["memberCount"], 3);
    assert_eq!(told(app, &id).await, ["left", "removed", "joined with Welcome"]);
    members[2].catch_up().await.unwrap();
    assert_eq!(members[2].mls.members(&members[2].group_id).unwrap().len(), 3);
}

async fn a_named_member_is_brought_into_the_group_once(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let mut carol = app.published_persona().await;
    let id = convo(&members[0]);
    ok(ask(&members[1], "addMembers", &json!({ "convoId": id, "didList": [carol.did()] })).await);
    let again = json!({ "convoId": id, "didList": [carol.did()] });
    refused(ask(&members[0], "addMembers", &again).await, 409, "AlreadyMember");
    members[0].send("too early for carol").await.unwrap();
    // Only a person that is added enters the group. The key packages of others are for their other devices.
    let package = claim(&members[0], carol.did()).await.unwrap();
    let unsaid = change(&mut members[0], std::slice::from_ref(&package), &[]);
    let before = contents(app).await;
    let packages = json!({ "keyPackageHashes": hashes(&[&carol], &[package]) });
    let reply = refused(submit(&members[0], &with(&unsaid, packages)).await, 400, "InvalidRequest");
    assert!(reply.body["message"].as_str().unwrap().contains("who is neither in the group nor being added"), "{reply}");
    assert_eq!(contents(app).await, before);
    discard(&mut members[0]);
    members[0].add(&[carol.did()]).await.unwrap();
    carol.join(&id).await.unwrap();
    members[0].send("welcome").await.unwrap();
    assert_eq!(carol.catch_up().await.unwrap(), ["welcome"]);
    assert_eq!(only_convo(&carol).await["memberCount"], 3);
    assert_eq!(told(app, &id).await, ["joined", "joined with Welcome"]);
    let before = contents(app).await;
    let twice = with(&change(&mut members[0], &[], &[]), json!({ "addedDids": [carol.did()] }));
    refused(submit(&members[0], &twice).await, 409, "AlreadyMember");
    assert_eq!(contents(app).await, before);
}

async fn a_creators_named_members_are_brought_in_too(app: &TestApp) {
    let (mut alice, mut bob) = (app.persona(), app.published_persona().await);
    let group = random_did();
    let body = json!({
        "groupId": hex(group.as_bytes()),
        "cipherSuite": alice.mls.suite_name(),
        "initialMembers": [bob.did()],
    });
    let id = ok(ask(&alice, "createConvo", &body).await).string("id").unwrap().to_owned();
    alice.mls.create_group(group.as_bytes(), alice.handshake).unwrap();
    (alice.convo_id, alice.group_id) = (Some(id.clone()), group.as_bytes().to_vec());
    let own = with(&change(&mut alice, &[], &[]), json!({ "addedDids": [alice.did()] }));
    refused(submit(&alice, &own).await, 409, "AlreadyMember");
    discard(&mut alice);
    alice.add(&[bob.did()]).await.unwrap();
    bob.join(&id).await.unwrap();
    let twice = with(&change(&mut alice, &[], &[]), json!({ "addedDids": [bob.did()] }));
    refused(submit(&alice, &twice).await, 409, "AlreadyMember");
}

async fn another_device_of_a_member_is_invited_by_its_key_package(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let id = convo(&members[0]);
    for owner in [1, 0] {
        members[1 - owner].send("before").await.unwrap();
        members[owner].catch_up().await.unwrap();
        let mut tablet = Persona::new(members[owner].xrpc.clone());
        let package = tablet.mls.key_package().unwrap();
        ok(publish(&tablet, &package).await);
        let roster_before = roster(&members[0]).await;
        members[0].catch_up().await.unwrap();
        let body = change(&mut members[0], std::slice::from_ref(&package), &[]);
        let asked = with(&body, json!({ "keyPackageHashes": hashes(&[&tablet], &[package]) }));
        ok(submit(&members[0], &asked).await);
        merge(&mut members[0]);
        tablet.join(&id).await.unwrap();
        members[1].catch_up().await.unwrap();
        members[1 - owner].send("to all devices").await.unwrap();
        members[owner].catch_up().await.unwrap();
        assert_eq!(tablet.catch_up().await.unwrap(), ["to all devices"]);
        assert_eq!(roster(&members[0]).await, roster_before);
    }
    assert_eq!(told(app, &id).await, [""; 0], "the roster is the same");
}

async fn a_last_resort_package_invites_a_second_time(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let tablet = Persona::new(members[1].xrpc.clone());
    let package = tablet.mls.last_resort_key_package().unwrap();
    ok(publish(&tablet, &package).await);
    let named = hashes(&[&tablet], std::slice::from_ref(&package));
    let first = with(&change(&mut members[0], &[package], &[]), json!({ "keyPackageHashes": named }));
    ok(submit(&members[0], &first).await);
    merge(&mut members[0]);
    // The second Welcome for the package replaces the first one.
    let changes = json!({ "keyPackageHashes": named, "welcomeMessage": first["welcomeMessage"] });
    let second = with(&change(&mut members[0], &[], &[]), changes);
    assert_eq!(landed(&ok(submit(&members[0], &second).await)).0, 3);
    let (stored, welcome) =
        (contents(app).await, get(&tablet, "getWelcome", &[("convoId", &convo(&members[0]))]).await);
    // One line is that of the member's first device, which has opened its Welcome.
    assert_eq!((stored.count("welcome_messages"), stored.count("welcomes")), (2, 1));
    assert_eq!(ok(welcome).number("epoch").unwrap(), 3);
}

/// Makes one request of each shape: of a change of the roster, of a cleaning, and of no change.
async fn shapes(app: &TestApp) -> Vec<(&'static str, Persona, Value)> {
    let mut shapes = Vec::new();
    for n in 0..6 {
        let mut members = app.conversation(4).await;
        let carol = app.persona();
        let package = carol.mls.key_package().unwrap();
        let (gone, left) = (members[2].did().to_owned(), members[3].did().to_owned());
        members[3].leave().await.unwrap();
        let admin = &mut members[0];
        let shape = match n {
            0 => ("submitCommit", change(admin, &[], &[])),
            1 => ("submitCommit", with(&change(admin, &[package], &[&gone]), json!({ "addedDids": [carol.did()] }))),
            2 => ("submitCommit", change(admin, &[], &[&left])),
            3 => {
                let back = Persona::new(members[2].xrpc.clone()).mls.key_package().unwrap();
                ("submitCommit", with(&change(&mut members[0], &[back], &[&gone]), json!({ "addedDids": [gone] })))
            }
            4 => {
                ("removeMember", with(&change(admin, &[], &[&gone]), json!({ "targetDid": gone, "removedDids": null })))
            }
            _ => ("leaveConvo", with(&change(admin, &[], &[&gone]), json!({ "targetDid": gone, "removedDids": null }))),
        };
        shapes.push((shape.0, members.remove(0), shape.1));
    }
    shapes
}

async fn p4_a_repeated_commit_of_each_shape_changes_nothing(app: &TestApp) {
    for (method, mut admin, body) in shapes(app).await {
        let keyed = with(&body, json!({ "idempotencyKey": "k" }));
        let first = ok(ask(&admin, method, &keyed).await);
        merge(&mut admin);
        let next = change(&mut admin, &[], &[]);
        ok(submit(&admin, &next).await);
        merge(&mut admin);
        admin.send("the log goes on").await.unwrap();
        let before = contents(app).await;
        for again in [&keyed, &body] {
            assert_eq!(ok(ask(&admin, method, again).await).body, first.body, "{method}");
        }
        let other = with(&keyed, json!({ "commit": change(&mut admin, &[], &[])["commit"] }));
        refused(ask(&admin, method, &other).await, 409, "IdempotencyConflict");
        assert_eq!(contents(app).await, before, "{method}");
    }
}

async fn p9_a_stale_commit_of_each_shape_gets_what_it_lacks(app: &TestApp) {
    for (method, admin, body) in shapes(app).await {
        seed_entries(app, &admin, "commit", 2, 100).await;
        let before = contents(app).await;
        let reply = refused(ask(&admin, method, &body).await, 409, "EpochMismatch");
        assert_eq!((&reply.body["serverEpoch"], &reply.body["reason"]), (&json!(3), &json!("stale")));
        assert_eq!(reply.list("missing").unwrap().len(), 2, "{method}");
        let told = ok(ask(&admin, method, &with(&body, json!({ "conflict": "result" }))).await);
        assert_eq!(told.body["$type"], format!("blue.catbird.mls.{method}#stale"));
        assert_eq!(contents(app).await, before, "{method}");
    }
}

async fn only_the_admin_removes_active_members(app: &TestApp) {
    let mut members = app.conversation(4).await;
    let (third, fourth) = (members[2].did().to_owned(), members[3].did().to_owned());
    let before = contents(app).await;
    let body = change(&mut members[1], &[], &[&third]);
    refused(submit(&members[1], &body).await, 403, "NotAuthorized");
    let readded = with(&body, json!({ "addedDids": [third] }));
    refused(submit(&members[1], &readded).await, 403, "NotAuthorized");
    refused(submit(&members[1], &with(&body, json!({ "removedDids": [third, fourth] }))).await, 403, "NotAuthorized");
    assert_eq!(contents(app).await, before);
    discard(&mut members[1]);
    // The creator leaves, so the member of longest standing is the admin.
    ok(ask(&members[0], "leaveConvo", &json!({ "convoId": convo(&members[0]) })).await);
    let admins = only_convo(&members[3]).await["members"].clone();
    let admin = admins.as_array().unwrap().iter().find(|one| one["isAdmin"] == true).unwrap()["did"].clone();
    let at = members.iter().position(|one| admin == one.did()).unwrap();
    let target = members[if at == 3 { 2 } else { 3 }].did().to_owned();
    let body = change(&mut members[at], &[], &[&target]);
    ok(submit(&members[at], &body).await);
}

async fn any_member_cleans_up_after_one_that_left(app: &TestApp) {
    let mut members = app.conversation(4).await;
    let (gone, third) = (members[3].did().to_owned(), members[2].did().to_owned());
    ok(ask(&members[3], "leaveConvo", &json!({ "convoId": convo(&members[3]) })).await);
    let body = change(&mut members[1], &[], &[&gone]);
    let before = contents(app).await;
    let too_much = with(&body, json!({ "removedDids": [gone, third] }));
    refused(submit(&members[1], &too_much).await, 403, "NotAuthorized");
    assert_eq!(contents(app).await, before);
    assert_eq!(landed(&ok(submit(&members[1], &body).await)), (2, 2));
    merge(&mut members[1]);
    members[0].catch_up().await.unwrap();
    assert_eq!(members[0].mls.members(&members[0].group_id).unwrap().len(), 3);
    assert_eq!(told(app, &convo(&members[0])).await, ["left", "removed"], "the departure alone was told");
}

async fn p2_each_refusal_leaves_nothing_behind(app: &TestApp) {
    let mut members = app.conversation(3).await;
    let (carol, stranger) = (app.published_persona().await, app.persona());
    let package = claim(&members[0], carol.did()).await.unwrap();
    let gone = members[2].did().to_owned();
    let body = change(&mut members[0], std::slice::from_ref(&package), &[&gone]);
    let asked = with(
        &body,
        json!({ "addedDids": [carol.did()], "keyPackageHashes": hashes(&[&carol], std::slice::from_ref(&package)) }),
    );
    let before = contents(app).await;
    let own_hash = |did: &str| json!([{ "did": did, "hash": sha256_hex(&package) }]);
    for (changes, status, error) in [
        (json!({ "removedDids": [random_did()] }), 409, "TargetNotMember"),
        (json!({ "removedDids": [gone, random_did()] }), 409, "TargetNotMember"),
        (json!({ "addedDids": [carol.did(), members[1].did()] }), 409, "AlreadyMember"),
        (json!({ "addedDids": null, "removedDids": [] }), 400, "InvalidRequest"),
        (json!({ "keyPackageHashes": own_hash(members[1].did()) }), 409, "KeyPackageNotFound"),
        (json!({ "keyPackageHashes": own_hash(&random_did()) }), 400, "InvalidRequest"),
        (json!({ "keyPackageHashes": own_hash(&gone) }), 400, "InvalidRequest"),
        (json!({ "removedDids": [members[0].did()] }), 400, "InvalidRequest"),
        (json!({ "removedDids": [gone, gone] }), 400, "InvalidRequest"),
        (json!({ "commit": "AAAA" }), 400, "InvalidCommit"),
    ] {
        refused(submit(&members[0], &with(&asked, changes)).await, status, error);
    }
    refused(submit(&stranger, &asked).await, 404, "ConvoNotFound");
    assert_eq!(contents(app).await, before);
    ok(submit(&members[0], &asked).await);
    let before = contents(app).await;
    let own = with(&asked, json!({ "removedDids": null }));
    refused(submit(&members[2], &own).await, 403, "NotMember");
    assert_eq!(contents(app).await, before);
}

async fn p1_commits_of_all_shapes_at_two_replicas_have_one_winner(app: &TestApp) {
    let beside = Beside::start(app, app.app.serializer.registry().is_none()).await;
    let mut members = app.conversation(8).await;
    let leaver = members.pop().unwrap();
    ok(ask(&leaver, "leaveConvo", &json!({ "convoId": convo(&leaver) })).await);
    // The admin removes members, from the last one on, and adds new people in their place.
    for round in 0..3 {
        let (victim, joiner) = (members.pop().unwrap(), app.persona());
        let mut asked = Vec::new();
        for (n, member) in members.iter_mut().enumerate() {
            let is_gone = !member.mls.members(&member.group_id).unwrap().contains(&leaver.did().to_owned());
            let package = joiner.mls.key_package().unwrap();
            asked.push(match n {
                0 => with(&change(member, &[package], &[victim.did()]), json!({ "addedDids": [joiner.did()] })),
                1 => with(&change(member, &[package], &[]), json!({ "addedDids": [joiner.did()] })),
                2 if !is_gone => change(member, &[], &[leaver.did()]),
                _ => change(member, &[], &[]),
            });
        }
        let before = contents(app).await.count("messages");
        let replies = join_all(members.iter().zip(&asked).enumerate().map(async |(n, (member, body))| {
            let xrpc = if (n + round) % 2 == 0 { member.xrpc.clone() } else { beside.xrpc(member) };
            xrpc.procedure("submitCommit", body).await.unwrap()
        }))
        .await;
        for (member, reply) in members.iter_mut().zip(&replies) {
            match reply.status {
                200 => merge(member),
                _ => {
                    assert_eq!((reply.status, reply.error()), (409, Some("EpochMismatch")), "{reply}");
                    discard(member);
                }
            }
        }
        assert_eq!(replies.iter().filter(|reply| reply.status == 200).count(), 1, "round {round}");
        assert_eq!(contents(app).await.count("messages"), before + 1);
        for member in &mut members {
            member.catch_up().await.unwrap();
        }
        let secrets: Vec<_> = members.iter().map(|member| member.epoch_authenticator().unwrap()).collect();
        assert!(secrets.iter().all(|secret| *secret == secrets[0]), "round {round}");
    }
    beside.stop().await;
}

async fn a_welcome_needs_a_recipient(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let carol = app.persona();
    let offer = offer(&mut members[0], &[&carol]);
    let before = contents(app).await;
    let none = with(&offer.body, json!({ "didList": null }));
    refused(submit(&members[0], &none).await, 400, "InvalidWelcome");
    assert_eq!(contents(app).await, before);
    ok(submit(&members[0], &with(&none, json!({ "addedDids": [carol.did()] }))).await);
}

async fn a_commit_in_a_public_message_has_to_do_what_the_request_says(app: &TestApp) {
    let (mut alice, bob, carol) = (app.persona(), app.published_persona().await, app.persona());
    alice.handshake = catbird_client::mls::Handshake::Public;
    alice.create(random_did().as_bytes(), "public").await.unwrap();
    alice.add(&[bob.did()]).await.unwrap();
    let package = carol.mls.key_package().unwrap();
    let body = change(&mut alice, &[package], &[bob.did()]);
    let before = contents(app).await;
    for changes in [
        json!({ "addedDids": [app.persona().did()] }),
        json!({ "addedDids": [carol.did(), app.persona().did()] }),
        json!({ "addedDids": [] , "welcomeMessage": null }),
    ] {
        refused(submit(&alice, &with(&body, changes)).await, 400, "InvalidCommit");
    }
    assert_eq!(contents(app).await, before);
    ok(submit(&alice, &with(&body, json!({ "addedDids": [carol.did()] }))).await);
    merge(&mut alice);
    let update = change(&mut alice, &[], &[]);
    refused(submit(&alice, &with(&update, json!({ "removedDids": [carol.did()] }))).await, 400, "InvalidCommit");
    ok(submit(&alice, &update).await);
}
