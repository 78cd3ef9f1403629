//! What a method is: its name, its verb, the errors that its lexicon declares, and what it does.

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

/// The verb that goes with a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// GET, or HEAD if it only reads; parameters in the query string.
    Query,
    /// POST; a JSON body.
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

/// Who asks: the issuer of a token that was checked.
#[derive(Debug, Clone)]
pub struct Caller {
    pub did: Did,
    /// The key of its DID document that has proved it; `None` for a development token.
    pub key: Option<PublicKey>,
    /// Where a stream of server-sent events was when it broke, as its client says in `Last-Event-ID`.
    pub last_event_id: Option<String>,
    /// Whether its client takes a reply in gzip.
    pub takes_gzip: bool,
    /// It asks by HEAD, so it is sent nothing of what is found.
    pub head_only: bool,
}

/// What a reply that is no error tells of, and so whether it may be withheld where there is no room for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyKind {
    /// Work that was done, which the caller has to learn.
    Effect,
    /// What the caller gets again when it asks again.
    Data,
    /// That nothing was done, for this reason.
    Refusal(Code),
}

/// One method. Its lexicon document is the contract; this is the code that keeps it.
pub trait Endpoint: 'static {
    /// Its lexicon document.
    const LEXICON: &'static str;
    /// Its name, such as `blue.catbird.mls.sendMessage`.
    const NSID: &'static str = nsid::of(Self::LEXICON);
    const KIND: Kind;
    /// What the lexicon declares, beside [`Code::COMMON`].
    const ERRORS: &'static [Code];
    /// Whether it only reads, and once: then suspended callers may call it, too.
    const READS: bool = matches!(Self::KIND, Kind::Query);

    /// Whether it takes a connection to the database for itself, or may, and so one of its caller's turns
    /// ([`RateLimits::open`](crate::limits::RateLimits::open)).
    const TURN: bool = true;

    type Input: DeserializeOwned + Send + 'static;
    type Output: Reply;

    /// How many bytes its reply has at least, where they may be many. Who tells of work leaves it: that is told in any case.
    fn bytes(_: &Self::Output) -> usize {
        0
    }

    /// What its reply tells of.
    fn reply_kind(_: &Self::Output) -> ReplyKind {
        match Self::KIND {
            Kind::Procedure => ReplyKind::Effect,
            Kind::Query | Kind::Subscription => ReplyKind::Data,
        }
    }

    fn call(app: &App, caller: &Caller, input: Self::Input) -> impl Future<Output = Result<Self::Output, Error>>;
}

/// Who opens a WebSocket: whoever asked for the ticket, which was checked.
#[derive(Debug, Clone)]
pub struct TicketHolder {
    pub did: Did,
    /// The key by which it had proved that; `None` for a development token.
    pub key: Option<PublicKey>,
    /// The only conversation that the ticket is good for, if it was asked for one.
    pub convo: Option<ConvoId>,
}

/// One method whose answer is a WebSocket. A ticket lets the caller in, as the parameter `ticket`.
pub trait Subscription: 'static {
    /// Its lexicon document.
    const LEXICON: &'static str;
    /// Its name, such as `blue.catbird.mls.subscribeConvoEvents`.
    const NSID: &'static str = nsid::of(Self::LEXICON);
    /// What the lexicon declares, beside [`Code::COMMON`].
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
    pub errors: &'static [Code],
    /// Whether HEAD goes as well: it changes nothing, and its reply ends.
    head: bool,
    pub(super) run: fn(Data<App>, HttpRequest, Payload) -> Running,
}

impl Route {
    pub const fn of<E: Endpoint>() -> Self {
        Self {
            nsid: E::NSID,
            lexicon: E::LEXICON,
            kind: E::KIND,
            errors: E::ERRORS,
            head: matches!(E::KIND, Kind::Query) && E::READS,
            run: |app, request, payload| Box::pin(async move { pipeline::run::<E>(&app, &request, payload).await }),
        }
    }

    pub const fn subscription<S: Subscription>() -> Self {
        Self {
            nsid: S::NSID,
            lexicon: S::LEXICON,
            kind: Kind::Subscription,
            errors: S::ERRORS,
            head: false,
            run: |app, request, payload| {
                Box::pin(async move { pipeline::subscribe::<S>(&app, &request, payload).await })
            },
        }
    }

    /// Whether it is called with this verb.
    pub fn takes(&self, verb: &Method) -> bool {
        *verb == self.kind.verb() || self.head && verb == Method::HEAD
    }

    /// The verbs that it is called with, as the header `Allow` lists them.
    pub fn allow(&self) -> &'static str {
        match (self.kind, self.head) {
            (Kind::Procedure, _) => "POST",
            (_, true) => "GET, HEAD",
            (_, false) => "GET",
        }
    }

    /// The method's name without the namespace, as metrics and logs have it.
    pub fn method(&self) -> &'static str {
        nsid::method(self.nsid)
    }
}
