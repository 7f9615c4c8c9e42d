//! How ONNX Runtime opens a model.

use ort::environment::Environment;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;

use crate::infer::backend::Source;

/// # Errors
/// In the library's words, when it cannot run the model.
pub(super) fn open(
    environment: &Environment,
    source: &Source<'_>,
    threads: usize,
) -> ort::Result<Session> {
    // Spinning threads would burn the cores that other graphs need.
    let mut builder = Session::builder(environment)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(threads)?
        .with_inter_threads(1)?
        .with_intra_op_spinning(false)?
        .with_inter_op_spinning(false)?;
    match source {
        Source::File(path) => builder.commit_from_file(path),
        Source::Bytes(bytes) => builder.commit_from_memory(bytes),
    }
}
