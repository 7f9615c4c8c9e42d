//! Outputs that stay in their engine. The node has only their number until the elements are read.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;

use super::handle::EngineHandle;
use super::wire::AfterRun;
use crate::infer::backend::tensor::{Data, Kept, Place};

/// A tensor in an engine, which drops it when this is dropped.
pub(super) struct RemoteData {
    engine: Arc<EngineHandle>,
    number: u64,
    bytes: usize,
    place: Place,
    /// Moved into a run, which drops it.
    moved: AtomicBool,
}

impl fmt::Debug for RemoteData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "tensor {} of {:?}, {} bytes",
            self.number, self.engine, self.bytes
        )
    }
}

impl RemoteData {
    /// The tensor with this number in an engine.
    pub fn new(engine: Arc<EngineHandle>, number: u64, bytes: usize, place: Place) -> Self {
        Self {
            engine,
            number,
            bytes,
            place,
            moved: AtomicBool::new(false),
        }
    }

    /// The tensor if these elements are in an engine.
    pub fn of(data: &Data) -> Option<&Self> {
        let Data::Kept(kept) = data else { return None };
        let any: &dyn Any = &**kept;
        any.downcast_ref()
    }

    /// Whether it is in this engine.
    pub fn is_in(&self, engine: &Arc<EngineHandle>) -> bool {
        Arc::ptr_eq(&self.engine, engine)
    }

    /// Its number there.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether the engine keeps it after a run that gets it as `data`.
    pub fn after_run(&self, data: &Data) -> AfterRun {
        match data {
            Data::Kept(kept) if Arc::strong_count(kept) == 1 => AfterRun::Drop,
            _ => AfterRun::Keep,
        }
    }

    /// Records that it was moved into a run that gets it as `data`, if the engine then drops it.
    pub fn record_move(&self, data: &Data) {
        if self.after_run(data) == AfterRun::Drop {
            self.moved.store(true, Ordering::Relaxed);
        }
    }
}

impl Kept for RemoteData {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn place(&self) -> Place {
        self.place
    }

    fn read(&self) -> Result<Cow<'_, [u8]>, String> {
        // Only called on threads that may block; others use `fetched`.
        futures::executor::block_on(self.fetch()).map(Cow::Owned)
    }

    fn fetched(&self) -> Option<BoxFuture<'static, Result<Vec<u8>, String>>> {
        Some(self.fetch().boxed())
    }
}

impl RemoteData {
    fn fetch(&self) -> impl Future<Output = Result<Vec<u8>, String>> + Send + use<> {
        let read = self.engine.read(self.number, self.bytes);
        async move {
            let read = read.await;
            read.unwrap_or_else(|_| Err("its engine has ended".into()))
                .map_err(|why| format!("the elements cannot be read from their engine: {why}"))
        }
    }
}

impl Drop for RemoteData {
    fn drop(&mut self) {
        if !*self.moved.get_mut() {
            self.engine.drop_tensor(self.number);
        }
    }
}
