//! Makes the host allocate: calls one function of an interface again and again, and keeps what it gives or lets it go.

use std::any::Any;
use std::time::{Duration, Instant};

use crate::{nn, wasi};

/// Longest time that one request goes on with it, so that it ends by itself.
const LONGEST: Duration = Duration::from_secs(1);

/// One call that makes the host allocate; `None` when the host refuses.
pub type Call = fn() -> Option<Box<dyn Any>>;

fn find(case: &str) -> Option<Call> {
    let mut calls = nn::CALLS.iter().chain(wasi::CALLS);
    let (_, call) = calls.find(|(name, _)| *name == case)?;
    Some(*call)
}

/// Calls and keeps everything.
pub fn hold(case: &str) -> String {
    let Some(call) = find(case) else {
        return format!("no case {case}");
    };
    let begun = Instant::now();
    let mut held = Vec::new();
    let mut refused = 0;
    while begun.elapsed() < LONGEST && held.len() < 100_000 && refused < 100 {
        match call() {
            Some(made) => held.push(made),
            None => refused += 1,
        }
    }
    format!("held {}, refused {refused}", held.len())
}

/// Calls and keeps nothing.
pub fn call(case: &str) -> String {
    let Some(call) = find(case) else {
        return format!("no case {case}");
    };
    let begun = Instant::now();
    let mut calls = 0;
    while begun.elapsed() < LONGEST && calls < 100_000 {
        call();
        calls += 1;
    }
    format!("called {calls}")
}
