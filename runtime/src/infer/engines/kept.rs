//! Outputs that stay in their engine, as the node has them: a number, until somebody wants the elements.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;

use super::running::Running;
use super::wire::Then;
use crate::infer::backend::tensor::{Data, Kept, Place};

/// A tensor that stays in its engine as long as this is there.
pub(super) struct KeptAway {
    engine: Arc<Running>,
    number: u64,
    bytes: usize,
    place: Place,
    /// A run has taken it, and it is gone with that.
    gone: AtomicBool,
}

impl fmt::Debug for KeptAway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "tensor {} of {:?}, {} bytes",
            self.number, self.engine, self.bytes
        )
    }
}

impl KeptAway {
    /// A tensor that this engine has under this number.
    pub fn new(engine: Arc<Running>, number: u64, bytes: usize, place: Place) -> Self {
        Self {
            engine,
            number,
            bytes,
            place,
            gone: AtomicBool::new(false),
        }
    }

    /// The tensor that these elements are, if they stay in an engine.
    pub fn of(data: &Data) -> Option<&Self> {
        let Data::Kept(kept) = data else { return None };
        let any: &dyn Any = &**kept;
        any.downcast_ref()
    }

    /// Whether it stays in this engine.
    pub fn is_in(&self, engine: &Arc<Running>) -> bool {
        Arc::ptr_eq(&self.engine, engine)
    }

    /// Its number there.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// What becomes of it when a run takes it as `data`.
    pub fn then(&self, data: &Data) -> Then {
        match data {
            Data::Kept(kept) if Arc::strong_count(kept) == 1 => Then::Drop,
            _ => Then::Keep,
        }
    }

    /// Notes that the engine drops it with the run that takes it as `data`, if it does.
    pub fn note_then(&self, data: &Data) {
        if self.then(data) == Then::Drop {
            self.gone.store(true, Ordering::Relaxed);
        }
    }
}

impl Kept for KeptAway {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn place(&self) -> Place {
        self.place
    }

    fn read(&self) -> Result<Cow<'_, [u8]>, String> {
        // Only threads that may block come here: whoever may not takes `fetch`.
        futures::executor::block_on(self.fetch()).map(Cow::Owned)
    }

    fn fetched(&self) -> Option<BoxFuture<'static, Result<Vec<u8>, String>>> {
        Some(self.fetch().boxed())
    }
}

impl KeptAway {
    fn fetch(&self) -> impl Future<Output = Result<Vec<u8>, String>> + Send + use<> {
        let read = self.engine.read(self.number, self.bytes);
        async move {
            let read = read.await;
            read.unwrap_or_else(|_| Err("its engine is gone".into()))
                .map_err(|why| format!("the elements cannot be read from their engine: {why}"))
        }
    }
}

impl Drop for KeptAway {
    fn drop(&mut self) {
        if !*self.gone.get_mut() {
            self.engine.forget(self.number);
        }
    }
}
