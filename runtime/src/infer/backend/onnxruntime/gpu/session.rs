//! Opens models on a CUDA GPU, and finds out why that is not possible.

use std::path::Path;
use std::sync::Arc;

use ort::environment::Environment;
use ort::ep::cuda::ConvAlgorithmSearch;
use ort::ep::{ArenaExtendStrategy, CUDA, ExecutionProvider};
use ort::logging::LogLevel;
use ort::session::Session;
use ort::session::builder::SessionBuilder;
use parking_lot::Mutex;
use samovar_onnx::folding::Folding;

use super::placement::Placements;
use crate::infer::backend::onnxruntime::{device_id, session};

/// What happens to operators that the GPU has no kernel for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::infer::backend) enum CpuFallback {
    /// They run on the CPU.
    Allowed,
    /// The model is refused. Operators that only compute shapes are allowed, because the library places them on the CPU on purpose.
    Refused,
}

/// The library's message when a node is on the CPU but none may be.
const ON_CPU: &str = "fallback to CPU EP has been explicitly disabled";

/// Why the library cannot use any GPU, if it cannot.
pub(in crate::infer::backend::onnxruntime) fn find_obstacle(
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
        Err(error) => {
            return Some(format!(
                "{library} does not tell which providers it has: {error}"
            ));
        }
    }
    // Only this makes the library load CUDA.
    let registered = session::onnx_builder(environment, 1, Folding::Off)
        .and_then(|mut builder| CUDA::default().register(&mut builder));
    let error = registered.err()?;
    Some(format!("{library} cannot use CUDA: {error}"))
}

/// Opens a model on a GPU, where it may use `limit_bytes`.
///
/// # Errors
/// Why the library cannot run the model there, with the nodes that the GPU has no kernel for.
pub(in crate::infer::backend::onnxruntime) fn open(
    environment: &Environment,
    model: &Path,
    (threads, folding): (usize, Folding),
    gpu: u32,
    limit_bytes: u64,
    fallback: CpuFallback,
) -> ort::Result<Session> {
    let builder = || gpu_builder(environment, (threads, folding), gpu, limit_bytes);
    if fallback == CpuFallback::Allowed {
        return builder()?.commit_from_file(model);
    }
    match builder()?
        .with_disable_cpu_fallback()?
        .commit_from_file(model)
    {
        Err(error) if error.message().contains(ON_CPU) => {}
        opened => return opened,
    }
    // The error does not name the nodes, and includes those that the library places on the CPU on purpose. The log has all.
    let (mut logged, placements) = log_placements(builder()?)?;
    // Not kept, because it would log each run.
    drop(logged.commit_from_file(model)?);
    let placements = placements.lock();
    match placements.refusal() {
        Some(why) => Err(ort::Error::new(why)),
        None => builder()?.commit_from_file(model),
    }
}

/// The same session, with a log of where its nodes are placed.
pub(in crate::infer::backend::onnxruntime) fn log_placements(
    builder: SessionBuilder,
) -> ort::Result<(SessionBuilder, Arc<Mutex<Placements>>)> {
    let placements = Arc::new(Mutex::new(Placements::default()));
    let logged = placements.clone();
    let logger = move |_: LogLevel, _: &str, _: &str, _: &str, line: &str| {
        logged.lock().record(line);
    };
    let builder = builder
        .with_log_level(LogLevel::Verbose)?
        .with_logger(Arc::new(logger))?;
    Ok((builder, placements))
}

fn gpu_builder(
    environment: &Environment,
    (threads, folding): (usize, Folding),
    gpu: u32,
    limit_bytes: u64,
) -> ort::Result<SessionBuilder> {
    let provider = CUDA::default()
        .with_device_id(device_id(gpu))
        .with_memory_limit(usize::try_from(limit_bytes).unwrap_or(usize::MAX))
        // Doubling the arena would take memory that other graphs need.
        .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested)
        // An exhaustive search takes seconds for each new shape.
        .with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic)
        .build()
        .error_on_failure();
    let builder = session::onnx_builder(environment, threads, folding)?;
    Ok(builder.with_execution_providers([provider])?)
}
