//! Errors of a request: one closed table of wire name, HTTP status and recovery.
//!
//! A [`Code`] is the name on the wire that lexicons declare. It alone determines the recovery, because proxies forward
//! little else. An [`Error`] is one occurrence, with a sentence and the details that a client needs to recover.
//! Unforeseen failures become [`Code::InternalServerError`]; their cause is logged and not sent.

mod metrics;

use actix_web::http::StatusCode;
use serde::Serialize;

use crate::ids::{EntryId, ServerIncarnation};
use crate::wire::CommitMessage;

pub use metrics::ErrorMetrics;

/// Reaction of a client to an error, independent of the error's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Recovery {
    /// Send the same request again, with a new token, after the wait in the reply.
    RetrySame,
    /// Apply the commits in `missing`, rebuild the request on the new epoch, and send that.
    CatchUpThenRebase,
    /// The caller is in an epoch that leads nowhere, and joins the group again by an external commit or with the help of another member; or
    /// it is no longer a member and needs a new invitation.
    Rejoin,
    /// The invitation has not arrived yet.
    WaitForWelcome,
    /// Subscribe without a cursor, then read the conversations.
    StartAnew,
    /// Send the request again after the wait, with the `messageId` of the reply as its `msgId`; without it the message
    /// may be stored twice.
    RetryWithMsgId,
    /// Only a different request can succeed.
    GiveUp,
}

impl Recovery {
    /// Returns true if the same request may succeed later.
    fn is_retry(self) -> bool {
        matches!(self, Recovery::RetrySame | Recovery::RetryWithMsgId)
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident $status:literal $recovery:ident,)*) => {
        /// The closed table of errors. The name of a variant is its name on the wire.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// All rows of the table.
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];

            /// Value of `error` in the reply.
            pub fn name(self) -> &'static str {
                match self { $(Code::$name => stringify!($name),)* }
            }

            /// HTTP status of the reply.
            pub fn status(self) -> StatusCode {
                let status = match self { $(Code::$name => $status,)* };
                StatusCode::from_u16(status).expect("the table holds valid statuses only")
            }

            /// Value of `recovery` in the reply.
            pub fn recovery(self) -> Recovery {
                match self { $(Code::$name => Recovery::$recovery,)* }
            }
        }
    };
}

