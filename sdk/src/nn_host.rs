//! Inference in a component, by the host through `wasi:nn`.

use crate::Error;
use crate::bindings::wasi::nn::errors::{Error as NnError, ErrorCode};
use crate::bindings::wasi::nn::graph::load_by_name;
use crate::bindings::wasi::nn::inference::GraphExecutionContext;
use crate::bindings::wasi::nn::tensor::{Tensor as NnTensor, TensorType};
use crate::tensor::{ElementType, RawTensor, TensorData};

/// A tensor on the host.
pub(crate) type Held = NnTensor;

/// A loaded graph.
pub(crate) struct Context(GraphExecutionContext);

impl Context {
    pub(crate) fn load(name: &str) -> Result<Self, Error> {
        let load = || load_by_name(name)?.init_execution_context();
        let context = load();
        context
            .map(Self)
            .map_err(|error| nn_error(&format!("graph {name:?} did not load"), &error))
    }

    pub(crate) fn compute(
        &self,
        name: &str,
        inputs: Vec<(String, Held)>,
    ) -> Result<Vec<(String, Held)>, Error> {
        let outputs = self.0.compute(inputs);
        outputs.map_err(|error| nn_error(&format!("graph {name:?} did not compute"), &error))
    }
}

/// Copies a guest's tensor to the host.
pub(crate) fn hold(tensor: &(impl TensorData + ?Sized)) -> Held {
    NnTensor::new(
        tensor.dimensions(),
        tensor_type(tensor.element_type()),
        tensor.bytes(),
    )
}

/// Copies a host's tensor to the guest.
pub(crate) fn read(tensor: &Held) -> Result<RawTensor, Error> {
    RawTensor::new(tensor.dimensions(), element_type(tensor), tensor.data())
}

pub(crate) fn dimensions(tensor: &Held) -> Vec<u32> {
    tensor.dimensions()
}

pub(crate) fn element_type(tensor: &Held) -> ElementType {
    match tensor.ty() {
        TensorType::Fp16 => ElementType::F16,
        TensorType::Bf16 => ElementType::Bf16,
        TensorType::Fp32 => ElementType::F32,
        TensorType::Fp64 => ElementType::F64,
        TensorType::U8 => ElementType::U8,
        TensorType::I32 => ElementType::I32,
        TensorType::I64 => ElementType::I64,
    }
}

fn tensor_type(element: ElementType) -> TensorType {
    match element {
        ElementType::F16 => TensorType::Fp16,
        ElementType::Bf16 => TensorType::Bf16,
        ElementType::F32 => TensorType::Fp32,
        ElementType::F64 => TensorType::Fp64,
        ElementType::U8 => TensorType::U8,
        ElementType::I32 => TensorType::I32,
        ElementType::I64 => TensorType::I64,
    }
}

fn nn_error(what: &str, error: &NnError) -> Error {
    let (status, code) = match error.code() {
        ErrorCode::InvalidArgument => (400, "invalid_tensor"),
        ErrorCode::InvalidEncoding => (500, "invalid_graph"),
        ErrorCode::Timeout => (504, "inference_timeout"),
        ErrorCode::RuntimeError => (500, "inference_failed"),
        ErrorCode::UnsupportedOperation => (500, "unsupported_operation"),
        ErrorCode::TooLarge => (413, "too_large"),
        ErrorCode::NotFound => (500, "graph_not_found"),
        ErrorCode::Security => (500, "not_permitted"),
        ErrorCode::Unknown => (500, "inference_failed"),
    };
    Error::new(status, code, format!("{what}: {}", error.data()))
}
