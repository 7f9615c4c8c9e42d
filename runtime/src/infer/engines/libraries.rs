//! The files that an engine's libraries open after the engine was confined.

use std::path::{Path, PathBuf};

use crate::infer::backend::Backends;
use crate::process::confine::Confinement;

/// Folders of the GPU driver's libraries, which are opened when the first graph is loaded on a GPU.
const GPU_LIBRARIES: [&str; 7] = ["/usr", "/lib", "/lib64", "/opt", "/etc", "/proc", "/sys"];
const GPU_DEVICES: &str = "/dev";

/// Gives an engine access to the files that its libraries open later: those beside the libraries, and those of the GPU driver if there is
/// a GPU.
pub(super) fn with_libraries(mut confinement: Confinement, backends: &Backends) -> Confinement {
    let infos = backends.info();
    let found = infos.iter().filter_map(|info| info.path.as_deref());
    let found = found.filter_map(Path::parent).map(Path::to_path_buf);
    confinement.read.extend(found);
    if !backends.gpus().gpus.is_empty() {
        confinement
            .read
            .extend(GPU_LIBRARIES.iter().map(PathBuf::from));
        confinement.write.push(GPU_DEVICES.into());
    }
    confinement
}
