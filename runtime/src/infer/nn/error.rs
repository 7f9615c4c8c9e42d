//! The errors of wasi-nn that guests see.

use std::fmt::Display;

use wasmtime::component::Resource;

use super::NnView;
use super::bindings::errors::{ErrorCode, Host, HostError};
use crate::text::bounded;

/// An error of wasi-nn: its code, and an explanation of bounded length.
#[derive(Clone, Debug)]
pub struct NnError {
    pub(super) code: ErrorCode,
    pub(super) data: String,
}

impl NnError {
    /// Bytes charged to the replica.
    fn charged_bytes(&self) -> u64 {
        (size_of::<Self>() + self.data.capacity()) as u64
    }
}

/// The result of a call: the outer error traps the guest, the inner one is returned to it.
pub(super) type HostResult<T> = wasmtime::Result<Result<T, Resource<NnError>>>;

impl NnView<'_> {
    pub(super) fn error<T>(&mut self, code: ErrorCode, data: impl Display) -> HostResult<T> {
        let error = NnError {
            code,
            data: bounded(data),
        };
        self.ctx.charge(error.charged_bytes())?;
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
        self.ctx.refund(error.charged_bytes());
        Ok(())
    }
}