codes! {
    // The request itself.
    /// A parameter or field is missing, has the wrong type or is out of range.
    InvalidRequest 400 GiveUp,
    /// `cursor` or `sinceMessage` names no position in this conversation.
    InvalidCursor 400 GiveUp,
    /// The cursor belongs to another database, or to a time that this one has lost.
    FutureCursor 400 StartAnew,
    /// Events after the cursor were deleted or are too many, or the database was restored since.
    OutdatedCursor 410 StartAnew,
    /// The caller is in more conversations than one stream may have.
    TooManyConversations 403 GiveUp,
    /// `fromEpoch` is after `toEpoch`, or one is negative.
    InvalidEpochRange 400 GiveUp,
    /// The cipher suite is not supported, or not the suite of the bytes.
    InvalidCipherSuite 400 GiveUp,
    /// The key package does not parse, has an invalid signature, has expired, or names another DID.
    InvalidKeyPackage 400 GiveUp,
    /// `expires` is later than key packages are kept, or a key package has too long a lifetime.
    ExpirationTooFar 400 GiveUp,
    /// The bytes are not an MLS commit of this group, or the commit contradicts the request.
    InvalidCommit 400 GiveUp,
    /// The bytes are not an MLS proposal of this group that a member may send.
    InvalidProposal 400 GiveUp,
    /// The bytes are not an MLS Welcome of the group's suite.
    InvalidWelcome 400 GiveUp,
    /// The bytes are not a GroupInfo of this group, or the caller has not signed it.
    InvalidGroupInfo 400 GiveUp,
    /// The bytes start like an MLSMessage but are not an application message of this group and epoch.
    InvalidMessage 400 GiveUp,
    /// `embedType` or `embedUri` is malformed.
    InvalidAsset 400 GiveUp,
    /// The blob would have more bytes than a blob may have.
    BlobTooLarge 413 GiveUp,
    /// The bytes do not have the SHA-256 that was announced.
    BlobMismatch 400 RetrySame,
    /// The fields do not form a mailbox, or its URL may not be called.
    InvalidMailbox 400 GiveUp,
    /// A string is not a DID.
    InvalidDid 400 GiveUp,
    /// More DIDs than one request may name.
    TooManyDids 400 GiveUp,
    /// The conversation would have more members than it may.
    TooManyMembers 400 GiveUp,
    /// The ciphertext is larger than 7 MiB.
    MessageTooLarge 413 GiveUp,
    /// The body is larger than any valid request.
    PayloadTooLarge 413 GiveUp,
    /// The range of a download begins after its last byte.
    RangeNotSatisfiable 416 GiveUp,
    /// The path or the verb exists, but not together.
    MethodNotAllowed 405 GiveUp,
    /// No such method.
    MethodNotImplemented 501 GiveUp,
    /// No such page outside `/xrpc/`.
    NotFound 404 GiveUp,

    // The token.
    /// No bearer token.
    AuthenticationRequired 401 GiveUp,
    /// The token is malformed, wrongly signed, for another service or for another method.
    InvalidToken 401 GiveUp,
    /// The token has expired. The same request with a new token may succeed.
    ExpiredToken 401 RetrySame,
    /// The token was already used: each request needs a new one.
    TokenReplayed 401 RetrySame,
    /// The issuer's DID document is unavailable.
    IdentityUnavailable 503 RetrySame,

    /// An operator has suspended the caller, which can only read.
    AccountSuspended 403 GiveUp,

    // Streams.
    /// The method needs a WebSocket, and the request does not ask for one.
    UpgradeRequired 426 GiveUp,
    /// The client of a WebSocket reads events more slowly than they happen; it must reconnect with its cursor. Sent in
    /// a frame only.
    ConsumerTooSlow 429 RetrySame,

    // The conversation.
    /// The conversation does not exist, or the caller was never in it; the two look the same on purpose.
    ConvoNotFound 404 GiveUp,
    /// The caller is no longer a member.
    NotMember 403 Rejoin,
    /// The DID to be removed is not a member.
    TargetNotMember 409 GiveUp,
    /// The caller has no right to do this.
    NotAuthorized 403 GiveUp,
    /// The entry does not exist, or the caller cannot see it.
    MessageNotFound 404 GiveUp,
    /// The group id is taken.
    ConvoAlreadyExists 409 GiveUp,
    /// Another commit has won the epoch.
    EpochMismatch 409 CatchUpThenRebase,
    /// Another commit has won the epoch, and the commits after the caller's epoch have been deleted.
    EpochExpired 409 Rejoin,
    /// The epoch does not exist yet: the caller merged a commit that was never accepted, and no commit leads back.
    EpochAhead 409 Rejoin,
    /// The conversation has another MLS group by now: it was reset.
    StaleGeneration 409 Rejoin,
    /// The database has lost the commits that led to the caller's epoch: the caller last read another incarnation of
    /// it.
    ServerRolledBack 409 Rejoin,
    /// One of the DIDs is already a member.
    AlreadyMember 409 GiveUp,
    /// The last member cannot leave.
    LastMember 409 GiveUp,
    /// The idempotency key or message id was used for a different request.
    IdempotencyConflict 409 GiveUp,
    /// A replica of a build serves that does not know the storage model.
    StorageModelUnavailable 503 RetrySame,
    /// A key package in the request is unknown, used, or issued to another caller.
    KeyPackageNotFound 409 GiveUp,
    /// The caller has the maximum number of proposals in this epoch.
    TooManyProposals 409 GiveUp,
    /// The caller has the maximum number of unused key packages.
    TooManyKeyPackages 409 GiveUp,
    /// The caller has no such device.
    DeviceNotFound 404 GiveUp,
    /// The caller has the maximum number of devices.
    TooManyDevices 409 GiveUp,
    /// The signature key belongs to another device of the caller.
    DeviceAlreadyRegistered 409 GiveUp,
    /// The blob does not exist, its bytes are not complete, or no message that the caller can see refers to it; these look the same on
    /// purpose.
    BlobNotFound 404 GiveUp,
    /// The caller has no upload of this id.
    UploadNotFound 404 GiveUp,
    /// Parts of the upload are missing.
    UploadIncomplete 409 GiveUp,
    /// No Welcome is waiting for the caller.
    WelcomeNotFound 404 WaitForWelcome,
    /// The Welcome was confirmed and deleted.
    WelcomeConsumed 410 Rejoin,
    /// There is no GroupInfo of the present epoch. The members have been asked for one.
    GroupInfoUnavailable 404 RetrySame,

    // The server.
    /// The caller exceeds a rate limit or quota.
    RateLimitExceeded 429 RetrySame,
    /// The caller has as many uploads as it may have, or the blobs of the caller or the conversation have as many bytes as they may have.
    QuotaExceeded 429 RetrySame,
    /// A queue is full or a wait has timed out; nothing was written.
    Overloaded 503 RetrySame,
    /// The database cannot be reached, or the connection was lost before it confirmed the commit (`outcome`).
    DatabaseUnavailable 503 RetrySame,
    /// The connection to the database was lost before it confirmed a message without `msgId`.
    MessageUnconfirmed 503 RetryWithMsgId,
    /// The blob store cannot be reached, or does not do what it should.
    BlobStoreUnavailable 503 RetrySame,
    /// A defect, logged with the request id.
    InternalServerError 500 RetrySame,
}

