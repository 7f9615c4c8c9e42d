//! The folders that an engine uses: which it reads, and which it also writes to.

use crate::infer::backend::BackendOptions;
use crate::process::confine::Confinement;

/// The folder below [`BackendOptions::scratch`] in which engines lay out models themselves, such as those that are edited.
const ENGINE_SCRATCH: &str = "engines";

/// The node's options as an engine gets them: with a folder of its own to lay out models in.
pub(super) fn engine_options(node: &BackendOptions) -> BackendOptions {
    BackendOptions {
        scratch: node.scratch.as_ref().map(|all| all.join(ENGINE_SCRATCH)),
        ..node.clone()
    }
}

/// Lets an engine use these folders. The node's `scratch` holds hard links to blobs: an engine that could write there could change
/// the weights of every deployment.
pub(super) fn with_folders(mut confinement: Confinement, node: &BackendOptions) -> Confinement {
    let written = [node.optimized.clone(), engine_options(node).scratch];
    confinement.write.extend(written.into_iter().flatten());
    confinement.read.extend(node.scratch.clone());
    confinement
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn engines_cannot_write_to_weights() {
        let data = Path::new("/data");
        let options = BackendOptions {
            optimized: Some(data.join("optimized")),
            scratch: Some(data.join("graphs")),
            ..BackendOptions::default()
        };
        let own = Confinement {
            read: vec![data.join("blobs")],
            ..Confinement::default()
        };
        let confinement = with_folders(own, &options);
        for folder in ["blobs", "graphs"] {
            let folder = data.join(folder);
            let mut writable = confinement.write.iter();
            assert!(!writable.any(|written| folder.starts_with(written)));
            assert!(confinement.read.contains(&folder));
        }
        let scratch = engine_options(&options).scratch.unwrap();
        assert!(confinement.write.contains(&scratch));
    }
}
