//! Loads a graph in an engine: in which one, for how long, once more when the engine ended on account of another graph, and once
//! more in a form that loads quicker when that was made.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{At, Backend, Counted, Fleet, Group, OwnedSource, Spec, lock};
use crate::infer::backend::tensor::Place;
use crate::infer::backend::{BackendChoice, lay_out};
use crate::infer::engines::blame::Verdict;
use crate::infer::engines::history::EndReason;
use crate::infer::engines::optimizer::Order;
use crate::infer::engines::running::{Ended, LoadFailure};
use crate::infer::engines::wire::{Load, LoadSource, LoadedHead};

/// How often a load is begun whose engine ended.
const MAX_ATTEMPTS: usize = 3;
/// How long a load may continue that nothing waits for any more. Ending it at once would cost others their engine each time that
/// a deployment is deleted a moment before it is there.
const ABANDONED_GRACE: Duration = Duration::from_secs(5);

/// Why a graph is not loaded.
enum Failure {
    /// Trying once more does not help.
    Final(String),
    /// Its engine ended, maybe on account of another graph.
    Ended(Arc<Ended>),
}

impl From<String> for Failure {
    fn from(error: String) -> Self {
        Self::Final(error)
    }
}

impl Spec {
    /// What an engine is told to load it.
    fn load(&self, graph: u32, source: LoadSource) -> Load {
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

    /// The size of its files.
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
        spec: &Spec,
        abandoned: Option<&CancellationToken>,
    ) -> Result<(At, LoadedHead), String> {
        let mut why = String::new();
        for _ in 0..MAX_ATTEMPTS {
            match self.load_once(spec, abandoned) {
                Ok(loaded) => return Ok(loaded),
                Err(Failure::Final(error)) => return Err(error),
                // If this graph is a suspect now, it is loaded alone the next time, which shows whether it was that.
                Err(Failure::Ended(ended)) => why.clone_from(&ended.why),
            }
        }
        Err(format!(
            "the engine that loaded it ended {MAX_ATTEMPTS} times in a row: {why}"
        ))
    }