impl Code {
    /// Codes that any method may return; lexicons do not repeat them.
    pub const COMMON: &'static [Code] = &[
        Code::InvalidRequest,
        Code::PayloadTooLarge,
        Code::MethodNotAllowed,
        Code::MethodNotImplemented,
        Code::AuthenticationRequired,
        Code::InvalidToken,
        Code::ExpiredToken,
        Code::TokenReplayed,
        Code::IdentityUnavailable,
        Code::AccountSuspended,
        Code::RateLimitExceeded,
        Code::Overloaded,
        Code::DatabaseUnavailable,
        Code::InternalServerError,
    ];

    /// Codes that any method bound to an epoch may return ([`EpochProcedure`](crate::xrpc::EpochProcedure)).
    pub const BOUND_TO_EPOCH: &'static [Code] = &[
        Code::ConvoNotFound,
        Code::NotMember,
        Code::EpochMismatch,
        Code::EpochExpired,
        Code::EpochAhead,
        Code::StaleGeneration,
        Code::IdempotencyConflict,
    ];

    /// Codes for a caller whose epoch or generation differs from the conversation's.
    pub const OTHER_EPOCH: &'static [Code] =
        &[Code::EpochMismatch, Code::EpochExpired, Code::EpochAhead, Code::ServerRolledBack, Code::StaleGeneration];
}

/// Position of the caller's epoch relative to the server's; the two call for different reactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Reason {
    /// The caller is behind: another commit won its epoch.
    Stale,
    /// The caller is ahead of the server: it merged a commit that was never accepted.
    Future,
}

/// Outcome of a failed request, as far as it is known. If absent, nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// It may have succeeded, or may still succeed.
    Unknown,
}

/// Details beside the sentence. Absent ones are omitted from the reply.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_epoch: Option<i64>,
    /// Number of the conversation's group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// The conversation's group, for a caller that has an earlier one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_id: Option<String>,
    /// Incarnation of the database that reports this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_incarnation: Option<ServerIncarnation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Commits after the caller's epoch, oldest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<Vec<CommitMessage>>,
    /// True if there are more commits than `missing` holds; `getCommits` returns the rest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub more_missing: Option<bool>,
    /// GroupInfo of `server_epoch` in base64, for an external commit that must be made anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_info: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Id that the message has if it was accepted, for a request without `msgId`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<EntryId>,
    /// Size of the content of which a range was requested, for the header `Content-Range`.
    #[serde(skip)]
    pub size: Option<u64>,
    /// Cause of an internal error, for the log.
    #[serde(skip)]
    pub cause: Option<String>,
}

