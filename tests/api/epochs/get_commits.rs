//! getCommits: the commits of a range of epochs, each once, from the caller's own join on.

use catbird_client::persona::Persona;
use catbird_testkit::app::TestApp;
use serde_json::{Value, json};

use crate::harness::*;

either_serializer! {
    a_member_follows_from_its_epoch_to_the_present;
    p6_pages_cover_everything_once_while_others_commit;
    p7_a_joiner_sees_no_commit_from_before_its_join;
}
any_serializer! {
    a_range_has_both_ends_and_may_lie_beyond_the_present;
    a_page_is_bounded_in_bytes;
    commits_from_before_the_join_are_not_even_walked;
    malformed_ranges_are_refused;
    cursors_of_another_range_are_refused;
}

fn epochs(reply: &catbird_client::xrpc::Reply) -> Vec<u64> {
    reply.list("commits").unwrap().iter().map(|commit| commit["epoch"].as_u64().unwrap()).collect()
}

async fn a_member_follows_from_its_epoch_to_the_present(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let mut made = Vec::new();
    for _ in 0..3 {
        let offer = offer(&mut members[0], &[&app.persona()]);
        ok(ask(&members[0], "addMembers", &offer.body).await);
        merge(&mut members[0]);
        made.push(offer.staged.commit);
    }
    members[0].send("between").await.unwrap();
    // toEpoch is optional; in earlier versions it was required.
    let reply = ok(get(&members[1], "getCommits", &[("convoId", &convo(&members[1])), ("fromEpoch", "2")]).await);
    assert_eq!((&reply.body["convoId"], &reply.body["hasMore"]), (&json!(convo(&members[1])), &json!(false)));
    let commits = reply.list("commits").unwrap();
    for (commit, (n, made)) in commits.iter().zip(made.iter().enumerate()) {
        assert_eq!((commit["epoch"].as_u64(), commit["seq"].as_u64()), (Some(n as u64 + 2), Some(n as u64 + 2)));
        assert_eq!(&reply.bytes_in(commit, "commitData").unwrap(), made);
        assert_eq!(commit["sender"], members[0].did());
        let Persona { mls, group_id, .. } = &mut members[1];
        mls.apply(group_id, made).unwrap();
    }
    assert_eq!(commits.len(), 3);
    assert_eq!(members[1].epoch_authenticator().unwrap(), members[0].epoch_authenticator().unwrap());
}

