//! The pages for operators and their machines: `/health`, `/health/live`, `/health/ready`, `/metrics`, `/xrpc/_health`. They need no
//! token and say nothing about users.

use actix_web::http::header;
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde_json::json;

use crate::app::App;
use crate::error::Code;
use crate::exposition;
use crate::lifecycle::Lifecycle;
use crate::xrpc::{self, RequestId};

/// The state of the parts, as the earlier server showed it.
pub async fn health(app: Data<App>) -> HttpResponse {
    let database = app.probe.health().await.writes;
    let word = |healthy: bool| if healthy { "healthy" } else { "unhealthy" };
    let body = json!({
        "status": word(database),
        "timestamp": app.clock.now().timestamp(),
        "version": env!("CARGO_PKG_VERSION"),
        "checks": {
            "database": word(database),
            "memory": "healthy",
            "actors": {
                "active_actors": app.serializer.registry().map_or(0, |registry| registry.active()),
                "status": "healthy",
                "healthy": true,
            },
            "events": {
                "streams": app.events.streams(),
                "hints": app.events.notifier().transport().name(),
                "listening": app.events.notifier().listening(),
            },
        },
    });
    if database { HttpResponse::Ok().json(body) } else { HttpResponse::ServiceUnavailable().json(body) }
}

/// The process runs. Depends on nothing else, so that a database outage restarts nobody.
pub async fn live() -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain").body("OK")
}

/// Whether requests should be sent here: the database answers and takes writes, its schema is the one this build needs, its clock and
/// this machine's agree to a minute, the event tail has read it within ten seconds, and the server is neither starting nor draining.
pub async fn ready(app: Data<App>) -> HttpResponse {
    let phase = app.lifecycle();
    let database = app.probe.health().await;
    let events = app.events.are_current();
    let tasks = app.background.failed().is_none();
    let ready = phase == Lifecycle::Serving && database.is_fit() && events && tasks;
    let body = json!({
        "ready": ready,
        "stage": phase.name(),
        "checks": {
            "database": database.answers,
            "writes": database.writes,
            "schema": database.current,
            "clock": database.clock,
            "events": events,
            "tasks": tasks,
        },
        // Without hints events come later, and that is no reason to send anybody elsewhere.
        "hints": { "by": app.events.notifier().transport().name(), "listening": app.events.notifier().listening() },
    });
    if ready { HttpResponse::Ok().json(body) } else { HttpResponse::ServiceUnavailable().json(body) }
}

/// `/xrpc/_health`: the version, as long as the database answers, as other AT Protocol services say it.
pub async fn version(app: Data<App>, request: HttpRequest) -> HttpResponse {
    match app.probe.health().await.answers {
        true => HttpResponse::Ok().json(json!({ "version": env!("CARGO_PKG_VERSION") })),
        false => {
            let error = Code::DatabaseUnavailable.because("the database does not answer");
            xrpc::error_response(&error, &RequestId::of(&request))
        }
    }
}

/// Every metric: as OpenMetrics where that is asked for, as Prometheus does, else in its older text format.
pub async fn metrics(app: Data<App>, request: HttpRequest) -> HttpResponse {
    let accepted =
        request.headers().get(header::ACCEPT).and_then(|accepted| accepted.to_str().ok()).unwrap_or_default();
    app.store.measure_connections();
    match app.metrics.page.render() {
        Ok(text) if accepted.contains("application/openmetrics-text") => {
            HttpResponse::Ok().content_type("application/openmetrics-text; version=1.0.0; charset=utf-8").body(text)
        }
        Ok(text) => HttpResponse::Ok()
            .content_type("text/plain; version=0.0.4; charset=utf-8")
            .body(exposition::prometheus(&text)),
        Err(cause) => {
            tracing::error!(%cause, "metrics could not be written");
            HttpResponse::InternalServerError().finish()
        }
    }
}
