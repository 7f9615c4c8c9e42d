//! `wasi:nn`, asked for as much as it gives.

use std::any::Any;

wit_bindgen::generate!({ path: "../../../runtime/wit/wasi-nn", world: "ml" });

use wasi::nn::errors::Error;
use wasi::nn::graph::{ExecutionTarget, Graph, GraphEncoding, load, load_by_name};
use wasi::nn::tensor::{Tensor, TensorType};

use crate::allocate::Call;

/// Each function of `wasi:nn` that makes the host allocate.
pub const CALLS: &[(&str, Call)] = &[
    ("nn-error-of-a-long-name", long_name),
    ("nn-error-of-many-dimensions", many_dimensions),
    ("nn-error-of-a-long-input", long_input),
    ("nn-error-of-bytes", from_bytes),
    ("nn-error-data", error_data),
    ("nn-load-small", || kept(load_file("small.onnx"))),
    ("nn-load-swelling", || kept(load_file("swelling.onnx"))),
    ("nn-load-packed", || kept(load_file("packed.onnx"))),
    ("nn-load-many-nodes", || kept(load_file("many-nodes.onnx"))),
    ("nn-tensor", || kept(Ok(tensor()))),
    ("nn-tensor-of-nothing", || {
        kept(Ok(Tensor::new(&[0], TensorType::U8, &[])))
    }),
    ("nn-tensor-of-many-dimensions", || kept(Ok(deep()))),
    ("nn-tensor-dimensions", || {
        Some(Box::new((deep().dimensions().len(), deep())))
    }),
    ("nn-tensor-data", || {
        Some(Box::new((tensor().data().len(), tensor())))
    }),
    ("nn-graph", || kept(load_by_name("double"))),
    ("nn-context", || kept(graph().init_execution_context())),
    ("nn-outputs", outputs),
];

fn kept<T: 'static>(made: Result<T, Error>) -> Option<Box<dyn Any>> {
    Some(Box::new(made.ok()?))
}

fn error<T>(made: Result<T, Error>) -> Option<Box<dyn Any>> {
    Some(Box::new(made.err().expect("it was meant to fail")))
}

fn graph() -> Graph {
    load_by_name("double").expect("the test gives it")
}

/// A model of the bundle's files, loaded from its bytes.
fn load_file(name: &str) -> Result<Graph, Error> {
    let bytes = std::fs::read(format!("/{name}")).expect("the test gives it");
    load(&[bytes], GraphEncoding::Onnx, ExecutionTarget::Cpu)
}

fn tensor() -> Tensor {
    Tensor::new(&[1 << 18], TensorType::Fp32, &vec![1; 1 << 20])
}

fn deep() -> Tensor {
    Tensor::new(&vec![1; 1 << 20], TensorType::U8, &[1])
}

fn long_name() -> Option<Box<dyn Any>> {
    error(load_by_name(&"x".repeat(1 << 20)))
}

fn from_bytes() -> Option<Box<dyn Any>> {
    error(load(
        &[vec![1; 1 << 20]],
        GraphEncoding::Onnx,
        ExecutionTarget::Cpu,
    ))
}

fn many_dimensions() -> Option<Box<dyn Any>> {
    let context = graph().init_execution_context().ok()?;
    error(context.compute(vec![("x".to_owned(), deep())]))
}

fn long_input() -> Option<Box<dyn Any>> {
    let context = graph().init_execution_context().ok()?;
    error(context.compute(vec![("y".repeat(1 << 20), tensor())]))
}

fn error_data() -> Option<Box<dyn Any>> {
    let error = load_by_name(&"x".repeat(1 << 20)).err()?;
    Some(Box::new((error.data().len(), error)))
}

fn outputs() -> Option<Box<dyn Any>> {
    let context = graph().init_execution_context().ok()?;
    kept(context.compute(vec![("x".to_owned(), tensor())]))
}
