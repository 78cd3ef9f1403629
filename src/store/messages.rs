//! The log: appending entries, finding entries that were sent before, and reading pages.

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use tokio_postgres::Row;

use crate::bytes::LexBytes;
use crate::error::Error;
use crate::ids::{BlobId, ConvoId, Did, EntryId};
use crate::wire::{Body, Ciphertext, CommitMessage, MessageType, MessageView, ProposalMessage};

use super::position::Position;
use super::query::{Query, query};
use super::refusal::{self, Refusal, Refused};
use super::session::{Params, Queries};
use super::{Abort, Exclusive, ExclusiveMany, Reader, epochs};

query! {
    SEND_MESSAGE = "messages/send_message" (
        TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY, INT8_ARRAY, BYTEA_ARRAY, TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY, BYTEA_ARRAY,
        BYTEA_ARRAY, INT8, INT8, INT8_ARRAY, TEXT_ARRAY, INT4_ARRAY
    );
    FIND_COMMIT = "messages/find_commit" (TEXT, BYTEA, TEXT);
    FIND_PROPOSAL = "messages/find_proposal" (TEXT, INT8, TEXT, BYTEA);
    FIND_BY_ID = "messages/find_by_id" (TEXT, TEXT, TEXT);
    FIND_TIME = "messages/find_time" (TEXT, INT8);
    FIND_SEQ = "messages/find_seq" (TEXT, TEXT, INT8);
    LIST_BEFORE = "messages/list_before" (TEXT, TEXT, INT8, INT8, INT8);
    LIST_AFTER = "messages/list_after" (TEXT, TEXT, INT8, INT8, INT8);
    LOG_START = "messages/log_start" (TEXT);
    FIRST_COMMIT = "messages/first_commit" (TEXT, INT8);
    LIST_COMMITS = "messages/list_commits" (TEXT, TEXT, INT8, INT8, INT8, INT8, INT8, INT8);
}

/// Maximum size of one page in bytes of JSON, unless a single entry is larger. An AT Protocol PDS passes on replies of
/// up to 10 MiB.
pub const MAX_PAGE_BYTES: i64 = 19 * 512 * 1024;
/// Maximum number of commits in the `missing` field of a conflict.
pub const MAX_MISSING: i64 = 50;
/// Maximum size of the `missing` field of a conflict in bytes of JSON, unless a single commit is larger.
pub const MAX_MISSING_BYTES: i64 = 1024 * 1024;

/// Maximum size of the proposals that come with one commit in bytes of JSON.
pub const MAX_COMMIT_PROPOSAL_BYTES: i64 = 1024 * 1024;
/// Maximum number of proposals of one member in one epoch of a conversation.
pub const MAX_PROPOSALS: i64 = 32;

/// An application message or a proposal to append.
#[derive(Debug, Clone)]
pub struct AppMessage {
    pub id: EntryId,
    pub sender: Did,
    /// Number of the group that it was made in; `None` if the sender did not say.
    pub generation: Option<i64>,
    pub epoch: i64,
    /// Empty if it is a body.
    pub ciphertext: Vec<u8>,
    pub body: Option<NewBody>,
    pub embed_type: Option<String>,
    pub embed_uri: Option<String>,
    /// SHA-256 of a proposal's bytes; `None` for an application message.
    pub proposal_hash: Option<[u8; 32]>,
}

/// A ciphertext whose bytes are in the blob store.
#[derive(Debug, Clone)]
pub struct NewBody {
    pub id: BlobId,
    /// In bytes.
    pub size: i32,
    pub sha256: [u8; 32],
}

impl AppMessage {
    /// Returns the SHA-256 of its ciphertext.
    fn sha256(&self) -> [u8; 32] {
        self.body.as_ref().map_or_else(|| Sha256::digest(&self.ciphertext).into(), |body| body.sha256)
    }
}

/// A stored message with the same id.
pub struct StoredMessage {
    pub seq: i64,
    pub created_at: DateTime<Utc>,
    /// True if it is the same message.
    pub same: bool,
}

/// The statement of [`send`].
pub(crate) const SEND: &Query = &SEND_MESSAGE;

