//! A conversation is created, and its first members are added.

use catbird_client::random_did;
use catbird_testkit::app::TestApp;

use super::person;
use crate::harness::*;
use crate::interop::{Library, agree};

any_serializer! {
    a_conversation_is_created_and_its_first_members_join;
}

async fn a_conversation_is_created_and_its_first_members_join(app: &TestApp) {
    for library in Library::BOTH {
        let (mut alice, mut bob) = (person(app, library).await, person(app, library.other()).await);
        alice.create(random_did().as_bytes(), "first").await.unwrap();
        let landed = alice.add(&[bob.did()]).await.unwrap();
        assert_eq!((landed.epoch, landed.conflicts), (1, 0));
        bob.join(&convo(&alice)).await.unwrap();
        agree(&[&alice, &bob]).await;
    }
}
