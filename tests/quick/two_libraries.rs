//! Two MLS libraries, OpenMLS and mls-rs, in one group and without a server: what one makes, the other processes.

use catbird_client::mls::{Ciphersuite, Handshake, Mls, MlsClient, Processed, Proposal};
use catbird_client::random_did;
use catbird_mls_rs::{MlsRsClient, SUITES};

const GROUP: &[u8] = b"group";
const FRAMINGS: [Handshake; 2] = [Handshake::Public, Handshake::Private];

fn openmls(suite: Ciphersuite) -> Box<dyn Mls> {
    Box::new(MlsClient::with_suite(random_did(), suite).unwrap().padded(128))
}

fn mls_rs(suite: Ciphersuite) -> Box<dyn Mls> {
    Box::new(MlsRsClient::new(random_did(), suite).unwrap().padded())
}

/// Four members of one group at epoch 1, of both libraries in turn. The first one created it.
fn four(suite: Ciphersuite, handshake: Handshake, mls_rs_first: bool) -> Vec<Box<dyn Mls>> {
    let mut members: Vec<_> =
        (0..4).map(|n| if (n % 2 == 0) == mls_rs_first { mls_rs(suite) } else { openmls(suite) }).collect();
    members[0].create_group(GROUP, handshake).unwrap();
    let packages: Vec<_> = members[1..].iter().map(|member| member.key_package().unwrap()).collect();
    let staged = members[0].add(GROUP, &packages).unwrap();
    members[0].merge_pending(GROUP).unwrap();
    for member in &mut members[1..] {
        assert_eq!(member.join(&staged.welcome, handshake).unwrap(), GROUP);
    }
    agree(&members, 1);
    members
}

/// Runs a test for all suites that both libraries have, both framings and either library first.
fn everywhere(play: impl Fn(Vec<Box<dyn Mls>>, Handshake)) {
    for suite in SUITES {
        for handshake in FRAMINGS {
            for mls_rs_first in [true, false] {
                play(four(suite, handshake, mls_rs_first), handshake);
            }
        }
    }
}

#[track_caller]
fn agree(members: &[Box<dyn Mls>], epoch: u64) {
    for member in members {
        assert_eq!(member.epoch(GROUP).unwrap(), epoch);
        assert_eq!(member.members(GROUP).unwrap(), members[0].members(GROUP).unwrap());
        assert_eq!(member.epoch_authenticator(GROUP).unwrap(), members[0].epoch_authenticator(GROUP).unwrap());
    }
}

/// Shows an entry of the log to all members.
#[track_caller]
fn show(members: &mut [Box<dyn Mls>], entry: &[u8]) -> Vec<Processed> {
    members.iter_mut().map(|member| member.apply(GROUP, entry).unwrap()).collect()
}

#[track_caller]
fn everyone_is_read(members: &mut [Box<dyn Mls>]) {
    for sender in 0..members.len() {
        let text = format!("from {}", members[sender].identity()).into_bytes();
        let message = members[sender].encrypt(GROUP, &text).unwrap();
        let identity = members[sender].identity().to_owned();
        for (reader, seen) in show(members, &message).into_iter().enumerate() {
            let expected = Processed::Application { sender: identity.clone(), plaintext: text.clone() };
            assert_eq!(seen, if reader == sender { Processed::OwnMessage } else { expected });
        }
    }
}

#[test]
fn either_library_commits_and_is_read() {
    everywhere(|mut members, handshake| {
        everyone_is_read(&mut members);
        for committer in 0..4 {
            let staged = members[committer].self_update(GROUP).unwrap();
            show(&mut members, &staged.commit);
        }
        agree(&members, 5);
        let suite = SUITES.into_iter().find(|suite| format!("{suite:?}") == members[0].suite_name()).unwrap();
        for (committer, mut joiner) in
            [(0, mls_rs(suite)), (1, openmls(suite)), (2, openmls(suite)), (3, mls_rs(suite))]
        {
            let gone = members.pop().unwrap().identity().to_owned();
            let committer = committer % members.len();
            let staged = members[committer].change(GROUP, &[joiner.key_package().unwrap()], &[&gone]).unwrap();
            assert_eq!((&staged.added[..], &staged.removed[..]), (&[joiner.identity().to_owned()][..], &[gone][..]));
            show(&mut members, &staged.commit);
            joiner.join(&staged.welcome, handshake).unwrap();
            members.push(joiner);
        }
        agree(&members, 9);
        everyone_is_read(&mut members);
    });
}

