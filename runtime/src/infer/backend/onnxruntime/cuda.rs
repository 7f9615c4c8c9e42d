//! How ONNX Runtime opens a model on a CUDA card, and why it cannot.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ort::environment::Environment;
use ort::ep::cuda::ConvAlgorithmSearch;
use ort::ep::{ArenaExtendStrategy, CUDA, ExecutionProvider};
use ort::logging::LogLevel;
use ort::session::Session;
use ort::session::builder::SessionBuilder;
use samovar_onnx::folding::Folding;

use super::placement::Placements;
use super::session;

/// What becomes of operators that the card has no kernel for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::infer::backend) enum Rest {
    /// They run on the CPU.
    OnCpu,
    /// The model is refused. What only reckons shapes is on the CPU in any case, where the library puts it on purpose.
    Refused,
}

/// The library's words when a node is on the CPU and none may be.
const ON_CPU: &str = "fallback to CPU EP has been explicitly disabled";

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
    let registered = session::onnx_builder(environment, 1, Folding::Off)
        .and_then(|mut builder| CUDA::default().register(&mut builder));
    let error = registered.err()?;
    Some(format!("{library} cannot use CUDA: {error}"))
}

/// Opens a model on a card, in which it takes `limit_bytes` at most.
///
/// # Errors
/// In the library's words, when it cannot run the model there; names the nodes that keep it off the card.
pub(super) fn open(
    environment: &Environment,
    model: &Path,
    (threads, folding): (usize, Folding),
    card: u32,
    limit_bytes: u64,
    rest: Rest,
) -> ort::Result<Session> {
    let builder = || on_card(environment, (threads, folding), card, limit_bytes);
    if rest == Rest::OnCpu {
        return builder()?.commit_from_file(model);
    }
    match builder()?
        .with_disable_cpu_fallback()?
        .commit_from_file(model)
    {
        Err(error) if error.message().contains(ON_CPU) => {}
        opened => return opened,
    }
    // The library does not say which nodes, nor spare those that it puts on the CPU on purpose. Its log tells.
    let (mut listening, placements) = listening(builder()?)?;
    // As a session it would log each of its runs.
    drop(listening.commit_from_file(model)?);
    let placements = placements.lock().unwrap_or_else(PoisonError::into_inner);
    match placements.refusal() {
        Some(why) => Err(ort::Error::new(why)),
        None => builder()?.commit_from_file(model),
    }
}

/// The same session, which hears where its nodes are placed.
pub(super) fn listening(
    builder: SessionBuilder,
) -> ort::Result<(SessionBuilder, Arc<Mutex<Placements>>)> {
    let placements = Arc::new(Mutex::new(Placements::default()));
    let heard = placements.clone();
    let logger = move |_: LogLevel, _: &str, _: &str, _: &str, line: &str| {
        let mut placements = heard.lock().unwrap_or_else(PoisonError::into_inner);
        placements.hear(line);
    };
    let builder = builder
        .with_log_level(LogLevel::Verbose)?
        .with_logger(Arc::new(logger))?;
    Ok((builder, placements))
}

fn on_card(
    environment: &Environment,
    (threads, folding): (usize, Folding),
    card: u32,
    limit_bytes: u64,
) -> ort::Result<SessionBuilder> {
    let provider = CUDA::default()
        .with_device_id(super::place(card))
        .with_memory_limit(usize::try_from(limit_bytes).unwrap_or(usize::MAX))
        // Doubling would take from a card what other graphs need.
        .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested)
        // Trying every algorithm with each new shape takes seconds.
        .with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic)
        .build()
        .error_on_failure();
    let builder = session::onnx_builder(environment, threads, folding)?;
    Ok(builder.with_execution_providers([provider])?)
}
