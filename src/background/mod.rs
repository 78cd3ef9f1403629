//! Long-lived tasks of the process, and their owner.
//!
//! Every task that should run as long as the process is a row of [`tasks`]. [`Background`] starts it and keeps its handle.
//! A task that panics, or ends before the server drains, is logged by name as an error. If it is essential, the server is
//! no longer ready, drains, and exits with a failure. Tasks of single requests, streams, connections and actors are not
//! started here.
//!
//! [`portion`] sizes the units of work of such tasks.

pub(crate) mod portion;
pub mod tasks;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinError, JoinHandle};

use tasks::Task;

/// Owner of the long-lived tasks. Cheap to clone; clones own the same tasks.
#[derive(Clone)]
pub struct Background(Arc<Inner>);

struct Inner {
    runtime: Handle,
    /// True once the server drains: tasks may end from then on.
    stop: watch::Sender<bool>,
    /// The first essential task that ended too early.
    failed: watch::Sender<Option<&'static Task>>,
    running: Mutex<Vec<Running>>,
}

/// A task that was started.
struct Running {
    task: &'static Task,
    abort: AbortHandle,
    /// Ends when the task has ended and that has been noted.
    noted: JoinHandle<()>,
    /// Ends by itself when the server drains.
    is_stoppable: bool,
}

impl Background {
    /// Creates an owner that starts its tasks on the current runtime.
    #[expect(clippy::new_without_default, reason = "it needs a runtime")]
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            runtime: Handle::current(),
            stop: watch::Sender::new(false),
            failed: watch::Sender::new(None),
            running: Mutex::default(),
        }))
    }

    /// Starts a task that runs until the process ends.
    pub fn start(&self, task: &'static Task, work: impl Future<Output = ()> + Send + 'static) {
        self.spawn(task, work, false);
    }

    /// Starts a task that finishes soon after `stop` turns true.
    pub fn start_stoppable<F: Future<Output = ()> + Send + 'static>(
        &self,
        task: &'static Task,
        work: impl FnOnce(watch::Receiver<bool>) -> F,
    ) {
        self.spawn(task, work(self.0.stop.subscribe()), true);
    }

    fn spawn(&self, task: &'static Task, work: impl Future<Output = ()> + Send + 'static, is_stoppable: bool) {
        let work = self.0.runtime.spawn(work);
        let abort = work.abort_handle();
        let owner = self.clone();
        let noted = self.0.runtime.spawn(async move { owner.note_end(task, work.await) });
        self.running().push(Running { task, abort, noted, is_stoppable });
    }

    fn running(&self) -> MutexGuard<'_, Vec<Running>> {
        // No code panics while it holds this lock.
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_end(&self, task: &'static Task, ended: Result<(), JoinError>) {
        if ended.is_ok() && *self.0.stop.borrow() {
            return;
        }
        let Task { name, reason, is_essential } = task;
        // The message of a panic may quote values; its place is in the log already.
        let cause = match ended {
            Ok(()) => "returned",
            Err(error) if error.is_panic() => "panicked",
            Err(_) => "aborted",
        };
        if *is_essential {
            tracing::error!(task = name, cause, reason, "an essential task ended; the server cannot go on");
            self.0.failed.send_if_modified(|failed| failed.is_none() && failed.replace(task).is_none());
        } else {
            tracing::error!(task = name, cause, reason, "a task ended; the server runs on without it");
        }
    }

    /// Returns the essential task that ended too early, if there is one.
    pub fn failed(&self) -> Option<&'static Task> {
        *self.0.failed.borrow()
    }

    /// Waits until an essential task ends too early.
    pub async fn failure(&self) -> &'static Task {
        let mut failed = self.0.failed.subscribe();
        let failed = failed.wait_for(Option::is_some).await.expect("this owner holds the sender");
        (*failed).expect("it was waited for")
    }

    /// Names of the tasks that have ended too early, each once; none while the server drains, when tasks end.
    pub fn ended(&self) -> Vec<&'static str> {
        if *self.0.stop.borrow() {
            return Vec::new();
        }
        let running = self.running();
        let ended: BTreeSet<_> =
            running.iter().filter(|task| task.abort.is_finished()).map(|running| running.task.name).collect();
        ended.into_iter().collect()
    }

    /// Tells every stoppable task to finish, without waiting for it. From now on no end of a task is a failure.
    pub fn tell_to_stop(&self) {
        self.0.stop.send_replace(true);
    }

    /// Waits until every stoppable task has ended.
    pub async fn stopped(&self) {
        let all = std::mem::take(&mut *self.running());
        let (stoppable, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|running| running.is_stoppable);
        *self.running() = others;
        for task in stoppable {
            // Noting an end does not panic, and a task that panicked is in the log.
            let _ = task.noted.await;
        }
    }
}
