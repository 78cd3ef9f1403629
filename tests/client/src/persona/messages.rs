//! Sending, and reading the log in order.

use serde_json::{Value, json};

use super::super::mls::{Processed, person};
use super::super::xrpc::{Reply, bytes_value};
use super::{Call, Persona, PersonaError, unique};

/// Entries per page of the log, the maximum of the lexicon.
const PAGE: u32 = 100;

/// A message that the server has acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    pub message_id: String,
    pub epoch: u64,
    pub seq: u64,
    /// Number of times that it was encrypted again because the epoch had moved on.
    pub conflicts: u32,
}

impl Persona {
    /// Encrypts and sends a text; encrypts it again if a commit came first. Proposals of the epoch are carried out
    /// before, as MLS demands.
    pub async fn send(&mut self, text: &str) -> Result<Sent, PersonaError> {
        self.send_referring(text, &[]).await
    }

    /// Like [`Persona::send`], with references to blobs.
    pub async fn send_referring(&mut self, text: &str, blobs: &[String]) -> Result<Sent, PersonaError> {
        let mut conflicts = 0;
        loop {
            if self.mls.commit_is_due(&self.group_id)? {
                Box::pin(self.rotate()).await?;
            }
            let epoch = self.epoch()?;
            let ciphertext = self.mls.encrypt(&self.group_id, text.as_bytes())?;
            let mut body = json!({
                "convoId": self.convo()?,
                "ciphertext": bytes_value(&ciphertext),
                "epoch": epoch,
                "senderDid": self.did(),
                "idempotencyKey": unique(),
            });
            if !blobs.is_empty() {
                body["blobs"] = json!(blobs);
            }
            self.name_incarnation(&mut body);
            let reply = self.patient(Call::Procedure("sendMessage", &body)).await?;
            if reply.is_ok() {
                let sent = Sent {
                    message_id: reply.string("messageId")?.to_owned(),
                    epoch: reply.number("epoch")?,
                    seq: reply.number("seq")?,
                    conflicts,
                };
                self.expect(sent.epoch == epoch, || format!("a message of epoch {epoch} was answered with {reply}"))?;
                return Ok(sent);
            }
            conflicts += 1;
            self.rebase(reply, conflicts)?;
        }
    }

    /// Reads the log to its end, applies the commits, and returns the other members' texts in order.
    pub async fn catch_up(&mut self) -> Result<Vec<String>, PersonaError> {
        let mut texts = Vec::new();
        loop {
            let parameters = [
                ("convoId", self.convo()?.to_owned()),
                ("sinceSeq", self.last_seq.to_string()),
                ("limit", PAGE.to_string()),
                ("markRead", "true".to_owned()),
            ];
            let reply = self.query("getMessages", &parameters).await?;
            self.hear(&reply.body);
            let page = reply.list("messages")?;
            for entry in page {
                texts.extend(self.take(&reply, entry)?);
            }
            let last = reply.number("lastSeq")?;
            if self.last_seq >= last {
                return Ok(texts);
            }
            let seen = self.last_seq;
            self.expect(!page.is_empty(), || format!("the log ends at {last}, but there is no page after {seen}"))?;
        }
    }

    /// Processes the next entry of the log.
    pub(super) fn take(&mut self, reply: &Reply, entry: &Value) -> Result<Option<String>, PersonaError> {
        let (seq, next) = (reply.number_in(entry, "seq")?, self.last_seq + 1);
        self.expect(seq == next, || format!("entry {seq} was served where {next} is due"))?;
        let id = reply.string_in(entry, "id")?;
        if self.entries.get(&seq).is_some_and(|known| known == id) {
            self.last_seq = seq;
            return Ok(None);
        }
        let sender = reply.string_in(entry, "sender")?;
        let bytes = reply.bytes_in(entry, "ciphertext")?;
        let text = match reply.string_in(entry, "messageType")? {
            "commit" => {
                self.take_commit(reply.number_in(entry, "epoch")?, &bytes)?;
                None
            }
            // A proposal serves only in its own epoch.
            "proposal" if reply.number_in(entry, "epoch")? < self.epoch()? => None,
            "proposal" => match self.mls.apply(&self.group_id, &bytes)? {
                Processed::Proposal | Processed::OwnMessage => None,
                other => return Err(self.broken(format!("entry {seq} is no proposal: {other:?}"))),
            },
            // A client cannot read its own messages; those of its person's other devices it can.
            "app" if sender == self.did() && !self.has_devices()? => None,
            "app" => self.read(sender, &bytes)?,
            "reset" => None,
            other => return Err(self.broken(format!("entry {seq} is of type {other:?}"))),
        };
        self.last_seq = seq;
        self.entries.insert(seq, id.to_owned());
        Ok(text)
    }

    /// Returns true if other leaves of this person are in the group.
    fn has_devices(&self) -> Result<bool, PersonaError> {
        let members = self.mls.members(&self.group_id)?;
        Ok(members.iter().filter(|member| person(member) == self.did()).count() > 1)
    }

    fn read(&mut self, named: &str, bytes: &[u8]) -> Result<Option<String>, PersonaError> {
        match self.mls.process(&self.group_id, bytes)? {
            Processed::Application { sender, plaintext } => {
                self.expect(person(&sender) == named, || {
                    format!("a message by {sender} was served as one by {named}")
                })?;
                String::from_utf8(plaintext)
                    .map(Some)
                    .map_err(|why| self.broken(format!("a text is no longer one: {why}")))
            }
            Processed::OwnMessage if named == self.did() => Ok(None),
            other => Err(self.broken(format!("an entry that is no application message was served as one: {other:?}"))),
        }
    }
}
