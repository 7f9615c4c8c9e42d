//! The errors that guests see.

use wasmtime::component::Resource;

use super::NnView;
use super::bindings::errors::{ErrorCode, Host, HostError};

/// An error of wasi-nn: its code and its explanation.
#[derive(Clone, Debug)]
pub struct NnError {
    pub(super) code: ErrorCode,
    pub(super) data: String,
}

/// What a call gives that can fail in the guest's eyes.
pub(super) type Answer<T> = wasmtime::Result<Result<T, Resource<NnError>>>;

impl NnView<'_> {
    pub(super) fn error<T>(&mut self, code: ErrorCode, data: impl ToString) -> Answer<T> {
        let error = NnError {
            code,
            data: data.to_string(),
        };
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
        self.table.delete(error)?;
        Ok(())
    }
}
