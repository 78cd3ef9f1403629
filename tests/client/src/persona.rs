//! A member of a conversation: MLS state and a signed-in connection, kept in step.
//!
//! A persona acts like a careful client. It merges its commit only after a 200, rebases from a 409 with only the data
//! in the 409, and reads the log without a gap. If the server answers with success and breaks a promise (a hole in
//! `seq`, an epoch that is not the next one, another sender), it fails with [`PersonaError::Broken`], so no test has to
//! check for it.

mod commits;
mod devices;
mod error;
mod files;
mod follow;
mod messages;
mod rolled_back;
mod upkeep;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::mls::{Handshake, Mls, MlsClient};
use super::xrpc::{Reply, Xrpc, XrpcError, base64_text};

pub use error::PersonaError;
pub use files::{File, SharedFile};
pub use follow::Events;
pub use messages::Sent;
pub use rolled_back::Found;
pub use upkeep::StockDifference;

/// Maximum number of retries of one call that the server asks to retry (429, 503).
const MAX_RETRIES: u32 = 5;
/// Maximum wait before a retry. A longer wait is reported as the server's answer.
const MAX_WAIT: std::time::Duration = std::time::Duration::from_secs(10);
/// Number of retries of an unanswered call, and the pause before each, if the persona insists. It then also retries a refused call more
/// often.
const MAX_SILENCES: u32 = 1_200;
const MAX_REFUSALS: u32 = 60;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// One DID, or one device of it, and its part in one conversation.
pub struct Persona {
    pub mls: Box<dyn Mls>,
    pub xrpc: Xrpc,
    /// Id of the conversation, from [`Persona::create`] or [`Persona::join`] on.
    pub convo_id: Option<String>,
    /// MLS group id of the conversation.
    pub group_id: Vec<u8>,
    /// Last entry of the log that this member has seen.
    pub last_seq: u64,
    /// Id of this device, if it is registered.
    pub device_id: Option<String>,
    /// Framing of its commits.
    pub handshake: Handshake,
    /// True if its commits carry the GroupInfo of the epoch that they create.
    pub shares_group_info: bool,
    /// True if it retries unanswered calls. Each retry is the same request, which takes effect once.
    pub insists: bool,
    /// Number of times that it read the log because an event was missing.
    pub gaps: u64,
    /// Incarnation of the database that the server named last, which it sends with its writes.
    incarnation: Option<String>,
    /// Ids of the entries that it has processed, by seq.
    entries: BTreeMap<u64, String>,
    /// The epoch that it entered last by a commit whose bytes it knows, and that commit.
    led_by: Option<(u64, Vec<u8>)>,
}

/// Position of a change in the conversation's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Landed {
    /// Epoch of the conversation after the change.
    pub epoch: u64,
    pub seq: u64,
    /// Number of times that another commit came first.
    pub conflicts: u32,
}

