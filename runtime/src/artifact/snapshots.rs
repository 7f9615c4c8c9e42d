//! Artifacts of components that start where their `init` ended, and why there is none.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Artifact, ArtifactError, ArtifactStore, blocking};
use crate::checked;
use crate::compile::ComponentFile;
use crate::snapshot::{self, Setting, Snapshot};

impl ArtifactStore {
    /// The component as its `init` leaves it, linked; made now if that was not tried yet. `seen` is a digest of what `init`
    /// may see besides the component. Where it cannot be made, the component as it is, and why.
    ///
    /// # Errors
    /// When the component is refused or the disk fails.
    pub(crate) async fn get_snapshot(
        self: &Arc<Self>,
        file: &ComponentFile,
        seen: &str,
        setting: Setting,
    ) -> Result<Arc<Artifact>, Arc<ArtifactError>> {
        let name = format!("{}.{seen}", file.digest);
        let made = async {
            let plain = self.get(file).await.map_err(ArtifactError::Shared)?;
            let made = match self.read_snapshot(&name).await? {
                Some(made) => made,
                None => self.make_snapshot(file, &name, setting, &plain).await?,
            };
            Ok(Arc::new(match made {
                Ok(artifact) => artifact,
                Err(why) => Artifact {
                    pre: plain.pre.clone(),
                    snapshot: Some(Snapshot::Refused(why)),
                    slots: plain.slots,
                },
            }))
        };
        self.ready.try_get_with(name.clone(), made).await
    }

    /// Forgets that a snapshot could not be made, so that the next who asks tries again.
    pub(crate) async fn retry_snapshot(&self, file: &ComponentFile, seen: &str) {
        let name = format!("{}.{seen}", file.digest);
        let known = self.ready.get(&name).await;
        if known.is_some_and(|artifact| artifact.snapshot == Some(Snapshot::Taken)) {
            return;
        }
        let _ = tokio::fs::remove_file(self.refusal_path(&name)).await;
        self.ready.invalidate(&name).await;
    }

    /// What the disk knows of a snapshot.
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

    /// Makes a snapshot, or notes why there is none.
    async fn make_snapshot(
        self: &Arc<Self>,
        file: &ComponentFile,
        name: &str,
        setting: Setting,
        plain: &Artifact,
    ) -> Result<Result<Artifact, String>, ArtifactError> {
        let log = setting.log.clone();
        let taken = match plain.has_lifecycle() {
            false => Err("the component exports no `init`".to_owned()),
            true => self.compiler.snapshot(file, setting).await?,
        };
        let (store, name) = (self.clone(), name.to_owned());
        blocking(move || {
            let kept = taken.and_then(|native| {
                let kept = store.keep(&name, &native);
                kept.map_err(|e| e.to_string())
            });
            match kept {
                Ok((shelf, component)) => shelf.link(&component, Some(Snapshot::Taken)).map(Ok),
                Err(why) => {
                    snapshot::tell_refusal(log, &why);
                    let path = store.refusal_path(&name);
                    if let Err(error) = checked::write_durably(&path, why.as_bytes()) {
                        tracing::warn!(
                            path = %path.display(),
                            %error,
                            "cannot note that a component has no snapshot; it is tried again when it is needed next"
                        );
                    }
                    Ok(Err(why))
                }
            }
        })
        .await
    }

    /// The component's own name and those of its snapshots.
    pub(super) fn names(&self, digest: &str) -> Vec<String> {
        let mut names = vec![digest.to_owned()];
        let prefix = format!("{digest}.");
        let folders = self.shelves().map(|shelf| std::fs::read_dir(&shelf.folder));
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
        self.sequential.folder.join(format!("{name}.refused"))
    }
}
