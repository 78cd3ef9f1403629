//! Definition of a method: its name, its verb, the errors that its lexicon declares, and its code.

use std::future::Future;
use std::pin::Pin;

use actix_web::http::Method;
use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde::de::DeserializeOwned;

use crate::app::App;
use crate::auth::key::PublicKey;
use crate::error::{Code, Error};
use crate::ids::{ConvoId, Did};
use crate::nsid;

use super::pipeline;
use super::reply::{Reply, Upgrade};
use super::selection::Selection;
use super::upload::Upload;

/// Kind of a method, which decides its HTTP verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// GET, or HEAD if it only reads; parameters in the query string.
    Query,
    /// POST; a JSON body, or for an [`Upload`] a body of bytes and parameters in the query string.
    Procedure,
    /// GET; parameters in the query string, and a WebSocket in place of a reply.
    Subscription,
}

impl Kind {
    /// The HTTP method.
    pub fn verb(self) -> Method {
        match self {
            Kind::Query | Kind::Subscription => Method::GET,
            Kind::Procedure => Method::POST,
        }
    }
}

/// Caller of a method: the issuer of the verified token.
#[derive(Debug, Clone)]
pub struct Caller {
    pub did: Did,
    /// Key of its DID document that verified the token; `None` for a development token.
    pub key: Option<PublicKey>,
    /// Header `Last-Event-ID`: the cursor of the last event that the client received.
    pub last_event_id: Option<String>,
    /// True if the client accepts gzip.
    pub takes_gzip: bool,
    /// True for HEAD: the reply is sent without its body.
    pub head_only: bool,
    /// What it asks for of a [`Download`](super::Download).
    pub selection: Selection,
}

/// Content of a successful reply, which decides whether the reply may be withheld for lack of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyKind {
    /// Work that was done. The caller must learn of it.
    Effect,
    /// Data that the caller can request again.
    Data,
    /// A refusal: nothing was done, for this reason.
    Refusal(Code),
}

/// A method. Its lexicon document is the contract; this is the code that fulfils it.
pub trait Endpoint: 'static {
    /// Its lexicon document.
    const LEXICON: &'static str;
    /// Its name, such as `blue.catbird.mls.sendMessage`.
    const NSID: &'static str = nsid::of(Self::LEXICON);
    /// The last part of its name, such as `sendMessage`.
    const METHOD: &'static str = nsid::method(Self::NSID);
    const KIND: Kind;
    /// Errors that the lexicon declares, beside [`Code::COMMON`] and those of its kind.
    const ERRORS: &'static [Code];
    /// Errors that the lexicon of every method of its kind declares.
    const SHARED_ERRORS: &'static [Code] = &[];
    /// True if the method only reads and its reply ends. Suspended callers may call such a method.
    const READS: bool = matches!(Self::KIND, Kind::Query);

    /// True if the method may hold a connection to the database, and so takes a slot of its caller
    /// ([`RateLimits::open`](crate::limits::RateLimits::open)).
    const NEEDS_SLOT: bool = true;

    type Input: DeserializeOwned + Send + 'static;
    type Output: Reply;

    /// Minimum size of the reply in bytes, for replies that may be large. A method whose reply reports an effect keeps
    /// the default, because such a reply is never withheld.
    fn bytes(_: &Self::Output) -> usize {
        0
    }

    /// Returns what the reply reports.
    fn reply_kind(_: &Self::Output) -> ReplyKind {
        match Self::KIND {
            Kind::Procedure => ReplyKind::Effect,
            Kind::Query | Kind::Subscription => ReplyKind::Data,
        }
    }

    /// Returns the conversation that a request names. It may be named by its group id, which the pipeline replaces by its id before the
    /// call.
    fn convo(_: &mut Self::Input) -> Option<&mut ConvoId> {
        None
    }

    /// Number of requests that it counts as in the caller's rate limit, for a method that takes a list of work.
    fn requests(_: &Self::Input) -> usize {
        1
    }

    fn call(app: &App, caller: &Caller, input: Self::Input) -> impl Future<Output = Result<Self::Output, Error>>;
}

/// Caller that opens a WebSocket: the one to whom the verified ticket was issued.
#[derive(Debug, Clone)]
pub struct TicketHolder {
    pub did: Did,
    /// Key that verified the request for the ticket; `None` for a development token.
    pub key: Option<PublicKey>,
    /// Conversation to which the ticket is bound, if it is bound to one.
    pub convo: Option<ConvoId>,
}

/// A method whose reply is a WebSocket. The parameter `ticket` authenticates its caller.
pub trait Subscription: 'static {
    /// Its lexicon document.
    const LEXICON: &'static str;
    /// Its name, such as `blue.catbird.mls.subscribeConvoEvents`.
    const NSID: &'static str = nsid::of(Self::LEXICON);
    /// Errors that the lexicon declares, beside [`Code::COMMON`].
    const ERRORS: &'static [Code];

    type Input: DeserializeOwned;
    type Output: Upgrade;

    fn open(
        app: &Data<App>,
        holder: TicketHolder,
        input: Self::Input,
    ) -> impl Future<Output = Result<Self::Output, Error>>;
}

type Running = Pin<Box<dyn Future<Output = Result<HttpResponse, Error>>>>;

/// An endpoint without its types, for the table of methods.
#[derive(Clone, Copy)]
pub struct Route {
    pub nsid: &'static str,
    pub lexicon: &'static str,
    pub kind: Kind,
    errors: [&'static [Code]; 2],
    /// True if HEAD is allowed: the method changes nothing, and its reply ends.
    head: bool,
    pub(super) run: fn(Data<App>, HttpRequest, Payload) -> Running,
}

impl Route {
    pub const fn of<E: Endpoint>() -> Self {
        Self {
            nsid: E::NSID,
            lexicon: E::LEXICON,
            kind: E::KIND,
            errors: [E::ERRORS, E::SHARED_ERRORS],
            head: matches!(E::KIND, Kind::Query) && E::READS,
            run: |app, request, payload| Box::pin(async move { pipeline::run::<E>(&app, &request, payload).await }),
        }
    }

    pub const fn upload<U: Upload>() -> Self {
        Self {
            nsid: U::NSID,
            lexicon: U::LEXICON,
            kind: Kind::Procedure,
            errors: [U::ERRORS, &[]],
            head: false,
            run: |app, request, payload| Box::pin(async move { pipeline::upload::<U>(&app, &request, payload).await }),
        }
    }

    pub const fn subscription<S: Subscription>() -> Self {
        Self {
            nsid: S::NSID,
            lexicon: S::LEXICON,
            kind: Kind::Subscription,
            errors: [S::ERRORS, &[]],
            head: false,
            run: |app, request, payload| {
                Box::pin(async move { pipeline::subscribe::<S>(&app, &request, payload).await })
            },
        }
    }

    /// Returns the errors that the lexicon declares, beside [`Code::COMMON`].
    pub fn errors(&self) -> Vec<Code> {
        self.errors.concat()
    }

    /// Returns whether it accepts this verb.
    pub fn takes(&self, verb: &Method) -> bool {
        *verb == self.kind.verb() || self.head && verb == Method::HEAD
    }

    /// Returns the verbs that it accepts, for the header `Allow`.
    pub fn allow(&self) -> &'static str {
        match (self.kind, self.head) {
            (Kind::Procedure, _) => "POST",
            (_, true) => "GET, HEAD",
            (_, false) => "GET",
        }
    }

    /// Returns the name of the method without the namespace, as metrics and logs have it.
    pub fn method(&self) -> &'static str {
        nsid::method(self.nsid)
    }
}
