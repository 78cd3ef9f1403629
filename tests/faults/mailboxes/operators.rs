//! Dead envelopes as operators see and requeue them.

use catbird_testkit::cluster::database;
use catbird_testkit::fleet::{Fleet, Mode, run, run_with};
use catbird_testkit::receiver::{Answer, Receiver};

use crate::mailboxes::{LOCAL, all_delivered, count, set, until};

#[tokio::test(flavor = "multi_thread")]
async fn dead_envelopes_are_listed_and_put_back() {
    let database = database().await;
    let db = database.connect().await;
    let settings = [&LOCAL[..], &[("MAILBOX_MAX_ATTEMPTS", "2")]].concat();
    let fleet = Fleet::with(&[Mode::Advisory], &database.config, &database.url, &settings).await;
    let receiver = Receiver::start().await;
    receiver.answer(Answer::Status(500));
    let mut members = fleet.conversation(2).await;
    set(&members[1], &receiver).await;
    for text in ["one", "two"] {
        members[0].send(text).await.unwrap();
    }
    until("the end of both", async || count(&db, "dead").await == 2).await;
    assert_eq!(receiver.received().len(), 4, "two attempts each");

    let (code, said, errors) = run("envelopes", &database.url).await;
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    let ids: std::collections::BTreeSet<_> = receiver.ids().into_iter().collect();
    assert!(said.ends_with("2 dead envelopes\n") && ids.iter().all(|id| said.contains(id.as_str())), "{said}");
    assert!(said.contains("2 attempts: the mailbox answered 500") && said.contains(members[1].did()), "{said}");

    receiver.answer(Answer::Status(204));
    let one = ids.first().unwrap().clone();
    let (code, said, errors) = run_with(&["envelopes", "--requeue", &one, "no-such-id"], &database.url).await;
    assert_eq!((code, said.as_str()), (Some(1), "requeued 1 envelopes\n"));
    assert_eq!(errors, "no dead envelope has the id no-such-id\n");
    until("the one", async || count(&db, "delivered").await == 1).await;
    assert_eq!(receiver.ids().last(), Some(&one));
    let (code, said, _) = run_with(&["envelopes", "--all"], &database.url).await;
    assert_eq!((code, said.as_str()), (Some(0), "requeued 1 envelopes\n"));
    all_delivered(&db).await;
    fleet.check().await;

    let page = catbird_client::xrpc::http().unwrap();
    let page = page.get(format!("{}/metrics", fleet.replicas[0].base)).send().await.unwrap().text().await.unwrap();
    for line in [
        "mailbox_envelopes_total 2",
        "mailbox_attempts_total{outcome=\"delivered\"} 2",
        "mailbox_attempts_total{outcome=\"failed\"} 2",
        "mailbox_attempts_total{outcome=\"dead\"} 2",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
    }
}
