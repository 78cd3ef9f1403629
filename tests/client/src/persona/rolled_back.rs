//! A database that may have gone back in time: this member compares what it has with what the server has, as docs/clients.md
//! describes.

use serde_json::{Value, json};

use super::super::xrpc::bytes_value;
use super::{Call, Persona, PersonaError};

/// State of the conversation compared with what this member knew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Everything that this member has is there.
    Whole,
    /// The commit that led to its epoch is there, and some newer entries are not. It has read the present ones.
    WithoutEntries,
    /// The commit that led to its epoch is lost. It has joined the group again by an external commit.
    WithoutEpoch,
    /// The server does not know it as a member. It has forgotten the group, and must be added.
    WithoutMembership,
}

impl Persona {
    /// Compares the newest entry and the commit that led to this member's epoch with the log, and replaces what the server has lost.
    /// Call it when the server names another incarnation, refuses a cursor, or answers `ServerRolledBack`.
    pub async fn compare(&mut self) -> Result<Found, PersonaError> {
        let convo = self.convo()?.to_owned();
        let range = [("convoId", convo.clone()), ("fromEpoch", self.epoch()?.to_string()), ("limit", "1".to_owned())];
        let commits = self.patient(Call::Query("getCommits", &range)).await?;
        let stands_at = match (commits.status, commits.error()) {
            (200, _) => {
                commits.list("commits")?.first().map(|commit| self.led_here(&commit["commitData"], &commit["seq"]))
            }
            // The epoch is later than the server's.
            (400, Some("InvalidEpochRange")) => None,
            (403, Some("NotMember")) | (404, Some("ConvoNotFound")) => {
                self.lose_state()?;
                return Ok(Found::WithoutMembership);
            }
            _ => return Err(self.refused(commits)),
        };
        self.hear(&commits.body);
        let Some(commit_seq) = stands_at.flatten() else {
            self.lose_state()?;
            self.enter(&convo).await?;
            self.catch_up().await?;
            return Ok(Found::WithoutEpoch);
        };
        if self.newest_stands(&convo).await? {
            return Ok(Found::Whole);
        }
        // Entries with a known id are skipped, because a client can decrypt an entry only once.
        self.last_seq = self.last_seq.min(commit_seq);
        self.catch_up().await?;
        self.entries.split_off(&(self.last_seq + 1));
        Ok(Found::WithoutEntries)
    }

    /// Returns the ids of the entries that this member has processed, by seq.
    pub fn entries(&self) -> impl Iterator<Item = (u64, &str)> {
        self.entries.iter().map(|(seq, id)| (*seq, &**id))
    }

    /// Returns the position of a commit if it is the one that led to this member's epoch.
    fn led_here(&self, commit: &Value, seq: &Value) -> Option<u64> {
        let (_, led_by) = self.led_by.as_ref()?;
        (*commit == bytes_value(led_by)).then(|| seq.as_u64()).flatten()
    }

    /// Returns true if the newest entry that this member has processed is in the log.
    async fn newest_stands(&mut self, convo: &str) -> Result<bool, PersonaError> {
        let Some((seq, id)) = self.entries.last_key_value().map(|(seq, id)| (*seq, id.clone())) else {
            return Ok(true);
        };
        let page = [
            ("convoId", convo.to_owned()),
            ("sinceSeq", (seq - 1).to_string()),
            ("limit", "1".to_owned()),
            ("peek", "true".to_owned()),
        ];
        let reply = self.query("getMessages", &page).await?;
        self.hear(&reply.body);
        Ok(reply.list("messages")?.first().is_some_and(|entry| entry["seq"] == json!(seq) && entry["id"] == json!(id)))
    }

    /// Keeps the name of the incarnation in a reply or an event, if there is one.
    pub(super) fn hear(&mut self, body: &Value) {
        if let Some(name) = body["serverIncarnation"].as_str() {
            self.incarnation = Some(name.to_owned());
        }
    }

    /// Adds to a request the incarnation that this member has heard from last.
    pub(super) fn name_incarnation(&self, body: &mut Value) {
        if let Some(name) = &self.incarnation {
            body["serverIncarnation"] = json!(name);
        }
    }

    /// Returns the incarnation that this member has heard from last.
    pub fn incarnation(&self) -> Option<&str> {
        self.incarnation.as_deref()
    }
}
