//! Pages for operators: `/health`, `/health/live`, `/health/ready`, `/metrics` and `/xrpc/_health`. They need no token and
//! contain nothing about users. They report measurements only.

use std::collections::BTreeMap;
use std::time::Duration;

use actix_web::http::header;
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde_json::json;

use crate::app::App;
use crate::error::Code;
use crate::exposition;
use crate::lifecycle::Lifecycle;
use crate::memory::ProcessMemory;
use crate::probe::DatabaseHealth;
use crate::xrpc::{self, RequestId};

/// Time that `/metrics` waits for the state of the database.
const PROBE_TIME: Duration = Duration::from_secs(1);

/// `/health`: the state of each part. What cannot be measured, or does not run, is absent.
pub async fn health(app: Data<App>) -> HttpResponse {
    let database = app.probe.health().await.writes;
    let memory = ProcessMemory::measure();
    let tasks = app.background.failed().is_none();
    let is_healthy = database && tasks && memory.is_none_or(ProcessMemory::is_healthy);
    let word = |healthy: bool| if healthy { "healthy" } else { "unhealthy" };
    let mut body = json!({
        "status": word(is_healthy),
        "timestamp": app.clock.now().timestamp(),
        "version": env!("CARGO_PKG_VERSION"),
        "checks": {
            "database": word(database),
            "tasks": { "status": word(tasks), "ended": app.background.ended() },
            "events": {
                "streams": app.events.streams(),
                "hints": app.events.notifier().transport().name(),
                "listening": app.events.notifier().listening(),
            },
        },
    });
    if let Some(memory) = memory {
        body["checks"]["memory"] = word(memory.is_healthy()).into();
        body["checks"]["memory_bytes"] = json!({ "resident": memory.resident, "limit": memory.limit });
    }
    if let Some(registry) = app.serializer.registry() {
        body["checks"]["actors"] = json!({ "active_actors": registry.active() });
    }
    if is_healthy { HttpResponse::Ok().json(body) } else { HttpResponse::ServiceUnavailable().json(body) }
}

/// `/health/live`: the process runs. It depends on nothing else, so an outage of the database restarts no server.
pub async fn live() -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain").body("OK")
}

/// `/health/ready`: 200 if load balancers should send requests here. The database answers and accepts writes, its schema
/// is new enough for this build, its clock and this machine's agree to a minute, the event tail has read it within ten
/// seconds, no essential task has ended, and the server is neither starting nor draining.
pub async fn ready(app: Data<App>) -> HttpResponse {
    let phase = app.lifecycle();
    let checks = checks(&app, app.probe.health().await);
    let ready = phase == Lifecycle::Serving && checks.iter().all(|(_, passed)| *passed);
    let body = json!({
        "ready": ready,
        "stage": phase.name(),
        "checks": checks.into_iter().collect::<BTreeMap<_, _>>(),
        // Without notifications events arrive later, which is no reason to send clients to another replica.
        "hints": { "by": app.events.notifier().transport().name(), "listening": app.events.notifier().listening() },
    });
    if ready { HttpResponse::Ok().json(body) } else { HttpResponse::ServiceUnavailable().json(body) }
}

/// The parts on which readiness depends, beside the phase of the server.
fn checks(app: &App, database: DatabaseHealth) -> [(&'static str, bool); 6] {
    [
        ("database", database.answers),
        ("writes", database.writes),
        ("schema", database.current),
        ("clock", database.clock),
        ("events", app.events.are_current()),
        ("tasks", app.background.failed().is_none()),
    ]
}

/// Updates the metrics that are measured when they are read.
async fn measure(app: &App) {
    // A database that hangs must not delay the page beyond the time-out of Prometheus.
    let database = tokio::time::timeout(PROBE_TIME, app.probe.health()).await.unwrap_or_default();
    let server = &app.metrics.server;
    server.readiness(&[("serving", app.lifecycle() == Lifecycle::Serving)]);
    server.readiness(&checks(app, database));
    server.tasks(&app.background.ended());
    if let Some(memory) = ProcessMemory::measure() {
        server.memory_limit(memory.limit);
    }
    app.store.measure_connections();
    app.events.measure();
}

/// `/xrpc/_health`: the version, as long as the database answers, as in other AT Protocol services.
pub async fn version(app: Data<App>, request: HttpRequest) -> HttpResponse {
    match app.probe.health().await.answers {
        true => HttpResponse::Ok().json(json!({ "version": env!("CARGO_PKG_VERSION") })),
        false => {
            let error = Code::DatabaseUnavailable.because("the database does not answer");
            xrpc::error_response(&error, &RequestId::of(&request))
        }
    }
}

/// `/metrics`: OpenMetrics if the client accepts it, as Prometheus does, else the older text format of Prometheus.
pub async fn metrics(app: Data<App>, request: HttpRequest) -> HttpResponse {
    let accepted =
        request.headers().get(header::ACCEPT).and_then(|accepted| accepted.to_str().ok()).unwrap_or_default();
    measure(&app).await;
    match app.metrics.page.render() {
        Ok(text) if accepted.contains("application/openmetrics-text") => {
            HttpResponse::Ok().content_type("application/openmetrics-text; version=1.0.0; charset=utf-8").body(text)
        }
        Ok(text) => HttpResponse::Ok()
            .content_type("text/plain; version=0.0.4; charset=utf-8")
            .body(exposition::prometheus(&text)),
        Err(cause) => {
            tracing::error!(%cause, "cannot render the metrics");
            HttpResponse::InternalServerError().finish()
        }
    }
}
