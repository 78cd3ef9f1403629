//! P5 for mailboxes: processes are killed at every step from the log to a mailbox; no recipient is missed, and none
//! gets two envelopes for one entry.

use std::collections::BTreeSet;
use std::time::Duration;

use catbird_client::persona::Persona;
use catbird_testkit::chaos::{Chaos, Counts, Fault};
use catbird_testkit::cluster::database;
use catbird_testkit::fleet::{Fleet, Mode, Replica};
use catbird_testkit::receiver::{Answer, Receiver};

use crate::mailboxes::{LOCAL, all_delivered, count, set, until};

/// Kills a replica while it waits for the COMMIT of a transaction with this statement: before PostgreSQL sees it, or
/// after.
async fn killed_at(statement: &'static str, fault: Fault) {
    let database = database().await;
    let db = database.connect().await;
    let receiver = Receiver::start().await;
    // Members write through a server of their own, whose delivery is blocked: its lock is held.
    let chaos = Chaos::before(&database.config).await;
    let mut victim = Fleet::with(&[Mode::Advisory], &database.config, &chaos.url(), &LOCAL).await;
    let mut members = victim.conversation(3).await;
    for member in &members[1..] {
        set(member, &receiver).await;
    }
    if statement == "mailboxes/failed" {
        receiver.answer_first(&[Answer::Status(500)]);
    }
    chaos.on_commit(statement, fault);
    members[0].send("one").await.unwrap();
    members[0].send("two").await.unwrap();
    let met = |counts: &Counts| match fault {
        Fault::Hold => Counts::get(&counts.held),
        _ => Counts::get(&counts.swallowed),
    };
    until("the step", async || met(chaos.counts()) >= 1).await;
    victim.replicas[0].kill();

    let _heir = Replica::start(Mode::Actors, &database.url, &LOCAL).await;
    all_delivered(&db).await;
    assert_eq!(count(&db, "delivered").await, 4);
    let ids: BTreeSet<String> = receiver.ids().into_iter().collect();
    assert_eq!(ids.len(), 4, "each envelope came, and keeps its id when it comes again");
    victim.check().await;
}

macro_rules! killed_at {
    ($($name:ident: $statement:literal, $fault:expr;)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            killed_at($statement, $fault).await;
        })*
    };
}

killed_at! {
    killed_before_envelopes_are_committed: "mailboxes/expand", Fault::Hold;
    killed_after_envelopes_are_committed: "mailboxes/expand", Fault::HangAfter;
    killed_before_a_claim_is_committed: "mailboxes/claim", Fault::Hold;
    killed_after_a_claim_is_committed: "mailboxes/claim", Fault::HangAfter;
    killed_before_a_delivery_is_noted: "mailboxes/delivered", Fault::Hold;
    killed_after_a_delivery_is_noted: "mailboxes/delivered", Fault::HangAfter;
    killed_before_a_failure_is_noted: "mailboxes/failed", Fault::Hold;
    killed_after_a_failure_is_noted: "mailboxes/failed", Fault::HangAfter;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_the_mailbox_thinks() {
    let database = database().await;
    let db = database.connect().await;
    let receiver = Receiver::start().await;
    let mut fleet = Fleet::with(&[Mode::Advisory], &database.config, &database.url, &LOCAL).await;
    let mut members = fleet.conversation(2).await;
    set(&members[1], &receiver).await;
    receiver.answer_first(&[Answer::Hang]);
    members[0].send("hello").await.unwrap();
    receiver.have(1).await;
    fleet.replicas[0].kill();
    assert_eq!(count(&db, "pending").await, 1);
    let _heir = Replica::start(Mode::Advisory, &database.url, &LOCAL).await;
    all_delivered(&db).await;
    let ids = receiver.ids();
    assert!(ids.len() == 2 && ids[0] == ids[1], "{ids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_replicas_die_and_return_while_members_send_and_the_mailbox_fails() {
    let database = database().await;
    let db = database.connect().await;
    let receiver = Receiver::start().await;
    let modes = [Mode::Advisory, Mode::Actors, Mode::Advisory];
    // The first server stays, because the personas are connected to it.
    let mut fleet = Fleet::with(&modes, &database.config, &database.url, &LOCAL).await;
    let mut groups = Vec::new();
    for _ in 0..3 {
        let mut members = vec![Persona::new(fleet.xrpc(0, &catbird_client::random_did()))];
        members[0].create(catbird_client::random_did().as_bytes(), "talk").await.unwrap();
        for _ in 0..3 {
            let other = Persona::new(fleet.xrpc(0, &catbird_client::random_did()));
            other.publish_key_packages(1).await.unwrap();
            members.push(other);
        }
        let dids: Vec<String> = members[1..].iter().map(|member| member.did().to_owned()).collect();
        members[0].add(&dids.iter().map(String::as_str).collect::<Vec<_>>()).await.unwrap();
        for member in &members {
            set(member, &receiver).await;
        }
        groups.push(members);
    }
    for round in 0..6 {
        receiver.answer_first(&[Answer::Die, Answer::Status(500), Answer::Garbage]);
        for group in &mut groups {
            for n in 0..10 {
                group[0].send(&format!("{round} {n}")).await.unwrap();
            }
        }
        let victim = 1 + round % 2;
        fleet.replicas[victim].kill();
        fleet.replicas[victim] = Replica::start(modes[victim], &database.url, &LOCAL).await;
    }
    tokio::time::timeout(Duration::from_secs(90), all_delivered(&db)).await.unwrap();
    assert_eq!(count(&db, "delivered").await, 3 * 3 * 60);
    let ids: BTreeSet<String> = receiver.ids().into_iter().collect();
    assert_eq!(ids.len(), 3 * 3 * 60);
    fleet.check().await;
}
