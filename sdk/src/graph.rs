//! Graphs: the model files a manifest names, ready to compute.

use std::rc::Rc;

use crate::Error;
use crate::bindings::wasi::nn::errors::{Error as NnError, ErrorCode};
use crate::bindings::wasi::nn::graph::load_by_name;
use crate::bindings::wasi::nn::inference::GraphExecutionContext;
use crate::bindings::wasi::nn::tensor::{Tensor as NnTensor, TensorType};
use crate::tensor::{Element, ElementType, RawTensor, Tensor, TensorData};

/// A graph of the manifest, loaded. Clones are cheap and share it.
#[derive(Clone)]
pub struct Graph {
    name: Rc<str>,
    context: Rc<GraphExecutionContext>,
}

impl Graph {
    /// Loads the graph that the manifest has under `[graphs.NAME]`.
    ///
    /// Do it once, in [`Model::load`](crate::Model::load).
    pub fn load(name: &str) -> Result<Self, Error> {
        let load = || load_by_name(name)?.init_execution_context();
        let context =
            load().map_err(|error| nn_error(&format!("graph {name:?} did not load"), &error))?;
        Ok(Self {
            name: name.into(),
            context: Rc::new(context),
        })
    }

    /// The name it was loaded by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs the graph on inputs by name and gives its outputs.
    ///
    /// Inputs of different types go together as `&dyn TensorData`:
    /// `graph.compute(&[("ids", &ids as &dyn TensorData), ("mask", &mask)])`.
    pub fn compute<D: TensorData>(&self, inputs: &[(&str, D)]) -> Result<Outputs, Error> {
        let inputs = inputs.iter().map(|(name, tensor)| {
            let tensor = NnTensor::new(
                tensor.dimensions(),
                tensor_type(tensor.element_type()),
                tensor.bytes(),
            );
            ((*name).to_owned(), tensor)
        });
        let outputs = self.context.compute(inputs.collect());
        let outputs = outputs
            .map_err(|error| nn_error(&format!("graph {:?} did not compute", self.name), &error))?;
        Ok(Outputs {
            graph: Rc::clone(&self.name),
            tensors: outputs,
        })
    }
}

/// The named outputs of one inference. They stay with the host until asked for.
pub struct Outputs {
    graph: Rc<str>,
    tensors: Vec<(String, NnTensor)>,
}

impl Outputs {
    /// The outputs' names, in the graph's order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|(name, _)| name.as_str())
    }

    /// The output `name` with elements of type `T`.
    pub fn get<T: Element>(&self, name: &str) -> Result<Tensor<T>, Error> {
        self.raw(name)?
            .into_typed()
            .map_err(|error| self.about(name, &error))
    }

    /// The first output with elements of type `T`: the only one, for many graphs.
    pub fn first<T: Element>(&self) -> Result<Tensor<T>, Error> {
        match self.tensors.first() {
            Some((name, _)) => self.get(name),
            None => Err(Error::new(
                500,
                "no_such_output",
                format!("graph {:?} has no outputs", self.graph),
            )),
        }
    }

    /// The output `name` whatever its elements are.
    pub fn raw(&self, name: &str) -> Result<RawTensor, Error> {
        let Some((_, tensor)) = self.tensors.iter().find(|(found, _)| found == name) else {
            let names: Vec<&str> = self.names().collect();
            return Err(Error::new(
                500,
                "no_such_output",
                format!(
                    "graph {:?} has no output {name:?}, it has {names:?}",
                    self.graph
                ),
            ));
        };
        let raw = RawTensor::new(
            tensor.dimensions(),
            element_type(tensor.ty()),
            tensor.data(),
        );
        raw.map_err(|error| self.about(name, &error))
    }

    fn about(&self, name: &str, error: &Error) -> Error {
        Error::new(
            error.status(),
            error.code(),
            format!("output {name:?} of graph {:?}: {error}", self.graph),
        )
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

fn element_type(tensor: TensorType) -> ElementType {
    match tensor {
        TensorType::Fp16 => ElementType::F16,
        TensorType::Bf16 => ElementType::Bf16,
        TensorType::Fp32 => ElementType::F32,
        TensorType::Fp64 => ElementType::F64,
        TensorType::U8 => ElementType::U8,
        TensorType::I32 => ElementType::I32,
        TensorType::I64 => ElementType::I64,
    }
}
