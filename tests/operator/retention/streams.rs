//! Streams: a cursor from before a deletion is refused, and one from after it resumes.

use std::time::{Duration, Instant};

use catbird_client::persona::Persona;
use catbird_client::xrpc::{Event, EventStream, Reply};
use catbird_server::jobs::SweepOutcome;
use catbird_testkit::app::TestApp;

use crate::retention::logs::age;
use crate::retention::{KEPT, pass};

/// Maximum time until an expected event arrives.
const PATIENCE: Duration = Duration::from_secs(20);

async fn follow(who: &Persona, cursor: Option<&str>) -> Result<EventStream, Reply> {
    let cursor: Vec<_> = cursor.map(|cursor| ("cursor", cursor.to_owned())).into_iter().collect();
    who.xrpc.follow("streamConvoEvents", &cursor, None).await.unwrap()
}

/// Returns the next event of this type.
async fn next(stream: &mut EventStream, name: &str) -> Event {
    let found = async {
        loop {
            let event = stream.next().await.unwrap().expect("the stream ended");
            if event.name == name {
                return event;
            }
        }
    };
    tokio::time::timeout(PATIENCE, found).await.expect("no such event came")
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_a_cursor_from_before_a_deleted_message_is_refused_and_a_later_one_leads_on() {
    let app = TestApp::start().await;
    let mut members = app.conversation(2).await;
    let convo = members[0].convo().unwrap().to_owned();
    let mut stream = follow(&members[1], None).await.unwrap();
    members[0].send("one").await.unwrap();
    let early = next(&mut stream, "messageEvent").await.id;
    members[0].send("two").await.unwrap();
    // Nothing is deleted yet, and the cursor is valid.
    let mut again = follow(&members[1], Some(&early)).await.unwrap();
    assert_eq!(next(&mut again, "messageEvent").await.data["message"]["seq"], 2);

    age(&app.database.connect().await, &convo, 31).await;
    assert!(matches!(pass(&app.app.store, KEPT, "messages").await, SweepOutcome::Made(1..)));
    match follow(&members[1], Some(&early)).await {
        Ok(_) => panic!("a message that is gone was passed over"),
        Err(reply) => assert_eq!((reply.status, &reply.body["error"]), (410, &"OutdatedCursor".into()), "{reply}"),
    }
    // Once all earlier transactions in the cluster have ended, cursors are newer than the deleted events.
    let start = Instant::now();
    loop {
        members[0].send("on").await.unwrap();
        let late = next(&mut stream, "messageEvent").await.id;
        if let Ok(mut again) = follow(&members[1], Some(&late)).await {
            assert_eq!(next(&mut again, "infoEvent").await.data["info"], "replayed");
            break;
        }
        assert!(start.elapsed() < PATIENCE, "no cursor leads on");
    }
    app.finish().await;
}
