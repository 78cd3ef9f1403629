//! A device that has lost its state comes back by itself, or is added again by another member.

use catbird_testkit::app::TestApp;

use super::{has_members, three};
use crate::harness::*;
use crate::interop::{Library, agree, everyone_is_read};

any_serializer! {
    p13_a_device_that_lost_its_state_comes_back_by_an_external_commit;
    a_member_that_lost_its_state_is_removed_and_added_again_by_one_commit;
}

async fn p13_a_device_that_lost_its_state_comes_back_by_an_external_commit(app: &TestApp) {
    for library in Library::BOTH {
        let [mut alice, mut bob, mut carol] = three(app, library).await;
        let id = convo(&alice);
        let mut epoch = 1;
        for lost in [&mut bob, &mut carol] {
            lost.lose_state().unwrap();
            let landed = lost.enter(&id).await.unwrap();
            epoch += 1;
            assert_eq!((landed.epoch, landed.conflicts), (epoch, 0));
        }
        everyone_is_read(&mut [&mut alice, &mut bob, &mut carol]).await;
        agree(&[&alice, &bob, &carol]).await;
        assert_eq!(alice.mls.members(&alice.group_id).unwrap().len(), 3, "the lost leaves are gone");
        has_members(&alice, &[&alice, &bob, &carol]).await;
    }
}

async fn a_member_that_lost_its_state_is_removed_and_added_again_by_one_commit(app: &TestApp) {
    for library in Library::BOTH {
        let [mut alice, mut bob, mut carol] = three(app, library).await;
        bob.lose_state().unwrap();
        let landed = alice.replace(&[bob.did()], &[bob.did()]).await.unwrap();
        assert_eq!((landed.epoch, landed.conflicts), (2, 0));
        bob.join(&convo(&alice)).await.unwrap();
        everyone_is_read(&mut [&mut alice, &mut bob, &mut carol]).await;
        agree(&[&alice, &bob, &carol]).await;
    }
}
