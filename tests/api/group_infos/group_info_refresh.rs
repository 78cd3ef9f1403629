//! groupInfoRefresh: the members are asked for a GroupInfo, at most once in ten seconds over all replicas.

use catbird_client::persona::Persona;
use catbird_testkit::app::TestApp;
use serde_json::json;

use crate::events::follow;
use crate::harness::*;

any_serializer! {
    the_members_are_asked_at_most_once_in_ten_seconds;
    twenty_requests_at_once_ask_once;
    every_member_receives_the_event_and_a_former_one_does_not;
}

/// Returns the callers of the requests that members were told of, in order.
pub async fn requests(app: &TestApp) -> Vec<String> {
    let asked = "select payload->>'did' from event_stream where event_type = 'groupInfoRequested' order by id";
    let rows = app.database.connect().await.query(asked, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn the_members_are_asked_at_most_once_in_ten_seconds(app: &TestApp) {
    let members = app.conversation(2).await;
    let body = json!({ "convoId": convo(&members[0]) });
    for member in [&members[0], &members[1]] {
        let reply = ok(ask(member, "groupInfoRefresh", &body).await);
        assert_eq!(reply.body, json!({ "requested": true, "activeMembers": 2 }));
    }
    assert_eq!(requests(app).await, [members[0].did()]);
    sql(app, "update group_info_requests set requested_at = requested_at - interval '10 seconds'", &[]).await;
    ok(ask(&members[1], "groupInfoRefresh", &body).await);
    assert_eq!(requests(app).await, [members[0].did(), members[1].did()]);
}

async fn twenty_requests_at_once_ask_once(app: &TestApp) {
    let members = app.conversation(2).await;
    let body = json!({ "convoId": convo(&members[0]) });
    let all = (0..20).map(|n| ask(&members[n % 2], "groupInfoRefresh", &body));
    for reply in futures_util::future::join_all(all).await {
        ok(reply);
    }
    assert_eq!(requests(app).await.len(), 1);
}

async fn every_member_receives_the_event_and_a_former_one_does_not(app: &TestApp) {
    let mut members = app.conversation(3).await;
    let leaver = members.pop().unwrap();
    let id = convo(&members[0]);
    ok(ask(&leaver, "leaveConvo", &json!({ "convoId": id })).await);
    let mut streams = Vec::new();
    for member in [&members[0], &members[1], &leaver] {
        let mut stream = follow(member).await;
        stream.next_id().await;
        streams.push(stream);
    }
    ok(ask(&members[1], "groupInfoRefresh", &json!({ "convoId": id })).await);
    for stream in &mut streams[..2] {
        let event = stream.expect("groupInfoRequestedEvent").await;
        let expected = json!({ "convoId": id, "requestedBy": members[1].did(), "epoch": 1 });
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(&event[name], value, "{event}");
        }
        assert!(event["requestedAt"].is_string(), "{event}");
    }
    // What the former member receives next is another conversation's.
    let mut alone = Persona::new(leaver.xrpc.clone());
    alone.create(catbird_client::random_did().as_bytes(), "elsewhere").await.unwrap();
    streams.pop().unwrap().expect("conversationEvent").await;
    refused(ask(&leaver, "groupInfoRefresh", &json!({ "convoId": id })).await, 403, "NotMember");
}
