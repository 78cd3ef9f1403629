//! Every way a request can end other than well: one closed table of wire name, HTTP status and what the client should do.
//!
//! A [`Code`] is what goes over the wire and what lexicons declare, and it alone decides the recovery, because proxies pass on little
//! else. An [`Error`] is one occurrence with its sentence and the facts that let a client recover. Anything unforeseen becomes
//! [`Code::InternalServerError`], logged with its cause and answered without it.

use actix_web::http::StatusCode;
use serde::Serialize;

use crate::ids::{EntryId, ServerIncarnation};
use crate::wire::CommitMessage;

/// What a client does about an error, without having to know its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Recovery {
    /// Send the same request again, with a new token, after the wait that the reply names.
    RetrySame,
    /// Apply the commits in `missing`, build the request anew on the new epoch, send that.
    CatchUpThenRebase,
    /// The caller is out of the group, or in an epoch of it that is lost; it needs a new invitation.
    Rejoin,
    /// The invitation is not there yet.
    WaitForWelcome,
    /// Follow without a cursor, then read the conversations.
    StartAnew,
    /// Send the request again after the wait, with the `messageId` of the reply as its `msgId`: without one it may be done twice.
    RetryWithMsgId,
    /// Nothing but a different request will help.
    GiveUp,
}

impl Recovery {
    /// Whether the same request may succeed later.
    fn is_patience(self) -> bool {
        matches!(self, Recovery::RetrySame | Recovery::RetryWithMsgId)
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident $status:literal $recovery:ident,)*) => {
        /// The closed table of errors. The variant's name is the name on the wire.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// Every row of the table.
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];

            /// The `error` field of the reply.
            pub fn name(self) -> &'static str {
                match self { $(Code::$name => stringify!($name),)* }
            }

            /// The HTTP status of the reply.
            pub fn status(self) -> StatusCode {
                let status = match self { $(Code::$name => $status,)* };
                StatusCode::from_u16(status).expect("the table holds valid statuses only")
            }

            /// The `recovery` field of the reply.
            pub fn recovery(self) -> Recovery {
                match self { $(Code::$name => Recovery::$recovery,)* }
            }
        }
    };
}

codes! {
    // The request itself.
    /// A parameter or field is missing, mistyped or out of its range.
    InvalidRequest 400 GiveUp,
    /// `cursor` or `sinceMessage` names no position in this conversation.
    InvalidCursor 400 GiveUp,
    /// The cursor is of another database, or of a time that this one has lost.
    FutureCursor 400 StartAnew,
    /// Events after the cursor have been deleted or are too many, or the database was restored since.
    OutdatedCursor 410 StartAnew,
    /// The caller is in more conversations than one stream may have.
    TooManyConversations 403 GiveUp,
    /// `fromEpoch` lies after `toEpoch`, or one is negative.
    InvalidEpochRange 400 GiveUp,
    /// The cipher suite is unknown here, or not the one that the bytes carry.
    InvalidCipherSuite 400 GiveUp,
    /// The key package does not parse, is not validly signed, has expired, or names somebody else.
    InvalidKeyPackage 400 GiveUp,
    /// `expires` lies further ahead than key packages are kept, or a key package lives for longer than any may.
    ExpirationTooFar 400 GiveUp,
    /// The bytes are not an MLS commit of this group, or one that shows something else than the request says.
    InvalidCommit 400 GiveUp,
    /// The bytes are not an MLS Welcome of the group's suite.
    InvalidWelcome 400 GiveUp,
    /// The bytes begin as an MLSMessage but are not an application message of this group and epoch.
    InvalidMessage 400 GiveUp,
    /// `embedType` or `embedUri` is malformed.
    InvalidAsset 400 GiveUp,
    /// The fields do not make a mailbox, or its URL is not one that may be called.
    InvalidMailbox 400 GiveUp,
    /// A DID is not one.
    InvalidDid 400 GiveUp,
    /// More DIDs than one request may name.
    TooManyDids 400 GiveUp,
    /// The conversation would have more members than it may.
    TooManyMembers 400 GiveUp,
    /// The ciphertext is larger than 7 MiB.
    MessageTooLarge 413 GiveUp,
    /// The body is larger than any valid request.
    PayloadTooLarge 413 GiveUp,
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
    /// The token's time is over. The same request with a new one may succeed.
    ExpiredToken 401 RetrySame,
    /// The token was used before: each request needs one of its own.
    TokenReplayed 401 RetrySame,
    /// The issuer's DID document could not be fetched just now.
    IdentityUnavailable 503 RetrySame,

    /// An operator has suspended the caller, who can read and do nothing else.
    AccountSuspended 403 GiveUp,

    // Streams.
    /// A WebSocket is opened here, and the request does not ask for one.
    UpgradeRequired 426 GiveUp,
    /// The client of a WebSocket takes events more slowly than they happen; it comes back with its cursor. Sent in a frame only.
    ConsumerTooSlow 429 RetrySame,

    // The conversation.
    /// No such conversation, or the caller was never in it; the two look the same on purpose.
    ConvoNotFound 404 GiveUp,
    /// The caller is no longer a member.
    NotMember 403 Rejoin,
    /// The one to be removed is not a member.
    TargetNotMember 409 GiveUp,
    /// The caller lacks the right.
    NotAuthorized 403 GiveUp,
    /// No such entry, or none that the caller can see.
    MessageNotFound 404 GiveUp,
    /// The group id is taken.
    ConvoAlreadyExists 409 GiveUp,
    /// The epoch moved: another commit won it.
    EpochMismatch 409 CatchUpThenRebase,
    /// The epoch moved, and the commits that lead on from the caller's have been deleted.
    EpochExpired 409 Rejoin,
    /// The epoch has not come yet: the caller merged a commit that was never accepted, and no commit leads back.
    EpochAhead 409 Rejoin,
    /// The database has lost the commits that led to the caller's epoch, since it was another incarnation that the caller heard from.
    ServerRolledBack 409 Rejoin,
    /// One of the DIDs is in the conversation already.
    AlreadyMember 409 GiveUp,
    /// The last member cannot leave.
    LastMember 409 GiveUp,
    /// The idempotency key or message id was used for a different request.
    IdempotencyConflict 409 GiveUp,
    /// A named key package is unknown, used up, or issued to somebody else.
    KeyPackageNotFound 409 GiveUp,
    /// The caller has as many unused key packages here as it may.
    TooManyKeyPackages 409 GiveUp,
    /// No Welcome is waiting for the caller.
    WelcomeNotFound 404 WaitForWelcome,
    /// The Welcome was confirmed and destroyed.
    WelcomeConsumed 410 Rejoin,

    // The server.
    /// The caller asks too often.
    RateLimitExceeded 429 RetrySame,
    /// A queue is full or a wait ran out; nothing was written.
    Overloaded 503 RetrySame,
    /// The database cannot be reached, or went away before it confirmed (`outcome`).
    DatabaseUnavailable 503 RetrySame,
    /// The database went away before it confirmed a message that its sender has given nothing to be known by.
    MessageUnconfirmed 503 RetryWithMsgId,
    /// A defect, logged with the request id.
    InternalServerError 500 RetrySame,
}