/// One failed request: its code, a sentence for the client's developer, and the details.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}: {message}", code.name())]
pub struct Error {
    pub code: Code,
    pub message: String,
    pub details: Box<Details>,
}

/// Time that a client waits before it retries if nothing better is known, in milliseconds.
pub const RETRY_AFTER_MS: u64 = 1_000;

/// Maximum length of an error's sentence, in bytes. Long input is not echoed.
pub const MAX_MESSAGE_BYTES: usize = 400;

impl Error {
    /// Creates an error with this code. Codes that ask for a retry get a wait.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let retry_after_ms = code.recovery().is_retry().then_some(RETRY_AFTER_MS);
        let mut message = message.into();
        if message.len() > MAX_MESSAGE_BYTES {
            message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
            message.shrink_to_fit();
        }
        Self { code, message, details: Box::new(Details { retry_after_ms, ..Details::default() }) }
    }

    /// For an unknown outcome, adds how a retry reveals it.
    pub fn with_retry_hint(mut self, how: &str) -> Self {
        if self.details.outcome == Some(Outcome::Unknown) {
            self.message = format!("the connection to the database was lost before it confirmed the commit; {how}");
        }
        self
    }

    /// Like [`Error::with_retry_hint`], for a message that only this id identifies.
    pub fn with_message_id(mut self, id: &EntryId) -> Self {
        if self.details.outcome == Some(Outcome::Unknown) {
            self.code = Code::MessageUnconfirmed;
            self.details.message_id = Some(id.clone());
        }
        self.with_retry_hint(&format!("send it again with msgId {id}, or it may be stored twice"))
    }

    /// Creates an error for a defect or an unforeseen outage: the cause goes to the log, not to the client. It is logged here, perhaps by a
    /// task that works for many requests, and again under the id of each request that it fails.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        let cause = cause.to_string();
        tracing::error!(cause, "work failed for an unforeseen reason");
        let message = "the server failed; the log has the cause under this request id";
        let mut error = Self::new(Code::InternalServerError, message);
        error.details.cause = Some(cause);
        error
    }
}

impl Code {
    /// Shorthand for [`Error::new`].
    pub fn because(self, message: impl Into<String>) -> Error {
        Error::new(self, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_is_cut_between_two_characters() {
        // Each character takes three bytes, and 400 is not divisible by three.
        let error = Error::new(Code::InvalidRequest, "\u{e000}".repeat(100_000));
        assert_eq!(error.message, "\u{e000}".repeat(133));
        assert_eq!(Error::new(Code::InvalidRequest, "x".repeat(400)).message.len(), 400);
    }

    #[test]
    fn only_codes_that_ask_for_a_retry_have_a_wait() {
        for code in Code::ALL {
            let waits = code.because("").details.retry_after_ms.is_some();
            let tries = matches!(code.recovery(), Recovery::RetrySame | Recovery::RetryWithMsgId);
            assert_eq!(waits, tries, "{}", code.name());
        }
    }

    #[test]
    fn a_message_that_nothing_is_known_by_has_an_error_of_its_own() {
        let mut unknown = Code::DatabaseUnavailable.because("");
        unknown.details.outcome = Some(Outcome::Unknown);
        let told = unknown.clone().with_message_id(&"m1".parse().unwrap());
        assert_eq!((told.code, told.code.recovery()), (Code::MessageUnconfirmed, Recovery::RetryWithMsgId));
        assert_eq!(unknown.with_retry_hint("").code.recovery(), Recovery::RetrySame);
        // An error that has certainly changed nothing keeps its code.
        let refused = Code::DatabaseUnavailable.because("").with_message_id(&"m1".parse().unwrap());
        assert_eq!((refused.code, refused.details.message_id), (Code::DatabaseUnavailable, None));
    }
}
