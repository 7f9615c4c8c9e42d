//! The trait of a store of documents.
//!
//! A store holds small documents under keys such as `models/0a1b2c3d`. Every commit is atomic, durable once it is
//! acknowledged, and has a revision; revisions are store-wide and in the order of commits.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::StoreError;

/// A revision of the whole store: the number of commits that changed it.
pub type Rev = u64;

/// Documents under this prefix say who holds a lease: they can be read and checked, but not written.
pub const LEASES: &str = "leases/";
/// A watch reports its progress at least this often.
pub const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doc {
    pub key: String,
    /// The commit that last wrote it.
    pub rev: Rev,
    pub value: Bytes,
}

/// What a commit expects of a key, as it was before the commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    Any,
    /// There is no document.
    Absent,
    /// This commit last wrote the document.
    Rev(Rev),
}

/// A part of a commit. Each key appears at most once in a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    Put {
        key: String,
        value: Bytes,
        expect: Expect,
    },
    Delete {
        key: String,
        expect: Expect,
    },
    /// Changes nothing, but the commit fails if the expectation does not hold.
    Check {
        key: String,
        expect: Expect,
    },
}

impl Op {
    pub fn put(key: impl Into<String>, value: impl Into<Bytes>, expect: Expect) -> Self {
        Self::Put {
            key: key.into(),
            value: value.into(),
            expect,
        }
    }

    pub fn delete(key: impl Into<String>, expect: Expect) -> Self {
        Self::Delete {
            key: key.into(),
            expect,
        }
    }

    pub fn check(key: impl Into<String>, expect: Expect) -> Self {
        Self::Check {
            key: key.into(),
            expect,
        }
    }

    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } | Self::Check { key, .. } => key,
        }
    }

    pub fn expect(&self) -> Expect {
        match self {
            Self::Put { expect, .. } | Self::Delete { expect, .. } | Self::Check { expect, .. } => {
                *expect
            }
        }
    }
}

/// An item of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Put(Doc),
    Delete {
        key: String,
        /// The commit that removed it.
        rev: Rev,
    },
    /// Everything up to this revision has been delivered. A watch resumed after it misses nothing and repeats nothing.
    Progress(Rev),
}

/// Documents, and the revision at which they were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// Ordered by key.
    pub docs: Vec<Doc>,
    /// A watch after this revision delivers what changes from here on.
    pub rev: Rev,
}

/// Which documents to read, by their keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range<'a> {
    /// Exclusive.
    pub after: &'a str,
    /// Exclusive.
    pub before: &'a str,
    pub order: Order,
    /// At most so many documents, and never more than [`MAX_RANGE`](crate::MAX_RANGE).
    pub limit: usize,
}

/// The order of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Ascending,
    Descending,
}

/// The exclusive right to do something for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub name: String,
    /// Grows with every holder. A commit with [`Lease::fence`] fails once there is another holder.
    pub token: Rev,
}

impl Lease {
    /// Makes a commit fail once somebody else has taken the lease.
    pub fn fence(&self) -> Op {
        Op::check(lease_key(&self.name), Expect::Rev(self.token))
    }
}

/// The key of the document that says who holds a lease.
pub fn lease_key(name: &str) -> String {
    format!("{LEASES}{name}")
}

/// The changes of a watch; it ends after an error.
pub type Changes = BoxStream<'static, Result<Change, StoreError>>;

/// A store of documents.
#[async_trait]
pub trait DocStore: Send + Sync + 'static {
    async fn get(&self, key: &str) -> Result<Option<Doc>, StoreError>;

    /// All documents whose keys start with `prefix`, as they were at one revision.
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError>;

    /// The first documents of a range, as they were at one revision.
    async fn range(&self, range: Range<'_>) -> Result<Vec<Doc>, StoreError>;

    /// Performs all operations or none, and returns the revision of the commit. The change is on disk before it returns.
    ///
    /// A commit of checks alone returns the current revision.
    async fn commit(&self, ops: Vec<Op>) -> Result<Rev, StoreError>;

    /// The changes after a revision of the keys that start with `prefix`: each once, in order, with
    /// [`Change::Progress`] after whole commits and at least every two seconds.
    fn watch(&self, prefix: &str, after: Rev) -> Changes;

    /// Drops the changes up to a revision; watches can no longer resume before it.
    async fn compact(&self, up_to: Rev) -> Result<(), StoreError>;

    /// Takes a lease for `ttl`, by the store's clock; `None` while another holds it. `holder` becomes the value of the
    /// lease's document.
    async fn lease(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<Option<Lease>, StoreError>;

    /// Extends a lease to `ttl` from now. [`StoreError::Conflict`] if another has taken it.
    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<(), StoreError>;

    /// Ends a lease early. Does nothing if it is no longer held.
    async fn release(&self, lease: &Lease) -> Result<(), StoreError>;

    /// Whether the store answers, and takes writes if one has failed: after a failed write each check writes, until one
    /// succeeds.
    async fn check(&self) -> Result<(), StoreError>;

    /// Closes the connections after the commits under way. Later calls are [`StoreError::Unavailable`].
    async fn close(&self);
}
