//! Conversations whose members use two MLS libraries, OpenMLS and mls-rs: either one creates, commits and reads, in all
//! suites that both have, with both framings of handshake messages, and with padding.

mod mixed;

use catbird_client::mls::{Ciphersuite, Handshake, Mls, MlsClient};
use catbird_client::persona::Persona;
use catbird_client::random_did;
use catbird_mls_rs::MlsRsClient;
use catbird_testkit::app::TestApp;

/// An MLS library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    OpenMls,
    MlsRs,
}

impl Library {
    pub const BOTH: [Self; 2] = [Self::OpenMls, Self::MlsRs];

    /// Returns the other one.
    pub fn other(self) -> Self {
        match self {
            Self::OpenMls => Self::MlsRs,
            Self::MlsRs => Self::OpenMls,
        }
    }

    /// Creates keys for an identity. The messages are padded.
    pub fn keys(self, identity: &str, suite: Ciphersuite) -> Box<dyn Mls> {
        match self {
            Self::OpenMls => Box::new(MlsClient::with_suite(identity, suite).unwrap().padded(256)),
            Self::MlsRs => Box::new(MlsRsClient::new(identity, suite).unwrap().padded()),
        }
    }

    /// Creates a new persona.
    pub fn persona(self, app: &TestApp, suite: Ciphersuite, handshake: Handshake) -> Persona {
        let did = random_did();
        let mut persona = Persona::with(app.xrpc(&did), self.keys(&did, suite));
        persona.handshake = handshake;
        persona
    }
}

/// Checks that all members share the epoch and its secrets with each other and with the server.
pub async fn agree(members: &[&Persona]) {
    for member in members {
        assert_eq!(member.epoch().unwrap(), member.server_epoch().await.unwrap(), "{}", member.did());
        assert_eq!(
            member.epoch_authenticator().unwrap(),
            members[0].epoch_authenticator().unwrap(),
            "{}",
            member.did()
        );
        let roster = member.mls.members(&member.group_id).unwrap();
        assert_eq!(roster, members[0].mls.members(&members[0].group_id).unwrap(), "{}", member.did());
    }
}

/// Lets each member send a message, which all others have to read.
pub async fn everyone_is_read(members: &mut [&mut Persona]) {
    for member in &mut *members {
        member.catch_up().await.unwrap();
    }
    let mut sent = Vec::new();
    for member in &mut *members {
        let text = format!("from {}", member.mls.identity());
        member.send(&text).await.unwrap();
        sent.push(text);
    }
    for (n, member) in members.iter_mut().enumerate() {
        let mut expected = sent.clone();
        expected.remove(n);
        assert_eq!(member.catch_up().await.unwrap(), expected, "{}", member.did());
    }
}
