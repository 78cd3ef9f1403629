//! The pages for operators and their machines: `/health`, `/health/live`, `/health/ready`, `/metrics`, `/xrpc/_health`. They need no
//! token and say nothing about users.
//!
//! Anybody may ask for some of them as often as it likes, so what they say of the database is found out once for all who ask within a
//! second ([`Probe`]).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use actix_web::http::header;
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use serde_json::json;

use crate::app::{App, Stage};
use crate::clock::Clock;
use crate::error::Code;
use crate::exposition;
use crate::store::Store;
use crate::xrpc::{self, RequestId};

/// For how long a database that was fit counts as fit.
const FIT_FOR: Duration = Duration::from_secs(1);
/// After how long one that was not is looked at again.
const UNFIT_FOR: Duration = Duration::from_millis(50);

/// Looks at the database for these pages: one look at a time, whose result is for everybody. Cheap to clone.
#[derive(Clone)]
pub struct Probe(Arc<Inner>);

struct Inner {
    store: Store,
    clock: Clock,
    last: Mutex<Option<Look>>,
}

struct Look {
    begun: Instant,
    found: Shared<BoxFuture<'static, Found>>,
}

impl Look {
    fn is_good(&self) -> bool {
        let good_for = match self.found.peek() {
            // It is not over yet.
            None => return true,
            Some(found) if found.is_fit() => FIT_FOR,
            Some(_) => UNFIT_FOR,
        };
        self.begun.elapsed() < good_for
    }
}

/// What is true of the database.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Found {
    /// It answers.
    pub answers: bool,
    /// It takes writes.
    pub writes: bool,
    /// Its schema is the one that this build needs.
    pub current: bool,
    /// Its clock and this machine's agree to a minute.
    pub clock: bool,
}

impl Found {
    fn is_fit(self) -> bool {
        self.answers && self.writes && self.current && self.clock
    }
}

impl Probe {
    pub fn new(store: Store, clock: Clock) -> Self {
        Self(Arc::new(Inner { store, clock, last: Mutex::default() }))
    }

    /// What is true of the database now, or was less than a second ago.
    pub async fn found(&self) -> Found {
        self.look().await
    }

    fn look(&self) -> Shared<BoxFuture<'static, Found>> {
        // Nothing panics while it is held.
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(look) = last.as_ref().filter(|look| look.is_good()) {
            return look.found.clone();
        }
        // In a task of its own, so that whoever hangs up ends it for nobody else.
        let looking = self.0.store.runtime().spawn(look(self.0.store.clone(), self.0.clock.clone()));
        let found = async { looking.await.unwrap_or_default() }.boxed().shared();
        *last = Some(Look { begun: Instant::now(), found: found.clone() });
        found
    }
}

async fn look(store: Store, clock: Clock) -> Found {
    let Ok(fitness) = store.fitness().await else { return Found::default() };
    let (writes, current) = (fitness.writes, fitness.current);
    let clock = writes && current && store.agrees_with(&clock).await.unwrap_or(false);
    Found { answers: true, writes, current, clock }
}

/// The state of the parts, as the earlier server showed it.
pub async fn health(app: Data<App>) -> HttpResponse {
    let database = app.probe.found().await.writes;
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
    let database = app.probe.found().await;
    let events = app.events.are_current();
    let ready = stage == Stage::Serving && database.is_fit() && events;
    let body = json!({
        "ready": ready,
        "stage": match stage {
            Stage::Starting => "starting",
            Stage::Serving => "serving",
            Stage::Draining => "draining",
        },
        "checks": {
            "database": database.answers,
            "writes": database.writes,
            "schema": database.current,
            "clock": database.clock,
            "events": events,
            "actors": true,
        },
        // Without hints events come later, and that is no reason to send anybody elsewhere.
        "hints": { "by": app.events.hints().transport().name(), "listening": app.events.hints().listening() },
    });
    if ready { HttpResponse::Ok().json(body) } else { HttpResponse::ServiceUnavailable().json(body) }
}

/// `/xrpc/_health`: the version, as long as the database answers, as other AT Protocol services say it.
pub async fn version(app: Data<App>, request: HttpRequest) -> HttpResponse {
    match app.probe.found().await.answers {
        true => HttpResponse::Ok().json(json!({ "version": env!("CARGO_PKG_VERSION") })),
        false => {
            let error = Code::DatabaseUnavailable.because("the database does not answer just now");
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