/// A call as data, so that it can be repeated.
enum Call<'a> {
    Procedure(&'a str, &'a Value),
    Query(&'a str, &'a [(&'a str, String)]),
    /// With bytes as its body.
    Upload(&'a str, &'a [(&'a str, String)], &'a [u8]),
}

impl Persona {
    /// Creates a persona for the DID of `xrpc`, with fresh keys and no conversation.
    pub fn new(xrpc: Xrpc) -> Self {
        let mls = MlsClient::new(xrpc.did.clone());
        Self::with(xrpc, Box::new(mls))
    }

    /// Creates a persona with the keys of `mls`, which names the same DID or a device of it.
    pub fn with(xrpc: Xrpc, mls: Box<dyn Mls>) -> Self {
        Self {
            mls,
            xrpc,
            convo_id: None,
            group_id: Vec::new(),
            last_seq: 0,
            device_id: None,
            handshake: Handshake::default(),
            shares_group_info: false,
            insists: false,
            gaps: 0,
            incarnation: None,
            entries: BTreeMap::new(),
            led_by: None,
        }
    }

    pub fn did(&self) -> &str {
        &self.xrpc.did
    }

    /// Returns the id of this persona's conversation.
    pub fn convo(&self) -> Result<&str, PersonaError> {
        self.convo_id.as_deref().ok_or_else(|| PersonaError::NoConversation { did: self.did().to_owned() })
    }

    /// Returns this persona's MLS epoch.
    pub fn epoch(&self) -> Result<u64, PersonaError> {
        Ok(self.mls.epoch(&self.group_id)?)
    }

    /// Returns the secret that only members with the same history share.
    pub fn epoch_authenticator(&self) -> Result<Vec<u8>, PersonaError> {
        Ok(self.mls.epoch_authenticator(&self.group_id)?)
    }

    /// Returns the conversation's epoch according to the server.
    pub async fn server_epoch(&self) -> Result<u64, PersonaError> {
        let reply = self.query("getEpoch", &[("convoId", self.convo()?.to_owned())]).await?;
        Ok(reply.number("currentEpoch")?)
    }

    /// Publishes `n` one-time key packages and returns their hashes.
    pub async fn publish_key_packages(&self, n: usize) -> Result<Vec<String>, PersonaError> {
        let mut hashes = Vec::with_capacity(n);
        for _ in 0..n {
            hashes.push(self.publish(&self.mls.key_package()?).await?);
        }
        Ok(hashes)
    }

    /// Publishes a last-resort key package and returns its hash.
    pub async fn publish_last_resort(&self) -> Result<String, PersonaError> {
        self.publish(&self.mls.last_resort_key_package()?).await
    }

    async fn publish(&self, key_package: &[u8]) -> Result<String, PersonaError> {
        let body = json!({ "keyPackage": base64_text(key_package), "cipherSuite": self.mls.suite_name() });
        let reply = self.procedure("publishKeyPackage", &body).await?;
        let hash = sha256_hex(key_package);
        let named = reply.string("keyPackageHash")?;
        self.expect(named == hash, || format!("a key package with SHA-256 {hash} was published as {named}"))?;
        Ok(hash)
    }

    /// Creates a conversation with this persona as its only member.
    pub async fn create(&mut self, group_id: &[u8], name: &str) -> Result<(), PersonaError> {
        let body = json!({
            "groupId": hex(group_id),
            "cipherSuite": self.mls.suite_name(),
            "metadata": { "name": name },
            "currentEpoch": 0,
            "idempotencyKey": unique(),
        });
        let reply = self.procedure("createConvo", &body).await?;
        let epoch = reply.number("epoch")?;
        self.expect(epoch == 0, || format!("a conversation created at epoch 0 starts at {epoch}"))?;
        self.mls.create_group(group_id, self.handshake)?;
        self.convo_id = Some(reply.string("id")?.to_owned());
        self.group_id = group_id.to_vec();
        self.last_seq = reply.number("seq")?;
        Ok(())
    }

    /// Joins a conversation that this persona was added to.
    pub async fn join(&mut self, convo_id: &str) -> Result<(), PersonaError> {
        let mut which = vec![("convoId", convo_id.to_owned())];
        which.extend(self.device_id.iter().map(|id| ("deviceId", id.clone())));
        let reply = self.query("getWelcome", &which).await?;
        self.group_id = self.mls.join(&reply.bytes("welcome")?, self.handshake)?;
        self.convo_id = Some(convo_id.to_owned());
        self.last_seq = reply.number("seq")?;
        self.led_by = None;
        let (named, joined) = (reply.number("epoch")?, self.epoch()?);
        self.expect(named == joined, || format!("a Welcome into epoch {joined} was served as one into {named}"))?;
        let mut body = json!({ "convoId": convo_id, "success": true, "epoch": named });
        if let Some(id) = &self.device_id {
            body["deviceId"] = json!(id);
        }
        self.procedure("confirmWelcome", &body).await?;
        Ok(())
    }

    /// Leaves the conversation and forgets its keys. The others must still commit the removal.
    pub async fn leave(&mut self) -> Result<Landed, PersonaError> {
        let reply = self.procedure("leaveConvo", &json!({ "convoId": self.convo()? })).await?;
        self.mls.forget(&self.group_id)?;
        self.convo_id = None;
        Ok(Landed { epoch: reply.number("epoch")?, seq: reply.number("seq")?, conflicts: 0 })
    }

    /// Calls a procedure that must succeed, possibly after retries.
    async fn procedure(&self, method: &str, body: &Value) -> Result<Reply, PersonaError> {
        self.accepted(self.patient(Call::Procedure(method, body)).await?)
    }

    /// Calls a query that must succeed, possibly after retries.
    async fn query(&self, method: &str, parameters: &[(&str, String)]) -> Result<Reply, PersonaError> {
        self.accepted(self.patient(Call::Query(method, parameters)).await?)
    }

    fn accepted(&self, reply: Reply) -> Result<Reply, PersonaError> {
        if reply.is_ok() { Ok(reply) } else { Err(self.refused(reply)) }
    }

    fn refused(&self, reply: Reply) -> PersonaError {
        PersonaError::Refused { did: self.did().to_owned(), reply: Box::new(reply) }
    }

    /// Repeats a call with a new token while the server asks for a retry with a wait.
    async fn patient(&self, call: Call<'_>) -> Result<Reply, PersonaError> {
        let (mut retries, mut silences) = (0, 0);
        loop {
            let reply = match call {
                Call::Procedure(method, body) => self.xrpc.procedure(method, body).await,
                Call::Query(method, parameters) => self.xrpc.query(method, parameters).await,
                Call::Upload(method, parameters, bytes) => {
                    let length = bytes.len() as u64;
                    self.xrpc.upload(method, parameters, "application/octet-stream", bytes.to_vec(), length).await
                }
            };
            let reply = match reply {
                Err(XrpcError::NoAnswer { .. }) if self.insists && silences < MAX_SILENCES => {
                    silences += 1;
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                reply => reply?,
            };
            let wait = match reply.status {
                429 | 503 if retries < if self.insists { MAX_REFUSALS } else { MAX_RETRIES } => {
                    reply.retry_after().filter(|wait| *wait <= MAX_WAIT)
                }
                _ => None,
            };
            let Some(wait) = wait else { return Ok(reply) };
            tokio::time::sleep(wait).await;
            retries += 1;
        }
    }

    /// Fails with [`PersonaError::Broken`] if the server has broken its promise, as `how` describes.
    fn expect(&self, kept: bool, how: impl FnOnce() -> String) -> Result<(), PersonaError> {
        if kept { Ok(()) } else { Err(self.broken(how())) }
    }

    fn broken(&self, how: String) -> PersonaError {
        PersonaError::Broken { did: self.did().to_owned(), how }
    }
}

/// Returns the lower-case hexadecimal SHA-256 of a key package as sent: its name in `keyPackageHashes`.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns a new idempotency key.
pub fn unique() -> String {
    ulid::Ulid::new().to_string()
}
