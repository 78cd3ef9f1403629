//! Members compare their commits and epoch authenticators through the server.

use catbird_client::persona::{Persona, sha256_hex};
use catbird_client::xrpc::bytes_value;
use catbird_testkit::app::TestApp;
use serde_json::json;

use super::three;
use crate::harness::*;
use crate::interop::Library;

any_serializer! {
    members_that_applied_one_commit_report_the_same;
}

async fn members_that_applied_one_commit_report_the_same(app: &TestApp) {
    for library in Library::BOTH {
        let [mut alice, mut bob, mut carol] = three(app, library).await;
        alice.rotate().await.unwrap();
        bob.catch_up().await.unwrap();
        carol.catch_up().await.unwrap();
        let asked = [("convoId", &*convo(&alice)), ("fromEpoch", "2")];
        let commits = ok(get(&alice, "getCommits", &asked).await);
        let commit = commits.bytes_in(&commits.list("commits").unwrap()[0], "commitData").unwrap();
        let report = async |member: &Persona| {
            let body = json!({
                "convoId": convo(member), "epoch": 2, "commitHash": sha256_hex(&commit), "applied": true,
                "epochAuthenticator": bytes_value(&member.epoch_authenticator().unwrap()),
            });
            ok(ask(member, "reportCommit", &body).await)
        };
        for member in [&alice, &bob, &carol] {
            let reply = report(member).await;
            assert_eq!((&reply.body["state"], reply.number("cannotApply").unwrap()), (&json!("active"), 0), "{reply}");
        }
    }
}
