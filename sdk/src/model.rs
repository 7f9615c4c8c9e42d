//! The model: loaded once in a replica, asked many times.

use std::cell::RefCell;

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

use crate::{Error, Request, Response, http};

/// A model with state: graphs, tables, a tokenizer.
///
/// Put [`#[samovar_sdk::model]`](macro@crate::model) on the `impl` to make the crate's component of it.
pub trait Model: Sized {
    /// Makes the model ready, before a replica's first request; an error keeps the replica from serving.
    fn load() -> Result<Self, Error>;

    /// Answers one `POST /predict`.
    fn predict(&mut self, request: Request) -> Result<Response, Error>;

    /// Answers every request; override it for other routes than [`http::route`] has.
    fn handle(&mut self, request: Request) -> Result<Response, Error> {
        http::route(self, request)
    }
}

/// Loads the model into `slot`.
pub fn init<M: Model>(slot: &RefCell<Option<M>>) -> Result<(), String> {
    let model = M::load().map_err(|error| error.to_string())?;
    slot.replace(Some(model));
    forget_folders();
    Ok(())
}

/// The library under `std::fs` keeps the host's folders open that it has found. They are found again when they are needed;
/// an `init` that leaves none open can be kept as a snapshot, where no handle of the host lives on.
fn forget_folders() {
    #[cfg(all(target_os = "wasi", target_env = "p2"))]
    {
        unsafe extern "C" {
            fn __wasilibc_reset_preopens();
        }
        // SAFETY: wasi-libc offers it for this, it has no preconditions, and a component has one thread.
        unsafe { __wasilibc_reset_preopens() }
    }
}

/// Answers one request of the host's.
pub fn serve<M: Model>(
    slot: &RefCell<Option<M>>,
    request: IncomingRequest,
    outparam: ResponseOutparam,
) {
    http::serve(slot, request, outparam);
}
