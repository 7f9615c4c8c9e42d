//! Why a blob was not stored or not read.

use std::error::Error as StdError;
use std::io;
use std::path::{Path, PathBuf};

use samovar_types::digest::Digest;

#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error("there is no blob {digest}")]
    NotFound { digest: Digest },
    /// The bytes have another digest; nothing was stored.
    #[error("the bytes have the digest {found}, wanted {wanted}: nothing was kept")]
    WrongDigest {
        /// As announced.
        wanted: Digest,
        found: Digest,
    },
    /// The upload exceeds the limit; nothing was stored.
    #[error(
        "more than {limit_bytes} bytes came, which is the most accepted here: nothing was kept"
    )]
    TooLarge { limit_bytes: u64 },
    /// A blob has another size than announced.
    #[error("blob {digest} was announced with {announced} bytes, but has {size}")]
    WrongSize {
        digest: Digest,
        announced: u64,
        size: u64,
    },
    /// The file of a blob no longer holds the bytes that were stored.
    #[error(
        "blob {digest} is damaged on disk: its file now has the digest {found}. Push the model again, which replaces it"
    )]
    Damaged {
        digest: Digest,
        /// The digest of the file's bytes.
        found: Digest,
    },
    /// The client disconnected; nothing was stored.
    #[error("the upload broke off: {0}")]
    Interrupted(Box<dyn StdError + Send + Sync>),
    /// The disk is full.
    #[error("no space is left in {}: free some, or move the data folder to a larger disk", root.display())]
    Full { root: PathBuf },
    #[error("the blob storage failed: {0}")]
    Unavailable(String),
}

pub(super) fn from_store(
    root: &Path,
    digest: Option<Digest>,
    error: object_store::Error,
) -> BlobError {
    if let (object_store::Error::NotFound { .. }, Some(digest)) = (&error, digest) {
        return BlobError::NotFound { digest };
    }
    let mut cause: Option<&(dyn StdError + 'static)> = Some(&error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return from_io(root, error);
        }
        cause = error.source();
    }
    BlobError::Unavailable(error.to_string())
}

pub(super) fn from_io(root: &Path, error: &io::Error) -> BlobError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => BlobError::Full {
            root: root.to_owned(),
        },
        _ => BlobError::Unavailable(format!("{}: {error}", root.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_called_one() {
        use std::io::Write;
        let full = std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let source = (&full).write_all(b"x").unwrap_err();
        let error = object_store::Error::Generic {
            store: "LocalFileSystem",
            source: Box::new(source),
        };
        let error = from_store(Path::new("/data/blobs"), None, error);
        assert!(
            error
                .to_string()
                .starts_with("no space is left in /data/blobs"),
            "{error}"
        );
    }
}
