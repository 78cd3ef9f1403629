//! The sequences of calls in docs/clients.md, one file for each, played by members with OpenMLS and with mls-rs.

mod add;
mod create;
mod files;
mod leave;
mod lost_state;
mod new_device;
mod read;
mod reset;
mod rotate;
mod second_device;
mod send;
mod start;
mod trouble;
mod upkeep;

use std::collections::BTreeSet;
use std::path::Path;

use catbird_client::mls::Handshake;
use catbird_client::persona::Persona;
use catbird_client::random_did;
use catbird_mls_rs::SUITES;
use catbird_testkit::app::TestApp;

use crate::harness::*;
use crate::interop::Library;

/// Creates a persona with key packages, whose commits carry their GroupInfo.
async fn person(app: &TestApp, library: Library) -> Persona {
    let mut person = library.persona(app, SUITES[0], Handshake::Private);
    person.shares_group_info = true;
    person.publish_key_packages(2).await.unwrap();
    person
}

/// Creates a conversation of three: the creator uses `library`, the second member the other one.
async fn three(app: &TestApp, library: Library) -> [Persona; 3] {
    let (mut alice, mut bob) = (person(app, library).await, person(app, library.other()).await);
    let mut carol = person(app, library).await;
    alice.create(random_did().as_bytes(), "three").await.unwrap();
    let id = convo(&alice);
    alice.add(&[bob.did(), carol.did()]).await.unwrap();
    bob.join(&id).await.unwrap();
    carol.join(&id).await.unwrap();
    [alice, bob, carol]
}

/// Asserts that the conversation has these members and no others. Those who joined together have no order.
async fn has_members(viewer: &Persona, members: &[&Persona]) {
    let seen: BTreeSet<_> = roster(viewer).await.into_iter().collect();
    assert_eq!(seen, members.iter().map(|member| member.did().to_owned()).collect());
}

#[test]
fn the_page_for_clients_names_exactly_the_scenarios_that_exist() {
    const PAGE: &str = include_str!("../../../docs/clients.md");
    let named = PAGE.split("`tests/api/scenarios/").skip(1).filter_map(|rest| rest.split_once('`'));
    let named: BTreeSet<_> = named.map(|(file, _)| file.to_owned()).collect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api/scenarios");
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    assert_eq!(named, files.filter(|file| file != "mod.rs").collect());
}
