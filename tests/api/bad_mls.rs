//! Bytes that are not the expected MLS message: truncated, padded, random, of another kind, or of another group. Each
//! is refused with its own error, and nothing is written.

use catbird_client::mls::{Handshake, Proposal};
use catbird_client::persona::{Persona, hex};
use catbird_client::random_did;
use catbird_client::xrpc::{base64_text, bytes_value};
use catbird_testkit::app::TestApp;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use crate::harness::*;

any_serializer! {
    a_message_cut_off_at_every_seventh_byte_is_refused_wherever_it_belongs;
    a_message_with_something_after_it_is_refused_where_the_whole_field_counts;
    garbage_is_refused_wherever_it_is_put;
    each_kind_of_message_is_refused_in_the_place_of_every_other;
    nothing_but_application_messages_passes_as_ciphertext_whatever_follows_it;
    a_message_of_another_group_is_refused;
}

/// One message of each kind, made in the present epoch of the conversation.
struct Bytes {
    admin: Persona,
    other: Persona,
    joiner: Persona,
    /// A commit framed as PublicMessage and one framed as PrivateMessage.
    commits: [Vec<u8>; 2],
    welcome: Vec<u8>,
    key_package: Vec<u8>,
    application: Vec<u8>,
    proposals: [Vec<u8>; 2],
}

impl Bytes {
    async fn make(app: &TestApp) -> Self {
        let mut made = Vec::new();
        for handshake in [Handshake::Public, Handshake::Private] {
            made.push(Self::framed(app, handshake).await);
        }
        // One conversation cannot use both framings; the checks do not depend on the committer.
        let [public, mut private]: [Self; 2] = made.try_into().ok().unwrap();
        private.commits[0] = public.commits[0].clone();
        private.proposals[0] = public.proposals[0].clone();
        private
    }

    async fn framed(app: &TestApp, handshake: Handshake) -> Self {
        let mut admin = app.persona();
        admin.handshake = handshake;
        admin.create(random_did().as_bytes(), "test").await.unwrap();
        let mut other = app.published_persona().await;
        other.handshake = handshake;
        admin.add(&[other.did()]).await.unwrap();
        other.join(&convo(&admin)).await.unwrap();
        let joiner = app.persona();
        let key_package = joiner.mls.key_package().unwrap();
        let offer = offer_with(&mut admin, &[&joiner], std::slice::from_ref(&key_package));
        discard(&mut admin);
        let application = admin.mls.encrypt(&admin.group_id, b"hello").unwrap();
        let proposal = other.mls.propose(&other.group_id, &Proposal::Leave).unwrap();
        Self {
            admin,
            other,
            joiner,
            commits: [offer.staged.commit.clone(), offer.staged.commit],
            welcome: offer.staged.welcome,
            key_package,
            application,
            proposals: [proposal.clone(), proposal],
        }
    }

    /// Returns each request that carries an MLS message, with these bytes in it, and the expected error.
    fn places(&self, bytes: &[u8]) -> Vec<(&'static str, &Persona, Value, &'static str)> {
        let (id, text) = (convo(&self.admin), base64_text(bytes));
        let added = json!([self.joiner.did()]);
        let suite = self.joiner.mls.suite_name();
        vec![
            ("addMembers", &self.admin, json!({ "convoId": id, "didList": added, "commit": text }), "InvalidCommit"),
            (
                "addMembers",
                &self.admin,
                json!({ "convoId": id, "didList": added, "welcomeMessage": text }),
                "InvalidWelcome",
            ),
            (
                "leaveConvo",
                &self.admin,
                json!({ "convoId": id, "targetDid": self.other.did(), "commit": text }),
                "InvalidCommit",
            ),
            ("processExternalCommit", &self.other, json!({ "convoId": id, "externalCommit": text }), "InvalidCommit"),
            ("leaveConvo", &self.other, json!({ "convoId": id, "proposal": text }), "InvalidProposal"),
            ("submitProposal", &self.admin, json!({ "convoId": id, "proposal": text }), "InvalidProposal"),
            (
                "createConvo",
                &self.admin,
                json!({
                    "groupId": hex(random_did().as_bytes()), "cipherSuite": suite, "initialMembers": added, "welcomeMessage": text,
                }),
                "InvalidWelcome",
            ),
            (
                "publishKeyPackage",
                &self.joiner,
                json!({ "keyPackage": text, "cipherSuite": suite }),
                "InvalidKeyPackage",
            ),
        ]
    }

    async fn refused_everywhere(&self, bytes: &[u8], except: &str) {
        for (method, caller, body, error) in self.places(bytes) {
            if error != except {
                let reply = ask(caller, method, &body).await;
                assert_eq!(
                    (reply.status, reply.error()),
                    (400, Some(error)),
                    "{method}, {} bytes: {reply}",
                    bytes.len()
                );
            }
        }
    }

    async fn refused_as(&self, bytes: &[u8], error: &str) {
        for (method, caller, body, refusal) in self.places(bytes) {
            if refusal == error {
                refused(ask(caller, method, &body).await, 400, error);
            }
        }
    }
}

