//! addMembers: commit, roster, Welcomes and key packages take effect together or not at all, and a caller that loses an
//! epoch gets enough to rebase.

use catbird_client::mls::{Handshake, MlsClient};
use catbird_client::persona::{Persona, sha256_hex, unique};
use catbird_client::random_did;
use catbird_client::xrpc::base64_text;
use catbird_testkit::app::TestApp;
use serde_json::{Value, json};

use crate::harness::*;

either_serializer! {
    an_addition_says_where_it_landed_and_the_newcomer_reads_on;
    p2_a_losing_addition_leaves_nothing_behind;
    p2_a_refusal_after_the_swap_takes_the_swap_back;
    p2_a_welcome_comes_with_its_commit_or_not_at_all;
    p8_key_packages_that_the_caller_may_not_use_are_refused_and_nothing_is_written;
    p9_a_stale_commit_gets_epoch_reason_and_missing_commits;
    p9_missing_commits_are_limited_oldest_first_with_a_note_of_more;
    p9_missing_commits_are_limited_in_bytes;
    p9_a_commit_for_a_future_epoch_gets_epoch_ahead;
    p7_missing_commits_start_with_the_callers_own_join;
    the_roster_alone_changes_without_an_epoch;
    a_former_member_can_be_added_again_and_sees_only_later_entries;
    a_removed_member_may_rejoin;
    a_member_cannot_be_added_twice;
    a_conversation_has_at_most_10_000_members;
    a_former_member_cannot_add;
    the_metrics_count_effects_and_not_retries;
}
any_serializer! {
    every_spelling_of_base64_is_the_same_commit;
    snake_case_is_accepted_and_unknown_fields_are_ignored;
    one_request_names_1_to_999_different_people;
    one_request_uses_at_most_10_key_packages_of_one_person;
    public_and_private_commits_are_both_understood;
}

async fn an_addition_says_where_it_landed_and_the_newcomer_reads_on(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let (mut carol, mut dave) = (app.published_persona().await, app.published_persona().await);
    let packages = [claim(&members[0], carol.did()).await.unwrap(), claim(&members[0], dave.did()).await.unwrap()];
    let offer = offer_with(&mut members[0], &[&carol, &dave], &packages);
    let hashes = hashes(&[&carol, &dave], &packages);
    let asked = with(&offer.body, json!({ "keyPackageHashes": hashes, "idempotencyKey": unique() }));
    let reply = ok(ask(&members[0], "addMembers", &asked).await);
    assert_eq!(reply.body, json!({ "success": true, "generation": 1, "newEpoch": 2, "epoch": 2, "seq": 2 }));
    merge(&mut members[0]);
    assert_eq!(only_convo(&carol).await["memberCount"], 4);

    // The commit is an entry of the log like any other (earlier versions stored it separately, under seq 0).
    let log = ok(get(&members[1], "getMessages", &[("convoId", &convo(&members[1])), ("sinceSeq", "1")]).await);
    let entry = &log.list("messages").unwrap()[0];
    assert_eq!((&entry["messageType"], &entry["seq"], &entry["epoch"]), (&json!("commit"), &json!(2), &json!(2)));
    assert_eq!(log.bytes_in(entry, "ciphertext").unwrap(), offer.staged.commit);

    for newcomer in [&mut carol, &mut dave] {
        newcomer.join(&convo(&members[0])).await.unwrap();
        assert_eq!(newcomer.last_seq, 2);
    }
    members[0].send("hello").await.unwrap();
    members[1].catch_up().await.unwrap();
    assert_eq!(carol.catch_up().await.unwrap(), ["hello"]);
    assert_eq!(dave.catch_up().await.unwrap(), ["hello"]);
    // Each had published two key packages; one is used.
    let stranger = app.persona();
    assert_ne!(sha256_hex(&claim(&stranger, carol.did()).await.unwrap()), sha256_hex(&packages[0]));
    assert_eq!(claim(&app.persona(), carol.did()).await, None);
}

