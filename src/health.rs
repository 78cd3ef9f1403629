//! The pages for operators and their machines: `/health`, `/health/live`, `/health/ready`, `/metrics`. They need no token and
//! say nothing about users.

use actix_web::HttpResponse;
use actix_web::web::Data;
use serde_json::json;

use crate::app::{App, Stage};

/// The state of the parts, as the earlier server showed it.
pub async fn health(app: Data<App>) -> HttpResponse {
    let database = app.store.fitness().await.is_ok_and(|database| database.writes);
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
                "hints": app.events.hints().transport().name(),
                "listening": app.events.hints().listening(),
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
    let stage = app.stage();
    let fitness = app.store.fitness().await;
    let (database, writes) = (fitness.is_ok(), fitness.as_ref().is_ok_and(|database| database.writes));
    let current = fitness.is_ok_and(|database| database.current);
    let clock = writes && current && app.store.agrees_with(&app.clock).await.unwrap_or(false);
    let events = app.events.are_current();
    let ready = stage == Stage::Serving && clock && events;
    let body = json!({
        "ready": ready,
        "stage": match stage {
            Stage::Starting => "starting",
            Stage::Serving => "serving",
            Stage::Draining => "draining",
        },
        "checks": {
            "database": database,
            "writes": writes,
            "schema": current,
            "clock": clock,
            "events": events,
            "actors": true,
        },
        // Without hints events come later, and that is no reason to send anybody elsewhere.
        "hints": { "by": app.events.hints().transport().name(), "listening": app.events.hints().listening() },
    });
    if ready { HttpResponse::Ok().json(body) } else { HttpResponse::ServiceUnavailable().json(body) }
}

/// Every metric, in the Prometheus text format.
pub async fn metrics(app: Data<App>) -> HttpResponse {
    match app.metrics.render(app.store.connections(), app.config.database_max_connections) {
        Ok(text) => {
            HttpResponse::Ok().content_type("application/openmetrics-text; version=1.0.0; charset=utf-8").body(text)
        }
        Err(cause) => {
            tracing::error!(%cause, "metrics could not be written");
            HttpResponse::InternalServerError().finish()
        }
    }
}
