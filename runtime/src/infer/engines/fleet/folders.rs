//! The folders of an engine: those that it reads, and the one that it writes to.

use std::io;
use std::path::Path;

use tempfile::TempDir;

use crate::infer::backend::{BackendOptions, CacheAccess};
use crate::process::confine::Confinement;

/// The folder below [`BackendOptions::scratch`] with a folder for each engine, where the engine writes models such as edited ones.
const ENGINE_SCRATCH: &str = "engines";

/// Creates the folder of a new engine and the folders that it reads, because a folder that does not exist when the engine is confined
/// cannot be opened later.
///
/// # Errors
/// The error of the file system.
pub(super) fn make_folders(node: &BackendOptions) -> io::Result<Option<TempDir>> {
    if let Some(optimized) = &node.optimized {
        std::fs::create_dir_all(optimized)?;
    }
    let Some(scratch) = &node.scratch else {
        return Ok(None);
    };
    let all = scratch.join(ENGINE_SCRATCH);
    std::fs::create_dir_all(&all)?;
    tempfile::Builder::new()
        .prefix("")
        .tempdir_in(all)
        .map(Some)
}

/// The options of an engine: those of the node, but with a separate scratch folder and without write access to cached forms.
pub(super) fn engine_options(node: &BackendOptions, scratch: Option<&Path>) -> BackendOptions {
    BackendOptions {
        scratch: scratch.map(Path::to_path_buf),
        cache_access: CacheAccess::ReadOnly,
        ..node.clone()
    }
}

/// Gives an engine access to these folders. It must not write to the node's `scratch`, which has hard links to blobs, nor to
/// `optimized`, from which all engines load: it could change the weights of all deployments.
pub(super) fn with_folders(
    mut confinement: Confinement,
    node: &BackendOptions,
    scratch: Option<&Path>,
) -> Confinement {
    confinement.write.extend(scratch.map(Path::to_path_buf));
    let read = [&node.scratch, &node.optimized];
    confinement.read.extend(read.into_iter().flatten().cloned());
    confinement
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_cannot_write_to_what_others_load() {
        let data = tempfile::tempdir().unwrap();
        let data = data.path();
        let options = BackendOptions {
            optimized: Some(data.join("optimized")),
            scratch: Some(data.join("graphs")),
            ..BackendOptions::default()
        };
        let confined = || {
            let scratch = make_folders(&options).unwrap().unwrap();
            let own = Confinement {
                read: vec![data.join("blobs")],
                ..Confinement::default()
            };
            let confinement = with_folders(own, &options, Some(scratch.path()));
            (scratch, confinement)
        };
        let (scratch, confinement) = confined();
        for folder in ["blobs", "graphs", "optimized"] {
            let folder = data.join(folder);
            let mut writable = confinement.write.iter();
            assert!(!writable.any(|written| folder.starts_with(written) || written == &folder));
            assert!(confinement.read.contains(&folder));
        }
        assert_eq!(confinement.write, [scratch.path()]);
        let given = engine_options(&options, Some(scratch.path()));
        assert_eq!(given.scratch.as_deref(), Some(scratch.path()));
        assert_eq!(given.cache_access, CacheAccess::ReadOnly);
        // No engine can change the models of another one.
        let (_other_scratch, other) = confined();
        assert!(
            other
                .write
                .iter()
                .all(|folder| !scratch.path().starts_with(folder))
        );
        let gone = scratch.path().to_owned();
        drop(scratch);
        assert!(!gone.exists());
    }
}
