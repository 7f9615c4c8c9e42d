//! Why a bundle cannot be served.

use std::path::PathBuf;
use std::sync::Arc;

use samovar_runtime::RunError;
use samovar_store::blobs::BlobError;

use super::guest_secrets::SecretsError;

/// Why a bundle cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A blob of it is gone.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// Its component is refused.
    #[error(transparent)]
    Component(#[from] Arc<samovar_runtime::ArtifactError>),
    /// One of its graphs does not load.
    #[error("graph `{name}`: {source}")]
    Graph {
        /// Its name in the manifest.
        name: String,
        /// What the backends say.
        source: samovar_runtime::graph::GraphError,
    },
    /// Its secrets cannot be read.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// It wants engines for itself, and the node runs graphs in its own process.
    #[error(
        "`isolation = \"deployment\"` asks for a process of its own for the model's graphs, and this server runs all graphs in \
         its own process: start it with `--engines shared` in place of `--engines in-process`, or take `isolation` out of \
         samovar.toml"
    )]
    NoIsolation,
    /// Its first replica does not start.
    #[error(transparent)]
    Start(RunError),
    /// Its files cannot be laid out.
    #[error("cannot lay out the bundle's files in {path}: {source}")]
    Files {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}
