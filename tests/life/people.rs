//! Clients of the people of a schedule: real ones with MLS state, each signed in as its person.

use std::collections::BTreeSet;

use catbird_client::mls::{Handshake, MlsClient, Processed, Staged, person};
use catbird_client::xrpc::{Reply, Xrpc};

use crate::model::PEOPLE;
use crate::servers::Servers;

/// Entries of a page of the log.
const PAGE: u32 = 100;

pub struct Person {
    pub xrpc: Xrpc,
    pub mls: MlsClient,
    /// True if it has keys of the group.
    pub in_group: bool,
    /// Last entry of the log that it has processed.
    pub seen: u64,
    pub handshake: Handshake,
    /// The server's id of it, if it is a registered device.
    pub device: Option<String>,
    /// Messages and proposals that it has made.
    pub own: BTreeSet<Vec<u8>>,
    /// Group before the last reset, if it has the keys of that.
    pub past: Option<Vec<u8>>,
}

impl Person {
    /// Creates the `n`-th client. The clients after the first ones of the people are their devices.
    pub fn new(servers: &Servers, n: usize, person: &str) -> Self {
        let identity = if n < PEOPLE { person.to_owned() } else { format!("{person}#second") };
        Self {
            xrpc: servers.sign_in(person),
            mls: MlsClient::new(identity),
            in_group: false,
            seen: 0,
            handshake: if n.is_multiple_of(2) { Handshake::Private } else { Handshake::Public },
            device: None,
            own: BTreeSet::new(),
            past: None,
        }
    }

    /// Returns true if it can be added: it is the first client of its person, or a registered device.
    pub fn is_known(&self) -> bool {
        self.device.is_some() || self.mls.did() == self.xrpc.did
    }

    pub fn epoch(&self, group: &[u8]) -> u64 {
        self.mls.epoch(group).unwrap()
    }

    /// Makes a commit for the present epoch of its own group.
    pub fn commit(&mut self, group: &[u8], packages: &[Vec<u8>], removed: &[&str]) -> Staged {
        match (packages, removed) {
            ([], []) => self.mls.self_update(group),
            (packages, []) => self.mls.add(group, packages),
            ([], removed) => self.mls.remove(group, removed),
            (packages, removed) => self.mls.change(group, packages, removed),
        }
        .unwrap()
    }

    /// Merges its pending commit, which was accepted at `seq`.
    pub fn merge(&mut self, group: &[u8], seq: u64) {
        self.mls.merge_pending(group).unwrap();
        self.seen = seq;
    }

    /// Forgets the group.
    pub fn forget(&mut self, group: &[u8]) {
        if std::mem::take(&mut self.in_group) {
            self.mls.forget(group).unwrap();
        }
    }

    /// Keeps the group as one that has ended.
    pub fn outlive(&mut self, group: &[u8]) {
        if std::mem::take(&mut self.in_group)
            && let Some(older) = self.past.replace(group.to_vec())
        {
            self.mls.forget(&older).unwrap();
        }
    }

    /// Applies a commit that creates this epoch, unless it has passed it.
    pub fn apply_commit(&mut self, group: &[u8], epoch: u64, bytes: &[u8]) {
        if epoch > self.epoch(group) {
            assert_eq!(
                self.mls.apply(group, bytes).unwrap(),
                Processed::Commit { epoch, removed_me: false },
                "a commit that creates epoch {epoch}"
            );
        }
    }

    /// Keeps a proposal of the present epoch. Its own it has already.
    pub fn take_proposal(&mut self, group: &[u8], bytes: &[u8]) {
        if !self.own.contains(bytes) {
            assert_eq!(self.mls.process(group, bytes).unwrap(), Processed::Proposal);
        }
    }

    /// Reads the log to its end.
    pub async fn catch_up(&mut self, servers: &Servers, replica: usize, convo: &str, group: &[u8]) {
        loop {
            let parameters = [
                ("convoId", convo.to_owned()),
                ("sinceSeq", self.seen.to_string()),
                ("limit", PAGE.to_string()),
                ("peek", "true".to_owned()),
            ];
            let reply = servers.read(replica, &self.xrpc, "getMessages", &parameters).await;
            assert_eq!(reply.status, 200, "{reply}");
            for entry in reply.list("messages").unwrap() {
                self.take(&reply, entry, group);
            }
            if self.seen >= reply.number("lastSeq").unwrap() {
                return;
            }
        }
    }

    fn take(&mut self, reply: &Reply, entry: &serde_json::Value, group: &[u8]) {
        let bytes = reply.bytes_in(entry, "ciphertext").unwrap();
        let (epoch, sender) = (reply.number_in(entry, "epoch").unwrap(), reply.string_in(entry, "sender").unwrap());
        match reply.string_in(entry, "messageType").unwrap() {
            "commit" => self.apply_commit(group, epoch, &bytes),
            "app" if self.own.contains(&bytes) => {}
            "app" => {
                let said = self.mls.process(group, &bytes).unwrap();
                assert!(matches!(&said, Processed::Application { sender: by, .. } if person(by) == sender), "{said:?}");
            }
            "proposal" if epoch < self.epoch(group) => {}
            "proposal" => self.take_proposal(group, &bytes),
            other => panic!("an entry of type {other:?}"),
        }
        self.seen = reply.number_in(entry, "seq").unwrap();
    }
}
