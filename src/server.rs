//! The HTTP server: routes, limits, and a start and an end in the right order.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use actix_http::{ConnectionType, HttpService};
use actix_server::{Server, ServerHandle};
use actix_service::{IntoServiceFactory, ServiceFactoryExt, fn_service, map_config};
use actix_web::body::BoxBody;
use actix_web::dev::{AppConfig, ServiceRequest, ServiceResponse};
use actix_web::http::{Method, header};
use actix_web::middleware::{Next, from_fn};
use actix_web::web::{self, Data, Payload};
use actix_web::{App as ActixApp, FromRequest, Handler, HttpRequest, HttpResponse, Responder};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
#[cfg(target_os = "linux")]
use nix::sys::socket::{setsockopt, sockopt};

use crate::app::App;
use crate::config::Config;
use crate::connection::{self, Connections, HEAD_TIME, Socket, Watched};
use crate::error::Code;
use crate::events::hub::MAX_STREAMS;
use crate::lifecycle::Lifecycle;
use crate::store::{self, ConnectError, MigrationError};
use crate::xrpc::{self, Kind, RequestId};
use crate::{api, auth, cors, health, lexicons};

/// How long a client may take nothing of what is sent to it before the kernel resets the connection (TCP_USER_TIMEOUT, which counts
/// closed windows too).
const TAKE_TIME: Duration = Duration::from_secs(60);
/// After how long without a word from a peer the kernel asks whether it is still there, and how it goes on asking.
#[cfg(target_os = "linux")]
const ASK_AFTER: (u32, u32, u32) = (60, 15, 4);
/// How long a client may go on sending a body after a reply that did not wait for it.
const DISCONNECT_TIME: Duration = Duration::from_secs(1);
/// Open files that are left to others than HTTP connections, beside those to PostgreSQL.
const OTHER_FILES: u64 = 256;
/// How long an idle connection is kept.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// HTTP connections at once to the pages for operators, where these have a place of their own.
const ADMIN_CONNECTIONS: usize = 64;
/// How long requests in progress may take to finish at shutdown. What a longer outage of PostgreSQL holds up is rolled back.
pub const DRAIN_TIME: Duration = Duration::from_secs(25);
/// The pause between attempts to reach the database at start.
const START_PAUSE: Duration = Duration::from_millis(500);

/// Raises the limit on open files as far as this process may: every stream is one, and many systems begin with 1024.
pub fn allow_many_connections() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(now, most)| match now < most {
        true => setrlimit(Resource::RLIMIT_NOFILE, most, most).map(|()| most),
        false => Ok(now),
    });
    match raised {
        Ok(files) if files < MAX_STREAMS as u64 => {
            tracing::warn!(
                files,
                "the limit on open files is below the limit on streams; connections beyond it are refused"
            );
        }
        Ok(files) => tracing::debug!(files, "files that may be open"),
        Err(cause) => tracing::warn!(%cause, "the limit on open files cannot be raised"),
    }
}

/// Listens on `host:port` from the configuration; port 0 takes a free one. The error names the address.
pub fn bind(config: &Config) -> std::io::Result<TcpListener> {
    listen(&config.host, config.port, "SERVER_HOST, SERVER_PORT")
}

/// The same where the pages for operators have a place of their own.
pub fn bind_for_operators(config: &Config) -> std::io::Result<Option<TcpListener>> {
    let listening = |(host, port): &(String, u16)| listen(host, *port, "ADMIN_HOST, ADMIN_PORT");
    config.admin.as_ref().map(listening).transpose()
}

fn listen(host: &str, port: u16, settings: &str) -> std::io::Result<TcpListener> {
    TcpListener::bind((host, port)).map_err(|cause| {
        std::io::Error::new(cause.kind(), format!("cannot listen on {host}:{port} ({settings}): {cause}"))
    })
}

/// Configuration of one listener.
struct Listener {
    name: &'static str,
    workers: usize,
    connections: usize,
    /// True if clients connect to it, and not operators alone.
    is_public: bool,
    routes: fn(&mut web::ServiceConfig),
}

/// Makes the server on a listener, and says where it listens.
pub fn build(app: App, listener: TcpListener) -> std::io::Result<(SocketAddr, Server)> {
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let connections = max_connections(&app.config);
    tracing::debug!(connections, workers, "connections that may be open");
    let routes = match app.config.admin {
        None => |config: &mut web::ServiceConfig| routes(config.configure(pages_for_operators)),
        Some(_) => routes,
    };
    serve(app, listener, Listener { name: "http", workers, connections, is_public: true, routes })
}

/// Makes the one for the pages for operators alone.
pub fn build_for_operators(app: App, listener: TcpListener) -> std::io::Result<(SocketAddr, Server)> {
    let routes = |config: &mut web::ServiceConfig| {
        pages_for_all(config.configure(pages_for_operators));
        config.default_service(web::to(|request: HttpRequest| async move { not_found(&request) }));
    };
    serve(
        app,
        listener,
        Listener { name: "operators", workers: 1, connections: ADMIN_CONNECTIONS, is_public: false, routes },
    )
}

