//! Where state is kept: the traits that hold for every store, and their stores.
//!
//! A store holds small documents under keys such as `models/0a1b2c3d`. Every commit is atomic, durable once it is
//! acknowledged, and has a revision; revisions are store-wide and in the order of commits.

#[cfg(test)]
mod async_conformance;
pub mod async_requests;
pub mod blobs;
#[cfg(test)]
mod conformance;
pub mod integrity;
pub mod sqlite;
pub mod usage;
#[cfg(test)]
mod usage_conformance;
pub mod vault;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

/// A revision of the whole store: the number of commits that changed it.
pub type Rev = u64;

/// Longest key.
pub const MAX_KEY_BYTES: usize = 512;
/// Largest value.
pub const MAX_VALUE_BYTES: usize = 1 << 20;
/// Operations of one commit. Enough to delete a model with all its deployments at once.
pub const MAX_OPS: usize = 16_384;
/// Values of one commit, together.
pub const MAX_COMMIT_BYTES: usize = 8 << 20;
/// Documents that a store reads of a range at a time.
pub const MAX_RANGE: usize = 1000;
/// Longest time a lease may be asked for.
pub const MAX_LEASE: Duration = Duration::from_secs(3600);
/// A watch says at least this often how far it has come.
pub const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);
/// Keys under this prefix are the leases': they can be read and checked, but not written.
pub const LEASES: &str = "leases/";

/// A document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doc {
    /// Its key.
    pub key: String,
    /// The commit that last wrote it.
    pub rev: Rev,
    /// What it holds.
    pub value: Bytes,
}

/// What a commit expects of a key, as it was before the commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Any,
    /// That it is not there.
    Absent,
    /// That it was last written by this commit.
    Rev(Rev),
}

/// A part of a commit. Each key appears at most once in a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Writes a document.
    Put {
        /// Its key.
        key: String,
        /// What it is to hold.
        value: Bytes,
        /// What is expected of the key.
        expect: Expect,
    },
    /// Removes a document.
    Delete {
        /// Its key.
        key: String,
        /// What is expected of the key.
        expect: Expect,
    },
    /// Changes nothing, but the commit only happens if the expectation holds.
    Check {
        /// The key.
        key: String,
        /// What is expected of it.
        expect: Expect,
    },
}

impl Op {
    /// Writes a document.
    pub fn put(key: impl Into<String>, value: impl Into<Bytes>, expect: Expect) -> Self {
        Self::Put {
            key: key.into(),
            value: value.into(),
            expect,
        }
    }

    /// Removes a document.
    pub fn delete(key: impl Into<String>, expect: Expect) -> Self {
        Self::Delete {
            key: key.into(),
            expect,
        }
    }

    /// Asks something of a key.
    pub fn check(key: impl Into<String>, expect: Expect) -> Self {
        Self::Check {
            key: key.into(),
            expect,
        }
    }

    /// The key.
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } | Self::Check { key, .. } => key,
        }
    }

    /// What is expected of the key.
    pub fn expect(&self) -> Expect {
        match self {
            Self::Put { expect, .. } | Self::Delete { expect, .. } | Self::Check { expect, .. } => {
                *expect
            }
        }
    }
}

/// What a watch tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A document was written.
    Put(Doc),
    /// A document was removed.
    Delete {
        /// Its key.
        key: String,
        /// The commit that removed it.
        rev: Rev,
    },
    /// Everything up to this revision has been told. A watch resumed after it misses nothing and repeats nothing.
    Progress(Rev),
}

/// Documents, and the revision at which they were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The documents, ordered by key.
    pub docs: Vec<Doc>,
    /// Where a watch goes on from.
    pub rev: Rev,
}

/// Documents in the order of their keys, or against it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range<'a> {
    /// Only keys after this one.
    pub after: &'a str,
    /// Only keys before this one.
    pub before: &'a str,
    /// Which come first.
    pub order: Order,
    /// Documents at most, however many are asked for no more than [`MAX_RANGE`].
    pub limit: usize,
}

/// The order of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The smallest first.
    Ascending,
    /// The largest first.
    Descending,
}

/// The right to do something alone, for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// What it is for.
    pub name: String,
    /// Grows with every holder. A commit with [`Lease::fence`] only happens while no other holder has come.
    pub token: Rev,
}

impl Lease {
    /// The operation that makes a commit fail once somebody else has taken the lease.
    pub fn fence(&self) -> Op {
        Op::check(lease_key(&self.name), Expect::Rev(self.token))
    }
}

