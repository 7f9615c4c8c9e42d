//! Loads a graph in an engine: selects the engine, limits the time, retries if the engine ended because of another graph, and loads it
//! again from a faster form once that was made.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Backend, EngineGraph, EngineHold, Fleet, Group, LoadSpec, OwnedSource, lock};
use crate::infer::backend::tensor::Place;
use crate::infer::backend::{BackendChoice, create_model_dir};
use crate::infer::engines::crash_history::Verdict;
use crate::infer::engines::handle::{Ended, LoadFailure};
use crate::infer::engines::history::EndReason;
use crate::infer::engines::optimizer::FormRequest;
use crate::infer::engines::wire::{Load, LoadSource, LoadedHead};

/// Attempts to load a graph if its engine ends.
const MAX_ATTEMPTS: usize = 3;
/// How long a load without waiting callers may continue. Killing the engine at once would harm other graphs each time a deployment is
/// deleted just before it is ready.
const ABANDONED_GRACE: Duration = Duration::from_secs(5);

/// Why an attempt to load a graph failed.
enum AttemptError {
    /// Another attempt would not help.
    Final(String),
    /// The engine ended, possibly because of another graph.
    EngineEnded(Arc<Ended>),
}

impl From<String> for AttemptError {
    fn from(error: String) -> Self {
        Self::Final(error)
    }
}

impl LoadSpec {
    /// The order to an engine to load it.
    fn load_order(&self, graph: u32, source: LoadSource) -> Load {
        Load {
            graph,
            choice: match self.backend {
                Backend::Rten => BackendChoice::Rten,
                Backend::Onnxruntime => BackendChoice::Onnxruntime,
            },
            target: self.target,
            threads: self.threads,
            digest: self.digest.clone(),
            source,
        }
    }

    /// Total size of its files in bytes.
    fn file_bytes(&self) -> u64 {
        match &self.source {
            OwnedSource::Bytes(bytes) => bytes.len() as u64,
            OwnedSource::File { path, data } => {
                let paths = data.iter().map(|file| &file.path).chain([path]);
                paths
                    .filter_map(|path| Some(std::fs::metadata(path).ok()?.len()))
                    .sum()
            }
        }
    }
}

impl Fleet {
    pub(super) fn load_spec(
        self: &Arc<Self>,
        spec: &LoadSpec,
        abandoned: Option<&CancellationToken>,
    ) -> Result<(EngineGraph, LoadedHead), String> {
        let mut why = String::new();
        for _ in 0..MAX_ATTEMPTS {
            match self.load_once(spec, abandoned) {
                Ok(loaded) => return Ok(loaded),
                Err(AttemptError::Final(error)) => return Err(error),
                // If this graph is a suspect now, the next attempt loads it alone, which shows whether it is the cause.
                Err(AttemptError::EngineEnded(ended)) => why.clone_from(&ended.why),
            }
        }
        Err(format!(
            "the engine that loaded it ended {MAX_ATTEMPTS} times in a row: {why}"
        ))
    }

    /// The group of engines that may load a graph now.
    fn group_of(&self, spec: &LoadSpec) -> Result<Group, String> {
        let now = Instant::now();
        let key = spec.label.key();
        let suspect = match lock(&self.crash_history).verdict(&key, now) {
            Verdict::Shared => None,
            Verdict::Isolated => Some(key),
            Verdict::Quarantined { until, ends } => {
                let seconds = until.saturating_duration_since(now).as_secs() + 1;
                return Err(format!(
                    "its engine ended {ends} times, so it is quarantined for another {seconds} s: see the server's log for the inputs, and fix the model or refuse such inputs"
                ));
            }
        };
        Ok(Group {
            backend: spec.backend,
            deployment: spec.label.deployment.clone(),
            suspect,
        })
    }

    fn load_once(
        self: &Arc<Self>,
        spec: &LoadSpec,
        abandoned: Option<&CancellationToken>,
    ) -> Result<(EngineGraph, LoadedHead), AttemptError> {
        let group = self.group_of(spec)?;
        let is_alone = group.suspect.is_some();
        // The memory use differs by backend.
        let key = format!("{} on {}", spec.label.key(), spec.backend.name());
        let share = self.memory.charge(&key, spec.file_bytes())?;
        // Taken before the engine is selected, so that it is not closed meanwhile.
        let hold = EngineHold::new(self, group);
        let engine = self.engine(&hold)?;
        let graph = self.next_graph.fetch_add(1, Ordering::Relaxed);
        let mut at = EngineGraph {
            engine: engine.clone(),
            graph,
            executor: self.executor.clone(),
            share,
            label: spec.label.clone(),
            _model_dir: None,
            hold,
        };
        engine.set_label(graph, spec.label.clone());
        let (mut block, mut model_dir) = (None, None);
        let source = match &spec.source {
            OwnedSource::File { path, data } if data.is_empty() => LoadSource::File(path.clone()),
            // Done by the node, because an engine that could link blobs could also write to them.
            OwnedSource::File { path, data } => {
                let dir = create_model_dir(path, data, &self.scratch()).map_err(|e| e.0)?;
                let model = dir.model();
                model_dir = Some(dir);
                LoadSource::ModelDir(model)
            }
            OwnedSource::Bytes(bytes) => {
                let copy = engine.arena().block_of(bytes)?;
                let span = copy.span();
                block = Some(copy);
                LoadSource::Bytes(span)
            }
        };
        let begun = Instant::now();
        let loading = engine.load(spec.load_order(graph, source));
        let loaded = self.wait_for_load(&at, &spec.label.name, loading, abandoned);
        let took = begun.elapsed();
        drop(block);
        match loaded {
            Ok(Ok(head)) => {
                let head = match head.lacks_form {
                    true => self.load_form(&mut at, spec, head, took, abandoned)?,
                    false => head,
                };
                // On a GPU it is loaded from these files again after an eviction.
                at._model_dir = model_dir.filter(|_| head.place != Place::Host);
                at.share
                    .record_load(head.weight_bytes, head.load_peak_bytes)?;
                Ok((at, head))
            }
            Ok(Err(LoadFailure::Refused(error))) => Err(AttemptError::Final(error)),
            Ok(Err(LoadFailure::Ended(ended))) => {
                let is_suspect = ended.suspects.contains(&graph);
                let was_killed = matches!(
                    ended.reason,
                    EndReason::OverdueLoad | EndReason::AbandonedLoad
                );
                match is_suspect && (is_alone || was_killed) {
                    true => Err(AttemptError::Final(format!(
                        "the engine that loaded it ended: {}",
                        ended.why
                    ))),
                    false => Err(AttemptError::EngineEnded(ended)),
                }
            }
            Err(_) => Err(AttemptError::Final("its engine is gone".into())),
        }
    }

