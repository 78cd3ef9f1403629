//! getMessages: pages of the log that neither skip nor repeat entries, from the reader's own join on, and a read
//! position that only moves forward.

use catbird_client::persona::Persona;
use catbird_client::xrpc::Reply;
use catbird_testkit::app::TestApp;
use serde_json::json;

use crate::harness::*;

either_serializer! {
    p6_reading_backwards_covers_everything_once_while_others_write;
    p6_reading_forwards_covers_everything_once_while_others_write;
    p7_a_joiner_sees_nothing_from_before_its_join_by_any_way_of_asking;
    reading_moves_no_position_unless_asked;
    the_read_position_never_moves_back;
}
any_serializer! {
    without_a_position_the_newest_page_comes_in_ascending_order;
    a_page_is_bounded_in_bytes_but_never_empty;
    an_empty_log_is_an_empty_page;
    malformed_positions_are_refused;
    one_position_at_a_time;
    p7_a_page_is_cut_to_the_membership_of_its_own_moment;
}

async fn read(reader: &Persona, parameters: &[(&str, &str)]) -> Reply {
    let convo = convo(reader);
    let all: Vec<_> = [("convoId", &*convo)].into_iter().chain(parameters.iter().copied()).collect();
    ok(get(reader, "getMessages", &all).await)
}

fn seqs(reply: &Reply) -> Vec<u64> {
    reply.list("messages").unwrap().iter().map(|one| one["seq"].as_u64().unwrap()).collect()
}

