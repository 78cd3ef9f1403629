//! Pipeline of a request: find the method, verify the token, apply the rate limit, decode, use the token, call, encode.
//!
//! The token is verified before the body is read, so requests without one cost little. It is used after the body was
//! decoded: a client can correct a malformed request, or wait for a rate limit, and send the same token again. A large
//! body uses it earlier ([`intake`](super::intake)), because such a request occupies a slot of its caller while it
//! waits, is read or is processed, and a stolen used token must not; so does an upload. A panic is answered with 500 and does not end the
//! worker.

use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_http::{ConnectionType, ws};
use actix_web::body::{BodySize, MessageBody};
use actix_web::http::{Method, header};
use actix_web::web::{Data, Payload};
use actix_web::{HttpMessage, HttpRequest, HttpResponse};
use futures_util::FutureExt;
use serde::Deserialize;
use tracing::Instrument;

use crate::app::App;
use crate::auth::Verified;
use crate::error::{Code, Error};
use crate::ids::Did;
use crate::limits::{Account, Work};
use crate::memory::{LARGE, LargeWork, Reservation};
use crate::store;
use crate::timing::{self, Stage, Timings, measure};
use crate::trace::Recording;

use super::endpoint::{Caller, Endpoint, Kind, ReplyKind, Route, Subscription, TicketHolder};
use super::intake::Intake;
use super::reply::{Reply, Upgrade};
use super::request_id::RequestId;
use super::selection::Selection;
use super::upload::{Announced, Upload, UploadBody};
use super::{body, decode, encoding, reply};

/// Time after the deadline of a request at which it is aborted. Waits within the request know better what to answer.
const GRACE: Duration = Duration::from_millis(250);
const LAST_EVENT_ID: header::HeaderName = header::HeaderName::from_static("last-event-id");
const TRACEPARENT: header::HeaderName = header::HeaderName::from_static("traceparent");
const SERVER_TIMING: header::HeaderName = header::HeaderName::from_static("server-timing");