fn serve(app: App, socket: TcpListener, listener: Listener) -> std::io::Result<(SocketAddr, Server)> {
    let address = socket.local_addr()?;
    let Listener { name, workers, connections, is_public, routes } = listener;
    let (metrics, shared) =
        (app.metrics.connections.clone(), Connections::new(is_public, xrpc::reply_to_unreadable_head));
    let data = Data::new(app);
    let builder = Server::build();
    let draining = builder.graceful_shutdown_signal();
    let server = builder
        .workers(workers)
        .max_concurrent_connections((connections / workers).max(1))
        .shutdown_timeout(DRAIN_TIME.as_secs())
        .disable_signals()
        .listen(name, socket, move || {
            let (data, draining) = (data.clone(), draining.clone());
            let (metrics, shared) = (metrics.clone(), shared.clone());
            let app = ActixApp::new().app_data(data).configure(routes).wrap(from_fn(front));
            let app = app.into_factory().map_err(|error: actix_web::Error| error.error_response());
            let http = HttpService::build()
                .graceful_shutdown_signal(move || {
                    let signal = draining.clone();
                    async move { signal.notified().await }
                })
                .client_request_timeout(HEAD_TIME)
                .client_disconnect_timeout(DISCONNECT_TIME)
                .keep_alive(KEEP_ALIVE)
                .on_connect_ext(|socket: &Socket, data| {
                    data.insert(socket.connection());
                })
                .h1(map_config(app, |()| AppConfig::default()));
            fn_service(move |io: tokio::net::TcpStream| {
                settle(&io);
                let peer = io.peer_addr().ok();
                std::future::ready(Ok((Socket::new(io, shared.clone(), metrics.clone()), peer)))
            })
            .and_then(http)
        })?
        .run();
    Ok((address, server))
}

/// Most HTTP connections at once: what is set, as far as files may be open for it.
fn max_connections(config: &Config) -> usize {
    let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(now, _)| now);
    let others = OTHER_FILES + config.database_max_connections as u64;
    let left = usize::try_from(files.saturating_sub(others)).unwrap_or(usize::MAX);
    if left < config.max_connections {
        tracing::warn!(files, connections = left, "fewer files may be open than MAX_CONNECTIONS needs");
    }
    config.max_connections.min(left).max(1)
}

/// A stream that nobody reads would keep its connection for ever, and so would a peer that is gone without a word: writes and reads
/// wait, and nothing else here ends a wait for a peer.
fn settle(socket: &tokio::net::TcpStream) {
    // A reply goes out in pieces, and its last one shall not wait for the answer to the one before.
    let settled = socket.set_nodelay(true);
    #[cfg(target_os = "linux")]
    let settled = settled.and_then(|()| {
        let (idle, interval, count) = ASK_AFTER;
        setsockopt(socket, sockopt::TcpUserTimeout, &(TAKE_TIME.as_millis() as u32))?;
        setsockopt(socket, sockopt::KeepAlive, &true)?;
        setsockopt(socket, sockopt::TcpKeepIdle, &idle)?;
        setsockopt(socket, sockopt::TcpKeepInterval, &interval)?;
        setsockopt(socket, sockopt::TcpKeepCount, &count)?;
        Ok(())
    });
    if let Err(cause) = settled {
        tracing::debug!(%cause, "the kernel's time limits could not be set on a connection");
    }
}

/// What every request passes: its connection is told of it, only those that open a stream may leave HTTP, and pages of other origins may
/// send it and read the reply.
async fn front(mut request: ServiceRequest, next: Next<BoxBody>) -> Result<ServiceResponse<Watched>, actix_web::Error> {
    let connection = connection::begin(&mut request);
    let leaves = connection::asks_for_websocket(request.headers()) && !opens_socket(request.path());
    let open = cors::headers(&request);
    let mut response = match (cors::preflight(&request), leaves) {
        (Some(leave), _) => request.into_response(leave),
        (None, false) => next.call(request).await?,
        (None, true) => {
            let error = Code::InvalidRequest.because("this path has no WebSocket; omit the Upgrade header");
            let mut refusal = xrpc::error_response(&error, &RequestId::of(request.request()));
            refusal.head_mut().set_connection_type(ConnectionType::Close);
            request.into_response(refusal)
        }
    };
    let nosniff = header::HeaderValue::from_static("nosniff");
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    cors::stamp(response.headers_mut(), open);
    Ok(connection::answer(response, connection))
}

/// Whether a subscription is at this path.
fn opens_socket(path: &str) -> bool {
    let nsid = path.strip_prefix("/xrpc/");
    api::ROUTES.iter().any(|route| route.kind == Kind::Subscription && Some(route.nsid) == nsid)
}

