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

#[test]
fn every_task_has_a_name_of_its_own() {
    let mut names: Vec<_> = tasks::ALL.iter().map(|task| task.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), tasks::ALL.len());
}