async fn p2_a_losing_addition_leaves_nothing_behind(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let (carol, dave) = (app.published_persona().await, app.published_persona().await);
    let package = claim(&members[1], dave.did()).await.unwrap();
    let losing = offer_with(&mut members[1], &[&dave], std::slice::from_ref(&package));
    members[0].add(&[carol.did()]).await.unwrap();
    let before = contents(app).await;

    let hashes = hashes(&[&dave], std::slice::from_ref(&package));
    let asked = with(&losing.body, json!({ "keyPackageHashes": hashes, "idempotencyKey": "once" }));
    refused(ask(&members[1], "addMembers", &asked).await, 409, "EpochMismatch");
    assert_eq!(contents(app).await, before);
    let welcome = get(&dave, "getWelcome", &[("convoId", &convo(&members[0]))]).await;
    refused(welcome, 404, "ConvoNotFound");
    assert!(!roster(&members[0]).await.contains(&dave.did().to_owned()));
    assert_eq!(claim(&members[1], dave.did()).await, Some(package), "the key package is still the loser's to use");
    discard(&mut members[1]);
    members[1].catch_up().await.unwrap();
    members[1].add(&[dave.did()]).await.unwrap();
}

async fn p2_a_welcome_comes_with_its_commit_or_not_at_all(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let (carol, dave) = (app.persona(), app.persona());
    let losing = offer(&mut members[1], &[&dave]);
    let winning = offer(&mut members[0], &[&carol]);
    ok(ask(&members[0], "addMembers", &winning.body).await);
    let before = contents(app).await;
    let alone = with(&losing.body, json!({ "commit": null }));
    refused(ask(&members[1], "addMembers", &alone).await, 400, "InvalidWelcome");
    assert_eq!(contents(app).await, before);
}

async fn p2_a_refusal_after_the_swap_takes_the_swap_back(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let carol = app.persona();
    let offer = offer(&mut members[0], &[&carol]);
    let before = contents(app).await;
    let already = with(&offer.body, json!({ "didList": [carol.did(), members[1].did()] }));
    refused(ask(&members[0], "addMembers", &already).await, 409, "AlreadyMember");
    let unknown = json!([{ "did": carol.did(), "hash": "ab".repeat(32) }]);
    let unknown = with(&offer.body, json!({ "keyPackageHashes": unknown }));
    refused(ask(&members[0], "addMembers", &unknown).await, 409, "KeyPackageNotFound");
    assert_eq!(contents(app).await, before);
    assert_eq!(members[0].server_epoch().await.unwrap(), 1);
    assert_eq!(landed(&ok(ask(&members[0], "addMembers", &offer.body).await)), (2, 2), "the epoch is still free");
}

async fn p8_key_packages_that_the_caller_may_not_use_are_refused_and_nothing_is_written(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let (carol, dave, stranger) = (app.published_persona().await, app.published_persona().await, app.persona());
    let elsewhere = claim(&stranger, carol.did()).await.unwrap();
    let used = {
        let package = claim(&members[0], dave.did()).await.unwrap();
        let offer = offer_with(&mut members[0], &[&dave], std::slice::from_ref(&package));
        let hashes = hashes(&[&dave], std::slice::from_ref(&package));
        ok(ask(&members[0], "addMembers", &with(&offer.body, json!({ "keyPackageHashes": hashes }))).await);
        merge(&mut members[0]);
        package
    };
    let mine = claim(&members[0], carol.did()).await.unwrap();
    let offer = offer_with(&mut members[0], &[&carol], std::slice::from_ref(&mine));
    let before = contents(app).await;
    let entry = |did: &str, package: &[u8]| json!({ "did": did, "hash": sha256_hex(package) });
    for bad in [
        json!([entry(carol.did(), &elsewhere)]),
        json!([entry(carol.did(), &used)]),
        json!([entry(carol.did(), b"never published")]),
        json!([entry(carol.did(), &mine), entry(carol.did(), b"never published")]),
    ] {
        let asked = with(&offer.body, json!({ "keyPackageHashes": bad, "welcomeMessage": null }));
        refused(ask(&members[0], "addMembers", &asked).await, 409, "KeyPackageNotFound");
    }
    // The Welcome is for the named packages, all of them and no others.
    for others in [
        json!([entry(carol.did(), &elsewhere)]),
        json!([entry(carol.did(), &mine), entry(carol.did(), &elsewhere)]),
        json!([entry(carol.did(), &mine), entry(dave.did(), &used)]),
    ] {
        let asked = with(&offer.body, json!({ "keyPackageHashes": others }));
        refused(ask(&members[0], "addMembers", &asked).await, 400, "InvalidWelcome");
    }
    // Listed for another owner, and for a DID that is neither in the group nor being added.
    let asked = with(&offer.body, json!({ "keyPackageHashes": [entry(dave.did(), &mine)] }));
    refused(ask(&members[0], "addMembers", &asked).await, 409, "KeyPackageNotFound");
    let asked = with(&offer.body, json!({ "keyPackageHashes": [entry(stranger.did(), &mine)] }));
    refused(ask(&members[0], "addMembers", &asked).await, 400, "InvalidRequest");
    assert_eq!(contents(app).await, before);
    let asked =
        with(&offer.body, json!({ "keyPackageHashes": [entry(carol.did(), &mine), entry(carol.did(), &mine)] }));
    ok(ask(&members[0], "addMembers", &asked).await);
}

