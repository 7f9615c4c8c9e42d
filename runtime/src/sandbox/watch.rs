//! Imports whose answers a snapshot must not keep: which of them an `init` called first.

use std::sync::{Arc, OnceLock};

use tokio::sync::Notify;

/// Remembers the first import that was called although its answer must not be kept.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watch(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    first: OnceLock<&'static str>,
    called: Notify,
}

impl Watch {
    /// The first such import, if any was called.
    pub fn seen(&self) -> Option<&'static str> {
        self.0.first.get().copied()
    }

    /// Completes once such an import was called.
    pub async fn noticed(&self) {
        self.0.called.notified().await;
    }

    /// Notes a call; only the first counts.
    pub fn call(&self, import: &'static str) {
        if self.0.first.set(import).is_ok() {
            self.0.called.notify_one();
        }
    }
}
