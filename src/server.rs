//! The HTTP server: routes, limits, and a start and an end in the right order.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use actix_web::dev::{Server, ServerHandle};
use actix_web::web::{self, Data, Payload};
use actix_web::{App as ActixApp, HttpRequest, HttpResponse, HttpServer};

use crate::app::{App, Stage};
use crate::error::Code;
use crate::store::{self, MigrationError};
use crate::xrpc::{self, RequestId};
use crate::{api, auth, health, lexicons};

/// How long a client may take to send a request's head.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// How long an idle connection is kept.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// How long requests in progress may take to finish at shutdown; more than any wait on PostgreSQL.
pub const DRAIN_TIME: Duration = Duration::from_secs(25);
/// The pause between attempts to reach the database at start.
const START_PAUSE: Duration = Duration::from_millis(500);

/// Binds `host:port` from the configuration and makes the server; port 0 takes a free one, which the address tells.
pub fn build(app: App) -> std::io::Result<(SocketAddr, Server)> {
    let listener = TcpListener::bind((app.config.host.as_str(), app.config.port))?;
    let address = listener.local_addr()?;
    let data = Data::new(app);
    let server = HttpServer::new(move || ActixApp::new().app_data(data.clone()).configure(routes))
        .client_request_timeout(HEAD_TIME)
        .keep_alive(KEEP_ALIVE)
        .shutdown_timeout(DRAIN_TIME.as_secs())
        .disable_signals()
        .listen(listener)?
        .run();
    Ok((address, server))
}

fn routes(config: &mut web::ServiceConfig) {
    config
        .route(
            "/xrpc/{nsid}",
            web::route().to(|app: Data<App>, request: HttpRequest, payload: Payload| {
                xrpc::dispatch(api::ROUTES, app, request, payload)
            }),
        )
        .service(health::health)
        .service(health::live)
        .service(health::ready)
        .service(health::metrics)
        .route(
            "/.well-known/did.json",
            web::get()
                .to(|app: Data<App>| async move { HttpResponse::Ok().json(auth::service_document(&app.config.auth)) }),
        )
        .route("/lexicons", web::get().to(|| async { HttpResponse::Ok().json(lexicons::index()) }))
        .route("/lexicons/{nsid}.json", web::get().to(lexicon))
        .default_service(web::to(|request: HttpRequest| async move { not_found(&request) }));
}

async fn lexicon(request: HttpRequest) -> HttpResponse {
    match lexicons::find(request.match_info().get("nsid").unwrap_or_default()) {
        Some(document) => HttpResponse::Ok().content_type("application/json").body(document),
        None => not_found(&request),
    }
}

fn not_found(request: &HttpRequest) -> HttpResponse {
    let error =
        Code::NotFound.because("there is nothing here; methods are under /xrpc/, their documents under /lexicons");
    xrpc::error_response(&error, &RequestId::of(request))
}

/// Brings the schema up to date and opens the doors. Tries until the database can be reached; a migration that fails is final.
pub async fn open(app: &App, database: &tokio_postgres::Config) -> Result<(), MigrationError> {
    let mut told = false;
    loop {
        match store::migrate(database).await {
            Ok(applied) => {
                tracing::info!(applied, "the schema is up to date");
                app.enter(Stage::Serving);
                return Ok(());
            }
            Err(MigrationError::Connection(cause)) => {
                if !told {
                    tracing::warn!(%cause, "the database cannot be reached; trying until it can");
                    told = true;
                }
                tokio::time::sleep(START_PAUSE).await;
            }
            Err(failed) => return Err(failed),
        }
    }
}

/// Ends the server: not ready any more, requests in progress finished, queues emptied.
pub async fn drain(app: &App, server: &ServerHandle) {
    app.enter(Stage::Draining);
    tracing::info!("draining");
    server.stop(true).await;
    let emptied = tokio::time::timeout(DRAIN_TIME, async {
        app.serializer.shut_down().await;
        app.store.read_positions().flush().await;
    });
    if emptied.await.is_err() {
        tracing::warn!("not everything was finished in time; PostgreSQL rolls the rest back");
    }
    tracing::info!("stopped");
}