async fn p9_a_stale_commit_gets_epoch_reason_and_missing_commits(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let late = offer(&mut members[1], &[&app.persona()]);
    let mut won = Vec::new();
    for _ in 0..3 {
        let winner = offer(&mut members[0], &[&app.persona()]);
        ok(ask(&members[0], "addMembers", &winner.body).await);
        merge(&mut members[0]);
        won.push(winner.staged.commit);
    }
    let reply = refused(ask(&members[1], "addMembers", &late.body).await, 409, "EpochMismatch");
    assert_eq!((&reply.body["serverEpoch"], &reply.body["reason"]), (&json!(4), &json!("stale")));
    assert_eq!((&reply.body["recovery"], &reply.body["moreMissing"]), (&json!("catchUpThenRebase"), &json!(false)));
    let missing = reply.list("missing").unwrap();
    let bytes: Vec<_> = missing.iter().map(|commit| reply.bytes_in(commit, "commitData").unwrap()).collect();
    assert_eq!(bytes, won);
    assert_eq!(missing.iter().map(|commit| commit["epoch"].clone()).collect::<Vec<_>>(), [2, 3, 4]);
    assert!(missing.iter().all(|commit| commit["sender"] == members[0].did()));
    // The refusal alone is enough to rebase: the loser catches up and wins the next epoch.
    discard(&mut members[1]);
    for commit in &bytes {
        let Persona { mls, group_id, .. } = &mut members[1];
        mls.apply(group_id, commit).unwrap();
    }
    let rebased = offer(&mut members[1], &[&app.persona()]);
    assert_eq!(landed(&ok(ask(&members[1], "addMembers", &rebased.body).await)).0, 5);
}

async fn p9_missing_commits_are_limited_oldest_first_with_a_note_of_more(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let late = offer(&mut members[1], &[&app.persona()]);
    seed_entries(app, &members[0], "commit", 51, 100).await;
    let reply = refused(ask(&members[1], "addMembers", &late.body).await, 409, "EpochMismatch");
    assert_eq!((&reply.body["serverEpoch"], &reply.body["moreMissing"]), (&json!(52), &json!(true)));
    let epochs: Vec<_> =
        reply.list("missing").unwrap().iter().map(|commit| commit["epoch"].as_u64().unwrap()).collect();
    assert_eq!(epochs, (2..=51).collect::<Vec<_>>());
    // The reply says where the rest is.
    let rest = [("convoId", &*convo(&members[1])), ("fromEpoch", "52")];
    let rest = ok(get(&members[1], "getCommits", &rest).await);
    assert_eq!(rest.list("commits").unwrap().len(), 1);
}