/// An application message or a proposal to append to a conversation.
pub struct NewMessage<'a> {
    pub convo: &'a ConvoId,
    pub message: &'a AppMessage,
    /// The idempotency key with the request's fingerprint.
    pub idempotency: Option<(&'a str, &'a [u8; 32])>,
}

/// Place of a message in the log.
#[derive(Debug, Clone, Copy)]
pub struct Appended {
    /// Position of the conversation with this message.
    pub at: Position,
    pub received_at: DateTime<Utc>,
}

/// Appends application messages of epochs that lag by `window` at most, and proposals of the present epoch. Returns the place of each in
/// the log, or why it was refused. No two of them may have the same id in a conversation, and no two proposals the same sender.
pub(crate) async fn send(
    x: &ExclusiveMany<'_>,
    messages: &[NewMessage<'_>],
    window: i64,
) -> Result<Vec<Result<Appended, Refused>>, Abort> {
    fn column<'a, T>(messages: &'a [NewMessage<'a>], value: impl Fn(&'a NewMessage<'a>) -> T) -> Vec<T> {
        messages.iter().map(value).collect()
    }
    let params: Params<'_> = &[
        &column(messages, |new| new.convo.as_str()),
        &column(messages, |new| new.message.id.as_str()),
        &column(messages, |new| new.message.sender.as_str()),
        &column(messages, |new| new.message.epoch),
        &column(messages, |new| new.message.ciphertext.as_slice()),
        &column(messages, |new| new.message.embed_type.as_deref()),
        &column(messages, |new| new.message.embed_uri.as_deref()),
        &column(messages, |new| new.idempotency.map(|(key, _)| key)),
        &column(messages, |new| new.idempotency.map(|(_, fingerprint)| fingerprint.as_slice())),
        &column(messages, |new| new.message.proposal_hash.as_ref().map(<[u8; 32]>::as_slice)),
        &window,
        &MAX_PROPOSALS,
        &column(messages, |new| new.message.generation),
        &column(messages, |new| new.message.body.as_ref().map(|body| body.id.as_str())),
        &column(messages, |new| new.message.body.as_ref().map(|body| body.size)),
    ];
    let rows = x.tx.rows(&SEND_MESSAGE, params).await?;
    refusal::in_order(&rows, messages.len(), |row| Appended { at: row.into(), received_at: row.get("created_at") })
}

/// Appends one message.
pub(crate) async fn send_one(
    x: &mut Exclusive<'_>,
    message: NewMessage<'_>,
    window: i64,
) -> Result<Result<Appended, Refused>, Abort> {
    let messages = [message];
    loop {
        match refusal::only(send(&x.many(), &messages, window).await?) {
            Err(Refused { refusal: Refusal::Moved, .. }) => epochs::moved(x).await?,
            outcome => {
                x.at = outcome.as_ref().map_or_else(|refused| refused.at, |appended| Some(appended.at));
                return Ok(outcome);
            }
        }
    }
}

/// Returns the position of the sender's commit with exactly these bytes.
pub(crate) async fn find_commit(
    db: &impl Queries,
    convo: &ConvoId,
    hash: &[u8; 32],
    sender: &Did,
) -> Result<Option<(Option<i64>, Position)>, Abort> {
    let row = db.find(&FIND_COMMIT, &[&convo.as_str(), &hash.as_slice(), &sender.as_str()]).await?;
    Ok(row.map(|row| (row.get("generation"), Position { epoch: row.get("epoch"), seq: row.get("seq") })))
}