    /// Makes the faster form of a graph that was just loaded, and loads it again from that.
    fn load_form(
        &self,
        at: &mut EngineGraph,
        spec: &LoadSpec,
        plain: LoadedHead,
        took: Duration,
        abandoned: Option<&CancellationToken>,
    ) -> Result<LoadedHead, AttemptError> {
        let (Some(optimizer), Some(digest)) = (&self.optimizer, &spec.digest) else {
            return Ok(plain);
        };
        let OwnedSource::File { path, .. } = &spec.source else {
            return Ok(plain);
        };
        let engine = at.engine.clone();
        let opened = engine.capabilities();
        let backend = spec.backend.name();
        // As the engine reported before it read any model.
        let Some((_, folder)) = opened.form_folders.iter().find(|(name, _)| name == backend) else {
            return Ok(plain);
        };
        let mut backends = opened.backends.iter();
        let request = FormRequest {
            backend,
            library: backends
                .find(|one| one.name == backend)
                .and_then(|one| one.path.clone()),
            folder,
            digest,
            model: path,
            threads: spec.threads,
            load_time: took,
        };
        // The worker needs as much memory as the engine.
        let Some(_reservation) = at.share.reserve_again() else {
            return Ok(plain);
        };
        if !optimizer.make(&request, &self.executor, abandoned) {
            return Ok(plain);
        }
        let before = at.graph;
        let graph = self.next_graph.fetch_add(1, Ordering::Relaxed);
        engine.set_label(graph, spec.label.clone());
        // The one that is not used is unloaded.
        at.graph = graph;
        let loading = engine.load(spec.load_order(graph, LoadSource::File(path.clone())));
        let error = match self.wait_for_load(at, &spec.label.name, loading, abandoned) {
            Ok(Ok(head)) => {
                engine.unload(before);
                return Ok(head);
            }
            Ok(Err(LoadFailure::Refused(error))) => {
                at.graph = before;
                error
            }
            Ok(Err(LoadFailure::Ended(ended))) => {
                if ended.suspects.contains(&graph) {
                    optimizer.decline(backend, folder, digest);
                }
                return Err(AttemptError::EngineEnded(ended));
            }
            Err(_) => return Err(AttemptError::Final("its engine is gone".into())),
        };
        tracing::warn!(
            graph = spec.label.name,
            digest,
            error,
            "cached form of a model does not load"
        );
        optimizer.decline(backend, folder, digest);
        Ok(plain)
    }

    /// Waits for a load. Kills the engine if that takes too long, or if no caller waits any more.
    fn wait_for_load(
        &self,
        at: &EngineGraph,
        name: &str,
        mut loading: oneshot::Receiver<Result<LoadedHead, LoadFailure>>,
        abandoned: Option<&CancellationToken>,
    ) -> Result<Result<LoadedHead, LoadFailure>, oneshot::error::RecvError> {
        let expired = async {
            match abandoned {
                Some(abandoned) => abandoned.cancelled().await,
                None => std::future::pending().await,
            }
            sleep(ABANDONED_GRACE).await;
        };
        let waiting = async {
            let (reason, why) = tokio::select! {
                loaded = &mut loading => return loaded,
                () = sleep(self.load_timeout) => {
                    let limit = self.load_timeout;
                    let why = format!("graph `{name}` took longer to load than {limit:?}, the limit of `samovar serve --load-timeout`");
                    (EndReason::OverdueLoad, why)
                }
                () = expired => {
                    let why = format!("graph `{name}` was still loading {ABANDONED_GRACE:?} after all its callers had gone");
                    (EndReason::AbandonedLoad, why)
                }
            };
            at.engine.kill(reason, why, Some(at.graph));
            // The end of the engine answers.
            loading.await
        };
        // Required by the timers.
        let _entered = self.executor.enter();
        futures::executor::block_on(waiting)
    }
}
