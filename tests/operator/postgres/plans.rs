//! PostgreSQL plans the statements of requests for each connection, and not for each request.

use catbird_client::random_did;
use catbird_testkit::fleet::{Fleet, Mode};
use serde_json::json;

use super::recommended;

const ROUNDS: i64 = 200;
/// Calls from which on a statement counts as one of requests.
const MIN_CALLS: i64 = 100;
/// PostgreSQL makes five plans of a statement for the values of its parameters, and then decides whether one plan for all values is as good.
const PLANS_PER_CONNECTION: i64 = 6;
const CONNECTIONS: i64 = 4;

#[tokio::test(flavor = "multi_thread")]
async fn statements_of_requests_are_not_planned_for_each_request() {
    let cluster = recommended("pg_stat_statements.track_planning = on").await;
    let client = cluster.connect().await;
    let settings = [
        ("DATABASE_MAX_CONNECTIONS", &*CONNECTIONS.to_string()),
        ("STRANGERS_PER_DAY", "100000"),
        ("RATE_LIMIT_PER_DID", "0"),
        ("RATE_LIMIT_PER_CONVO", "0"),
        ("KEY_PACKAGES_PER_CALLER", "100000"),
    ];
    let fleet = Fleet::with(&[Mode::Advisory], &cluster.config(), &cluster.url(), &settings).await;
    let members = fleet.conversation(2).await;
    let convo = members[0].convo().unwrap().to_owned();
    let owner = fleet.persona(0).await;
    owner.publish_last_resort().await.unwrap();
    let (creator, other) = (members[0].xrpc.clone(), members[1].xrpc.clone());
    // The same person joins and leaves. If a table grew, PostgreSQL would plan anew: its earlier plans for single lists would look cheap.
    let friend = fleet.xrpc(0, &random_did());
    for _ in 0..ROUNDS {
        creator.procedure("addMembers", &json!({ "convoId": convo, "didList": [friend.did] })).await.unwrap();
        let left = friend.procedure("leaveConvo", &json!({ "convoId": convo })).await.unwrap();
        assert_eq!(left.status, 200, "{left:?}");
        creator.query("getKeyPackages", &[("dids", owner.did().to_owned())]).await.unwrap();
        other.query("getConvos", &[]).await.unwrap();
        other.query("getMessages", &[("convoId", convo.clone())]).await.unwrap();
        other.query("getEpoch", &[("convoId", convo.clone())]).await.unwrap();
    }

    let statements = client
        .query(
            "select substr(query, 4, strpos(query, ':') - 4) as name, sum(calls)::bigint as calls, sum(plans)::bigint as plans
               from pg_stat_statements where query like '-- %:%' group by 1 having sum(calls) >= $1::bigint order by 1",
            &[&MIN_CALLS],
        )
        .await
        .unwrap();
    let names: Vec<&str> = statements.iter().map(|row| row.get("name")).collect();
    for expected in ["members/strangers", "members/list", "key_packages/devices", "convos/list", "messages/list_before"]
    {
        assert!(names.contains(&expected), "{expected} is not among {names:?}");
    }
    // New statistics of a table make plans anew.
    let most = |calls: i64| CONNECTIONS * PLANS_PER_CONNECTION + calls / 4;
    let planned: Vec<(&str, i64, i64)> = statements
        .iter()
        .map(|row| (row.get("name"), row.get("calls"), row.get("plans")))
        .filter(|(_, calls, plans)| *plans > most(*calls))
        .collect();
    assert!(planned.is_empty(), "statement, calls and plans: {planned:?}");
}
