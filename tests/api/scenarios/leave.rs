//! A member leaves by a proposal, and another one proposes a change that the next commit carries out.

use catbird_client::mls::Proposal;
use catbird_testkit::app::TestApp;

use super::{has_members, three};
use crate::harness::*;
use crate::interop::{Library, agree, everyone_is_read};

any_serializer! {
    the_next_commit_takes_a_leaver_out_of_the_group;
    the_next_commit_carries_out_a_proposal;
}

async fn the_next_commit_takes_a_leaver_out_of_the_group(app: &TestApp) {
    for library in Library::BOTH {
        let [mut alice, mut bob, mut carol] = three(app, library).await;
        let left = carol.leave_by_proposal(&Proposal::Leave).await.unwrap();
        assert_eq!(left.epoch, 1, "only a commit ends an epoch");
        has_members(&alice, &[&alice, &bob]).await;
        // A client commits the proposals that it has read before it sends.
        bob.catch_up().await.unwrap();
        assert_eq!(bob.send("after carol").await.unwrap().epoch, 2);
        assert_eq!(alice.catch_up().await.unwrap(), ["after carol"]);
        agree(&[&alice, &bob]).await;
        assert_eq!(alice.mls.members(&alice.group_id).unwrap(), [alice.did(), bob.did()]);
        alice.add(&[carol.did()]).await.unwrap();
        carol.join(&convo(&alice)).await.unwrap();
        everyone_is_read(&mut [&mut alice, &mut bob, &mut carol]).await;
    }
}

async fn the_next_commit_carries_out_a_proposal(app: &TestApp) {
    for library in Library::BOTH {
        let [mut alice, mut bob, mut carol] = three(app, library).await;
        bob.propose(&Proposal::Update).await.unwrap();
        carol.propose(&Proposal::Update).await.unwrap();
        alice.catch_up().await.unwrap();
        assert_eq!(alice.rotate().await.unwrap().epoch, 2);
        everyone_is_read(&mut [&mut alice, &mut bob, &mut carol]).await;
        agree(&[&alice, &bob, &carol]).await;
    }
}
