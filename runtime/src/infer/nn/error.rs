//! The errors that guests see.

use std::fmt::Display;

use wasmtime::component::Resource;

use super::NnView;
use super::bindings::errors::{ErrorCode, Host, HostError};
use crate::text::bounded;

/// An error of wasi-nn: its code and its explanation, which is never long.
#[derive(Clone, Debug)]
pub struct NnError {
    pub(super) code: ErrorCode,
    pub(super) data: String,
}

impl NnError {
    /// What it counts for in its replica's limit.
    fn weight(&self) -> u64 {
        (size_of::<Self>() + self.data.capacity()) as u64
    }
}

/// What a call gives that can fail in the guest's eyes.
pub(super) type Answer<T> = wasmtime::Result<Result<T, Resource<NnError>>>;

impl NnView<'_> {
    pub(super) fn error<T>(&mut self, code: ErrorCode, data: impl Display) -> Answer<T> {
        let error = NnError {
            code,
            data: bounded(data),
        };
        self.ctx.hold(error.weight())?;
        Ok(Err(self.table.push(error)?))
    }
}

impl Host for NnView<'_> {}

impl HostError for NnView<'_> {
    fn code(&mut self, error: Resource<NnError>) -> wasmtime::Result<ErrorCode> {
        Ok(self.table.get(&error)?.code)
    }

    fn data(&mut self, error: Resource<NnError>) -> wasmtime::Result<String> {
        Ok(self.table.get(&error)?.data.clone())
    }

    fn drop(&mut self, error: Resource<NnError>) -> wasmtime::Result<()> {
        let error = self.table.delete(error)?;
        self.ctx.release(error.weight());
        Ok(())
    }
}
