//! The folders that an engine uses: which it reads, and the one that it also writes to.

use std::io;
use std::path::Path;

use tempfile::TempDir;

use crate::infer::backend::{BackendOptions, KeptForms};
use crate::process::confine::Confinement;

/// The folder below [`BackendOptions::scratch`] that holds one for each engine, in which it lays out models itself, such as those
/// that are edited.
const ENGINE_SCRATCH: &str = "engines";

/// Makes the folder of an engine that starts, and those that it reads: what is not there when an engine is confined cannot be
/// opened later.
///
/// # Errors
/// When the disk fails.
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

/// The node's options as an engine gets them: it makes no forms of models, and lays out models in a folder of its own.
pub(super) fn engine_options(node: &BackendOptions, scratch: Option<&Path>) -> BackendOptions {
    BackendOptions {
        scratch: scratch.map(Path::to_path_buf),
        kept_forms: KeptForms::Read,
        ..node.clone()
    }
}

/// Lets an engine use these folders. The node's `scratch` holds hard links to blobs: an engine that could write there could change
/// the weights of every deployment. So could one that wrote to `optimized`, from which all engines load.
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
        assert_eq!(given.kept_forms, KeptForms::Read);
        // What one engine lays out no other can change.
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
