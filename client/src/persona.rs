//! A member of a conversation: MLS state and a signed-in connection, and the rules that keep the two in step.
//!
//! A persona does what a careful client does. It merges its commit only after a 200, rebases from a 409 with nothing but what
//! the 409 carries, and reads the log without a gap. When the server answers with success and yet breaks a promise (a hole in
//! `seq`, an epoch that is not the next one, a sender who is somebody else), that is an error of its own,
//! [`PersonaError::Broken`], so no test has to look for it.

mod commits;
mod error;
mod follow;
mod messages;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::mls::{Handshake, MlsClient};
use super::xrpc::{Reply, Xrpc, XrpcError, base64_text};

pub use error::PersonaError;
pub use follow::Events;

/// How often one call is repeated because the server asks for patience (429, 503) before the persona gives up.
const MAX_RETRIES: u32 = 5;
/// The longest wait it grants at a time. A server that asks for more is reported as it answered.
const MAX_WAIT: std::time::Duration = std::time::Duration::from_secs(10);
/// How often a call is repeated that got no answer, and the pause before it is, where the persona insists on one.
const MAX_SILENCES: u32 = 200;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// One DID and its part in one conversation.
pub struct Persona {
    pub mls: MlsClient,
    pub xrpc: Xrpc,
    /// The conversation's id, from [`Persona::create`] or [`Persona::join`] on.
    pub convo_id: Option<String>,
    /// The conversation's MLS group id.
    pub group_id: Vec<u8>,
    /// The last entry of the log that this member has seen.
    pub last_seq: u64,
    /// How it frames its commits.
    pub handshake: Handshake,
    /// Whether it makes a call again that got no answer. Whatever it asks for is the same request then, which is done once.
    pub insists: bool,
    /// How often it had to read the log because an event left an entry out.
    pub gaps: u64,
}

/// Where a change landed in the conversation's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Landed {
    /// The epoch the conversation is in because of it.
    pub epoch: u64,
    pub seq: u64,
    /// How often it had to be made again because another commit came first.
    pub conflicts: u32,
}

/// A call as data, so that it can be made more than once.
enum Call<'a> {
    Procedure(&'a str, &'a Value),
    Query(&'a str, &'a [(&'a str, String)]),
}

impl Persona {
    /// A persona for the DID that `xrpc` is signed in as, with fresh keys and no conversation.
    pub fn new(xrpc: Xrpc) -> Self {
        Self {
            mls: MlsClient::new(xrpc.did.clone()),
            xrpc,
            convo_id: None,
            group_id: Vec::new(),
            last_seq: 0,
            handshake: Handshake::default(),
            insists: false,
            gaps: 0,
        }
    }

    pub fn did(&self) -> &str {
        self.mls.did()
    }

    /// The conversation this persona is in.
    pub fn convo(&self) -> Result<&str, PersonaError> {
        self.convo_id.as_deref().ok_or_else(|| PersonaError::NoConversation { did: self.did().to_owned() })
    }

    /// This persona's MLS epoch.
    pub fn epoch(&self) -> Result<u64, PersonaError> {
        Ok(self.mls.epoch(&self.group_id)?)
    }

    /// The secret that only members with the same history share.
    pub fn epoch_authenticator(&self) -> Result<Vec<u8>, PersonaError> {
        Ok(self.mls.epoch_authenticator(&self.group_id)?)
    }

    /// The epoch that the server says the conversation is in.
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

    /// Creates a conversation of which this persona is the only member.
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

    /// Joins a conversation that somebody has added this persona to.
    pub async fn join(&mut self, convo_id: &str) -> Result<(), PersonaError> {
        let reply = self.query("getWelcome", &[("convoId", convo_id.to_owned())]).await?;
        self.group_id = self.mls.join(&reply.bytes("welcome")?, self.handshake)?;
        self.convo_id = Some(convo_id.to_owned());
        self.last_seq = reply.number("seq")?;
        let (named, joined) = (reply.number("epoch")?, self.epoch()?);
        self.expect(named == joined, || format!("a Welcome into epoch {joined} was served as one into {named}"))?;
        self.procedure("confirmWelcome", &json!({ "convoId": convo_id, "success": true, "epoch": named })).await?;
        Ok(())
    }

    /// Leaves the conversation and forgets its keys. The others still have to commit the removal.
    pub async fn leave(&mut self) -> Result<Landed, PersonaError> {
        let reply = self.procedure("leaveConvo", &json!({ "convoId": self.convo()? })).await?;
        self.mls.forget(&self.group_id)?;
        self.convo_id = None;
        Ok(Landed { epoch: reply.number("epoch")?, seq: reply.number("seq")?, conflicts: 0 })
    }

    /// A procedure that has to succeed, sooner or later.
    async fn procedure(&self, method: &str, body: &Value) -> Result<Reply, PersonaError> {
        self.accepted(self.patient(Call::Procedure(method, body)).await?)
    }

    /// A query that has to succeed, sooner or later.
    async fn query(&self, method: &str, parameters: &[(&str, String)]) -> Result<Reply, PersonaError> {
        self.accepted(self.patient(Call::Query(method, parameters)).await?)
    }

    fn accepted(&self, reply: Reply) -> Result<Reply, PersonaError> {
        if reply.is_ok() { Ok(reply) } else { Err(self.refused(reply)) }
    }

    fn refused(&self, reply: Reply) -> PersonaError {
        PersonaError::Refused { did: self.did().to_owned(), reply: Box::new(reply) }
    }

    /// Makes the same call again, with a new token, for as long as the server asks for patience and says how much.
    async fn patient(&self, call: Call<'_>) -> Result<Reply, PersonaError> {
        let (mut retries, mut silences) = (0, 0);
        loop {
            let reply = match call {
                Call::Procedure(method, body) => self.xrpc.procedure(method, body).await,
                Call::Query(method, parameters) => self.xrpc.query(method, parameters).await,
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
                429 | 503 if retries < MAX_RETRIES => reply.retry_after().filter(|wait| *wait <= MAX_WAIT),
                _ => None,
            };
            let Some(wait) = wait else { return Ok(reply) };
            tokio::time::sleep(wait).await;
            retries += 1;
        }
    }

    /// The server has kept its word, or else it has not and `how` says how.
    fn expect(&self, kept: bool, how: impl FnOnce() -> String) -> Result<(), PersonaError> {
        if kept { Ok(()) } else { Err(self.broken(how())) }
    }

    fn broken(&self, how: String) -> PersonaError {
        PersonaError::Broken { did: self.did().to_owned(), how }
    }
}

/// The lower-case hexadecimal SHA-256 of a key package as it goes over the wire: its name in `keyPackageHashes`.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An idempotency key that was never used before.
pub fn unique() -> String {
    ulid::Ulid::new().to_string()
}
