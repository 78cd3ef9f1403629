//! HTTP server: routes, limits, and the order of startup and shutdown.

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

/// Time in which a client must acknowledge sent bytes before the kernel resets the connection (TCP_USER_TIMEOUT, which
/// counts closed windows too).
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(60);
/// TCP keepalive: seconds of silence before the first probe, seconds between probes, and probes until the reset.
#[cfg(target_os = "linux")]
const TCP_KEEPALIVE: (u32, u32, u32) = (60, 15, 4);
/// Time in which a client may continue to send a body after a reply that did not wait for it.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Time after which an idle connection is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// Most HTTP connections at once to `ADMIN_PORT`.
const ADMIN_CONNECTIONS: usize = 64;
/// Time for running requests to finish at shutdown. PostgreSQL rolls back what takes longer.
pub const DRAIN_TIME: Duration = Duration::from_secs(25);
/// Delay between attempts to reach the database at startup.
const START_RETRY_DELAY: Duration = Duration::from_millis(500);

/// Raises the limit on open files to the hard limit: each stream is an open file, and the default of many systems is 1024.
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

/// Binds the address and port for requests; port 0 takes a free one. The error names both.
pub fn bind(config: &Config) -> std::io::Result<TcpListener> {
    listen(&config.host, config.port, "SERVER_HOST, SERVER_PORT")
}

/// Binds the address and port for the operators' pages, if they are configured.
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

/// Creates the server for requests on a bound socket. Returns its address too.
pub fn build(app: App, listener: TcpListener) -> std::io::Result<(SocketAddr, Server)> {
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let connections = connection::max_connections(&app.config);
    tracing::debug!(connections, workers, "connections that may be open");
    if connections < app.config.max_connections {
        tracing::warn!(
            connections,
            "the limit on open files is too low for MAX_CONNECTIONS; fewer connections are accepted"
        );
    }
    app.metrics.connections.max(connections);
    let routes = match app.config.admin {
        None => |config: &mut web::ServiceConfig| routes(config.configure(pages_for_operators)),
        Some(_) => routes,
    };
    serve(app, listener, Listener { name: "http", workers, connections, is_public: true, routes })
}

/// Creates the server for the operators' pages alone.
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
                .client_disconnect_timeout(DISCONNECT_TIMEOUT)
                .keep_alive(IDLE_TIMEOUT)
                .on_connect_ext(|socket: &Socket, data| {
                    data.insert(socket.connection());
                })
                .h1(map_config(app, |()| AppConfig::default()));
            fn_service(move |io: tokio::net::TcpStream| {
                set_socket_options(&io);
                let peer = io.peer_addr().ok();
                std::future::ready(Ok((Socket::new(io, shared.clone(), metrics.clone()), peer)))
            })
            .and_then(http)
        })?
        .run();
    Ok((address, server))
}

/// Sets the options of an accepted socket. The kernel's time limits end the connection of a client that stops reading a
/// stream, or disappears without closing it; no other time limit covers those.
fn set_socket_options(socket: &tokio::net::TcpStream) {
    // The last part of a reply must not wait for the acknowledgement of the part before (Nagle).
    let result = socket.set_nodelay(true);
    #[cfg(target_os = "linux")]
    let result = result.and_then(|()| {
        let (idle, interval, count) = TCP_KEEPALIVE;
        setsockopt(socket, sockopt::TcpUserTimeout, &(ACKNOWLEDGE_TIMEOUT.as_millis() as u32))?;
        setsockopt(socket, sockopt::KeepAlive, &true)?;
        setsockopt(socket, sockopt::TcpKeepIdle, &idle)?;
        setsockopt(socket, sockopt::TcpKeepInterval, &interval)?;
        setsockopt(socket, sockopt::TcpKeepCount, &count)?;
        Ok(())
    });
    if let Err(cause) = result {
        tracing::debug!(%cause, "the kernel's time limits could not be set on a connection");
    }
}

/// Middleware of every request: registers it with its connection, refuses upgrades on paths without a WebSocket, and adds
/// the CORS headers.
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

/// Returns true if the path serves a WebSocket.
fn opens_socket(path: &str) -> bool {
    let nsid = path.strip_prefix("/xrpc/");
    api::ROUTES.iter().any(|route| route.kind == Kind::Subscription && Some(route.nsid) == nsid)
}

fn routes(config: &mut web::ServiceConfig) {
    config
        .app_data(cors::Open)
        // A scope compares a prefix; a pattern would be a regular expression that every request has to match.
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

/// Pages for load balancers, served on both ports.
fn pages_for_all(config: &mut web::ServiceConfig) {
    config.service(page("/health/live", health::live)).service(page("/health/ready", health::ready));
}

fn pages_for_operators(config: &mut web::ServiceConfig) {
    config.service(page("/health", health::health)).service(page("/metrics", health::metrics));
}

async fn xrpc(app: Data<App>, request: HttpRequest, payload: Payload) -> HttpResponse {
    let name = request.path().strip_prefix("/xrpc/").filter(|name| !name.is_empty() && !name.contains('/'));
    match name {
        // Not a lexicon method, but every AT Protocol service answers it.
        Some("_health") if [Method::GET, Method::HEAD].contains(request.method()) => {
            health::version(app, request).await
        }
        Some(_) => xrpc::dispatch(api::ROUTES, app, request, payload).await,
        None => not_found(&request),
    }
}

/// A page for GET and HEAD. Other methods are refused with 405.
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

/// Migrates the schema and starts serving. Retries until the database can be reached; a failed migration is final.
pub async fn open(app: &App, database: &tokio_postgres::Config) -> Result<(), MigrationError> {
    let mut logged = String::new();
    loop {
        match store::migrate(database).await {
            Ok(applied) => {
                tracing::info!(applied, "the schema is up to date");
                while let Err(error) = app.suspensions.refresh().await {
                    tracing::warn!(%error, "suspended DIDs cannot be read; retrying");
                    tokio::time::sleep(START_RETRY_DELAY).await;
                }
                app.enter(Lifecycle::Serving);
                app.start_background();
                return Ok(());
            }
            Err(MigrationError::Connection(ConnectError::Database(cause))) => {
                let cause = store::in_words(&cause);
                if logged != cause {
                    tracing::warn!(cause, "the database cannot be used; retrying");
                    logged = cause;
                }
                tokio::time::sleep(START_RETRY_DELAY).await;
            }
            Err(failed) => return Err(failed),
        }
    }
}

/// Shuts the server down: readiness fails; after the drain delay it ends the streams, accepts no connection, finishes running
/// requests, empties the queues, and exports the last spans.
pub async fn drain(app: &App, server: &ServerHandle) {
    app.enter(Lifecycle::Draining);
    tracing::info!("draining");
    app.background.tell_to_stop();
    // Load balancers send requests here until they have polled the readiness again. Streams go on until then: a client whose stream
    // ended sooner could be sent here again.
    tokio::time::sleep(app.config.drain_delay).await;
    app.events.drain();
    server.stop(true).await;
    let emptied = tokio::time::timeout(DRAIN_TIME, async {
        app.serializer.shut_down().await;
        // Side by side, since the task that writes read positions may be the one that has failed.
        tokio::join!(app.read_positions.flush(), async {
            app.background.stopped().await;
            if let Err(error) = app.quotas.settle().await {
                tracing::warn!(%error, "the last used quotas could not be written and are lost");
            }
        });
    });
    if emptied.await.is_err() {
        tracing::warn!("some work did not finish in time; PostgreSQL rolls it back");
    }
    app.traces.flush().await;
    tracing::info!("stopped");
}
