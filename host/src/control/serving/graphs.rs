//! What the runtime is told of a bundle's graphs.

use std::path::PathBuf;
use std::time::Duration;

use samovar_runtime::backend::{BackendChoice, Target};
use samovar_runtime::graphs::{Batching, GraphSpec};

use crate::domain::bundle::{Graph, GraphBackend, GraphTarget};

/// A graph whose file lies there.
pub fn spec(name: &str, graph: &Graph, path: PathBuf) -> GraphSpec {
    GraphSpec {
        name: name.to_owned(),
        digest: graph.digest.to_string(),
        path,
        backend: backend(graph.backend),
        target: match graph.target {
            GraphTarget::Auto => Target::Auto,
            GraphTarget::Cpu => Target::Cpu,
            GraphTarget::Gpu => Target::Gpu,
        },
        threads: graph.threads as usize,
        batching: graph.batch.map(|batch| Batching {
            max_size: batch.max_size as usize,
            max_delay: Duration::from_millis(batch.max_delay_ms.into()),
        }),
    }
}

/// A backend as the runtime names it.
pub fn backend(choice: GraphBackend) -> BackendChoice {
    match choice {
        GraphBackend::Auto => BackendChoice::Auto,
        GraphBackend::Onnxruntime => BackendChoice::Onnxruntime,
        GraphBackend::Rten => BackendChoice::Rten,
    }
}
