//! Which files an engine's libraries open after it was confined.

use std::path::{Path, PathBuf};

use crate::infer::backend::Backends;
use crate::process::confine::Confinement;

/// What a graph on a card wants besides: the driver's libraries are opened when the first one is loaded.
const CARD_LIBRARIES: [&str; 7] = ["/usr", "/lib", "/lib64", "/opt", "/etc", "/proc", "/sys"];
const CARD_DEVICES: &str = "/dev";

/// Lets an engine also read what its libraries open later: those beside them, and the drivers of a card if there is one.
pub(super) fn with_libraries(mut confinement: Confinement, backends: &Backends) -> Confinement {
    let infos = backends.info();
    let found = infos.iter().filter_map(|info| info.path.as_deref());
    let found = found.filter_map(Path::parent).map(Path::to_path_buf);
    confinement.read.extend(found);
    if !backends.cards().cards.is_empty() {
        confinement
            .read
            .extend(CARD_LIBRARIES.iter().map(PathBuf::from));
        confinement.write.push(CARD_DEVICES.into());
    }
    confinement
}
