//! A conversation of both libraries from its creation on: additions, removals, a lost race, and messages.

use catbird_client::mls::{Ciphersuite, Handshake};
use catbird_client::random_did;
use catbird_mls_rs::SUITES;
use catbird_testkit::app::TestApp;

use super::{Library, agree, everyone_is_read};
use crate::harness::*;

any_serializer! {
    both_libraries_play_one_conversation_in_all_suites_that_both_have;
    a_lost_commit_of_either_library_is_made_again_on_the_winner_of_the_other;
}

async fn both_libraries_play_one_conversation_in_all_suites_that_both_have(app: &TestApp) {
    for suite in SUITES {
        for handshake in [Handshake::Public, Handshake::Private] {
            for library in Library::BOTH {
                play(app, suite, handshake, library).await;
            }
        }
    }
}

async fn play(app: &TestApp, suite: Ciphersuite, handshake: Handshake, library: Library) {
    let of = |library: Library| library.persona(app, suite, handshake);
    let (mut alice, mut bob, mut carol) = (of(library), of(library.other()), of(library));
    let mut dave = of(library.other());
    for one in [&bob, &carol, &dave] {
        one.publish_key_packages(2).await.unwrap();
    }
    alice.create(random_did().as_bytes(), "both").await.unwrap();
    let id = convo(&alice);
    alice.add(&[bob.did(), carol.did()]).await.unwrap();
    bob.join(&id).await.unwrap();
    carol.join(&id).await.unwrap();
    agree(&[&alice, &bob, &carol]).await;
    everyone_is_read(&mut [&mut alice, &mut bob, &mut carol]).await;

    bob.add(&[dave.did()]).await.unwrap();
    dave.join(&id).await.unwrap();
    everyone_is_read(&mut [&mut alice, &mut bob, &mut carol, &mut dave]).await;
    agree(&[&alice, &bob, &carol, &dave]).await;

    carol.leave().await.unwrap();
    alice.remove(carol.did()).await.unwrap();
    everyone_is_read(&mut [&mut alice, &mut bob, &mut dave]).await;
    alice.add(&[carol.did()]).await.unwrap();
    carol.join(&id).await.unwrap();
    everyone_is_read(&mut [&mut alice, &mut bob, &mut carol, &mut dave]).await;
    agree(&[&alice, &bob, &carol, &dave]).await;
}

async fn a_lost_commit_of_either_library_is_made_again_on_the_winner_of_the_other(app: &TestApp) {
    for library in Library::BOTH {
        let of = |library: Library| library.persona(app, SUITES[0], Handshake::Private);
        let (mut alice, mut bob, mut carol, mut dave) =
            (of(library), of(library.other()), of(library), of(library.other()));
        for one in [&bob, &carol, &dave] {
            one.publish_key_packages(1).await.unwrap();
        }
        alice.create(random_did().as_bytes(), "race").await.unwrap();
        let id = convo(&alice);
        alice.add(&[bob.did()]).await.unwrap();
        bob.join(&id).await.unwrap();
        alice.add(&[carol.did()]).await.unwrap();
        let landed = bob.add(&[dave.did()]).await.unwrap();
        assert_eq!((landed.epoch, landed.conflicts), (3, 1));
        carol.join(&id).await.unwrap();
        dave.join(&id).await.unwrap();
        everyone_is_read(&mut [&mut alice, &mut bob, &mut carol, &mut dave]).await;
        agree(&[&alice, &bob, &carol, &dave]).await;
    }
}
