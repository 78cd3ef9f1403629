//! A client starts: it publishes key packages, follows, and reads its conversations.

use catbird_client::persona::Events;
use catbird_testkit::app::TestApp;

use super::{person, three};
use crate::harness::*;
use crate::interop::Library;

any_serializer! {
    a_client_starts;
}

async fn a_client_starts(app: &TestApp) {
    for library in Library::BOTH {
        let mut dave = person(app, library).await;
        dave.publish_last_resort().await.unwrap();
        // The stream is open before the conversations are read, so that nothing is missed between the two.
        let server = dave.xrpc.base.clone();
        let mut events = Events::follow(&dave.xrpc, vec![server], 0).await;
        let reply = ok(get(&dave, "getConvos", &[]).await);
        assert!(reply.list("conversations").unwrap().is_empty(), "{reply}");

        let [mut alice, ..] = three(app, library).await;
        alice.add(&[dave.did()]).await.unwrap();
        while dave.convo_id.is_none() {
            let event = events.next().await.unwrap().unwrap();
            dave.take_event(&event).await.unwrap();
        }
        assert_eq!(dave.epoch_authenticator().unwrap(), alice.epoch_authenticator().unwrap());
    }
}
