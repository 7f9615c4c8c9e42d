//! ONNX Runtime as the binding offers it: a session for each thread, set up as Samovar sets up its own.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ort::environment::Environment;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{Session, SessionInputValue};
use ort::value::{DynValue, Tensor};

use crate::Which;
use crate::input::{Spec, Values};
use crate::measure::{Runs, in_parallel};

pub fn environment(library: &Path) -> Result<Environment> {
    Ok(ort::init_from(library)?
        .with_name("bare")
        .with_telemetry(false)
        .build()?)
}

pub fn open(environment: &Environment, model: &Path, threads: usize) -> Result<Session> {
    let session = || {
        Session::builder(environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(threads)?
            .with_inter_threads(1)?
            .with_intra_op_spinning(false)?
            .with_inter_op_spinning(false)?
            .commit_from_file(model)
    };
    session().with_context(|| format!("loading {}", model.display()))
}

/// Runs on random inputs.
pub fn run(which: &Which, inputs: &[Spec], parallel: usize, duration: Duration) -> Result<Runs> {
    let environment = environment(library(which)?)?;
    let mut bodies = Vec::new();
    for seed in 1..=parallel as u64 {
        let mut session = open(&environment, &which.model, which.threads)?;
        ensure!(
            session.inputs().len() == inputs.len(),
            "the model has {} inputs, {} were given",
            session.inputs().len(),
            inputs.len()
        );
        let values: Vec<SessionInputValue<'static>> = inputs
            .iter()
            .map(|spec| Ok(value(spec, seed)?.into()))
            .collect::<Result<_>>()?;
        bodies.push(move || {
            let outputs = session.run(values.as_slice())?;
            std::hint::black_box(&outputs);
            Ok(())
        });
    }
    in_parallel(bodies, duration)
}

/// Loads the model; the first time, which reads the library's pages too, does not count.
pub fn load(which: &Which, times: usize) -> Result<Vec<Duration>> {
    let environment = environment(library(which)?)?;
    drop(open(&environment, &which.model, which.threads)?);
    (0..times)
        .map(|_| {
            let begun = Instant::now();
            let session = open(&environment, &which.model, which.threads)?;
            let took = begun.elapsed();
            drop(session);
            Ok(took)
        })
        .collect()
}

/// A random value on the host.
pub fn value(spec: &Spec, seed: u64) -> Result<DynValue> {
    let shape = spec.shape.clone();
    Ok(match spec.random(seed) {
        Values::F16(values) => Tensor::from_array((shape, values))?.into_dyn(),
        Values::F32(values) => Tensor::from_array((shape, values))?.into_dyn(),
        Values::I32(values) => Tensor::from_array((shape, values))?.into_dyn(),
        Values::I64(values) => Tensor::from_array((shape, values))?.into_dyn(),
    })
}

pub fn library(which: &Which) -> Result<&Path> {
    which
        .library
        .as_deref()
        .context("onnxruntime needs --library")
}
