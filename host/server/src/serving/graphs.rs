//! What the runtime is told of a bundle's graphs.

use std::time::Duration;

use samovar_runtime::Owner;
use samovar_runtime::backend::{BackendChoice, DataFile, Target};
use samovar_runtime::graph::{Batching, GraphSpec};
use samovar_store::blobs::{BlobError, Blobs};
use samovar_types::bundle::{Graph, GraphBackend, GraphTarget};

/// A graph whose files are among these blobs, loaded when its owner's turn has come.
///
/// # Errors
/// When a blob is gone.
pub async fn spec(
    owner: Owner,
    name: &str,
    graph: &Graph,
    blobs: &Blobs,
) -> Result<GraphSpec, BlobError> {
    let mut data = Vec::with_capacity(graph.data.len());
    for (location, blob) in &graph.data {
        data.push(DataFile {
            location: location.clone(),
            path: blobs.local_path(blob.digest).await?,
        });
    }
    Ok(GraphSpec {
        name: name.to_owned(),
        digest: graph.whole_digest().to_string(),
        path: blobs.local_path(graph.digest).await?,
        data,
        backend: backend(graph.backend),
        target: match graph.target {
            GraphTarget::Auto => Target::Auto,
            GraphTarget::Cpu => Target::Cpu,
            GraphTarget::Gpu => Target::Gpu,
        },
        threads: graph.threads as usize,
        owner,
        batching: graph.batch.map(|batch| Batching {
            max_size: batch.max_size as usize,
            max_delay: Duration::from_millis(batch.max_delay_ms.into()),
        }),
        own_engine: None,
    })
}

/// A backend as the runtime names it.
pub fn backend(choice: GraphBackend) -> BackendChoice {
    match choice {
        GraphBackend::Auto => BackendChoice::Auto,
        GraphBackend::Onnxruntime => BackendChoice::Onnxruntime,
        GraphBackend::Rten => BackendChoice::Rten,
    }
}