async fn p9_missing_commits_are_limited_in_bytes(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let late = offer(&mut members[1], &[&app.persona()]);
    // 1 MiB holds two of these in base64; a larger one is sent alone.
    seed_entries(app, &members[0], "commit", 3, 300_000).await;
    let reply = refused(ask(&members[1], "addMembers", &late.body).await, 409, "EpochMismatch");
    assert_eq!((reply.list("missing").unwrap().len(), &reply.body["moreMissing"]), (2, &json!(true)));

    let mut members = app.conversation(2).await;
    let late = offer(&mut members[1], &[&app.persona()]);
    seed_entries(app, &members[0], "commit", 2, 2_000_000).await;
    let reply = refused(ask(&members[1], "addMembers", &late.body).await, 409, "EpochMismatch");
    assert_eq!((reply.list("missing").unwrap().len(), &reply.body["moreMissing"]), (1, &json!(true)));
}

async fn p9_a_commit_for_a_future_epoch_gets_epoch_ahead(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let Persona { mls, group_id, .. } = &mut members[0];
    mls.self_update(group_id).unwrap();
    mls.merge_pending(group_id).unwrap();
    let early = offer(&mut members[0], &[&app.persona()]);
    let before = contents(app).await;
    let reply = refused(ask(&members[0], "addMembers", &early.body).await, 409, "EpochAhead");
    assert_eq!((&reply.body["serverEpoch"], &reply.body["reason"]), (&json!(1), &json!("future")));
    assert_eq!(reply.body["recovery"], "rejoin", "no commit leads back");
    assert_eq!(reply.list("missing").unwrap().len(), 0);
    assert_eq!(contents(app).await, before);
}

async fn p7_missing_commits_start_with_the_callers_own_join(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let mut stale = offer(&mut members[1], &[&app.persona()]);
    for _ in 0..2 {
        members[0].add(&[app.published_persona().await.did()]).await.unwrap();
    }
    // Bob leaves, is added to the roster again, and sends a commit of his first membership.
    ok(ask(&members[1], "leaveConvo", &json!({ "convoId": convo(&members[1]) })).await);
    let again = json!({ "convoId": convo(&members[0]), "didList": [members[1].did()] });
    ok(ask(&members[0], "addMembers", &again).await);
    let after = offer(&mut members[0], &[&app.persona()]);
    ok(ask(&members[0], "addMembers", &after.body).await);
    stale.body["didList"] = json!([random_did()]);
    let reply = refused(ask(&members[1], "addMembers", &stale.body).await, 409, "EpochMismatch");
    let missing = reply.list("missing").unwrap();
    assert_eq!(missing.iter().map(|commit| commit["epoch"].clone()).collect::<Vec<_>>(), [4]);
}

async fn the_roster_alone_changes_without_an_epoch(app: &TestApp) {
    let members = app.conversation(2).await;
    let newcomer = random_did();
    let asked = json!({ "convoId": convo(&members[0]), "didList": [newcomer] });
    let reply = ok(ask(&members[1], "addMembers", &asked).await);
    assert_eq!(reply.body, json!({ "success": true, "newEpoch": 1, "epoch": 1, "seq": 1 }));
    assert_eq!(roster(&members[0]).await.last(), Some(&newcomer));
    assert_eq!(members[0].server_epoch().await.unwrap(), 1);
    // No member is locked out: messages and commits of the same epoch still count.
    ok(ask(&members[0], "sendMessage", &message(&members[0], b"still here")).await);
}

async fn a_former_member_can_be_added_again_and_sees_only_later_entries(app: &TestApp) {
    let mut members = app.conversation(3).await;
    members[0].send("before").await.unwrap();
    let mut bob = members.remove(1);
    bob.leave().await.unwrap();
    members[0].remove(bob.did()).await.unwrap();
    members[0].send("meanwhile").await.unwrap();
    bob.publish_key_packages(1).await.unwrap();
    members[0].add(&[bob.did()]).await.unwrap();
    bob.join(&convo(&members[0])).await.unwrap();
    members[0].send("after").await.unwrap();
    assert_eq!(bob.catch_up().await.unwrap(), ["after"]);
    let all = ok(get(&bob, "getMessages", &[("convoId", &convo(&bob)), ("sinceSeq", "0")]).await);
    assert_eq!(all.list("messages").unwrap().len(), 1);
    app.settle().await;
    assert_eq!(only_convo(&bob).await["unreadCount"], 0);
}