fn routes(config: &mut web::ServiceConfig) {
    config
        .app_data(cors::Open)
        // A scope's prefix is compared as it is; a pattern would be a regular expression, which every request had to match.
        .service(web::scope("/xrpc").default_service(web::to(xrpc)))
        .configure(pages_for_all)
        .service(page("/.well-known/did.json", |app: Data<App>| async move {
            HttpResponse::Ok().json(auth::service_document(&app.config.auth))
        }))
        .service(page("/lexicons", || async { HttpResponse::Ok().json(lexicons::index()) }))
        .service(page("/lexicons/{nsid}", lexicon))
        .service(page("/openapi.json", openapi))
        .default_service(web::to(|request: HttpRequest| async move { not_found(&request) }));
}

/// What load balancers ask for, wherever they come in.
fn pages_for_all(config: &mut web::ServiceConfig) {
    config.service(page("/health/live", health::live)).service(page("/health/ready", health::ready));
}

fn pages_for_operators(config: &mut web::ServiceConfig) {
    config.service(page("/health", health::health)).service(page("/metrics", health::metrics));
}

async fn xrpc(app: Data<App>, request: HttpRequest, payload: Payload) -> HttpResponse {
    let name = request.path().strip_prefix("/xrpc/").filter(|name| !name.is_empty() && !name.contains('/'));
    match name {
        // Not a method of ours, but what every AT Protocol service answers.
        Some("_health") if [Method::GET, Method::HEAD].contains(request.method()) => {
            health::version(app, request).await
        }
        Some(_) => xrpc::dispatch(api::ROUTES, app, request, payload).await,
        None => not_found(&request),
    }
}

/// A page to be read, by GET or HEAD. It exists, so any other verb is 405 and not 404.
fn page<F, Args>(path: &str, read: F) -> actix_web::Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    let read = [web::get(), web::head()].map(|route| route.to(read.clone()));
    let page = read.into_iter().fold(web::resource(path), actix_web::Resource::route);
    page.default_service(web::to(|request: HttpRequest| async move {
        let error = Code::MethodNotAllowed.because("this page allows only GET and HEAD");
        let mut refusal = xrpc::error_response(&error, &RequestId::of(&request));
        refusal.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
        refusal
    }))
}

async fn openapi() -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(lexicons::openapi::text())
}

async fn lexicon(request: HttpRequest) -> HttpResponse {
    match lexicons::find(request.match_info().get("nsid").unwrap_or_default().trim_end_matches(".json")) {
        Some(document) => HttpResponse::Ok().content_type("application/json").body(document),
        None => not_found(&request),
    }
}

fn not_found(request: &HttpRequest) -> HttpResponse {
    let error = Code::NotFound.because("not found; methods are under /xrpc/, their lexicons under /lexicons");
    xrpc::error_response(&error, &RequestId::of(request))
}

/// Brings the schema up to date and opens the doors. Tries until the database can be reached; a migration that fails is final.
pub async fn open(app: &App, database: &tokio_postgres::Config) -> Result<(), MigrationError> {
    let mut told = String::new();
    loop {
        match store::migrate(database).await {
            Ok(applied) => {
                tracing::info!(applied, "the schema is up to date");
                while let Err(error) = app.suspensions.refresh().await {
                    tracing::warn!(%error, "suspended DIDs cannot be read; retrying");
                    tokio::time::sleep(START_PAUSE).await;
                }
                app.enter(Lifecycle::Serving);
                app.start_background();
                return Ok(());
            }
            Err(MigrationError::Connection(ConnectError::Database(cause))) => {
                let cause = store::in_words(&cause);
                if told != cause {
                    tracing::warn!(cause, "the database cannot be used; retrying");
                    told = cause;
                }
                tokio::time::sleep(START_PAUSE).await;
            }
            Err(failed) => return Err(failed),
        }
    }
}

/// Ends the server: not ready any more, streams sent away, then no new connections, requests in progress finished, queues emptied.
pub async fn drain(app: &App, server: &ServerHandle) {
    app.enter(Lifecycle::Draining);
    tracing::info!("draining");
    app.background.tell_to_stop();
    app.events.drain();
    // Load balancers send requests here until they have asked again whether it is ready.
    tokio::time::sleep(app.config.drain_delay).await;
    server.stop(true).await;
    let emptied = tokio::time::timeout(DRAIN_TIME, async {
        app.serializer.shut_down().await;
        app.store.read_positions().flush().await;
        app.background.stopped().await;
        if let Err(error) = app.quotas.settle().await {
            tracing::warn!(%error, "the last used quotas could not be written and are lost");
        }
    });
    if emptied.await.is_err() {
        tracing::warn!("not everything was finished in time; PostgreSQL rolls the rest back");
    }
    tracing::info!("stopped");
}
