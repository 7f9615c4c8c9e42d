//! rten: one model that all threads share, and a pool of its own for each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rten::{Model, ModelOptions, RunOptions, ThreadPool, Value, ValueOrView};

use crate::Which;
use crate::input::{Spec, Values};
use crate::measure::{Runs, in_parallel};

fn open(which: &Which) -> Result<Model> {
    ModelOptions::with_all_ops()
        .load_file(&which.model)
        .with_context(|| format!("loading {}", which.model.display()))
}

/// Runs on random inputs.
pub fn run(which: &Which, inputs: &[Spec], parallel: usize, duration: Duration) -> Result<Runs> {
    let model = &open(which)?;
    ensure!(
        model.input_ids().len() == inputs.len(),
        "the model has {} inputs, {} were given",
        model.input_ids().len(),
        inputs.len()
    );
    let mut bodies = Vec::new();
    for seed in 1..=parallel as u64 {
        let pool = Arc::new(ThreadPool::with_num_threads(which.threads));
        let values: Vec<Value> = inputs
            .iter()
            .map(|spec| value(spec, seed))
            .collect::<Result<_>>()?;
        bodies.push(move || {
            // On a thread of the pool, as Samovar does: each operator would hop to it otherwise.
            pool.run(|| {
                let ids = model.input_ids().iter().copied();
                let given = ids.zip(
                    values
                        .iter()
                        .map(|value| ValueOrView::View(value.as_view())),
                );
                let mut options = RunOptions::default();
                options.thread_pool = Some(Arc::clone(&pool));
                let outputs = model.run(given.collect(), model.output_ids(), Some(options))?;
                std::hint::black_box(&outputs);
                Ok(())
            })
        });
    }
    in_parallel(bodies, duration)
}

/// Loads the model; the first time does not count.
pub fn load(which: &Which, times: usize) -> Result<Vec<Duration>> {
    drop(open(which)?);
    (0..times)
        .map(|_| {
            let begun = Instant::now();
            let model = open(which)?;
            let took = begun.elapsed();
            drop(model);
            Ok(took)
        })
        .collect()
}

fn value(spec: &Spec, seed: u64) -> Result<Value> {
    let shape = &spec.shape;
    Ok(match spec.random(seed) {
        Values::F16(_) => bail!("rten has no f16 inputs"),
        Values::F32(values) => Value::from_shape(shape, values)?,
        Values::I32(values) => Value::from_shape(shape, values)?,
        Values::I64(values) => {
            let narrow: Result<Vec<i32>, _> = values.into_iter().map(i32::try_from).collect();
            Value::from_shape(shape, narrow?)?
        }
    })
}
