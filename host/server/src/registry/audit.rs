//! The audit log in the store: written in the commits of the changes that it tells of, read by pages, forgotten in time.

use std::sync::Arc;

use jiff::Timestamp;
use samovar_store::{DocStore, Expect, MAX_RANGE, Op, Order, Range};

use super::{Registry, RegistryError, UnreadableDocuments, put};
use crate::domain::audit::{Author, Entry, Note, RETENTION, stamp};
use crate::domain::keys;

/// Entries that one page looks at; a page may have fewer than were asked for, and say that there are more.
pub const MAX_LOOKED_AT: usize = 20_000;
/// Entries that are forgotten in one commit.
const PURGED_AT_ONCE: usize = 500;

/// The operations that tell of what an author did, for the commit that does it.
pub(super) fn entries(author: &Author, notes: Vec<Note>) -> Result<Vec<Op>, RegistryError> {
    let now = Timestamp::now();
    let ops = notes.into_iter().enumerate().map(|(place, note)| {
        let entry = Entry::new(note, author, now, place);
        put(keys::audit(&entry.id), &entry, Expect::Absent)
    });
    ops.collect()
}

impl Registry {
    /// The same store, for changes that this author makes.
    #[must_use]
    pub fn by(&self, author: Author) -> Self {
        Self {
            author,
            ..self.clone()
        }
    }

    /// Notes what an author did that is no change of anything stored.
    pub async fn note(&self, note: Note) -> Result<(), RegistryError> {
        self.store
            .commit(entries(&self.author, vec![note])?)
            .await?;
        Ok(())
    }

    /// The audit log.
    pub fn audit_log(&self) -> AuditLog {
        AuditLog {
            store: self.store.clone(),
            unreadable: self.unreadable.clone(),
        }
    }
}

/// Which entries a page has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Entries from then on.
    pub start: Option<Timestamp>,
    /// Entries before then.
    pub end: Option<Timestamp>,
    /// Which come first.
    pub order: Order,
    /// Entries that come after this one in that order.
    pub after: Option<String>,
    /// Entries at most.
    pub limit: usize,
}

/// A page of the audit log.
#[derive(Debug, Clone, PartialEq)]
pub struct Entries {
    /// Those that were wanted.
    pub entries: Vec<Entry>,
    /// The id that the next page goes on after; nothing at the end.
    pub next: Option<String>,
}

/// The audit log in a store.
#[derive(Clone)]
pub struct AuditLog {
    store: Arc<dyn DocStore>,
    unreadable: UnreadableDocuments,
}

impl AuditLog {
    /// The entries of a page that are wanted.
    pub async fn page(
        &self,
        page: &Page,
        wanted: impl Fn(&Entry) -> bool + Send,
    ) -> Result<Entries, RegistryError> {
        let start = page.start.map_or(String::new(), stamp);
        let mut after = keys::audit(&start);
        // Behind every id: ids are ASCII.
        let end = page.end.map_or("~".to_owned(), stamp);
        let mut before = keys::audit(&end);
        if let Some(last) = &page.after {
            let last = keys::audit(last);
            match page.order {
                Order::Ascending => after = after.max(last),
                Order::Descending => before = before.min(last),
            }
        }
        let mut entries = Vec::new();
        let mut looked_at = 0;
        loop {
            let range = Range {
                after: &after,
                before: &before,
                order: page.order,
                limit: MAX_RANGE,
            };
            let docs = self.store.range(range).await?;
            for doc in &docs {
                looked_at += 1;
                let id = doc.key.strip_prefix(keys::AUDIT).unwrap_or_default();
                let entry = self.unreadable.read::<Entry>(doc);
                if let Some(entry) = entry.filter(|entry| wanted(entry)) {
                    if entries.len() == page.limit {
                        // One more is there: the page ends with the one before.
                        let next = entries.last().map(|last: &Entry| last.id.clone());
                        return Ok(Entries { entries, next });
                    }
                    entries.push(entry);
                }
                if looked_at >= MAX_LOOKED_AT {
                    let next = Some(id.to_owned());
                    return Ok(Entries { entries, next });
                }
            }
            match docs.last() {
                Some(last) if docs.len() == MAX_RANGE => match page.order {
                    Order::Ascending => after.clone_from(&last.key),
                    Order::Descending => before.clone_from(&last.key),
                },
                _ => {
                    let next = None;
                    return Ok(Entries { entries, next });
                }
            }
        }
    }

    /// Forgets the oldest entries whose time is over, and says how many; less than all when there are many.
    pub async fn purge(&self, now: Timestamp) -> Result<usize, RegistryError> {
        let oldest = now.checked_sub(RETENTION).unwrap_or(Timestamp::MIN);
        let range = Range {
            after: keys::AUDIT,
            before: &keys::audit(&stamp(oldest)),
            order: Order::Ascending,
            limit: PURGED_AT_ONCE,
        };
        let docs = self.store.range(range).await?;
        if docs.is_empty() {
            return Ok(0);
        }
        let ops = docs.iter().map(|doc| Op::delete(&*doc.key, Expect::Any));
        self.store.commit(ops.collect()).await?;
        Ok(docs.len())
    }

    /// Purges for as long as the node runs.
    pub async fn keep_short(self) {
        const PAUSE: std::time::Duration = std::time::Duration::from_secs(3600);
        loop {
            match self.purge(Timestamp::now()).await {
                // More may be there; other commits come between.
                Ok(PURGED_AT_ONCE) => tokio::task::yield_now().await,
                Ok(_) => tokio::time::sleep(PAUSE).await,
                Err(error) => {
                    tracing::warn!(%error, "old entries of the audit log are not forgotten yet");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
