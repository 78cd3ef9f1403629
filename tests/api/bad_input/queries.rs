//! Query strings: each parameter with what does not belong there, given twice, or left out, and strings that are none.

use catbird_testkit::app::TestApp;

use super::{Kind, is_declared_refusal};
use crate::harness::*;

any_serializer! {
    every_parameter_refuses_invalid_values;
    a_malformed_query_string_is_refused;
}

/// A parameter: what it holds, whether it must be there, and a value that it takes; empty where there is none.
type Parameter = (&'static str, Kind, bool, String);

/// The parameters of a query that the caller could send just so, with what each holds.
fn queries(member: &str, convo: &str) -> Vec<(&'static str, Vec<Parameter>)> {
    use Kind::*;
    let id = || ("convoId", Id, true, convo.to_owned());
    let limit = || ("limit", Number, false, "5".to_owned());
    vec![
        ("getEpoch", vec![id()]),
        (
            "getMessages",
            vec![id(), limit(), ("sinceSeq", Number, false, "0".to_owned()), ("peek", Flag, false, "true".to_owned())],
        ),
        ("getMessages", vec![id(), limit(), ("cursor", Number, false, "3".to_owned())]),
        (
            "getCommits",
            vec![
                id(),
                limit(),
                ("fromEpoch", Number, true, "0".to_owned()),
                ("toEpoch", Number, false, "1".to_owned()),
                ("cursor", Number, false, "1".to_owned()),
            ],
        ),
        ("getConvos", vec![limit(), ("cursor", Ulid, false, "01JB2N0W3E8Z6TQ9K4M5V7X1YA".to_owned())]),
        ("getMailbox", vec![("convoId", Id, false, convo.to_owned())]),
        ("getWelcome", vec![id(), ("keyPackageHash", Hash, false, String::new())]),
        (
            "getKeyPackages",
            vec![
                ("dids", Did, true, member.to_owned()),
                ("cipherSuite", Suite, false, "MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519".to_owned()),
            ],
        ),
    ]
}

async fn every_parameter_refuses_invalid_values(app: &TestApp) {
    let mut creator = app.conversation(1).await.remove(0);
    let (invited, somebody) = (app.published_persona().await, app.persona());
    creator.add(&[invited.did()]).await.unwrap();
    let id = convo(&creator);
    let before = contents(app).await;
    for (method, parameters) in queries(somebody.did(), &id) {
        let send = async |name: &str, value: Option<&str>| {
            let mut all: Vec<_> = parameters.iter().filter(|(_, _, _, value)| !value.is_empty()).collect();
            all.retain(|(known, ..)| *known != name);
            let mut all: Vec<_> = all.into_iter().map(|(name, _, _, value)| (*name, &**value)).collect();
            all.extend(value.map(|value| (name, value)));
            get(&invited, method, &all).await
        };
        ok(send("colour", Some("red")).await);
        for (name, kind, required, good) in &parameters {
            let mut bad = vec![
                "",
                "\0",
                "🐈",
                "'; drop table members; --",
                "a b",
                "%00",
                "../..",
                "\u{202e}",
                "[]",
                "{}",
                "null",
            ];
            match kind {
                Kind::Number => bad.extend(["-1", "1.5", "1e3", "0x1", "+", " 1", "1000000000000000000000000", "true"]),
                Kind::Flag => bad.extend(["1", "0", "yes", "TRUE"]),
                _ => {}
            }
            // A word is an id that there might be.
            if *kind == Kind::Id {
                bad.retain(|value| *value != "null");
            }
            for value in bad.iter().copied().chain([&*"x".repeat(1_000)]) {
                is_declared_refusal(&send(name, Some(value)).await, &format!("{method}?{name}={value:.50}"));
            }
            if *required {
                refused(send(name, None).await, 400, "InvalidRequest");
            }
            if !good.is_empty() && *name != "dids" {
                let twice = [(*name, &**good), (*name, &**good), ("convoId", &*id), ("fromEpoch", "0")];
                refused(get(&invited, method, &twice).await, 400, "InvalidRequest");
            }
        }
    }
    assert_eq!(contents(app).await, before);
}

async fn a_malformed_query_string_is_refused(app: &TestApp) {
    let members = app.conversation(1).await;
    let id = convo(&members[0]);
    let nsid = "blue.catbird.mls.getEpoch";
    let send = async |query: String| {
        let mut url = members[0].xrpc.url(nsid, &[]);
        url.set_query(Some(&query));
        let request = members[0].xrpc.http.get(url).bearer_auth(members[0].xrpc.token(nsid));
        members[0].xrpc.send(nsid, request).await.unwrap()
    };
    for query in [
        "",
        "&",
        "&&==&",
        "=",
        "convoId",
        "convoId=",
        "convoId=%ff%fe",
        "convoId=%",
        "convoId=%zz",
        "convoid=x",
        "%00=%00",
    ] {
        refused(send(query.to_owned()).await, 400, "InvalidRequest");
    }
    let long = format!("convoId={id}&{}", "a=b&".repeat(15_360));
    refused(send(long).await, 400, "InvalidRequest");
    ok(send(format!("&&convoId={id}&colour&=&")).await);
}
