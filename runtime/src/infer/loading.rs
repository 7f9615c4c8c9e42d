//! The graphs of a starting replica: they load in parallel with its component. A user of one graph waits for all of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, try_join_all};

use super::graphs::{GraphSpec, GraphStore, LoadedGraph};

/// The graphs of a deployment, by their names in the manifest.
pub type DeploymentGraphs = BTreeMap<String, Arc<LoadedGraph>>;

/// A graph that could not be loaded.
#[derive(Clone, Debug, thiserror::Error)]
#[error("graph `{name}` does not load: {reason}")]
pub struct NotLoaded {
    /// Name of the graph in the manifest.
    pub name: String,
    /// Error of the backend.
    pub reason: String,
}

/// Graphs that are loading or loaded.
#[derive(Clone)]
pub struct Loading(Shared<BoxFuture<'static, Result<Loaded, NotLoaded>>>);

/// Loaded graphs.
#[derive(Clone)]
pub struct Loaded {
    /// The graphs.
    pub graphs: Arc<DeploymentGraphs>,
    /// Time until all were loaded.
    pub took: Duration,
}

impl Loading {
    /// Loads graphs when they are first requested.
    pub fn new(store: Arc<GraphStore>, specs: Vec<GraphSpec>) -> Self {
        let loading = async move {
            let begun = Instant::now();
            let each = specs.into_iter().map(|spec| {
                let store = &store;
                async move {
                    match store.acquire(&spec).await {
                        Ok(graph) => Ok((spec.name, graph)),
                        Err(error) => Err(NotLoaded {
                            name: spec.name,
                            reason: error.to_string(),
                        }),
                    }
                }
            });
            let graphs = Arc::new(try_join_all(each).await?.into_iter().collect());
            Ok(Loaded {
                graphs,
                took: begun.elapsed(),
            })
        };
        Self(loading.boxed().shared())
    }

    /// Waits until all graphs are loaded.
    ///
    /// # Errors
    /// Names the first graph that could not be loaded.
    pub async fn ready(&self) -> Result<Loaded, NotLoaded> {
        self.0.clone().await
    }

    /// Waits for an error of a graph; never returns if all are loaded.
    pub async fn failure(&self) -> NotLoaded {
        match self.ready().await {
            Ok(_) => std::future::pending().await,
            Err(error) => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Owner;
    use crate::infer::backend::{BackendChoice, BackendOptions, Backends, Target};

    fn spec(name: &str) -> GraphSpec {
        GraphSpec {
            name: name.into(),
            digest: name.into(),
            path: "/nowhere/model.onnx".into(),
            data: Vec::new(),
            backend: BackendChoice::Rten,
            target: Target::Cpu,
            threads: 1,
            batching: None,
            own_engine: None,
            owner: Owner::named("tests"),
        }
    }

    #[tokio::test]
    async fn whoever_waits_is_told_which_graph_does_not_load() {
        let store = GraphStore::new(Backends::discover(BackendOptions {
            // A process can open the library but once, and other tests do.
            onnxruntime: Some("/nowhere".into()),
            ..BackendOptions::default()
        }));
        let loading = Loading::new(store.clone(), vec![spec("words")]);
        // As a replica's start and its `init` wait for them: at once.
        let (failure, ready) = tokio::join!(loading.failure(), loading.ready());
        assert_eq!(failure.name, "words");
        let error = ready.err().unwrap().to_string();
        assert!(error.contains("graph `words` does not load"), "{error}");
        assert!(error.contains("/nowhere/model.onnx"), "{error}");

        let none = Loading::new(store, Vec::new());
        assert!(none.ready().await.unwrap().graphs.is_empty());
    }
}