async fn p6_pages_cover_everything_once_while_others_commit(app: &TestApp) {
    let members = app.conversation(2).await;
    seed_entries(app, &members[0], "commit", 10, 10).await;
    let id = convo(&members[0]);
    let (mut seen, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let mut parameters = vec![("convoId", &*id), ("fromEpoch", "1"), ("toEpoch", "14"), ("limit", "4")];
        parameters.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
        let reply = ok(get(&members[0], "getCommits", &parameters).await);
        assert_eq!(reply.body["hasMore"].as_bool().unwrap(), reply.body["cursor"].is_string());
        seen.extend(epochs(&reply));
        seed_entries(app, &members[0], "commit", 1, 10).await;
        cursor = reply.body["cursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    let last = *seen.last().unwrap();
    assert!(last >= 11, "{seen:?}");
    assert_eq!(seen, (1..=last).collect::<Vec<_>>());
}

async fn p7_a_joiner_sees_no_commit_from_before_its_join(app: &TestApp) {
    let mut members = app.conversation(3).await;
    members[0].add(&[app.published_persona().await.did()]).await.unwrap();
    let carol = app.published_persona().await;
    members[0].add(&[carol.did()]).await.unwrap();
    members[0].add(&[app.published_persona().await.did()]).await.unwrap();
    let parameters = [("convoId", &*convo(&members[0])), ("fromEpoch", "0")];
    assert_eq!(epochs(&ok(get(&members[0], "getCommits", &parameters).await)), [1, 2, 3, 4]);
    assert_eq!(epochs(&ok(get(&members[1], "getCommits", &parameters).await)), [2, 3, 4]);
    assert_eq!(epochs(&ok(get(&carol, "getCommits", &parameters).await)), [4]);
}

async fn a_range_has_both_ends_and_may_lie_beyond_the_present(app: &TestApp) {
    let members = app.conversation(2).await;
    seed_entries(app, &members[0], "commit", 5, 10).await;
    let id = convo(&members[0]);
    for (from, to, seen) in [
        ("2", "4", vec![2, 3, 4]),
        ("3", "3", vec![3]),
        ("5", "9000000000000000", vec![5, 6]),
        ("7", "9", vec![]),
        ("0", "0", vec![]),
    ] {
        for (from_name, to_name) in [("fromEpoch", "toEpoch"), ("from_epoch", "to_epoch")] {
            let parameters = [("convoId", &*id), (from_name, from), (to_name, to), ("colour", "red")];
            let reply = ok(get(&members[0], "getCommits", &parameters).await);
            assert_eq!(epochs(&reply), seen);
            assert_eq!((&reply.body["hasMore"], reply.body.get("cursor")), (&json!(false), None::<&Value>));
        }
    }
}

async fn a_page_is_bounded_in_bytes(app: &TestApp) {
    let members = app.conversation(2).await;
    // A PDS forwards 10 MiB, which hold two of these in base64.
    seed_entries(app, &members[0], "commit", 3, 3 * 1024 * 1024).await;
    let id = convo(&members[0]);
    let first = ok(get(&members[0], "getCommits", &[("convoId", &*id), ("fromEpoch", "2")]).await);
    assert_eq!((epochs(&first), &first.body["cursor"]), (vec![2, 3], &json!("4")));
    assert!(first.text.len() < 10 * 1024 * 1024, "{} bytes", first.text.len());
    let rest = [("convoId", &*id), ("fromEpoch", "2"), ("cursor", "4")];
    assert_eq!(epochs(&ok(get(&members[0], "getCommits", &rest).await)), [4]);
}

async fn malformed_ranges_are_refused(app: &TestApp) {
    let members = app.conversation(2).await;
    let id = convo(&members[0]);
    for (from, to) in [("2", "1"), ("-1", "1"), ("0", "-1"), ("0", "9007199254740992")] {
        let parameters = [("convoId", &*id), ("fromEpoch", from), ("toEpoch", to)];
        refused(get(&members[0], "getCommits", &parameters).await, 400, "InvalidEpochRange");
    }
    for (from, to) in [("x", "1"), ("", "1"), ("1.5", "2"), ("0", "9999999999999999999")] {
        let parameters = [("convoId", &*id), ("fromEpoch", from), ("toEpoch", to)];
        refused(get(&members[0], "getCommits", &parameters).await, 400, "InvalidRequest");
    }
    refused(get(&members[0], "getCommits", &[("convoId", &id)]).await, 400, "InvalidRequest");
}

async fn cursors_of_another_range_are_refused(app: &TestApp) {
    let members = app.conversation(2).await;
    let id = convo(&members[0]);
    for cursor in ["", "x", "0", "9", "-1", "99999999999999999999", "é"] {
        let parameters = [("convoId", &*id), ("fromEpoch", "1"), ("toEpoch", "5"), ("cursor", cursor)];
        refused(get(&members[0], "getCommits", &parameters).await, 400, "InvalidCursor");
    }
}

async fn commits_from_before_the_join_are_not_even_walked(app: &TestApp) {
    let members = app.conversation(2).await;
    seed_entries(app, &members[0], "commit", 200, 10).await;
    let carol = app.persona();
    ok(ask(&members[0], "addMembers", &json!({ "convoId": convo(&members[0]), "didList": [carol.did()] })).await);
    seed_entries(app, &members[0], "commit", 3, 10).await;
    let query = include_str!("../../../sql/queries/messages/list_commits.sql");
    let lines = query.lines().filter(|line| !line.trim_start().starts_with("--")).collect::<Vec<_>>().join(" ");
    let filled = [
        format!("'{}'", convo(&members[0])),
        format!("'{}'", carol.did()),
        "0".into(),
        "999".into(),
        "50".into(),
        "99999".into(),
        "1000".into(),
        "1".into(),
    ]
    .iter()
    .enumerate()
    .fold(lines, |query, (n, value)| query.replace(&format!("${}", n + 1), value));
    let db = app.database.connect().await;
    db.batch_execute("analyze messages; set enable_seqscan = off; set enable_bitmapscan = off").await.unwrap();
    let plan = db.query(&format!("explain (analyze, timing off, summary off) {filled}"), &[]).await.unwrap();
    let plan: Vec<&str> = plan.iter().map(|row| row.get(0)).collect();
    assert!(plan[0].contains("rows=3 "), "{plan:#?}");
    assert!(!plan.iter().any(|line| line.contains("Removed by")), "{plan:#?}");
}
