//! Models beside those that are attacked: called all the time, each answer compared with what is right.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::Target;
use super::answers::Outcome;
use super::http::Client;
use super::onnx::{Node, Value as Port, model};
use super::protocol::{Form, Request};
use super::push::{self, Push};
use super::values::Tensor;

/// Time between an answer and the next request, so that the neighbours leave cores to those who attack.
const PAUSE: Duration = Duration::from_millis(4);
/// Failures of which the text is kept.
const MAX_TOLD: usize = 50;

/// What became of the neighbours' requests.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    pub right: u64,
    pub failed: u64,
    pub wrong: u64,
    pub hung: u64,
    /// The first of those that were not right, with the time since the start.
    pub told: Vec<String>,
    pub latencies: Vec<Duration>,
}

/// Callers of the neighbours.
pub struct Neighbours {
    stop: Arc<AtomicBool>,
    calls: Arc<Mutex<Calls>>,
    threads: Vec<JoinHandle<()>>,
}

/// `y = a + b`, of any number of rows of two.
pub fn sum() -> Vec<u8> {
    let dims = &[None, Some(2)];
    let port = |name| Port { name, ty: 1, dims };
    let node = Node {
        op: "Add",
        inputs: &["a", "b"],
        output: "y",
        attribute: None,
    };
    model(14, &[node], &[port("a"), port("b")], &[port("y")])
}

impl Neighbours {
    /// Pushes a small model for each backend and calls each of them from one thread.
    ///
    /// # Errors
    /// When one cannot be pushed.
    pub fn start(target: &Target) -> Result<Self> {
        let (stop, calls) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Calls>>::default());
        let mut threads = Vec::new();
        for &backend in &target.backends {
            let name = format!("neighbour-{backend}");
            if let Push::Refused(why) = push::graph(target, &name, &sum(), backend)? {
                bail!("the neighbour is refused: {why}");
            }
            let (target, stop, calls) = (target.clone(), stop.clone(), calls.clone());
            threads.push(std::thread::spawn(move || {
                let mut client = Client::new(&target);
                let begun = Instant::now();
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    number = (number + 1) % 1_000_000;
                    let called = Instant::now();
                    let outcome = add(&mut client, &name, number);
                    let took = called.elapsed();
                    let mut calls = calls.lock().unwrap_or_else(PoisonError::into_inner);
                    calls.note(&name, begun.elapsed(), outcome, took);
                    drop(calls);
                    std::thread::sleep(PAUSE);
                }
            }));
        }
        Ok(Self {
            stop,
            calls,
            threads,
        })
    }

    /// What became of the requests since the start, or since the last call of this.
    pub fn take(&self) -> Calls {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *calls)
    }

    /// Ends the callers, and says what became of the last requests.
    pub fn end(mut self) -> Calls {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        self.take()
    }
}

/// A request whose right answer only this request has. `Ok` is whether the answer is that one.
pub fn add(client: &mut Client, model: &str, number: u32) -> Result<bool, Outcome> {
    let rows = 1 + number % 3;
    let row = |first: u32| (0..2 * rows).map(move |at| (first + at) as f32);
    let tensor = |name: &str, first| Tensor {
        name: name.to_owned(),
        datatype: "FP32".to_owned(),
        shape: vec![rows.into(), 2],
        data: row(first).flat_map(f32::to_le_bytes).collect(),
    };
    let tensors = [tensor("a", number), tensor("b", 3)];
    match Outcome::of(Request::new(model, model, &tensors, Form::Json).send(client)) {
        Outcome::Ran(outputs) => {
            let wanted = row(number).zip(row(3)).map(|(a, b)| f64::from(a + b));
            let is_right = outputs.len() == 1
                && outputs[0].shape == [rows.into(), 2]
                && outputs[0].data.iter().copied().eq(wanted);
            Ok(is_right)
        }
        other => Err(other),
    }
}

impl Calls {
    fn note(&mut self, name: &str, at: Duration, outcome: Result<bool, Outcome>, took: Duration) {
        let told = match outcome {
            Ok(true) => {
                self.right += 1;
                self.latencies.push(took);
                return;
            }
            Ok(false) => {
                self.wrong += 1;
                "wrong".to_owned()
            }
            Err(Outcome::Hung) => {
                self.hung += 1;
                "hung".to_owned()
            }
            Err(other) => {
                self.failed += 1;
                format!("{other:?}")
            }
        };
        if self.told.len() < MAX_TOLD {
            self.told
                .push(format!("{name} after {:.1} s: {told}", at.as_secs_f64()));
        }
    }

    /// The latency that so many of 100 requests did not exceed, in milliseconds.
    pub fn percentile_ms(&self, percent: usize) -> f64 {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
        sorted
            .get(at)
            .map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
    }
}
