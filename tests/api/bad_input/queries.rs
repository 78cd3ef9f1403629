//! Query strings: each parameter with invalid values, repeated or omitted, and malformed strings.

use catbird_testkit::app::TestApp;
use serde_json::json;

use super::is_declared_refusal;
use super::values::wrong_texts;
use crate::examples::{Method, examples, methods};
use crate::harness::*;

any_serializer! {
    every_parameter_refuses_invalid_values;
    a_malformed_query_string_is_refused;
}

async fn every_parameter_refuses_invalid_values(app: &TestApp) {
    for method in methods().into_iter().filter(Method::has_query) {
        for example in examples(app, method.name).await {
            let (good, name) = (example.input(), example.method);
            let unknown = with(&good, json!({ "colour": "red" }));
            // Reads are repeated without effect; the first one may take a key package.
            if !method.streams {
                ok(example.send(&unknown).await);
            }
            let before = contents(app).await;
            for field in method.fields.iter().filter(|field| example.fields.iter().any(|(name, _)| *name == field.name))
            {
                for text in wrong_texts(&field.name, &field.schema) {
                    let shown = format!("{name}?{}={text:.50}", field.name);
                    is_declared_refusal(&example.send(&with(&good, json!({ &*field.name: text }))).await, &shown);
                }
                if field.required {
                    let without = with(&good, json!({ &*field.name: null }));
                    refused(example.send(&without).await, 400, "InvalidRequest");
                }
                let value = &good[&field.name];
                if !value.is_null() && !value.is_array() {
                    let twice = with(&good, json!({ &*field.name: [value, value] }));
                    refused(example.send(&twice).await, 400, "InvalidRequest");
                }
            }
            assert_eq!(contents(app).await, before, "{name}");
            if !method.streams {
                ok(example.send(&unknown).await);
            }
            assert!(method.uploads || contents(app).await == before, "{name}");
        }
    }
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
