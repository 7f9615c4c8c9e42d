//! Artifacts of snapshots: components that start after their `init`. Where there can be none, the reason is stored.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Artifact, ArtifactError, ArtifactStore, blocking};
use crate::compile::ComponentFile;
use crate::snapshot::{self, Snapshot, SnapshotContext};
use crate::verified_files;

impl ArtifactStore {
    /// The artifact of a component's snapshot, made now unless that was tried before. `inputs` is a digest of what `init` can see
    /// besides the component. If there can be no snapshot, the artifact of the component itself, with the reason.
    ///
    /// # Errors
    /// When the component is refused or the disk fails.
    pub(crate) async fn get_snapshot(
        self: &Arc<Self>,
        file: &ComponentFile,
        inputs: &str,
        context: SnapshotContext,
    ) -> Result<Arc<Artifact>, Arc<ArtifactError>> {
        let name = format!("{}.{inputs}", file.digest);
        let made = async {
            let plain = self.get(file).await.map_err(ArtifactError::Shared)?;
            let result = match self.read_snapshot(&name).await? {
                Some(result) => result,
                None => self.make_snapshot(file, &name, context, &plain).await?,
            };
            Ok(Arc::new(match result {
                Ok(artifact) => artifact,
                Err(why) => Artifact {
                    pre: plain.pre.clone(),
                    snapshot: Some(Snapshot::Refused(why)),
                    slots: plain.slots,
                },
            }))
        };
        self.cache.try_get_with(name.clone(), made).await
    }

    /// Deletes the stored reason why there is no snapshot, so that the next call tries again.
    pub(crate) async fn retry_snapshot(&self, file: &ComponentFile, inputs: &str) {
        let name = format!("{}.{inputs}", file.digest);
        let cached = self.cache.get(&name).await;
        if cached.is_some_and(|artifact| artifact.snapshot == Some(Snapshot::Taken)) {
            return;
        }
        let _ = tokio::fs::remove_file(self.refusal_path(&name)).await;
        self.cache.invalidate(&name).await;
    }

    /// Reads a snapshot, or why there is none, from disk; `None` if it was not tried.
    async fn read_snapshot(
        self: &Arc<Self>,
        name: &str,
    ) -> Result<Option<Result<Artifact, String>>, ArtifactError> {
        let (store, name) = (self.clone(), name.to_owned());
        blocking(move || {
            if let Some(artifact) = store.load(&name, Some(Snapshot::Taken))? {
                return Ok(Some(Ok(artifact)));
            }
            Ok(std::fs::read_to_string(store.refusal_path(&name))
                .ok()
                .map(Err))
        })
        .await
    }

    /// Makes a snapshot, or stores why there is none.
    async fn make_snapshot(
        self: &Arc<Self>,
        file: &ComponentFile,
        name: &str,
        context: SnapshotContext,
        plain: &Artifact,
    ) -> Result<Result<Artifact, String>, ArtifactError> {
        let log = context.log.clone();
        let taken = match plain.has_lifecycle() {
            false => Err("the component exports no `init`".to_owned()),
            true => self.compiler.snapshot(file, context).await?,
        };
        let (store, name) = (self.clone(), name.to_owned());
        blocking(move || {
            let stored = taken.and_then(|native| {
                let stored = store.store_native(&name, &native);
                stored.map_err(|e| e.to_string())
            });
            match stored {
                Ok((engine, component)) => engine.link(&component, Some(Snapshot::Taken)).map(Ok),
                Err(why) => {
                    snapshot::log_refusal(log, &why);
                    let path = store.refusal_path(&name);
                    if let Err(error) = verified_files::write_durably(&path, why.as_bytes()) {
                        tracing::warn!(
                            path = %path.display(),
                            %error,
                            "cannot store why there is no snapshot; it will be tried again"
                        );
                    }
                    Ok(Err(why))
                }
            }
        })
        .await
    }

    /// The names under which the artifacts of a component and its snapshots are stored.
    pub(super) fn stored_names(&self, digest: &str) -> Vec<String> {
        let mut names = vec![digest.to_owned()];
        let prefix = format!("{digest}.");
        let folders = self
            .engines()
            .map(|engine| std::fs::read_dir(&engine.folder));
        for entry in folders.into_iter().flatten().flatten().flatten() {
            let file = entry.file_name();
            if let Some((name, _ending)) = file.to_str().and_then(|file| file.rsplit_once('.'))
                && name.starts_with(&prefix)
            {
                names.push(name.to_owned());
            }
        }
        names
    }

    pub(super) fn refusal_path(&self, name: &str) -> PathBuf {
        self.without_async.folder.join(format!("{name}.refused"))
    }
}
