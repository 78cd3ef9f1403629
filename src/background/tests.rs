use std::fs;
use std::path::{Path, PathBuf};

use super::*;

static ESSENTIAL: Task = Task { name: "essential", is_essential: true, reason: "a test" };
static OPTIONAL: Task = Task { name: "optional", is_essential: false, reason: "a test" };

impl Background {
    /// Ends a task before its time, as a panic does.
    pub(crate) fn kill(&self, task: &Task) {
        self.running().iter().filter(|running| running.task == task).for_each(|running| running.abort.abort());
    }

    /// Waits until the end of a task has been noted.
    pub(crate) async fn noted(&self, task: &Task) {
        while self.running().iter().any(|running| running.task == task && !running.noted.is_finished()) {
            tokio::task::yield_now().await;
        }
    }

    /// The tasks that were started.
    pub(crate) fn started(&self) -> Vec<&'static Task> {
        self.running().iter().map(|running| running.task).collect()
    }
}

#[tokio::test]
async fn an_essential_task_that_panics_or_returns_is_a_failure_that_is_named() {
    for panics in [true, false] {
        let background = Background::new();
        background.start(&ESSENTIAL, async move { assert!(!panics, "a test") });
        assert_eq!(background.failure().await.name, "essential");
        assert_eq!((background.failed(), background.ended()), (Some(&ESSENTIAL), vec!["essential"]));
    }
}

#[tokio::test]
async fn the_server_runs_on_without_an_optional_task() {
    let background = Background::new();
    background.start(&OPTIONAL, async { panic!("a test") });
    background.noted(&OPTIONAL).await;
    assert_eq!((background.failed(), background.ended()), (None, vec!["optional"]));
}

#[tokio::test]
async fn the_end_of_a_task_is_no_failure_while_the_server_drains_and_only_stoppable_tasks_are_waited_for() {
    let background = Background::new();
    background.start(&ESSENTIAL, std::future::pending());
    background.start_stoppable(&ESSENTIAL, |mut stop| async move {
        let _ = stop.wait_for(|stop| *stop).await;
    });
    background.tell_to_stop();
    background.stopped().await;
    assert_eq!((background.failed(), background.started().len()), (None, 1));
}

/// Files that start other tasks than long-lived ones, and what those are.
const OTHER_TASKS: &[(&str, &str)] = &[
    ("actors/registry.rs", "an actor, which the next request starts again"),
    ("auth/resolver.rs", "the refresh of one DID document"),
    ("bodies.rs", "one read from the blob store"),
    ("connection/socket.rs", "a test"),
    ("delivery/outbox.rs", "one attempt, held by the task that makes attempts"),
    ("embedded/initdb.rs", "one connection to PostgreSQL"),
    ("embedded/mod.rs", "the size limit of PostgreSQL's log, held by its owner"),
    ("embedded/supervisor.rs", "the process that supervises PostgreSQL"),
    ("events/mod.rs", "the catching up of one stream"),
    ("events/notifier.rs", "one typing indicator"),
    ("objects/http.rs", "one connection to the blob store"),
    ("probe.rs", "one check of the database"),
    ("serializer/turns.rs", "the clock of a race, for as long as commits wait in it"),
    ("advisory/workers.rs", "one batch"),
    ("store/connect.rs", "one connection to PostgreSQL"),
    ("store/listen.rs", "one connection to PostgreSQL, held by the task that listens"),
    ("store/nonces.rs", "a test"),
    ("store/session.rs", "the end of one connection"),
    ("store/unit_of_work.rs", "one transaction"),
    ("timing.rs", "a test"),
    ("xrpc/pipeline.rs", "the rest of one refused body"),
];

/// Rust files below a directory.
fn sources(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let (directories, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let below = directories.iter().flat_map(|directory| sources(directory));
    files.into_iter().filter(|file| file.extension().is_some_and(|ending| ending == "rs")).chain(below).collect()
}

#[test]
fn long_lived_tasks_are_started_by_their_owner_alone() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (other, _) in OTHER_TASKS {
        let starts = fs::read_to_string(src.join(other)).is_ok_and(|text| text.contains("spawn("));
        assert!(starts, "src/{other} starts no task; remove its row");
    }
    for file in sources(&src) {
        let name = file.strip_prefix(&src).unwrap().to_str().unwrap();
        let is_exempt = name.starts_with("background/") || name.contains("tests") || name.starts_with("smoke_test");
        let starts = fs::read_to_string(&file).unwrap().contains("spawn(");
        assert!(
            is_exempt || !starts || OTHER_TASKS.iter().any(|(other, _)| *other == name),
            "src/{name} starts a task: start it with `Background` if it is long-lived, else say here what it is",
        );
    }
}

#[test]
fn every_task_has_a_name_of_its_own() {
    let mut names: Vec<_> = tasks::ALL.iter().map(|task| task.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), tasks::ALL.len());
}