/// Returns the sender's message with this id, compared with a message that refers to these blobs.
pub(crate) async fn find_by_id(
    db: &impl Queries,
    convo: &ConvoId,
    message: &AppMessage,
    blobs: &[BlobId],
) -> Result<Option<StoredMessage>, Abort> {
    let row = db.find(&FIND_BY_ID, &[&convo.as_str(), &message.id.as_str(), &message.sender.as_str()]).await?;
    // Without a body on either side no hash is needed.
    let same_ciphertext =
        |row: &Row| match (row.get::<_, Option<&[u8]>>("body_sha256"), row.get::<_, &[u8]>("ciphertext")) {
            (Some(sha256), _) => message.sha256() == sha256,
            (None, stored) if message.body.is_some() => message.sha256() == *Sha256::digest(stored),
            (None, stored) => stored == message.ciphertext,
        };
    Ok(row.map(|row| StoredMessage {
        seq: row.get("seq"),
        created_at: row.get("created_at"),
        same: row.get::<_, i64>("epoch") == message.epoch
            && same_ciphertext(&row)
            && row.get::<_, Option<&str>>("embed_type") == message.embed_type.as_deref()
            && row.get::<_, Option<&str>>("embed_uri") == message.embed_uri.as_deref()
            && row.get::<_, Vec<&str>>("blobs") == blobs.iter().map(BlobId::as_str).collect::<Vec<_>>(),
    }))
}

/// Returns the id, seq and time of the sender's proposal with exactly these bytes.
pub(crate) async fn find_proposal(
    db: &impl Queries,
    convo: &ConvoId,
    (epoch, hash): (i64, &[u8; 32]),
    sender: &Did,
) -> Result<Option<(EntryId, i64, DateTime<Utc>)>, Abort> {
    let params: Params<'_> = &[&convo.as_str(), &epoch, &sender.as_str(), &hash.as_slice()];
    let Some(row) = db.find(&FIND_PROPOSAL, params).await? else { return Ok(None) };
    let id = row.get::<_, &str>("id").parse().map_err(Error::internal)?;
    Ok(Some((id, row.get("seq"), row.get("created_at"))))
}

/// Returns the seq of an entry, if a member that joined at `joined_seq` may see it.
pub(crate) async fn find_seq(
    db: &impl Queries,
    convo: &ConvoId,
    id: &EntryId,
    joined_seq: i64,
) -> Result<Option<i64>, Abort> {
    Ok(db.find(&FIND_SEQ, &[&convo.as_str(), &id.as_str(), &joined_seq]).await?.map(|row| row.get("seq")))
}

/// Returns the commits that create the epochs `first..=last` of a generation and that `reader` may see, ascending, each with the proposals of the epoch
/// that it ended, unless they have more than [`MAX_COMMIT_PROPOSAL_BYTES`].
pub(crate) async fn list_commits(
    db: &impl Queries,
    convo: &ConvoId,
    reader: &Did,
    (generation, first, last): (i64, i64, i64),
    (rows, bytes): (i64, i64),
) -> Result<Vec<CommitMessage>, Abort> {
    let params: Params<'_> =
        &[&convo.as_str(), &reader.as_str(), &first, &last, &rows, &bytes, &MAX_COMMIT_PROPOSAL_BYTES, &generation];
    let rows = db.rows(&LIST_COMMITS, params).await?;
    Ok(rows.iter().map(commit_view).collect::<Result<_, _>>()?)
}

fn commit_view(row: &Row) -> Result<CommitMessage, Error> {
    Ok(CommitMessage {
        id: row.get::<_, &str>("id").parse().map_err(Error::internal)?,
        generation: row.get("generation"),
        epoch: row.get("epoch"),
        seq: row.get("seq"),
        sender: row.get::<_, &str>("sender_did").parse().map_err(Error::internal)?,
        commit_data: LexBytes(row.get("ciphertext")),
        created_at: row.get("created_at"),
        proposals: proposals(row)?,
    })
}

/// Returns the proposals of a row, which has none as nulls.
fn proposals(row: &Row) -> Result<Vec<ProposalMessage>, Error> {
    let seqs: Vec<i64> = row.get::<_, Option<_>>("seqs").unwrap_or_default();
    let senders: Vec<&str> = row.get::<_, Option<_>>("senders").unwrap_or_default();
    let proposals: Vec<Vec<u8>> = row.get::<_, Option<_>>("proposals").unwrap_or_default();
    let all = seqs.into_iter().zip(senders).zip(proposals);
    let view = |((seq, sender), proposal): ((i64, &str), Vec<u8>)| {
        let sender = sender.parse().map_err(Error::internal)?;
        Ok(ProposalMessage { seq, sender, proposal: LexBytes(proposal) })
    };
    all.map(view).collect()
}

