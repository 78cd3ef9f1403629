//! Comparison of what the replicas serve with the model, for each person.

use std::fmt::Debug;

use catbird_client::persona::{hex, sha256_hex};
use catbird_client::xrpc::Reply;
use futures_util::future::join_all;
use serde_json::json;

use crate::model::{Entry, Member, PEOPLE, Welcome};
use crate::world::World;

impl World<'_> {
    /// Checks that a replica serves everybody what the model says. `n` chooses the replica.
    pub async fn agree(&self, n: usize, after: impl Debug) {
        let served = join_all((0..PEOPLE).map(|who| self.read(n + who, who))).await;
        for (who, served) in served.into_iter().enumerate() {
            let why = format!("person {who} after step {n}, {after:?}");
            match self.model.membership(who) {
                Ok(member) => self.compare_all(who, member, &served, &why),
                Err(name) => {
                    for reply in [&served.epoch, &served.log, &served.commits, &served.welcome, &served.group_info] {
                        assert_eq!(reply.error(), Some(name), "{why}: {reply}");
                    }
                    assert_eq!(served.convos.body["conversations"], json!([]), "{why}");
                }
            }
        }
    }

    async fn read(&self, replica: usize, who: usize) -> Served {
        let read = |method: &'static str, more: Vec<(&'static str, String)>| {
            let mut parameters = vec![("convoId", self.convo.clone())];
            parameters.extend(more);
            async move { self.servers.read(replica, &self.people[who].xrpc, method, &parameters).await }
        };
        let page = || ("limit", "100".to_owned());
        let joined = self.model.members.get(&who).map_or(0, |member| member.joined.seq);
        let past = (self.model.generation - 1).max(1);
        let (convos, epoch, log, commits, past, welcome, group_info) = tokio::join!(
            self.servers.read(replica, &self.people[who].xrpc, "getConvos", &[]),
            read("getEpoch", Vec::new()),
            read("getMessages", vec![("sinceSeq", joined.to_string()), page(), ("peek", "true".to_owned())]),
            read("getCommits", vec![("fromEpoch", "0".to_owned()), page()]),
            read("getCommits", vec![("fromEpoch", "0".to_owned()), ("generation", past.to_string()), page()]),
            read("getWelcome", Vec::new()),
            read("getGroupInfo", Vec::new()),
        );
        let mut welcomes = Vec::new();
        for client in [who, who + PEOPLE] {
            if let [_, selector] = &self.welcome_of(client)[..] {
                welcomes.push((client, read("getWelcome", vec![selector.clone()]).await));
            }
        }
        let devices = self.servers.read(replica, &self.people[who].xrpc, "listDevices", &[]).await;
        Served { convos, epoch, log, commits, past, welcome, welcomes, group_info, devices }
    }

    fn compare_all(&self, who: usize, member: Member, served: &Served, why: &str) {
        let model = &self.model;
        let epoch = &served.epoch;
        let told = (epoch.number("currentEpoch").unwrap(), epoch.number("generation").unwrap());
        assert_eq!(told, (model.at.epoch, model.generation), "{why}");

        let convo = &served.convos.body["conversations"][0];
        assert_eq!((&convo["epoch"], &convo["seq"]), (&json!(model.at.epoch), &json!(model.at.seq)), "{why}: {convo}");
        let group = (&convo["generation"], &convo["groupId"]);
        assert_eq!(group, (&json!(model.generation), &json!(hex(&self.group))), "{why}: {convo}");
        let state = if model.is_wedged { "wedged" } else { "active" };
        assert_eq!(convo["state"], state, "{why}: {convo}");
        let roster = model.roster(&self.dids);
        let admin = model.admin(&self.dids);
        let expected: Vec<_> = roster.iter().map(|one| (json!(self.dids[*one]), json!(admin == Some(*one)))).collect();
        let members = convo["members"].as_array().unwrap().iter();
        let members: Vec<_> = members.map(|one| (one["did"].clone(), one["isAdmin"].clone())).collect();
        assert_eq!(members, expected, "{why}");
        assert_eq!(convo["memberCount"], json!(expected.len()), "{why}");

        let log = &served.log;
        assert_eq!(log.body["lastSeq"], json!(model.at.seq), "{why}");
        let entries = log.list("messages").unwrap().iter().map(|entry| {
            let number = |field| log.number_in(entry, field).unwrap();
            let text = |field| log.string_in(entry, field).unwrap().to_owned();
            (
                number("seq"),
                number("generation"),
                number("epoch"),
                text("messageType"),
                text("sender"),
                digest(&log.bytes_in(entry, "ciphertext").unwrap()),
            )
        });
        let expected = model.log.iter().filter(|entry| entry.seq > member.joined.seq).map(|entry| {
            let sender = self.dids[entry.sender].clone();
            (entry.seq, entry.generation, entry.epoch, entry.kind.to_owned(), sender, digest(&entry.bytes))
        });
        assert_eq!(entries.collect::<Vec<_>>(), expected.collect::<Vec<_>>(), "{why}: the log");

        let generation = model.generation;
        let expected = model.commits(who, generation, model.visible_after(who));
        self.compare_commits(who, generation, &served.commits, &expected, why);
        if generation > 1 {
            let expected = model.commits(who, generation - 1, 0);
            self.compare_commits(who, generation - 1, &served.past, &expected, why);
        }

        let group_info = &served.group_info;
        match &model.group_info {
            Some(bytes) => {
                assert_eq!(group_info.body["epoch"], json!(model.at.epoch), "{why}: {group_info}");
                assert_eq!(digest(&group_info.bytes("groupInfo").unwrap()), digest(bytes), "{why}: the GroupInfo");
            }
            None => assert_eq!(group_info.error(), Some("GroupInfoUnavailable"), "{why}: {group_info}"),
        }

        let device = self.people[who + PEOPLE].device.clone();
        // Without a device, the only Welcome of a person is that of its first client.
        let unnamed = device.is_none().then_some((who, &served.welcome));
        for (client, welcome) in served.welcomes.iter().map(|(client, reply)| (*client, reply)).chain(unnamed) {
            match model.welcomes.get(&client) {
                Some(Welcome::Waits { at, .. }) => {
                    let told = (welcome.status, &welcome.body["epoch"], &welcome.body["seq"]);
                    assert_eq!(told, (200, &json!(at.epoch), &json!(at.seq)), "{why}: {welcome}");
                    assert_eq!(welcome.body["generation"], json!(generation), "{why}: {welcome}");
                }
                Some(Welcome::Confirmed { .. }) => {
                    assert_eq!(welcome.error(), Some("WelcomeConsumed"), "{why}: {welcome}");
                }
                None => assert_eq!(welcome.error(), Some("WelcomeNotFound"), "{why}: {welcome}"),
            }
        }
        let devices = served.devices.list("devices").unwrap().iter();
        let devices: Vec<_> = devices.map(|one| one["deviceId"].as_str().unwrap().to_owned()).collect();
        assert_eq!(devices, Vec::from_iter(device), "{why}: the devices");
    }

    fn compare_commits(&self, who: usize, generation: u64, reply: &Reply, expected: &[&Entry], why: &str) {
        let commits = reply.list("commits").unwrap().iter().map(|commit| {
            let proposals = commit["proposals"].as_array().into_iter().flatten();
            let proposals = proposals
                .map(|one| (reply.number_in(one, "seq").unwrap(), digest(&reply.bytes_in(one, "proposal").unwrap())));
            let number = |field| reply.number_in(commit, field).unwrap();
            (
                number("epoch"),
                number("seq"),
                digest(&reply.bytes_in(commit, "commitData").unwrap()),
                proposals.collect::<Vec<_>>(),
            )
        });
        let expected = expected.iter().map(|entry| {
            let proposals = self.model.proposals_of(who, generation, entry.epoch - 1);
            let proposals = proposals.into_iter().map(|one| (one.seq, digest(&one.bytes)));
            (entry.epoch, entry.seq, digest(&entry.bytes), proposals.collect::<Vec<_>>())
        });
        assert_eq!(commits.collect::<Vec<_>>(), expected.collect::<Vec<_>>(), "{why}: commits of group {generation}");
    }
}

/// Beginning of the SHA-256 of bytes, for readable failures.
fn digest(bytes: &[u8]) -> String {
    sha256_hex(bytes).split_at(12).0.to_owned()
}

/// Replies to one person.
struct Served {
    convos: Reply,
    epoch: Reply,
    log: Reply,
    commits: Reply,
    /// Commits of the group before.
    past: Reply,
    /// The person's newest Welcome.
    welcome: Reply,
    /// The Welcome of each client that has one, or is a registered device.
    welcomes: Vec<(usize, Reply)>,
    group_info: Reply,
    devices: Reply,
}
