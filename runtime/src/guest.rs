//! Calls into a guest outside of requests: `init` within its time limit, and what a wasmtime error says of the guest.

use std::pin::Pin;
use std::time::Duration;

use wasmtime::component::{Instance, ResourceTableError};
use wasmtime::{Store, Trap};
use wasmtime_wasi::I32Exit;

use crate::account::OverLimit;
use crate::admission::LIFECYCLE;
use crate::limits::Limits;
use crate::request::failure::{GuestFailure, truncate_reason};
use crate::sandbox::Sandbox;

/// The time limit of a step passed.
#[derive(Debug)]
pub(crate) struct TimedOut;

/// Runs `step` for at most `timeout` after `begin` completes.
///
/// A guest can use up tokio's cooperative budget in each of its polls. The timer takes no part in that budget, so that it
/// fires all the same.
pub(crate) async fn with_timeout<F: Future>(
    timeout: Duration,
    begin: impl Future<Output = ()>,
    step: Pin<&mut F>,
) -> Result<F::Output, TimedOut> {
    let timer = tokio::task::unconstrained(async {
        begin.await;
        tokio::time::sleep(timeout).await;
    });
    tokio::select! {
        biased;
        output = step => Ok(output),
        () = timer => Err(TimedOut),
    }
}

/// Calls the component's `lifecycle.init`.
///
/// # Errors
/// What `init` returned, why it trapped, or how its export differs from the contract.
pub(crate) async fn call_init(
    store: &mut Store<Sandbox>,
    instance: &Instance,
    limits: &Limits,
) -> Result<(), String> {
    let mismatch = |what: &str| format!("{LIFECYCLE}: {what}");
    let interface = instance
        .get_export_index(&mut *store, None, LIFECYCLE)
        .ok_or_else(|| mismatch("not exported"))?;
    let function = instance
        .get_export_index(&mut *store, Some(&interface), "init")
        .ok_or_else(|| mismatch("has no function `init`"))?;
    let function = instance
        .get_typed_func::<(), (Result<(), String>,)>(&mut *store, function)
        .map_err(|e| {
            mismatch(&format!(
                "`init` must be func() -> result<_, string>: {e:#}"
            ))
        })?;
    match function.call_async(&mut *store, ()).await {
        Ok((Ok(()),)) => Ok(()),
        Ok((Err(reason),)) => Err(truncate_reason(reason)),
        Err(error) => Err(classify(&error, store, limits).to_string()),
    }
}

/// Finds the guest's failure behind a wasmtime error: an exit, too many handles, the memory limit, or else a trap.
pub(crate) fn classify(
    error: &wasmtime::Error,
    store: &mut Store<Sandbox>,
    limits: &Limits,
) -> GuestFailure {
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        return GuestFailure::Exit(exit.0);
    }
    if let Some(excess) = store.data().excess() {
        return GuestFailure::Trap(excess.to_string());
    }
    let over = error.downcast_ref::<OverLimit>();
    let over = over.map(|over| over.wanted_bytes);
    if let Some(wanted_bytes) = over.or_else(|| store.data_mut().limiter.take_denied()) {
        return GuestFailure::Memory {
            wanted_bytes,
            limit_bytes: limits.memory_bytes,
        };
    }
    if let Some(ResourceTableError::Full) = error.root_cause().downcast_ref() {
        return GuestFailure::Trap(store.data_mut().describe_handle_limit());
    }
    match error.downcast_ref::<Trap>() {
        Some(trap) => GuestFailure::Trap(trap.to_string()),
        None => GuestFailure::Trap(truncate_reason(format!("{:#}", error.root_cause()))),
    }
}