pub(super) fn message_view(convo: &ConvoId, row: &Row) -> Result<MessageView, Error> {
    Ok(MessageView {
        id: row.get::<_, &str>("id").parse().map_err(Error::internal)?,
        convo_id: convo.clone(),
        sender: row.get::<_, &str>("sender_did").parse().map_err(Error::internal)?,
        message_type: match row.get("message_type") {
            "commit" => MessageType::Commit,
            "reset" => MessageType::Reset,
            "proposal" => MessageType::Proposal,
            _ => MessageType::App,
        },
        ciphertext: ciphertext(row)?,
        generation: row.get("generation"),
        epoch: row.get("epoch"),
        seq: row.get("seq"),
        created_at: row.get("created_at"),
        embed_type: row.get("embed_type"),
        embed_uri: row.get("embed_uri"),
    })
}

fn ciphertext(row: &Row) -> Result<Ciphertext, Error> {
    let Some(key) = row.get::<_, Option<&str>>("body_key") else {
        return Ok(Ciphertext::Row(LexBytes(row.get("ciphertext"))));
    };
    let size = usize::try_from(row.get::<_, i32>("body_bytes")).map_err(Error::internal)?;
    Ok(Ciphertext::Body(Body::new(key.parse().map_err(Error::internal)?, size)))
}

impl Reader {
    /// Returns the newest page before `before` that `reader` may see, ascending: at most `limit` entries and
    /// [`MAX_PAGE_BYTES`].
    pub async fn messages_before(
        &self,
        convo: &ConvoId,
        reader: &Did,
        before: i64,
        limit: i64,
    ) -> Result<Vec<MessageView>, Error> {
        self.page(&LIST_BEFORE, convo, reader, before, limit).await
    }

    /// Returns the page after `after` that `reader` may see, ascending: at most `limit` entries and [`MAX_PAGE_BYTES`].
    pub async fn messages_after(
        &self,
        convo: &ConvoId,
        reader: &Did,
        after: i64,
        limit: i64,
    ) -> Result<Vec<MessageView>, Error> {
        self.page(&LIST_AFTER, convo, reader, after, limit).await
    }

    async fn page(
        &self,
        query: &Query,
        convo: &ConvoId,
        reader: &Did,
        seq: i64,
        limit: i64,
    ) -> Result<Vec<MessageView>, Error> {
        let params: Params<'_> = &[&convo.as_str(), &reader.as_str(), &seq, &limit, &MAX_PAGE_BYTES];
        let rows = self.rows(query, params).await?;
        rows.iter().map(|row| message_view(convo, row)).collect()
    }

    /// Returns the time at which an entry was accepted; `None` if it was deleted.
    pub async fn entry_time(&self, convo: &ConvoId, seq: i64) -> Result<Option<DateTime<Utc>>, Error> {
        let row = self.find(&FIND_TIME, &[&convo.as_str(), &seq]).await?;
        Ok(row.map(|row| row.get("created_at")))
    }

    /// Returns the seq of the oldest stored entry; `None` if no entry was deleted.
    pub async fn log_start(&self, convo: &ConvoId) -> Result<Option<i64>, Error> {
        let row = self.find(&LOG_START, &[&convo.as_str()]).await?;
        Ok(row.map(|row| row.get("seq")))
    }

    /// Returns the epoch of the oldest commit of a generation with stored bytes; `None` if there is none.
    pub async fn first_commit(&self, convo: &ConvoId, generation: i64) -> Result<Option<i64>, Error> {
        let row = self.find(&FIRST_COMMIT, &[&convo.as_str(), &generation]).await?;
        Ok(row.map(|row| row.get("epoch")))
    }
    /// Returns the page of commits that create the epochs `first..=last` of a generation and that `reader` may see, ascending: at most
    /// `limit` commits and [`MAX_PAGE_BYTES`].
    pub async fn commits(
        &self,
        convo: &ConvoId,
        reader: &Did,
        epochs: (i64, i64, i64),
        limit: i64,
    ) -> Result<Vec<CommitMessage>, Error> {
        Ok(list_commits(self, convo, reader, epochs, (limit, MAX_PAGE_BYTES)).await?)
    }
}
