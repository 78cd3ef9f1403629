//! Each member rotates its keys.

use catbird_testkit::app::TestApp;

use super::{has_members, three};
use crate::interop::{Library, agree, everyone_is_read};

any_serializer! {
    each_member_rotates_its_keys;
}

async fn each_member_rotates_its_keys(app: &TestApp) {
    for library in Library::BOTH {
        let [mut alice, mut bob, mut carol] = three(app, library).await;
        for (n, member) in [&mut alice, &mut bob, &mut carol].into_iter().enumerate() {
            let landed = member.rotate().await.unwrap();
            // Those who were behind lost once and caught up from the refusal.
            assert_eq!((landed.epoch, landed.conflicts), (2 + n as u64, u32::from(n > 0)));
        }
        everyone_is_read(&mut [&mut alice, &mut bob, &mut carol]).await;
        agree(&[&alice, &bob, &carol]).await;
        has_members(&alice, &[&alice, &bob, &carol]).await;
    }
}
