//! A decode loop with ONNX Runtime, written as one would: the state goes from one run into the next as it is.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ort::value::{DynValue, Tensor};

use crate::input::{Element, Spec, Values};
use crate::onnxruntime;

/// What each step took.
pub fn steps(model: &Path, library: &Path, elements: usize, steps: usize) -> Result<Vec<Duration>> {
    let environment = onnxruntime::environment(library)?;
    let mut session = onnxruntime::open(&environment, model, 1)?;
    let spec = Spec {
        element: Element::F32,
        shape: vec![1, elements],
    };
    let Values::F32(values) = spec.random(1) else {
        anyhow::bail!("a state of floats");
    };
    let mut state: DynValue = Tensor::from_array((spec.shape, values))?.into_dyn();
    let mut token = 0.5f32;
    let mut took = Vec::with_capacity(steps);
    for _ in 0..steps {
        let begun = Instant::now();
        let input = Tensor::from_array(([1usize, 1], vec![token]))?;
        let mut outputs = session.run(ort::inputs!["token" => input, "state" => state])?;
        state = outputs.remove("next_state").context("no next_state")?;
        let (_, found) = outputs["next_token"].try_extract_tensor::<f32>()?;
        token = *found.first().context("no token")?;
        took.push(begun.elapsed());
    }
    Ok(took)
}
