//! How ONNX Runtime opens a model on a CUDA card, and why it cannot.

use std::path::Path;

use ort::environment::Environment;
use ort::ep::cuda::ConvAlgorithmSearch;
use ort::ep::{ArenaExtendStrategy, CUDA, ExecutionProvider};
use ort::session::Session;

use super::session;

/// What becomes of operators that the card has no kernel for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::infer::backend) enum Rest {
    /// They run on the CPU.
    OnCpu,
    /// The model is refused.
    Refused,
}

/// Why the library cannot use any card, if it cannot.
pub(super) fn missing(
    environment: &Environment,
    version: Option<&str>,
    path: &Path,
) -> Option<String> {
    let library = format!(
        "onnxruntime {} at {}",
        version.unwrap_or("of an unknown version"),
        path.display()
    );
    match CUDA::is_available() {
        Ok(true) => {}
        Ok(false) => {
            return Some(format!(
                "{library} was built without CUDA: pip install onnxruntime-gpu"
            ));
        }
        Err(error) => return Some(format!("{library} does not tell what it can use: {error}")),
    }
    // Only now does the library look for CUDA's own.
    let registered = session::builder(environment, 1)
        .and_then(|mut builder| CUDA::default().register(&mut builder));
    let error = registered.err()?;
    Some(format!("{library} cannot use CUDA: {error}"))
}

/// Opens a model on a card, in which it takes `limit_bytes` at most.
///
/// # Errors
/// In the library's words, when it cannot run the model there.
pub(super) fn open(
    environment: &Environment,
    model: &Path,
    threads: usize,
    card: u32,
    limit_bytes: u64,
    rest: Rest,
) -> ort::Result<Session> {
    let provider = CUDA::default()
        .with_device_id(super::place(card))
        .with_memory_limit(usize::try_from(limit_bytes).unwrap_or(usize::MAX))
        // Doubling would take from a card what other graphs need.
        .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested)
        // Trying every algorithm with each new shape takes seconds.
        .with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic)
        .build()
        .error_on_failure();
    let mut builder =
        session::builder(environment, threads)?.with_execution_providers([provider])?;
    if rest == Rest::Refused {
        builder = builder.with_disable_cpu_fallback()?;
    }
    builder.commit_from_file(model)
}
