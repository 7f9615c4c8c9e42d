//! The background tasks and threads of a node. They run as long as it does: one that ends before ends the node.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use tokio::sync::oneshot;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};

/// The background tasks of a node. Dropped, it stops them.
#[derive(Default)]
pub struct Tasks {
    set: JoinSet<()>,
    running: HashMap<Id, (&'static str, AbortHandle)>,
}

/// A task that ended although it should not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("background task `{task}` ended: {reason}")]
pub struct TaskEnded {
    /// Its name.
    pub task: &'static str,
    /// Why.
    pub reason: String,
}

impl Tasks {
    /// Runs a task of that name.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let handle = self.set.spawn(task);
        self.running.insert(handle.id(), (name, handle));
    }

    /// Runs `body` on a thread of its own, which counts as a task of that name. The thread is not stopped with the tasks.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn spawn_thread(
        &mut self,
        name: &'static str,
        body: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<()> {
        let (ended, end) = oneshot::channel();
        let thread = std::thread::Builder::new().name(name.to_owned());
        thread.spawn(move || {
            // Unwind safety: `body` is gone after a panic, and the node ends on account of it.
            let _ = ended.send(catch_unwind(AssertUnwindSafe(body)));
        })?;
        self.spawn(name, async move {
            if let Ok(Err(panic)) = end.await {
                // As if the task had panicked itself, without a second line from the panic hook.
                resume_unwind(panic);
            }
        });
        Ok(())
    }

    /// Waits until one of them ends.
    pub async fn ended(&mut self) -> TaskEnded {
        match self.set.join_next_with_id().await {
            Some(Ok((id, ()))) => self.told(id, "it returned".to_owned()),
            Some(Err(error)) => self.told(error.id(), reason(error)),
            // There are none.
            None => std::future::pending().await,
        }
    }

    /// Stops those of that name.
    pub fn stop(&self, name: &str) {
        let running = self.running.values();
        running
            .filter(|(running, _)| *running == name)
            .for_each(|(_, handle)| handle.abort());
    }

    fn told(&self, id: Id, reason: String) -> TaskEnded {
        let task = self.running.get(&id).map_or("unnamed", |(name, _)| name);
        TaskEnded { task, reason }
    }
}

fn reason(error: JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else {
        return "it was cancelled".to_owned();
    };
    let text = panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned());
    format!("it panicked: {}", text.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn panics() {
        panic!("of {}", 7)
    }

    #[tokio::test]
    async fn a_task_that_ends_is_named_with_the_reason() {
        let mut tasks = Tasks::default();
        tasks.spawn("waits", std::future::pending());
        tasks.spawn("returns", async {});
        assert_eq!(
            tasks.ended().await.to_string(),
            "background task `returns` ended: it returned"
        );
        tasks.spawn("panics", panics());
        assert_eq!(
            tasks.ended().await.to_string(),
            "background task `panics` ended: it panicked: of 7"
        );
        tasks.stop("waits");
        assert_eq!(
            tasks.ended().await.to_string(),
            "background task `waits` ended: it was cancelled"
        );
    }

    #[tokio::test]
    async fn a_thread_that_ends_is_named_with_the_reason() {
        let mut tasks = Tasks::default();
        let (open, gate) = std::sync::mpsc::channel::<()>();
        let waits = move || {
            let _ = gate.recv();
        };
        tasks.spawn_thread("waits", waits).unwrap();
        let panics = tasks.spawn_thread("panics", || panic!("of {}", 7));
        panics.unwrap();
        assert_eq!(
            tasks.ended().await.to_string(),
            "background task `panics` ended: it panicked: of 7"
        );
        drop(open);
        assert_eq!(
            tasks.ended().await.to_string(),
            "background task `waits` ended: it returned"
        );
    }

    #[tokio::test]
    async fn tasks_that_run_tell_nothing() {
        let mut tasks = Tasks::default();
        let empty = tokio::time::timeout(std::time::Duration::ZERO, tasks.ended()).await;
        assert!(empty.is_err());
        tasks.spawn("waits", std::future::pending());
        let waiting = tokio::time::timeout(std::time::Duration::ZERO, tasks.ended()).await;
        assert!(waiting.is_err());
    }
}
