//! A client reads the log in order, by events and by pages.

use catbird_client::persona::Events;
use catbird_testkit::app::TestApp;

use super::three;
use crate::interop::Library;

any_serializer! {
    a_client_reads_what_it_missed_and_then_what_happens;
}

async fn a_client_reads_what_it_missed_and_then_what_happens(app: &TestApp) {
    for library in Library::BOTH {
        let [mut alice, mut bob, _] = three(app, library).await;
        alice.send("before").await.unwrap();
        alice.rotate().await.unwrap();
        let server = bob.xrpc.base.clone();
        let mut events = Events::follow(&bob.xrpc, vec![server], 0).await;
        assert_eq!(bob.catch_up().await.unwrap(), ["before"]);
        alice.send("after").await.unwrap();
        let mut texts = Vec::new();
        while texts.is_empty() {
            let event = events.next().await.unwrap().unwrap();
            texts = bob.take_event(&event).await.unwrap();
        }
        assert_eq!((texts, bob.gaps), (vec!["after".to_owned()], 0));
    }
}
