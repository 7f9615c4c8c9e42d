//! How ONNX Runtime opens a model on the CPU.

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

/// From this size on, memory counts for more than the time to find pages again.
const LARGE_BYTES: usize = 16 << 20;
/// What the library says when a run gives an output of another shape than the graph declares.
const SHAPE_NOT_KEPT: &str = "does not match actual shape of";

/// Where the library looks for weights of a model that it gets as bytes; the working directory, when it is not told.
const EXTERNAL_DATA_FOLDER: &str = "session.model_external_initializers_file_folder_path";
/// A folder that cannot exist, because its parent is a file. A model from bytes has no weights elsewhere: that was checked
/// before, and this holds should the library know of places that the check does not.
const NOWHERE: &str = "/dev/null/no-weights";

/// What the library calls the step that computes what is constant.
const FOLDING: &str = "ConstantFolding";
/// Bytes that one node may give that is computed then; one that would give more is left as it is.
const MOST_FOLDED: &str = "optimization.constant_folding_max_output_size_in_bytes";

/// # Errors
/// In the library's words, when it cannot run the model.
pub(super) fn open(
    environment: &Environment,
    source: &Source<'_>,
    threads: usize,
    folding: Folding,
) -> ort::Result<Session> {
    let session = commit(onnx_builder(environment, threads, folding)?, source)?;
    begin_arena(&session)?;
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

/// Allocates a byte of a session's arena, and gives it back. The arena never frees its first region, which is as large as the first
/// allocation but 1 MiB at least: it would keep what a large first run takes for as long as the session is there.
///
/// # Errors
/// In the library's words.
fn begin_arena(session: &Session) -> ort::Result<()> {
    let arena = MemoryInfo::new(
        AllocationDevice::CPU,
        0,
        AllocatorType::Arena,
        MemoryType::Default,
    )?;
    let allocator = Allocator::new(session, arena)?;
    allocator.alloc::<u8>(1).map(drop)
}

/// Options of sessions that open a model in the ONNX format, and in no other: the library would take bytes that are
/// a model in both formats for its own, while what was checked is the one in the ONNX format.
///
/// # Errors
/// In the library's words.
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
            builder.with_config_entry(MOST_FOLDED, node_bytes.to_string())?
        }
        Folding::Off | Folding::Within { .. } => {
            builder.with_config_entry("optimization.disable_specified_optimizers", FOLDING)?
        }
    })
}

/// Options that every session has, whatever it opens.
///
/// # Errors
/// In the library's words.
fn builder(
    environment: &Environment,
    threads: usize,
    held: Option<Arc<Mmap>>,
) -> ort::Result<SessionBuilder> {
    // Spinning threads would burn the cores that other graphs need.
    let builder = Session::builder(environment)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(threads)?
        .with_inter_threads(1)?
        .with_intra_op_spinning(false)?
        .with_inter_op_spinning(false)?
        .with_logger(logger(held))?;
    Ok(builder)
}

/// What takes the messages of one session; `held` stays as long as the session does.
fn logger(held: Option<Arc<Mmap>>) -> LoggerFunction {
    let is_told = AtomicBool::new(false);
    Arc::new(move |level, _: &str, _: &str, place: &str, text: &str| {
        let _ = &held;
        // A graph whose outputs are not as it declares them would say so for each output of each run.
        let repeats = level == LogLevel::Warning
            && text.contains(SHAPE_NOT_KEPT)
            && is_told.swap(true, Ordering::Relaxed);
        match level {
            LogLevel::Verbose => tracing::trace!(place, "{text}"),
            LogLevel::Warning if !repeats => tracing::warn!(place, "{text}"),
            // What the library calls an error is the answer of the load or the run that it belongs to, where its caller reads it:
            // callers could fill the log with them.
            LogLevel::Info | LogLevel::Warning | LogLevel::Error => {
                tracing::debug!(place, "{text}");
            }
            LogLevel::Fatal => tracing::error!(place, "{text}"),
        }
    })
}

/// Writes a model as the library's optimizers leave it, in the library's own format.
///
/// # Errors
/// In the library's words.
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

/// Opens what [`save_optimized`] wrote, with its weights used where they are mapped.
///
/// # Errors
/// In the library's words.
pub(super) fn open_optimized(
    environment: &Environment,
    map: &Arc<Mmap>,
    threads: usize,
) -> ort::Result<Session> {
    // Whoever holds anything of the session holds its logger, and with it the memory that its weights lie in.
    let mut builder = builder(environment, threads, Some(map.clone()))?
        .with_optimization_level(GraphOptimizationLevel::Disable)?
        .with_config_entry("session.load_model_format", "ORT")?
        .with_config_entry("session.use_ort_model_bytes_directly", "1")?
        .with_config_entry("session.use_ort_model_bytes_for_initializers", "1")?;
    let session = builder.commit_from_memory(map)?;
    begin_arena(&session)?;
    if map.len() >= LARGE_BYTES {
        // Loading read all of it, and most weights are in copies now that are laid out for the processor.
        // SAFETY: nobody writes to the map; what is read of it again comes from the file as it was.
        let _ = unsafe { map.unchecked_advise(UncheckedAdvice::DontNeed) };
    }
    Ok(session)
}
