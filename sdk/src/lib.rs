#![cfg_attr(test, allow(clippy::unwrap_used))]
#![doc = include_str!("../README.md")]
#![warn(clippy::missing_errors_doc)]

#[doc(hidden)]
pub mod bindings;
pub mod config;
mod error;
pub mod files;
pub mod graph;
mod host_tensor;
pub mod http;
mod json;
pub mod log;
mod model;
#[cfg(target_family = "wasm")]
mod nn_host;
#[cfg(not(target_family = "wasm"))]
mod nn_native;
mod scores;
pub mod tensor;
#[cfg(not(target_family = "wasm"))]
pub mod testing;

#[cfg(target_family = "wasm")]
use nn_host as nn;
#[cfg(not(target_family = "wasm"))]
use nn_native as nn;

pub use error::Error;
pub use graph::Graph;
pub use host_tensor::HostTensor;
pub use http::{FromRequest, IntoResponse, Json, Request, Response};
pub use model::Model;
pub use samovar_sdk_macros::model;
pub use scores::argmax;
pub use tensor::{Tensor, TensorData, TensorView};

#[doc(hidden)]
pub mod __private {
    //! What the code that `#[model]` generates calls; not for use by hand.

    pub use crate::model::{init, serve};
    pub use wasip2;
}
