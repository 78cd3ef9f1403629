//! A message is encrypted again when a commit came first.

use catbird_testkit::app::TestApp;

use super::three;
use crate::interop::Library;

any_serializer! {
    a_message_of_a_past_epoch_is_encrypted_again;
}

async fn a_message_of_a_past_epoch_is_encrypted_again(app: &TestApp) {
    for library in Library::BOTH {
        let [mut alice, mut bob, mut carol] = three(app, library).await;
        alice.rotate().await.unwrap();
        let sent = bob.send("late").await.unwrap();
        assert_eq!((sent.epoch, sent.conflicts), (2, 1));
        assert_eq!(alice.catch_up().await.unwrap(), ["late"]);
        assert_eq!(carol.catch_up().await.unwrap(), ["late"]);
    }
}