#[test]
fn either_library_commits_the_proposals_of_the_other() {
    everywhere(|mut members, handshake| {
        let suite = SUITES.into_iter().find(|suite| format!("{suite:?}") == members[0].suite_name()).unwrap();
        for committer in 0..2 {
            let mut joiner = if committer == 0 { openmls(suite) } else { mls_rs(suite) };
            let leaver = members.len() - 1;
            let gone = members[leaver].identity().to_owned();
            let update = members[1 - committer].propose(GROUP, &Proposal::Update).unwrap();
            let addition = members[2].propose(GROUP, &Proposal::Add(joiner.key_package().unwrap())).unwrap();
            let leave = members[leaver].propose(GROUP, &Proposal::Leave).unwrap();
            for proposal in [update, addition, leave] {
                for seen in show(&mut members, &proposal) {
                    assert!(matches!(seen, Processed::Proposal | Processed::OwnMessage), "{seen:?}");
                }
            }
            let staged = members[committer].self_update(GROUP).unwrap();
            assert_eq!((&staged.added[..], &staged.removed[..]), (&[joiner.identity().to_owned()][..], &[gone][..]));
            let seen = show(&mut members, &staged.commit).pop().unwrap();
            assert!(matches!(seen, Processed::Commit { removed_me: true, .. }), "{seen:?}");
            members.pop();
            joiner.join(&staged.welcome, handshake).unwrap();
            members.push(joiner);
        }
        agree(&members, 3);
        everyone_is_read(&mut members);
    });
}

#[test]
fn either_library_comes_back_by_an_external_commit() {
    everywhere(|mut members, handshake| {
        let mut info = members[0].group_info(GROUP).unwrap();
        for lost in [3, 0, 1, 2, 1] {
            members[lost].forget(GROUP).unwrap();
            let entry = members[lost].enter(&info, handshake).unwrap();
            members[lost].merge_pending(GROUP).unwrap();
            for (n, member) in members.iter_mut().enumerate().filter(|(n, _)| *n != lost) {
                let seen = member.apply(GROUP, &entry.staged.commit).unwrap();
                assert!(matches!(seen, Processed::Commit { removed_me: false, .. }), "{n}: {seen:?}");
            }
            info = entry.staged.group_info;
        }
        agree(&members, 6);
        assert_eq!(members[0].members(GROUP).unwrap().len(), 4);
        everyone_is_read(&mut members);
    });
}

#[test]
fn a_last_resort_package_of_either_library_opens_several_welcomes() {
    for (adder, joiner) in [(openmls as fn(_) -> _, mls_rs as fn(_) -> _), (mls_rs, openmls)] {
        let mut joiner = joiner(SUITES[0]);
        let package = joiner.last_resort_key_package().unwrap();
        for group in [b"one", b"two"] {
            let mut adder = adder(SUITES[0]);
            adder.create_group(group, Handshake::Private).unwrap();
            let staged = adder.add(group, std::slice::from_ref(&package)).unwrap();
            adder.merge_pending(group).unwrap();
            joiner.join(&staged.welcome, Handshake::Private).unwrap();
            assert_eq!(joiner.epoch_authenticator(group).unwrap(), adder.epoch_authenticator(group).unwrap());
        }
    }
}

#[test]
fn a_one_time_package_of_mls_rs_opens_one_welcome() {
    let mut joiner = mls_rs(SUITES[0]);
    let package = joiner.key_package().unwrap();
    let mut welcomes = Vec::new();
    for group in [b"one", b"two"] {
        let mut adder = openmls(SUITES[0]);
        adder.create_group(group, Handshake::Private).unwrap();
        welcomes.push(adder.add(group, std::slice::from_ref(&package)).unwrap().welcome);
    }
    joiner.join(&welcomes[0], Handshake::Private).unwrap();
    assert!(joiner.join(&welcomes[1], Handshake::Private).is_err());
}