async fn a_message_cut_off_at_every_seventh_byte_is_refused_wherever_it_belongs(app: &TestApp) {
    let all = Bytes::make(app).await;
    let before = contents(app).await;
    for (whole, error) in [
        (&all.commits[0], "InvalidCommit"),
        (&all.commits[1], "InvalidCommit"),
        (&all.welcome, "InvalidWelcome"),
        (&all.key_package, "InvalidKeyPackage"),
        (&all.proposals[0], "InvalidProposal"),
        (&all.proposals[1], "InvalidProposal"),
    ] {
        for end in (0..whole.len()).step_by(7) {
            all.refused_as(&whole[..end], error).await;
        }
        all.refused_as(&whole[..whole.len() - 1], error).await;
    }
    assert_eq!(contents(app).await, before);
}

async fn a_message_with_something_after_it_is_refused_where_the_whole_field_counts(app: &TestApp) {
    let all = Bytes::make(app).await;
    let before = contents(app).await;
    for (whole, error) in [
        (&all.commits[1], "InvalidCommit"),
        (&all.welcome, "InvalidWelcome"),
        (&all.key_package, "InvalidKeyPackage"),
        (&all.proposals[0], "InvalidProposal"),
        (&all.proposals[1], "InvalidProposal"),
    ] {
        for tail in [vec![0], vec![0; 1_000], whole.clone()] {
            all.refused_as(&[whole.as_slice(), &tail].concat(), error).await;
        }
    }
    assert_eq!(contents(app).await, before);
}

async fn garbage_is_refused_wherever_it_is_put(app: &TestApp) {
    let all = Bytes::make(app).await;
    let before = contents(app).await;
    let mut runner = TestRunner::new(Config::default());
    for _ in 0..20 {
        let garbage = proptest::collection::vec(any::<u8>(), 0..600).new_tree(&mut runner).unwrap().current();
        all.refused_everywhere(&garbage, "").await;
        // Bytes that start like a message: version and each wire format (RFC 9420, section 6).
        let format = (garbage.len() % 7) as u8;
        all.refused_everywhere(&[&[0, 1, 0, format], garbage.as_slice()].concat(), "").await;
    }
    for length in [1 << 16, 1 << 20] {
        all.refused_everywhere(&vec![0; length], "").await;
        all.refused_everywhere(&vec![0xff; length], "").await;
    }
    assert_eq!(contents(app).await, before);
}

async fn each_kind_of_message_is_refused_in_the_place_of_every_other(app: &TestApp) {
    let all = Bytes::make(app).await;
    let before = contents(app).await;
    for (bytes, home) in [
        (&all.commits[1], "InvalidCommit"),
        (&all.welcome, "InvalidWelcome"),
        (&all.key_package, "InvalidKeyPackage"),
        (&all.application, ""),
        (&all.proposals[0], "InvalidProposal"),
        (&all.proposals[1], "InvalidProposal"),
    ] {
        all.refused_everywhere(bytes, home).await;
    }
    assert_eq!(contents(app).await, before);
}

async fn nothing_but_application_messages_passes_as_ciphertext_whatever_follows_it(app: &TestApp) {
    let all = Bytes::make(app).await;
    let before = contents(app).await;
    let epoch = all.admin.epoch().unwrap();
    let send = async |bytes: &[u8], epoch: u64| {
        let body = json!({ "convoId": convo(&all.admin), "ciphertext": bytes_value(bytes), "epoch": epoch });
        ask(&all.admin, "sendMessage", &body).await
    };
    for smuggled in
        [&all.commits[0], &all.commits[1], &all.welcome, &all.key_package, &all.proposals[0], &all.proposals[1]]
    {
        for padding in [&[][..], &[0], &[0; 256], b"PADDED"] {
            let bytes = [smuggled.as_slice(), padding].concat();
            for epoch in [epoch, 0] {
                refused(send(&bytes, epoch).await, 400, "InvalidMessage");
            }
        }
    }
    refused(send(b"", epoch).await, 400, "InvalidMessage");
    assert_eq!(contents(app).await, before);
    // An application message is accepted, padded or not.
    for padding in [&[][..], &[0; 256]] {
        ok(send(&[all.application.as_slice(), padding].concat(), epoch).await);
    }
}

async fn a_message_of_another_group_is_refused(app: &TestApp) {
    let (all, other) = (Bytes::make(app).await, Bytes::make(app).await);
    let before = contents(app).await;
    for commit in &other.commits {
        all.refused_as(commit, "InvalidCommit").await;
    }
    for proposal in &other.proposals {
        all.refused_as(proposal, "InvalidProposal").await;
    }
    let body = json!({
        "convoId": convo(&all.admin), "ciphertext": bytes_value(&other.application), "epoch": all.admin.epoch().unwrap(),
    });
    refused(ask(&all.admin, "sendMessage", &body).await, 400, "InvalidMessage");
    assert_eq!(contents(app).await, before);
}
