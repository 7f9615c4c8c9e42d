//! Why a value cannot be sealed or read.

use std::io;
use std::path::PathBuf;

use super::key_file::KEY_BYTES;

#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The key file cannot be read or written.
    #[error("the key of the secrets, {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    /// Other users may read the key.
    #[error(
        "the key of the secrets, {}, has mode {mode:03o}: wanted one that only its owner may use, as after `chmod 600 {}`",
        path.display(), path.display()
    )]
    Exposed { path: PathBuf, mode: u32 },
    /// The file holds something else.
    #[error(
        "the key of the secrets, {}: found something else, wanted {} hexadecimal digits; put the right file there",
        path.display(), 2 * KEY_BYTES
    )]
    NoKey { path: PathBuf },
    /// Secrets are stored, but their key is gone.
    #[error(
        "secrets are stored, but their key {} is not there: put it back, or name it with --secrets-key; if it is lost, \
         --discard-secrets deletes what it sealed",
        path.display()
    )]
    Missing { path: PathBuf },
    /// The value was sealed with another key.
    #[error(
        "{place} was sealed with another key than that in {}: put the right one there, or name it with --secrets-key; if \
         it is lost, --discard-secrets deletes what it sealed",
        path.display()
    )]
    OtherKey {
        /// The key of the value's document.
        place: String,
        path: PathBuf,
    },
    /// The value exceeds the cipher's limit.
    #[error("{place} cannot be sealed: its value is too large")]
    TooLarge {
        /// The key of the value's document.
        place: String,
    },
    /// The value is not the one that was sealed.
    #[error("{place} was changed since it was sealed, or moved there: set it again")]
    Tampered {
        /// The key of the value's document.
        place: String,
    },
}
