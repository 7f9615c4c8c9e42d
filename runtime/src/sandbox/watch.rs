//! Records the first call of an import whose result a snapshot must not hold.

use std::sync::{Arc, OnceLock};

use tokio::sync::Notify;

/// The first call of such an import, shared by a store and the task that takes the snapshot.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallWatch(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    first: OnceLock<&'static str>,
    on_call: Notify,
}

impl CallWatch {
    /// The first such import, if any was called.
    pub fn first(&self) -> Option<&'static str> {
        self.0.first.get().copied()
    }

    /// Completes once such an import was called.
    pub async fn called(&self) {
        self.0.on_call.notified().await;
    }

    /// Records a call. Only the first counts.
    pub fn record(&self, import: &'static str) {
        if self.0.first.set(import).is_ok() {
            self.0.on_call.notify_one();
        }
    }
}