/// Runs one endpoint, from the token to the reply, until the deadline ([`timing::BUDGET`]).
pub(super) async fn run<E: Endpoint>(
    app: &App,
    request: &HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Error> {
    let begun = Cell::new(false);
    in_time(E::KIND, &begun, answer::<E>(app, request, payload, &begun)).await
}

/// Takes one upload, from the token to the reply, until the deadline, which stands still while its body arrives.
pub(super) async fn upload<U: Upload>(
    app: &App,
    request: &HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Error> {
    let begun = Cell::new(false);
    in_time(Kind::Procedure, &begun, take_in::<U>(app, request, payload, &begun)).await
}

/// Waits for an answer until the deadline. `begun` is true when the work may have begun, so its outcome is unknown.
async fn in_time(
    kind: Kind,
    begun: &Cell<bool>,
    answer: impl Future<Output = Result<HttpResponse, Error>>,
) -> Result<HttpResponse, Error> {
    match timing::within_deadline(GRACE, answer).await {
        Ok(answer) => answer,
        Err(_) if begun.get() && kind == Kind::Procedure => Err(store::unconfirmed()),
        Err(_) => Err(too_late()),
    }
}

fn too_late() -> Error {
    Code::Overloaded.because("the request took too long; nothing was changed")
}

/// Verifies the token of a request, which is not used yet, and refuses a suspended caller unless the method only `reads`.
async fn verify(app: &App, request: &HttpRequest, nsid: &str, reads: bool) -> Result<Verified, Error> {
    app.ensure_ready()?;
    let authorization = request.headers().get(header::AUTHORIZATION).map(|value| value.to_str().unwrap_or("?"));
    let verified = measure(Stage::Auth, app.authenticator.verify(authorization, nsid)).await?;
    app.authenticator.refuse_known(&verified)?;
    if !reads {
        app.suspensions.refuse(&verified.did)?;
    }
    request.extensions_mut().insert(verified.did.clone());
    Ok(verified)
}

async fn answer<E: Endpoint>(
    app: &App,
    request: &HttpRequest,
    payload: Payload,
    begun: &Cell<bool>,
) -> Result<HttpResponse, Error> {
    let verified = verify(app, request, E::NSID, E::READS).await?;
    let mut intake = Intake::new(app, &verified, app.limits.admit(&verified.did)?);
    // A body keeps its memory until the request is answered.
    let reading = input::<E>(app, &verified.did, request, payload, &mut intake);
    let (mut input, _reservation) = match measure(Stage::Parse, reading).await {
        Ok(input) => input,
        Err(error) => {
            tokio::spawn(intake.refused());
            return Err(error);
        }
    };
    intake.consume().await?;
    drop(intake);
    let account = open_account(app, &verified.did, E::NEEDS_SLOT).await?;
    account.charge(Work::Requests(E::requests(&input)));
    let caller = caller(verified, request);
    if let Some(convo) = E::convo(&mut input) {
        app.store.resolve_convo(convo, &caller.did).await?;
    }
    begun.set(true);
    // Boxed, because the future of a method may be large, and without optimisation each caller would have a copy of it on its stack.
    let output = Box::pin(E::call(app, &caller, input)).await?;
    let (bytes, reply_kind) = (E::bytes(&output), E::reply_kind(&output));
    // Reserved before the reply is encoded, which may have to wait.
    let reservation = if bytes > LARGE { Some(app.reply_memory.reserve(&caller.did, bytes)?) } else { None };
    let large = reservation.is_some().then_some(&app.large_work);
    let mut response = encode(output, large, reply_kind, &account).await?;
    if let Some(reservation) = reservation {
        response.extensions_mut().insert(reservation);
    }
    Ok(response)
}

async fn take_in<U: Upload>(
    app: &App,
    request: &HttpRequest,
    payload: Payload,
    begun: &Cell<bool>,
) -> Result<HttpResponse, Error> {
    let verified = verify(app, request, U::NSID, false).await?;
    let intake = Intake::new(app, &verified, app.limits.admit(&verified.did)?);
    let head =
        || Ok((decode::query(request.query_string())?, Announced::of(request.headers(), U::MAX_BYTES, U::TOO_LARGE)?));
    let (mut input, announced): (U::Input, _) = match head() {
        Ok(head) => head,
        Err(error) => {
            tokio::spawn(intake.refused());
            return Err(error);
        }
    };
    let (_place, admission) = intake.upload().await?;
    let body = UploadBody::new(announced, payload, admission);
    let account = open_account(app, &verified.did, false).await?;
    let caller = caller(verified, request);
    if let Some(convo) = U::convo(&mut input) {
        app.store.resolve_convo(convo, &caller.did).await?;
    }
    begun.set(true);
    let output = U::call(app, &caller, input, body).await?;
    encode(output, None, ReplyKind::Effect, &account).await
}

fn caller(verified: Verified, request: &HttpRequest) -> Caller {
    let headers = request.headers();
    Caller {
        did: verified.did,
        key: verified.key,
        last_event_id: headers.get(LAST_EVENT_ID).map(|id| id.to_str().unwrap_or("?").to_owned()),
        takes_gzip: encoding::accepts_gzip(headers),
        head_only: request.method() == Method::HEAD,
        selection: Selection::of(headers),
    }
}

/// Encodes a reply, and charges its bytes.
async fn encode<R: Reply>(
    output: R,
    large: Option<&LargeWork>,
    kind: ReplyKind,
    account: &Account,
) -> Result<HttpResponse, Error> {
    let mut response = measure(Stage::Encode, output.response(large)).await?;
    response.extensions_mut().insert(kind);
    if let BodySize::Sized(bytes) = response.body().size()
        && !R::IS_METERED
    {
        account.charge(Work::Bytes(bytes as usize));
    }
    Ok(response)
}

/// Opens the caller's account for this request. When no task works for the request any more, the account is charged for
/// the time of the database, and the slot is released. That may be after the client has hung up.
async fn open_account(app: &App, caller: &Did, needs_slot: bool) -> Result<Arc<Account>, Error> {
    let account = Arc::new(app.limits.open(caller, needs_slot).await?);
    let charged = account.clone();
    Timings::current().at_end(move |took| charged.charge(Work::Database(took)));
    Ok(account)
}

#[derive(Deserialize)]
struct Ticketed {
    ticket: String,
}

/// Opens the WebSocket of one subscription. Errors are answered as HTTP, before the connection is upgraded.
pub(super) async fn subscribe<S: Subscription>(
    app: &Data<App>,
    request: &HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Error> {
    timing::within_deadline(GRACE, open_socket::<S>(app, request, payload)).await.unwrap_or_else(|_| Err(too_late()))
}

async fn open_socket<S: Subscription>(
    app: &Data<App>,
    request: &HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Error> {
    app.ensure_ready()?;
    let parameters = request.query_string();
    let (Ticketed { ticket }, input) = (decode::query(parameters)?, decode::query::<S::Input>(parameters)?);
    ws::verify_handshake(request.head())
        .map_err(|why| Code::UpgradeRequired.because(format!("this method needs a WebSocket: {why}")))?;
    let ticket = app.authenticator.verify_ticket(&ticket)?;
    // A ticket is part of an address, so others than its owner may have read it.
    app.authenticator.refuse_known_ticket(&ticket)?;
    app.suspensions.refuse(&ticket.did)?;
    let mut admission = app.limits.admit(&ticket.did).inspect_err(|_| app.suspensions.log_refusal(&ticket.did))?;
    if let Err(error) = measure(Stage::Spend, app.authenticator.consume_ticket(&ticket)).await {
        if error.code == Code::TokenReplayed {
            admission.refund();
        }
        return Err(error);
    }
    drop(admission);
    // Streams have their own slots at the database.
    open_account(app, &ticket.did, false).await?;
    let socket = S::open(app, TicketHolder { did: ticket.did, key: ticket.key, convo: ticket.convo }, input).await?;
    socket.response(request, payload)
}

async fn input<E: Endpoint>(
    app: &App,
    caller: &Did,
    request: &HttpRequest,
    payload: Payload,
    intake: &mut Intake<'_>,
) -> Result<(E::Input, Option<Reservation>), Error> {
    match E::KIND {
        Kind::Query | Kind::Subscription => Ok((decode::query(request.query_string())?, None)),
        Kind::Procedure => {
            decode::content_type(request.headers())?;
            let announced = request.headers().get(header::CONTENT_LENGTH);
            let announced = announced.and_then(|length| length.to_str().ok()?.parse().ok());
            let body = body::read(&app.body_memory, caller, announced, payload, intake).await?;
            let large = body.is_large();
            let decode = move || {
                let (bytes, reservation) = body.into_parts();
                Ok((decode::body(&bytes)?, Some(reservation)))
            };
            if large { app.large_work.run(decode).await? } else { decode() }
        }
    }
}

/// Answers a request for `/xrpc/<nsid>`, whose last segment is the method.
pub async fn dispatch(
    routes: &'static [Route],
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> HttpResponse {
    let start = Instant::now();
    let id = RequestId::of(&request);
    let nsid = request.path().rsplit('/').next().unwrap_or_default();
    let route = routes.iter().find(|route| route.nsid == nsid);
    let method = route.map_or("unknown", Route::method);
    let recording = app.traces.begin(traceparent(&request), verb(request.method()), method, id.as_str());
    let trace_id = recording.as_ref().and_then(Recording::trace_id);
    let span = tracing::info_span!("request", id = %id, given = id.given(), method, trace_id);
    let (metrics, errors) = (app.metrics.requests.clone(), app.metrics.errors.clone());
    let (replies, asking) = (app.reply_memory.clone(), request.clone());
    let suspensions = app.suspensions.clone();
    // Timings would leak, for example whether another caller waits for the same conversation. So only a development
    // server, which accepts HS256 tokens, sends them.
    let development = app.config.auth.jwt_secret.is_some();

    let calling = async {
        let Some(route) = route else {
            return Err(
                Code::MethodNotImplemented.because("this server has no such method; /lexicons lists its methods")
            );
        };
        if !route.takes(request.method()) {
            return Err(Code::MethodNotAllowed.because(format!("this method must be called with {}", route.allow())));
        }
        match AssertUnwindSafe((route.run)(app, request, payload)).catch_unwind().await {
            Ok(result) => result,
            Err(_) => Err(Error::internal("a handler panicked")),
        }
    };
    let noting = |code: Code| {
        errors.error(code);
        // The sentence may quote the request, so it is not logged.
        tracing::debug!(error = code.name(), "refused");
        code.name()
    };
    let refusing = async |error: Error| {
        let name = noting(error.code);
        if let Some(cause) = &error.details.cause {
            tracing::error!(cause, "a request failed for an unforeseen reason");
        }
        if let (Code::RateLimitExceeded, Some(caller)) = (error.code, asking.extensions().get::<Did>()) {
            suspensions.log_refusal(caller);
        }
        (measure(Stage::Encode, async { refusal(&error, route, &id) }).await, Some(name))
    };
    let answering = async {
        let (response, error, done) = match calling.await {
            Ok(mut response) => {
                let reply_kind = response.extensions_mut().remove::<ReplyKind>();
                let refused = match reply_kind {
                    Some(ReplyKind::Refusal(code)) => Some(noting(code)),
                    Some(ReplyKind::Effect | ReplyKind::Data) | None => None,
                };
                (response, refused, reply_kind == Some(ReplyKind::Effect))
            }
            Err(error) => {
                let (response, error) = refusing(error).await;
                (response, error, false)
            }
        };
        // Without a caller the reply is a short refusal.
        let Some(caller) = asking.extensions().get::<Did>().cloned() else { return (response, error) };
        match replies.hold(&caller, response, done) {
            Ok(response) => (response, error),
            Err(full) => refusing(full).await,
        }
    };
    let timings = Timings::of_request(recording);
    let (mut response, error) = timings.scope(answering).instrument(span.clone()).await;

    let _in_span = span.enter();
    let took = start.elapsed();
    let status = response.status().as_u16();
    metrics.request(method, status, took);
    timings.answered(status, error);
    timings.taken().for_each(|(stage, took)| metrics.stage(stage, took));
    // Whole microseconds, which a sum of fractions is not.
    tracing::info!(status, error, took_ms = took.as_micros() as f64 / 1_000.0, "answered");
    id.stamp(&mut response);
    // Replies are not cached. A stream sets the header itself.
    if !response.headers().contains_key(header::CACHE_CONTROL) {
        response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    }
    if development {
        let times =
            header::HeaderValue::try_from(timings.header(took)).expect("names and numbers are a valid header value");
        response.headers_mut().insert(SERVER_TIMING, times);
    }
    response
}

/// Returns the header `traceparent`, unless it is there twice (W3C Trace Context, section 3.2).
fn traceparent(request: &HttpRequest) -> Option<&str> {
    let mut values = request.headers().get_all(TRACEPARENT);
    let first = values.next()?;
    if values.next().is_none() { first.to_str().ok() } else { None }
}

/// Returns the HTTP method as spans have it.
fn verb(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        _ => "_OTHER",
    }
}

fn refusal(error: &Error, route: Option<&Route>, id: &RequestId) -> HttpResponse {
    let mut response = reply::error_response(error, id);
    if let (Code::MethodNotAllowed, Some(route)) = (error.code, route) {
        response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static(route.allow()));
    }
    if route.is_some_and(|route| route.kind == Kind::Subscription) {
        // The bytes after a request for another protocol cannot be read as HTTP, so the connection is closed.
        response.head_mut().set_connection_type(ConnectionType::Close);
    }
    response
}
