//! A model on its way out of memory: a large one is taken apart on a thread that may block, since its last user may be a
//! replica that goes on an executor thread.

use std::ops::Deref;
use std::sync::Arc;

use tokio::runtime::Handle;

/// Models of files that are larger are taken apart elsewhere.
const LARGE_BYTES: u64 = 1 << 20;

/// A model, which a thread that may block drops if it is large.
pub(super) struct Unloading<M: Send + Sync + 'static> {
    /// Nothing only while this is dropped.
    model: Option<Arc<M>>,
    bytes: u64,
}

impl<M: Send + Sync + 'static> Unloading<M> {
    /// A model of a file of so many bytes.
    pub fn new(model: M, bytes: u64) -> Self {
        Self {
            model: Some(Arc::new(model)),
            bytes,
        }
    }
}

impl<M: Send + Sync + 'static> Deref for Unloading<M> {
    type Target = Arc<M>;

    fn deref(&self) -> &Arc<M> {
        match &self.model {
            Some(model) => model,
            None => unreachable!("it is taken out when this is dropped, and never before"),
        }
    }
}

impl<M: Send + Sync + 'static> Drop for Unloading<M> {
    fn drop(&mut self) {
        if self.bytes < LARGE_BYTES {
            return;
        }
        // Without an executor there is none to hold up.
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
        drop(Unloading::new(Model(Some(sender)), bytes));
        receiver.await.unwrap()
    }

    #[tokio::test]
    async fn only_a_large_model_goes_on_another_thread() {
        let here = thread::current().id();
        assert_eq!(dropped_by(LARGE_BYTES - 1).await, here);
        assert_ne!(dropped_by(LARGE_BYTES).await, here);
    }

    #[test]
    fn without_an_executor_it_goes_at_once() {
        let (sender, mut receiver) = oneshot::channel();
        drop(Unloading::new(Model(Some(sender)), LARGE_BYTES));
        assert_eq!(
            receiver.try_recv().unwrap().unwrap(),
            thread::current().id()
        );
    }
}
