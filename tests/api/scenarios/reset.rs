//! Members who can no longer follow their group get another one, with the same log.

use catbird_client::persona::{Persona, sha256_hex};
use catbird_client::random_did;
use catbird_testkit::app::TestApp;
use serde_json::json;

use super::{has_members, three};
use crate::harness::*;
use crate::interop::{Library, agree, everyone_is_read};

any_serializer! {
    a_member_resets_a_conversation_that_the_others_cannot_follow;
}

async fn a_member_resets_a_conversation_that_the_others_cannot_follow(app: &TestApp) {
    for library in Library::BOTH {
        let [mut alice, mut bob, mut carol] = three(app, library).await;
        alice.send("before").await.unwrap();
        let (id, group) = (convo(&alice), random_did());
        // Bob is not the admin.
        let (alice_did, carol_did) = (alice.did().to_owned(), carol.did().to_owned());
        let others = [&*alice_did, &*carol_did];
        let refused = bob.reset(group.as_bytes(), &others).await.unwrap_err();
        assert_eq!(refused.reply().unwrap().error(), Some("NotAuthorized"));
        let unable = async |member: &Persona| {
            let body = json!({ "convoId": id, "epoch": 2, "commitHash": sha256_hex(b"unreadable"), "applied": false });
            ok(ask(member, "reportCommit", &body).await);
        };
        alice.rotate().await.unwrap();
        unable(&bob).await;
        unable(&carol).await;
        assert_eq!(only_convo(&bob).await["state"], "wedged");

        // The refused reset has claimed the same packages, which are still Bob's to use.
        let landed = bob.reset(random_did().as_bytes(), &others).await.unwrap();
        assert_eq!((landed.epoch, only_convo(&bob).await["state"].clone()), (1, json!("active")));
        for member in [&mut alice, &mut carol] {
            member.join(&id).await.unwrap();
        }
        everyone_is_read(&mut [&mut alice, &mut bob, &mut carol]).await;
        agree(&[&alice, &bob, &carol]).await;
        has_members(&alice, &[&alice, &bob, &carol]).await;
    }
}
