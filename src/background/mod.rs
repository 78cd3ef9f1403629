//! What a process does beside answering requests: sweeping ([`crate::jobs`]), handing entries over ([`crate::delivery`]), adding up
//! what was used of quotas ([`crate::quotas`]), learning who is suspended ([`crate::suspensions`]), and looking whether those who follow
//! are who they were ([`crate::events::identities`]). It begins when the schema is there, stops when the server drains, and can be
//! stopped anywhere: what is half done is rolled back, or due again later. [`portion`] is how such work is cut.

pub mod portion;

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The tasks, and how they are told to stop. Cheap to clone; clones mean the same tasks.
#[derive(Clone, Default)]
pub struct Background(Arc<Inner>);

#[derive(Default)]
struct Inner {
    stop: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Background {
    /// Starts a task on the current runtime. It ends soon after `stop` turns true.
    pub fn start<F: Future<Output = ()> + Send + 'static>(&self, task: impl FnOnce(watch::Receiver<bool>) -> F) {
        let task = tokio::spawn(task(self.0.stop.subscribe()));
        self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task);
    }

    /// Tells every task to stop, without waiting for it.
    pub fn tell_to_stop(&self) {
        self.0.stop.send_replace(true);
    }

    /// Waits until every task has stopped.
    pub async fn stopped(&self) {
        let tasks = std::mem::take(&mut *self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            // One that panicked has stopped, too; the log has where.
            let _ = task.await;
        }
    }
}
