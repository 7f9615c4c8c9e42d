//! The graphs of a replica that starts: they load while its component starts, which waits for all of them when it needs one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, try_join_all};

use super::{GraphSpec, GraphStore, LoadedGraph};

/// The graphs of a deployment, by their names in the manifest.
pub type GraphsByName = BTreeMap<String, Arc<LoadedGraph>>;

/// A graph failed to load.
#[derive(Clone, Debug, thiserror::Error)]
#[error("graph `{name}` does not load: {reason}")]
pub struct GraphLoadError {
    /// The graph's name in the manifest.
    pub name: String,
    /// Why it cannot be loaded.
    pub reason: String,
}

/// Graphs that are loading, or loaded. Clones share the load.
#[derive(Clone)]
pub struct LoadingGraphs(Shared<BoxFuture<'static, Result<LoadedGraphs, GraphLoadError>>>);

/// LoadedGraphs graphs.
#[derive(Clone)]
pub struct LoadedGraphs {
    /// The graphs.
    pub graphs: Arc<GraphsByName>,
    /// Time until all were loaded.
    pub took: Duration,
}

impl LoadingGraphs {
    /// Loads graphs as soon as the first caller waits for them.
    pub fn new(store: Arc<GraphStore>, specs: Vec<GraphSpec>) -> Self {
        let loading = async move {
            let begun = Instant::now();
            let each = specs.into_iter().map(|spec| {
                let store = &store;
                async move {
                    match store.acquire(&spec).await {
                        Ok(graph) => Ok((spec.name, graph)),
                        Err(error) => Err(GraphLoadError {
                            name: spec.name,
                            reason: error.to_string(),
                        }),
                    }
                }
            });
            let graphs = Arc::new(try_join_all(each).await?.into_iter().collect());
            Ok(LoadedGraphs {
                graphs,
                took: begun.elapsed(),
            })
        };
        Self(loading.boxed().shared())
    }

    /// Waits until all graphs are loaded.
    ///
    /// # Errors
    /// The first graph that cannot be loaded.
    pub async fn ready(&self) -> Result<LoadedGraphs, GraphLoadError> {
        self.0.clone().await
    }

    /// Waits until a graph fails to load. Never completes if all are loaded.
    pub async fn failure(&self) -> GraphLoadError {
        match self.ready().await {
            Ok(_) => std::future::pending().await,
            Err(error) => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::backend::{BackendOptions, Backends};

    #[tokio::test]
    async fn all_callers_learn_which_graph_does_not_load() {
        let store = GraphStore::new(Backends::discover(BackendOptions {
            // A process can open the library only once, and other tests do.
            onnxruntime: Some("/nowhere".into()),
            ..BackendOptions::default()
        }));
        let loading = LoadingGraphs::new(
            store.clone(),
            vec![GraphSpec::for_test("words", "/nowhere/model.onnx")],
        );
        // Like the start of a replica and its `init`, which wait at the same time.
        let (failure, ready) = tokio::join!(loading.failure(), loading.ready());
        assert_eq!(failure.name, "words");
        let error = ready.err().unwrap().to_string();
        assert!(error.contains("graph `words` does not load"), "{error}");
        assert!(error.contains("/nowhere/model.onnx"), "{error}");

        let none = LoadingGraphs::new(store, Vec::new());
        assert!(none.ready().await.unwrap().graphs.is_empty());
    }
}