async fn a_removed_member_may_rejoin(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let mut bob = members.remove(1);
    let convo = convo(&bob);
    members[0].remove(bob.did()).await.unwrap();
    refused(get(&bob, "getMessages", &[("convoId", &convo)]).await, 403, "NotMember");
    bob.publish_key_packages(1).await.unwrap();
    members[0].add(&[bob.did()]).await.unwrap();
    bob.join(&convo).await.unwrap();
    bob.send("back").await.unwrap();
}

async fn a_member_cannot_be_added_twice(app: &TestApp) {
    let members = app.conversation(2).await;
    let before = contents(app).await;
    for did in [members[0].did(), members[1].did()] {
        let asked = json!({ "convoId": convo(&members[0]), "didList": [random_did(), did] });
        refused(ask(&members[0], "addMembers", &asked).await, 409, "AlreadyMember");
    }
    assert_eq!(contents(app).await, before);
}

async fn a_conversation_has_at_most_10_000_members(app: &TestApp) {
    let members = app.conversation(2).await;
    seed_members(app, &convo(&members[0]), 9_997).await;
    let one = || json!({ "convoId": convo(&members[0]), "didList": [random_did()] });
    let two = with(&one(), json!({ "didList": [random_did(), random_did()] }));
    refused(ask(&members[0], "addMembers", &two).await, 400, "TooManyMembers");
    ok(ask(&members[0], "addMembers", &one()).await);
    refused(ask(&members[0], "addMembers", &one()).await, 400, "TooManyMembers");
}

async fn a_former_member_cannot_add(app: &TestApp) {
    let mut members = app.conversation(3).await;
    let offer = offer(&mut members[1], &[&app.persona()]);
    ok(ask(&members[1], "leaveConvo", &json!({ "convoId": convo(&members[1]) })).await);
    let before = contents(app).await;
    let roster_only = json!({ "convoId": convo(&members[1]), "didList": [random_did()] });
    for asked in [&offer.body, &roster_only] {
        let reply = refused(ask(&members[1], "addMembers", asked).await, 403, "NotMember");
        assert_eq!(reply.body["recovery"], "rejoin");
    }
    assert_eq!(contents(app).await, before);
}

async fn every_spelling_of_base64_is_the_same_commit(app: &TestApp) {
    let mut members = app.conversation(2).await;
    for n in 0..8 {
        let mut joiner = app.persona();
        let Offer { staged, body } = offer(&mut members[0], &[&joiner]);
        let changes =
            json!({ "commit": spellings(&staged.commit)[n], "welcomeMessage": spellings(&staged.welcome)[7 - n] });
        ok(ask(&members[0], "addMembers", &with(&body, changes)).await);
        merge(&mut members[0]);
        joiner.join(&convo(&members[0])).await.unwrap();
    }
    members[1].catch_up().await.unwrap();
    assert_eq!(members[1].epoch().unwrap(), 9);
}

async fn snake_case_is_accepted_and_unknown_fields_are_ignored(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let carol = app.published_persona().await;
    let package = claim(&members[0], carol.did()).await.unwrap();
    let Offer { staged, .. } = offer_with(&mut members[0], &[&carol], std::slice::from_ref(&package));
    let asked = json!({
        "convo_id": convo(&members[0]),
        "did_list": [carol.did()],
        "commit": base64_text(&staged.commit),
        "welcome_message": base64_text(&staged.welcome),
        "key_package_hashes": hashes(&[&carol], &[package]),
        "idempotency_key": "k",
        "colour": [1, 2.5, null],
    });
    let first = ok(ask(&members[0], "addMembers", &asked).await);
    assert_eq!(ok(ask(&members[0], "addMembers", &asked).await).body, first.body);
    ok(get(&carol, "getWelcome", &[("convoId", &convo(&members[0]))]).await);
}

