//! Models that never end: their callers get 504, and a second later nothing computes any more.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::Target;
use super::answers::Outcome;
use super::http::Client;
use super::onnx::looping;
use super::processes::{engines, processor_ms};
use super::protocol::{Form, Request};
use super::push::{self, Push};
use super::values::Tensor;

/// How long after the last answer the cores must be idle.
const GRACE: Duration = Duration::from_secs(1);
/// Over how long processor time is measured.
const MEASURED: Duration = Duration::from_millis(500);

/// What came of it, for one backend.
#[derive(Clone, Debug)]
pub struct Loops {
    pub backend: &'static str,
    /// What was answered, with how long that took.
    pub outcomes: Vec<(Outcome, Duration)>,
    /// Processor time of all engines after the grace, as a share of one core, less what it was before.
    pub busy_after: f64,
}

/// Two endless runs at once on each backend.
///
/// # Errors
/// When the model is refused.
pub fn loops(target: &Target) -> Result<Vec<Loops>> {
    let mut client = Client::new(target);
    let mut found = Vec::new();
    for &backend in &target.backends {
        let model = format!("endless-{backend}");
        if let Push::Refused(why) = push::graph(target, &model, &looping(), backend)? {
            bail!("the endless model is refused: {why}");
        }
        let before = busy(&mut client)?;
        let call = || {
            let begun = Instant::now();
            let outcome = Outcome::of(endless(&model).send(&mut Client::new(target)));
            (outcome, begun.elapsed())
        };
        let outcomes = std::thread::scope(|scope| {
            let calls = [scope.spawn(call), scope.spawn(call)];
            calls
                .map(|call| call.join().expect("it does not panic"))
                .to_vec()
        });
        std::thread::sleep(GRACE);
        let busy_after = busy(&mut client)? - before;
        push::delete(&mut client, &model)?;
        found.push(Loops {
            backend,
            outcomes,
            busy_after,
        });
    }
    Ok(found)
}

/// How busy the engines are, in cores.
fn busy(client: &mut Client) -> Result<f64> {
    let engines = engines(client)?;
    let used = || engines.iter().map(|engine| processor_ms(engine.process));
    let (before, begun): (Vec<f64>, _) = (used().collect(), Instant::now());
    std::thread::sleep(MEASURED);
    // One that has ended meanwhile has used nothing.
    let used = used()
        .zip(before)
        .map(|(after, before)| (after - before).max(0.0));
    Ok(used.sum::<f64>() / 1e3 / begun.elapsed().as_secs_f64())
}

fn endless(model: &str) -> Request {
    let tensor = |name: &str, datatype: &str, data: Vec<u8>| Tensor {
        name: name.to_owned(),
        datatype: datatype.to_owned(),
        shape: vec![1],
        data,
    };
    // The most that rten counts to: hours.
    let rounds = i64::from(i32::MAX).to_le_bytes().to_vec();
    let tensors = [
        tensor("n", "INT64", rounds),
        tensor("x", "FP32", 1f32.to_le_bytes().to_vec()),
    ];
    Request::new(model, model, &tensors, Form::Json)
}