async fn p6_reading_backwards_covers_everything_once_while_others_write(app: &TestApp) {
    let members = app.conversation(2).await;
    seed_entries(app, &members[0], "app", 25, 10).await;
    let mut cursor = None::<String>;
    let mut seen = Vec::new();
    loop {
        let mut parameters = vec![("limit", "7")];
        parameters.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
        let page = read(&members[0], &parameters).await;
        seen.splice(0..0, seqs(&page));
        ok(ask(&members[1], "sendMessage", &message(&members[1], b"meanwhile")).await);
        cursor = page.body["cursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, (1..=26).collect::<Vec<_>>());
}

async fn p6_reading_forwards_covers_everything_once_while_others_write(app: &TestApp) {
    let members = app.conversation(2).await;
    seed_entries(app, &members[0], "app", 20, 10).await;
    for by_id in [false, true] {
        let mut seen = vec![1];
        let mut last_id =
            read(&members[0], &[("sinceSeq", "0"), ("limit", "1")]).await.body["messages"][0]["id"].clone();
        loop {
            let seq = seen.last().unwrap().to_string();
            let position = if by_id { ("sinceMessage", last_id.as_str().unwrap()) } else { ("sinceSeq", &*seq) };
            let page = read(&members[0], &[position, ("limit", "6")]).await;
            if seen.len() < 20 {
                ok(ask(&members[1], "sendMessage", &message(&members[1], b"meanwhile")).await);
            }
            let Some(newest) = page.list("messages").unwrap().last() else {
                assert_eq!(page.number("lastSeq").unwrap(), *seen.last().unwrap(), "the end is the end");
                break;
            };
            seen.extend(seqs(&page));
            last_id = newest["id"].clone();
        }
        assert!(seen.len() > 20, "{seen:?}");
        assert_eq!(seen, (1..=seen.len() as u64).collect::<Vec<_>>());
    }
}

async fn p7_a_joiner_sees_nothing_from_before_its_join_by_any_way_of_asking(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let secret = members[0].send("a secret").await.unwrap();
    let mut carol = app.published_persona().await;
    members[0].add(&[carol.did()]).await.unwrap();
    let join = members[0].epoch().unwrap();
    assert_eq!(join, 2);
    carol.join(&convo(&members[0])).await.unwrap();
    let open = members[0].send("in the open").await.unwrap();
    for parameters in [vec![], vec![("sinceSeq", "0")], vec![("cursor", "5")], vec![("sinceSeq", "2")]] {
        let page = read(&carol, &parameters).await;
        assert_eq!((seqs(&page), page.body.get("cursor")), (vec![open.seq], None), "{parameters:?}");
    }
    for cursor in ["4", "3", "1"] {
        assert_eq!(seqs(&read(&carol, &[("cursor", cursor)]).await), Vec::<u64>::new());
    }
    // She cannot distinguish the id of an earlier entry from an unknown id.
    let id = convo(&carol);
    let ask_since = async |message: &str| {
        let reply = get(&carol, "getMessages", &[("convoId", &id), ("sinceMessage", message)]).await;
        refused(reply, 400, "InvalidCursor").sentence().to_owned()
    };
    assert_eq!(ask_since(&secret.message_id).await, ask_since("never-was").await);
}

async fn reading_moves_no_position_unless_asked(app: &TestApp) {
    let mut members = app.conversation(2).await;
    for n in 0..3 {
        members[0].send(&n.to_string()).await.unwrap();
    }
    let before = contents(app).await;
    for parameters in
        [&[][..], &[("peek", "false")], &[("peek", "true")], &[("markRead", "false")], &[("sinceSeq", "0")]]
    {
        read(&members[1], parameters).await;
        assert_eq!(contents(app).await, before, "{parameters:?}");
    }
    assert_eq!(only_convo(&members[1]).await["unreadCount"], 3);
    read(&members[1], &[("mark_read", "true")]).await;
    app.settle().await;
    assert_eq!(only_convo(&members[1]).await["unreadCount"], 0);
}

async fn the_read_position_never_moves_back(app: &TestApp) {
    let mut members = app.conversation(2).await;
    for n in 0..5 {
        members[0].send(&n.to_string()).await.unwrap();
    }
    read(&members[1], &[("markRead", "true")]).await;
    app.settle().await;
    read(&members[1], &[("cursor", "3"), ("markRead", "true")]).await;
    read(&members[1], &[("sinceSeq", "0"), ("limit", "2"), ("markRead", "true")]).await;
    app.settle().await;
    assert_eq!(only_convo(&members[1]).await["unreadCount"], 0);
}

async fn without_a_position_the_newest_page_comes_in_ascending_order(app: &TestApp) {
    let members = app.conversation(2).await;
    seed_entries(app, &members[0], "app", 119, 10).await;
    assert_eq!(seqs(&read(&members[0], &[]).await), (71..=120).collect::<Vec<_>>(), "50 unless told");
    let page = read(&members[0], &[("limit", "100")]).await;
    assert_eq!((seqs(&page), page.number("lastSeq").unwrap()), ((21..=120).collect(), 120));
    assert_eq!(page.body["cursor"], "21");
    assert_eq!(seqs(&read(&members[0], &[("limit", "1")]).await), [120]);
}

async fn a_page_is_bounded_in_bytes_but_never_empty(app: &TestApp) {
    let members = app.conversation(2).await;
    // A PDS forwards 10 MiB, which hold two of these in base64, and the commit before them.
    seed_entries(app, &members[0], "app", 3, 3 * 1024 * 1024).await;
    for (parameters, expected) in [
        (vec![], vec![3, 4]),
        (vec![("cursor", "3")], vec![1, 2]),
        (vec![("sinceSeq", "0")], vec![1, 2, 3]),
        (vec![("sinceSeq", "3")], vec![4]),
    ] {
        let page = read(&members[0], &parameters).await;
        assert_eq!(seqs(&page), expected, "{parameters:?}");
        assert!(page.text.len() < 10 * 1024 * 1024, "{} bytes", page.text.len());
    }
    // Entries larger than a page were accepted before this limit, and are sent alone.
    seed_entries(app, &members[0], "app", 1, 10 * 1024 * 1024).await;
    assert_eq!(seqs(&read(&members[0], &[]).await), [5]);
    assert_eq!(seqs(&read(&members[0], &[("sinceSeq", "4")]).await), [5]);
    // Many small entries whose JSON is larger than their content.
    seed_entries(app, &members[0], "app", 100, 1).await;
    assert_eq!(seqs(&read(&members[0], &[("limit", "100")]).await), (6..=105).collect::<Vec<_>>());
}

async fn an_empty_log_is_an_empty_page(app: &TestApp) {
    let members = app.conversation(1).await;
    for parameters in [vec![], vec![("sinceSeq", "0")], vec![("cursor", "1")], vec![("sinceSeq", "9007199254740991")]] {
        let page = read(&members[0], &parameters).await;
        let expected = json!({ "messages": [], "lastSeq": 0, "serverIncarnation": page.body["serverIncarnation"] });
        assert_eq!(page.body, expected);
    }
}

async fn malformed_positions_are_refused(app: &TestApp) {
    let members = app.conversation(2).await;
    let id = convo(&members[0]);
    for (name, value) in [
        ("cursor", ""),
        ("cursor", "0"),
        ("cursor", "-1"),
        ("cursor", "x"),
        ("cursor", "1.5"),
        ("cursor", "99999999999999999999"),
        ("sinceMessage", ""),
        ("sinceMessage", "01JB2N0W3E8Z6TQ9K4M5V7X1YA"),
        ("sinceMessage", "' or 1=1"),
        ("sinceMessage", &"x".repeat(65)),
    ] {
        let reply = get(&members[0], "getMessages", &[("convoId", &id), (name, value)]).await;
        refused(reply, 400, "InvalidCursor");
    }
    for (name, value) in [
        ("sinceSeq", "-1"),
        ("sinceSeq", "x"),
        ("sinceSeq", ""),
        ("sinceSeq", "9007199254740992"),
        ("limit", "0"),
        ("limit", "101"),
        ("peek", "maybe"),
        ("markRead", "maybe"),
    ] {
        let reply = get(&members[0], "getMessages", &[("convoId", &id), (name, value)]).await;
        refused(reply, 400, "InvalidRequest");
    }
}

async fn one_position_at_a_time(app: &TestApp) {
    let members = app.conversation(2).await;
    let id = convo(&members[0]);
    let both = [("convoId", &*id), ("sinceSeq", "0"), ("cursor", "5")];
    refused(get(&members[0], "getMessages", &both).await, 400, "InvalidRequest");
}

/// A member may be removed and added again between the membership check and the page.
async fn p7_a_page_is_cut_to_the_membership_of_its_own_moment(app: &TestApp) {
    let mut members = app.conversation(2).await;
    members[0].send("before").await.unwrap();
    let id: catbird_server::ids::ConvoId = convo(&members[0]).parse().unwrap();
    let bob: catbird_server::ids::Did = members[1].did().parse().unwrap();
    let seen = async || {
        let reader = app.app.store.reader().await.unwrap();
        let after = reader.messages_after(&id, &bob, 0, 50).await.unwrap();
        let before = reader.messages_before(&id, &bob, i64::MAX, 50).await.unwrap();
        let commits = reader.commits(&id, &bob, (1, 0, 50), 50).await.unwrap();
        let seqs = |page: Vec<catbird_server::wire::MessageView>| page.iter().map(|one| one.seq).collect::<Vec<_>>();
        (seqs(after), seqs(before), commits.iter().map(|one| one.seq).collect::<Vec<_>>())
    };
    assert_eq!(seen().await, (vec![2], vec![2], vec![]));
    members[0].remove(bob.as_str()).await.unwrap();
    assert_eq!(seen().await, (vec![], vec![], vec![]), "nothing for a former member");
    ok(ask(&members[0], "addMembers", &json!({ "convoId": id, "didList": [bob] })).await);
    members[0].send("after").await.unwrap();
    assert_eq!(seen().await, (vec![4], vec![4], vec![]), "nothing from the earlier membership");
    members[0].add(&[app.published_persona().await.did()]).await.unwrap();
    assert_eq!(seen().await, (vec![4, 5], vec![4, 5], vec![5]));
}
