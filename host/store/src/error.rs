//! Why a store did not do what it was asked.

use crate::documents::Rev;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// An expectation did not hold; nothing was changed.
    #[error("{key} is not as expected: {}", match current {
        Some(rev) => format!("it was last written at revision {rev}"),
        None => "it does not exist".to_owned(),
    })]
    Conflict {
        key: String,
        /// The revision at which it was last written, if it exists.
        current: Option<Rev>,
    },
    /// The changes asked for are no longer kept: list again and watch from there.
    #[error("changes up to revision {horizon} are no longer kept")]
    Compacted {
        /// The newest revision whose changes are gone.
        horizon: Rev,
    },
    /// The store cannot be reached, or refused; nothing was changed.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The store failed while it committed: the change may have happened or not. Read again before trying again.
    #[error("the store failed during a commit, which may have happened or not: {0}")]
    Unknown(String),
    /// The call itself is wrong; nothing was changed.
    #[error("invalid: {0}")]
    Invalid(String),
}
