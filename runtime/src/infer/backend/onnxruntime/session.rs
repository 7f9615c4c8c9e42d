//! Opens models with ONNX Runtime on the CPU.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use memmap2::{Mmap, UncheckedAdvice};
use ort::environment::Environment;
use ort::logging::{LogLevel, LoggerFunction};
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use samovar_onnx::folding::Folding;

use super::library;
use crate::infer::backend::Source;

/// From this size on, saving memory matters more than the time of page faults.
const LARGE_BYTES: usize = 16 << 20;
/// Part of the library's message when a run returns an output of another shape than the graph declares.
const SHAPE_MISMATCH: &str = "does not match actual shape of";

/// The setting for the folder of external weights of a model from bytes. The default is the working directory.
const EXTERNAL_DATA_FOLDER: &str = "session.model_external_initializers_file_folder_path";
/// A folder that cannot exist, because its parent is a file. Models from bytes have no external weights, which was checked before; this
/// also protects against references that the check misses.
const NOWHERE: &str = "/dev/null/no-weights";

/// The library's name of constant folding.
const FOLDING: &str = "ConstantFolding";
/// The setting for the largest output of a folded node in bytes. Nodes with larger outputs are not folded.
const MAX_FOLDED_BYTES: &str = "optimization.constant_folding_max_output_size_in_bytes";

/// Opens a model.
///
/// # Errors
/// The error of the library if it cannot run the model.
pub(super) fn open(
    environment: &Environment,
    source: &Source<'_>,
    threads: usize,
    folding: Folding,
) -> ort::Result<Session> {
    let session = commit(onnx_builder(environment, threads, folding)?, source)?;
    init_arena(&session)?;
    Ok(session)
}

fn commit(mut builder: SessionBuilder, source: &Source<'_>) -> ort::Result<Session> {
    match source {
        Source::File(path) => builder.commit_from_file(path),
        Source::Bytes(model) => builder
            .with_config_entry(EXTERNAL_DATA_FOLDER, NOWHERE)?
            .commit_from_memory(&model.bytes),
    }
}

/// Allocates and frees one byte of a session's arena. The arena never frees its first region, which is as large as the first allocation
/// but at least 1 MiB, so it would keep the memory of a large first run until the session ends.
///
/// # Errors
/// The error of the library.
fn init_arena(session: &Session) -> ort::Result<()> {
    let arena = MemoryInfo::new(
        AllocationDevice::CPU,
        0,
        AllocatorType::Arena,
        MemoryType::Default,
    )?;
    let allocator = Allocator::new(session, arena)?;
    allocator.alloc::<u8>(1).map(drop)
}

/// Options of sessions that open a model only in the ONNX format. Bytes that are valid in both formats would otherwise be opened in the
/// library's own format, while the ONNX format was checked.
///
/// # Errors
/// The error of the library.
pub(super) fn onnx_builder(
    environment: &Environment,
    threads: usize,
    folding: Folding,
) -> ort::Result<SessionBuilder> {
    let builder = builder(environment, threads, None)?
        .with_config_entry("session.load_model_format", "ONNX")?;
    Ok(match folding {
        Folding::On => builder,
        Folding::Within { node_bytes } if library::bounds_folding() => {
            builder.with_config_entry(MAX_FOLDED_BYTES, node_bytes.to_string())?
        }
        Folding::Off | Folding::Within { .. } => {
            builder.with_config_entry("optimization.disable_specified_optimizers", FOLDING)?
        }
    })
}

/// Options of all sessions.
///
/// # Errors
/// The error of the library.
fn builder(
    environment: &Environment,
    threads: usize,
    held: Option<Arc<Mmap>>,
) -> ort::Result<SessionBuilder> {
    // Spinning threads would use cores that other graphs need.
    let builder = Session::builder(environment)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(threads)?
        .with_inter_threads(1)?
        .with_intra_op_spinning(false)?
        .with_inter_op_spinning(false)?
        .with_logger(logger(held))?;
    Ok(builder)
}

/// Logs the messages of one session. `held` is kept until the session ends.
fn logger(held: Option<Arc<Mmap>>) -> LoggerFunction {
    let is_logged = AtomicBool::new(false);
    Arc::new(move |level, _: &str, _: &str, place: &str, text: &str| {
        let _ = &held;
        // Otherwise a graph with wrongly declared outputs would log this for each output of each run.
        let repeats = level == LogLevel::Warning
            && text.contains(SHAPE_MISMATCH)
            && is_logged.swap(true, Ordering::Relaxed);
        match level {
            LogLevel::Verbose => tracing::trace!(place, "{text}"),
            LogLevel::Warning if !repeats => tracing::warn!(place, "{text}"),
            // Errors are returned to the caller of the load or run. Callers could fill the log with them.
            LogLevel::Info | LogLevel::Warning | LogLevel::Error => {
                tracing::debug!(place, "{text}");
            }
            LogLevel::Fatal => tracing::error!(place, "{text}"),
        }
    })
}

/// Writes the optimized form of a model in the library's own format.
///
/// # Errors
/// The error of the library.
pub(super) fn save_optimized(
    environment: &Environment,
    source: &Source<'_>,
    threads: usize,
    folding: Folding,
    to: &Path,
) -> ort::Result<()> {
    let builder = onnx_builder(environment, threads, folding)?
        .with_config_entry("session.save_model_format", "ORT")?
        .with_optimized_model_path(to)?;
    commit(builder, source).map(drop)
}

/// Opens a file of [`save_optimized`], and uses its weights in mapped memory.
///
/// # Errors
/// The error of the library.
pub(super) fn open_optimized(
    environment: &Environment,
    map: &Arc<Mmap>,
    threads: usize,
) -> ort::Result<Session> {
    // The session owns the logger, and the logger owns the map with the weights.
    let mut builder = builder(environment, threads, Some(map.clone()))?
        .with_optimization_level(GraphOptimizationLevel::Disable)?
        .with_config_entry("session.load_model_format", "ORT")?
        .with_config_entry("session.use_ort_model_bytes_directly", "1")?
        .with_config_entry("session.use_ort_model_bytes_for_initializers", "1")?;
    let session = builder.commit_from_memory(map)?;
    init_arena(&session)?;
    if map.len() >= LARGE_BYTES {
        // The load has read all of it, and most weights now are copies in the layout of the CPU.
        // SAFETY: the map is not written to, and pages are read from the file again.
        let _ = unsafe { map.unchecked_advise(UncheckedAdvice::DontNeed) };
    }
    Ok(session)
}