/// The key of the document that says who holds a lease.
pub fn lease_key(name: &str) -> String {
    format!("{LEASES}{name}")
}

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// An expectation did not hold; nothing was changed.
    #[error("{key} is not as expected: {}", match current {
        Some(rev) => format!("it was last written at revision {rev}"),
        None => "it does not exist".to_owned(),
    })]
    Conflict {
        /// The key.
        key: String,
        /// The revision at which it was last written, if it exists.
        current: Option<Rev>,
    },
    /// The changes asked for are no longer kept: list again and watch from there.
    #[error("changes up to revision {horizon} are no longer kept")]
    Compacted {
        /// The newest revision that is gone.
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

/// The changes of a watch; it ends after an error.
pub type Changes = BoxStream<'static, Result<Change, StoreError>>;

/// A store of documents.
#[async_trait]
pub trait DocStore: Send + Sync + 'static {
    /// The document under a key.
    async fn get(&self, key: &str) -> Result<Option<Doc>, StoreError>;

    /// All documents whose keys start with `prefix`, as they were at one revision.
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError>;

    /// The first documents of a range, as they were at one revision.
    async fn range(&self, range: Range<'_>) -> Result<Vec<Doc>, StoreError>;

    /// Does all operations or none, and says at which revision. When it answers, the change is on disk.
    ///
    /// A commit of checks alone answers the current revision.
    async fn commit(&self, ops: Vec<Op>) -> Result<Rev, StoreError>;

    /// The changes after a revision of the keys that start with `prefix`: each once, in order, with
    /// [`Change::Progress`] after whole commits and at least every [`PROGRESS_INTERVAL`].
    fn watch(&self, prefix: &str, after: Rev) -> Changes;

    /// Forgets the changes up to a revision.
    async fn compact(&self, up_to: Rev) -> Result<(), StoreError>;

    /// Takes a lease for `ttl`, by the store's clock; nothing while another holds it. `holder` is told to whoever reads
    /// the lease's document.
    async fn lease(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<Option<Lease>, StoreError>;

    /// Holds a lease for `ttl` from now. [`StoreError::Conflict`] if another has taken it.
    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<(), StoreError>;

    /// Gives a lease back. Nothing happens if it is no longer held.
    async fn release(&self, lease: &Lease) -> Result<(), StoreError>;

    /// Whether it answers, and takes writes if one has failed: after a failed write each check writes, until one succeeds.
    async fn check(&self) -> Result<(), StoreError>;

    /// Ends the connections, after the commits that are under way. Later calls are [`StoreError::Unavailable`].
    async fn close(&self);
}

/// Refuses a key that not every store could hold. Keys are ASCII so that all stores order them alike.
pub fn check_key(key: &str) -> Result<(), StoreError> {
    check_prefix(key)?;
    if key.is_empty() {
        return Err(StoreError::Invalid("an empty key".into()));
    }
    Ok(())
}

/// Refuses a prefix that no key has.
pub fn check_prefix(prefix: &str) -> Result<(), StoreError> {
    if prefix.len() > MAX_KEY_BYTES || !prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
        let shown: String = prefix.chars().take(80).collect();
        return Err(StoreError::Invalid(format!(
            "key {shown:?}: wanted at most {MAX_KEY_BYTES} printable ASCII characters"
        )));
    }
    Ok(())
}

/// Refuses a commit that breaks a limit of stores.
pub fn check_ops(ops: &[Op]) -> Result<(), StoreError> {
    if ops.is_empty() || ops.len() > MAX_OPS {
        return Err(StoreError::Invalid(format!(
            "a commit of {} operations, wanted 1 to {MAX_OPS}",
            ops.len()
        )));
    }
    let mut keys = std::collections::HashSet::with_capacity(ops.len());
    let mut total = 0;
    for op in ops {
        let key = op.key();
        check_key(key)?;
        if !keys.insert(key) {
            return Err(StoreError::Invalid(format!(
                "key {key:?} twice in one commit"
            )));
        }
        if key.starts_with(LEASES) && !matches!(op, Op::Check { .. }) {
            return Err(StoreError::Invalid(format!("key {key:?} is a lease's")));
        }
        if let Op::Put { value, .. } = op {
            total += value.len();
            if value.len() > MAX_VALUE_BYTES {
                return Err(StoreError::Invalid(format!(
                    "the value of {key:?} has {} bytes, wanted at most {MAX_VALUE_BYTES}",
                    value.len()
                )));
            }
        }
    }
    if total > MAX_COMMIT_BYTES {
        return Err(StoreError::Invalid(format!(
            "a commit of {total} bytes, wanted at most {MAX_COMMIT_BYTES}"
        )));
    }
    Ok(())
}

/// Refuses the name or the time of a lease.
pub fn check_lease(name: &str, ttl: Duration) -> Result<(), StoreError> {
    check_key(&lease_key(name))?;
    if name.is_empty() || ttl.is_zero() || ttl > MAX_LEASE {
        return Err(StoreError::Invalid(format!(
            "lease {name:?} for {ttl:?}: wanted a name, and more than nothing up to {MAX_LEASE:?}"
        )));
    }
    Ok(())
}