async fn one_request_names_1_to_999_different_people(app: &TestApp) {
    let members = app.conversation(2).await;
    let asked = |dids: Vec<String>| json!({ "convoId": convo(&members[0]), "didList": dids });
    let many: fn(usize) -> Vec<String> = |n| (0..n).map(|n| format!("did:plc:many{n}")).collect();
    refused(ask(&members[0], "addMembers", &asked(Vec::new())).await, 400, "InvalidRequest");
    refused(ask(&members[0], "addMembers", &asked(many(1_000))).await, 400, "TooManyMembers");
    let twice = [many(2), many(1)].concat();
    refused(ask(&members[0], "addMembers", &asked(twice)).await, 400, "InvalidRequest");
    ok(ask(&members[0], "addMembers", &asked(many(999))).await);
}

async fn public_and_private_commits_are_both_understood(app: &TestApp) {
    for handshake in [Handshake::Public, Handshake::Private] {
        let mut alice = app.persona();
        alice.handshake = handshake;
        alice.create(random_did().as_bytes(), "framing").await.unwrap();
        let newcomer = app.published_persona().await;
        assert_eq!(alice.add(&[newcomer.did()]).await.unwrap().epoch, 1);
        let late: Value = offer(&mut alice, &[&app.persona()]).body;
        seed_entries(app, &alice, "commit", 1, 10).await;
        refused(ask(&alice, "addMembers", &late).await, 409, "EpochMismatch");
    }
}

async fn one_request_uses_at_most_10_key_packages_of_one_person(app: &TestApp) {
    let mut members = app.conversation(1).await;
    let carol = app.persona();
    let mut packages = Vec::new();
    // One of each device, because a group takes no signature key twice.
    for _ in 0..11 {
        packages.push(MlsClient::new(carol.did()).key_package().unwrap());
        ok(publish(&carol, packages.last().unwrap()).await);
    }
    let offer = offer_with(&mut members[0], &[&carol], &packages[..10]);
    let asked = |n: usize| with(&offer.body, json!({ "keyPackageHashes": hashes(&vec![&carol; n], &packages[..n]) }));
    refused(ask(&members[0], "addMembers", &asked(11)).await, 400, "InvalidRequest");
    ok(ask(&members[0], "addMembers", &asked(10)).await);
    assert_eq!(contents(app).await.count("welcome_messages"), 10);
}

async fn the_metrics_count_effects_and_not_retries(app: &TestApp) {
    let mut members = app.conversation(1).await;
    let (left, id) = (app.persona(), convo(&members[0]));
    let (carol, dave) = (app.persona(), app.persona());
    let offer = offer(&mut members[0], &[&carol]);
    let group = json!({ "groupId": "c0ffee", "cipherSuite": carol.mls.suite_name(), "idempotencyKey": "k" });
    let requests = [
        ("sendMessage", with(&message(&members[0], b"by key"), json!({ "idempotencyKey": "k" }))),
        ("sendMessage", with(&message(&members[0], b"by id"), json!({ "msgId": "m" }))),
        ("addMembers", json!({ "convoId": id, "didList": [dave.did(), left.did()], "idempotencyKey": "k" })),
        ("addMembers", offer.body.clone()),
        ("createConvo", group),
    ];
    let before = counts(app);
    for (method, body) in &requests {
        for _ in 0..3 {
            ok(ask(&members[0], method, body).await);
        }
    }
    merge(&mut members[0]);
    let group_id = members[0].group_id.clone();
    let removal = members[0].mls.self_update(&group_id).unwrap();
    let removal = json!({ "convoId": id, "targetDid": left.did(), "commit": base64_text(&removal.commit) });
    for _ in 0..3 {
        ok(ask(&members[0], "leaveConvo", &removal).await);
    }
    let done: Vec<_> = counts(app).iter().zip(before).map(|(now, before)| now - before).collect();
    assert_eq!(done, [2, 1, 4, 2], "messages, conversations, members, epochs");
}

fn counts(app: &TestApp) -> [u64; 4] {
    let text = app.app.metrics.page.render().unwrap();
    let names = [
        "mls_messages_sent_total",
        "mls_groups_created_total",
        "mls_members_added_total",
        "epoch_increment_duration_seconds_count",
    ];
    names.map(|name| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {text}"));
        line.trim().parse().unwrap()
    })
}
