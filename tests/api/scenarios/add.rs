//! Two members add others at the same time: one commit wins, and the other is rebased on it.

use catbird_testkit::app::TestApp;

use super::{has_members, person, three};
use crate::harness::*;
use crate::interop::{Library, agree, everyone_is_read};

any_serializer! {
    two_additions_at_the_same_time_are_both_made;
    one_commit_removes_a_member_and_adds_another;
}

async fn two_additions_at_the_same_time_are_both_made(app: &TestApp) {
    for library in Library::BOTH {
        let [mut alice, mut bob, mut carol] = three(app, library).await;
        let (mut dave, mut erin) = (person(app, library).await, person(app, library.other()).await);
        let (dave_did, erin_did) = (dave.did().to_owned(), erin.did().to_owned());
        let (by_alice, by_bob) = ([&*dave_did], [&*erin_did]);
        let (by_alice, by_bob) = tokio::join!(alice.add(&by_alice), bob.add(&by_bob));
        let (by_alice, by_bob) = (by_alice.unwrap(), by_bob.unwrap());
        assert_eq!(by_alice.conflicts + by_bob.conflicts, 1);
        let id = convo(&alice);
        dave.join(&id).await.unwrap();
        erin.join(&id).await.unwrap();
        everyone_is_read(&mut [&mut alice, &mut bob, &mut carol, &mut dave, &mut erin]).await;
        agree(&[&alice, &bob, &carol, &dave, &erin]).await;
    }
}

async fn one_commit_removes_a_member_and_adds_another(app: &TestApp) {
    for library in Library::BOTH {
        let [mut alice, mut bob, carol] = three(app, library).await;
        let mut dave = person(app, library.other()).await;
        let landed = alice.replace(&[carol.did()], &[dave.did()]).await.unwrap();
        assert_eq!(landed.epoch, 2);
        dave.join(&convo(&alice)).await.unwrap();
        has_members(&alice, &[&alice, &bob, &dave]).await;
        everyone_is_read(&mut [&mut alice, &mut bob, &mut dave]).await;
        agree(&[&alice, &bob, &dave]).await;
    }
}
