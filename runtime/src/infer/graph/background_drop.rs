//! Drops large models on a blocking thread, because the last user of a model may be dropped on an executor thread.

use std::ops::Deref;
use std::sync::Arc;

use tokio::runtime::Handle;

/// Models with files of at least this size, in bytes, are dropped on a blocking thread.
const LARGE_BYTES: u64 = 1 << 20;

/// A model that is dropped on a blocking thread if it is large.
pub(super) struct BackgroundDrop<M: Send + Sync + 'static> {
    /// `None` only during `drop`.
    model: Option<Arc<M>>,
    bytes: u64,
}

impl<M: Send + Sync + 'static> BackgroundDrop<M> {
    /// A model with files of `bytes`.
    pub fn new(model: M, bytes: u64) -> Self {
        Self {
            model: Some(Arc::new(model)),
            bytes,
        }
    }
}

impl<M: Send + Sync + 'static> Deref for BackgroundDrop<M> {
    type Target = Arc<M>;

    fn deref(&self) -> &Arc<M> {
        match &self.model {
            Some(model) => model,
            None => unreachable!("the model is taken out in `drop` only"),
        }
    }
}

impl<M: Send + Sync + 'static> Drop for BackgroundDrop<M> {
    fn drop(&mut self) {
        if self.bytes < LARGE_BYTES {
            return;
        }
        // Without an executor no thread of one can be blocked.
        if let (Some(model), Ok(executor)) = (self.model.take(), Handle::try_current()) {
            executor.spawn_blocking(move || drop(model));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread::{self, ThreadId};

    use futures::channel::oneshot;

    use super::*;

    struct Model(Option<oneshot::Sender<ThreadId>>);

    impl Drop for Model {
        fn drop(&mut self) {
            if let Some(sender) = self.0.take() {
                let _ = sender.send(thread::current().id());
            }
        }
    }

    async fn dropped_by(bytes: u64) -> ThreadId {
        let (sender, receiver) = oneshot::channel();
        drop(BackgroundDrop::new(Model(Some(sender)), bytes));
        receiver.await.unwrap()
    }

    #[tokio::test]
    async fn only_a_large_model_is_dropped_on_another_thread() {
        let here = thread::current().id();
        assert_eq!(dropped_by(LARGE_BYTES - 1).await, here);
        assert_ne!(dropped_by(LARGE_BYTES).await, here);
    }

    #[test]
    fn without_an_executor_it_is_dropped_at_once() {
        let (sender, mut receiver) = oneshot::channel();
        drop(BackgroundDrop::new(Model(Some(sender)), LARGE_BYTES));
        assert_eq!(
            receiver.try_recv().unwrap().unwrap(),
            thread::current().id()
        );
    }
}