    /// Where a graph may be loaded now.
    fn group_of(&self, spec: &Spec) -> Result<Group, String> {
        let now = Instant::now();
        let key = spec.label.key();
        let suspect = match lock(&self.blame).verdict(&key, now) {
            Verdict::Shared => None,
            Verdict::Alone => Some(key),
            Verdict::Quarantined { until, ends } => {
                let seconds = until.saturating_duration_since(now).as_secs() + 1;
                return Err(format!(
                    "it ended its engine {ends} times, so it is not run for another {seconds} s: look in the server's log for what was sent, and mend the model or refuse such inputs"
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
        spec: &Spec,
        abandoned: Option<&CancellationToken>,
    ) -> Result<(At, LoadedHead), Failure> {
        let group = self.group_of(spec)?;
        let is_alone = group.suspect.is_some();
        // The backends keep the same weights in different forms.
        let key = format!("{} on {}", spec.label.key(), spec.backend.name());
        let share = self.memory.share(&key, spec.file_bytes())?;
        // Before the engine is looked for, so that it does not end meanwhile.
        let counted = Counted::new(self, group);
        let engine = self.engine(&counted)?;
        let graph = self.next.fetch_add(1, Ordering::Relaxed);
        let mut at = At {
            engine: engine.clone(),
            graph,
            executor: self.executor.clone(),
            share,
            label: spec.label.clone(),
            _laid: None,
            counted,
        };
        engine.name(graph, spec.label.clone());
        let (mut part, mut laid) = (None, None);
        let source = match &spec.source {
            OwnedSource::File { path, data } if data.is_empty() => LoadSource::File(path.clone()),
            // Here, because an engine that could link blobs could also write to them.
            OwnedSource::File { path, data } => {
                let made = lay_out(path, data, &self.scratch()).map_err(|e| e.0)?;
                let model = made.model();
                laid = Some(made);
                LoadSource::ModelDir(model)
            }
            OwnedSource::Bytes(bytes) => {
                let placed = engine.arena().part_of(bytes)?;
                let span = placed.span();
                part = Some(placed);
                LoadSource::Bytes(span)
            }
        };
        let begun = Instant::now();
        let loading = engine.load(spec.load(graph, source));
        let loaded = self.wait_for_load(&at, &spec.label.name, loading, abandoned);
        let took = begun.elapsed();
        drop(part);
        match loaded {
            Ok(Ok(head)) => {
                let head = match head.lacks_form {
                    true => self.with_form(&mut at, spec, head, took, abandoned)?,
                    false => head,
                };
                // On a card it is loaded from these files again after others took its room.
                at._laid = laid.filter(|_| head.place != Place::Host);
                at.share.loaded(head.weight_bytes, head.load_peak_bytes)?;
                Ok((at, head))
            }
            Ok(Err(LoadFailure::Refused(error))) => Err(Failure::Final(error)),
            Ok(Err(LoadFailure::Ended(ended))) => {
                let is_suspect = ended.suspects.contains(&graph);
                let was_given_up = matches!(
                    ended.reason,
                    EndReason::OverdueLoad | EndReason::AbandonedLoad
                );
                match is_suspect && (is_alone || was_given_up) {
                    true => Err(Failure::Final(format!(
                        "the engine that loaded it ended: {}",
                        ended.why
                    ))),
                    false => Err(Failure::Ended(ended)),
                }
            }
            Err(_) => Err(Failure::Final("its engine is gone".into())),
        }
    }

    /// Has the form made of a graph that was just loaded, and loads it again from that.
    fn with_form(
        &self,
        at: &mut At,
        spec: &Spec,
        plain: LoadedHead,
        took: Duration,
        abandoned: Option<&CancellationToken>,
    ) -> Result<LoadedHead, Failure> {
        let (Some(optimizer), Some(digest)) = (&self.optimizer, &spec.digest) else {
            return Ok(plain);
        };
        let OwnedSource::File { path, .. } = &spec.source else {
            return Ok(plain);
        };
        let engine = at.engine.clone();
        let opened = engine.opened();
        let backend = spec.backend.name();
        // By what the engine said before it read any model.
        let Some((_, folder)) = opened.kept_forms.iter().find(|(name, _)| name == backend) else {
            return Ok(plain);
        };
        let mut backends = opened.backends.iter();
        let order = Order {
            backend,
            library: backends
                .find(|one| one.name == backend)
                .and_then(|one| one.path.clone()),
            folder,
            digest,
            model: path,
            threads: spec.threads,
            loading: took,
        };
        // The worker loads the model beside the engine.
        let Some(_room) = at.share.room_beside() else {
            return Ok(plain);
        };
        if !optimizer.make(&order, &self.executor, abandoned) {
            return Ok(plain);
        }
        let before = at.graph;
        let graph = self.next.fetch_add(1, Ordering::Relaxed);
        engine.name(graph, spec.label.clone());
        // Whichever is not used is unloaded.
        at.graph = graph;
        let loading = engine.load(spec.load(graph, LoadSource::File(path.clone())));
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
                return Err(Failure::Ended(ended));
            }
            Err(_) => return Err(Failure::Final("its engine is gone".into())),
        };
        tracing::warn!(
            graph = spec.label.name,
            digest,
            error,
            "the form of a model that was just made does not load"
        );
        optimizer.decline(backend, folder, digest);
        Ok(plain)
    }

    /// Waits for a load; ends the engine when that takes too long, or when nothing wants the graph any more.
    fn wait_for_load(
        &self,
        at: &At,
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
                    let why = format!("graph `{name}` was still loading {ABANDONED_GRACE:?} after everything that wanted it had gone");
                    (EndReason::AbandonedLoad, why)
                }
            };
            at.engine.kill(reason, why, Some(at.graph));
            // Answered by the end of the engine.
            loading.await
        };
        // For its timers.
        let _entered = self.executor.enter();
        futures::executor::block_on(waiting)
    }
}