impl Code {
    /// The codes that any method may answer, which lexicons therefore do not repeat.
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

    /// The codes of whoever is in another epoch than the conversation.
    pub const OTHER_EPOCH: &'static [Code] =
        &[Code::EpochMismatch, Code::EpochExpired, Code::EpochAhead, Code::ServerRolledBack];
}

/// Which side of the server's epoch the caller is on: the two call for different action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Reason {
    /// The caller is behind: another commit won its epoch.
    Stale,
    /// The caller is ahead of the server: it merged a commit that was never accepted.
    Future,
}

/// What is known of what became of a request that failed. Where it is not said, nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// It may have been done, or may be yet.
    Unknown,
}

/// The facts beside the sentence. Absent ones are left out of the reply.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_epoch: Option<i64>,
    /// The incarnation of the database that says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_incarnation: Option<ServerIncarnation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The commits after the caller's epoch, oldest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<Vec<CommitMessage>>,
    /// There are more than `missing` holds; `getCommits` has the rest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub more_missing: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Which id the message has if it was accepted, where its sender has named none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<EntryId>,
}

/// One failed request: its row of the table, a sentence for the developer who reads it, and the facts.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}: {message}", code.name())]
pub struct Error {
    pub code: Code,
    pub message: String,
    pub details: Box<Details>,
}

/// How long a client waits before it tries again when nothing better is known, in milliseconds.
pub const RETRY_AFTER_MS: u64 = 1_000;

/// Most bytes of an error's sentence. Whoever sends something long does not get it back.
pub const MAX_MESSAGE_BYTES: usize = 400;

impl Error {
    /// An error of this code. Those that ask for the same request again say when.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let retry_after_ms = code.recovery().is_patience().then_some(RETRY_AFTER_MS);
        let mut message = message.into();
        if message.len() > MAX_MESSAGE_BYTES {
            message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
            message.shrink_to_fit();
        }
        Self { code, message, details: Box::new(Details { retry_after_ms, ..Details::default() }) }
    }

    /// Where nobody knows whether it was done: how its repetition tells.
    pub fn told_by(mut self, how: &str) -> Self {
        if self.details.outcome == Some(Outcome::Unknown) {
            self.message = format!("the database went away before it confirmed; {how}");
        }
        self
    }

    /// The same for a message that only this id would be known by.
    pub fn told_by_id(mut self, id: &EntryId) -> Self {
        if self.details.outcome == Some(Outcome::Unknown) {
            self.code = Code::MessageUnconfirmed;
            self.details.message_id = Some(id.clone());
        }
        self.told_by(&format!("send it again with msgId {id}, else it may be there twice"))
    }

    /// A defect or an outage that nobody foresaw: the cause goes to the log, not to the client.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        tracing::error!(%cause, "request failed for an unforeseen reason");
        Self::new(Code::InternalServerError, "the server failed; the log has the cause under this request id")
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
        // Three bytes each, and 400 is not three times anything.
        let error = Error::new(Code::InvalidRequest, "\u{e000}".repeat(100_000));
        assert_eq!(error.message, "\u{e000}".repeat(133));
        assert_eq!(Error::new(Code::InvalidRequest, "x".repeat(400)).message.len(), 400);
    }

    #[test]
    fn whoever_may_try_again_is_told_when_and_nobody_else_is() {
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
        let told = unknown.clone().told_by_id(&"m1".parse().unwrap());
        assert_eq!((told.code, told.code.recovery()), (Code::MessageUnconfirmed, Recovery::RetryWithMsgId));
        assert_eq!(unknown.told_by("").code.recovery(), Recovery::RetrySame);
        // What has certainly changed nothing is sent again as it was.
        let refused = Code::DatabaseUnavailable.because("").told_by_id(&"m1".parse().unwrap());
        assert_eq!((refused.code, refused.details.message_id), (Code::DatabaseUnavailable, None));
    }
}
