//! The end of each long-lived task of a running server.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::web::Data;
use catbird_testkit::cluster::{TestDatabase, database};

use super::*;
use crate::background::tasks::{ALL, HTTP_SERVER, OPERATOR_PAGES, Task};

use crate::health;

/// Configurations that together start every task.
const CONFIGURATIONS: [&[(&str, &str)]; 2] =
    [&[("REDIS_URL", "redis://127.0.0.1:1"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")], &[]];

/// Starts a server without listeners, and waits until it is ready.
async fn start(database: &TestDatabase, settings: &[(&str, &str)]) -> App {
    let config = Config::from_variables(settings.iter().copied()).unwrap();
    let app = App::new(config, database.config.clone(), Clock::system()).await.unwrap();
    app.enter(Lifecycle::Serving);
    app.start_background();
    let ready = async {
        while status(&app).await != StatusCode::OK {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ready).await.expect("it becomes ready");
    app
}

async fn status(app: &App) -> StatusCode {
    health::ready(Data::new(app.clone())).await.status()
}

/// Runs a server in its own runtime and ends one of its tasks. Returns false if this configuration does not start it.
fn kill(task: &'static Task, database: &TestDatabase, settings: &'static [(&str, &str)]) -> bool {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let is_started = runtime.block_on(async {
        let app = start(database, settings).await;
        if !app.background.started().contains(&task) {
            return false;
        }
        app.background.kill(task);
        app.background.noted(task).await;
        assert_eq!(app.background.failed(), task.is_essential.then_some(task));
        assert_eq!(app.background.ended(), [task.name]);
        let expected = if task.is_essential { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        assert_eq!(status(&app).await, expected, "{}", task.name);
        true
    });
    runtime.shutdown_background();
    is_started
}

#[test]
fn every_essential_task_that_ends_makes_the_server_fail_and_no_other_does() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let database = runtime.block_on(database());
    for task in ALL {
        // `main` starts these two, since it owns the listeners.
        if [&HTTP_SERVER, &OPERATOR_PAGES].contains(task) {
            continue;
        }
        assert!(CONFIGURATIONS.iter().any(|settings| kill(task, &database, settings)), "{} is not started", task.name);
    }
}
