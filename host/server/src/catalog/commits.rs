//! Groups the changes of a watch into whole commits, and says what each means.

use samovar_store::{Change, Rev};

use super::cache::{Delta, Documents, Unreadable};

/// A document that was changed: by the `place`th change of the commit at that revision.
pub struct ChangedDoc {
    /// The commit.
    pub rev: Rev,
    /// Its place among the changes of the commit.
    pub place: u32,
    /// The document.
    pub key: String,
    /// What it holds now; nothing when it was removed.
    pub value: Option<bytes::Bytes>,
}

/// The changes of commits of which more may come.
#[derive(Default)]
pub struct Commits {
    changed: Vec<ChangedDoc>,
}

impl Commits {
    /// Takes a change in; gives all of them out once the commits are whole, with how far that is.
    pub fn take(&mut self, change: Change) -> Option<(Vec<ChangedDoc>, Rev)> {
        let (key, rev, value) = match change {
            Change::Put(doc) => (doc.key, doc.rev, Some(doc.value)),
            Change::Delete { key, rev } => (key, rev, None),
            Change::Progress(rev) => return Some((std::mem::take(&mut self.changed), rev)),
        };
        let place = match self.changed.last() {
            Some(last) if last.rev == rev => last.place + 1,
            _ => 0,
        };
        self.changed.push(ChangedDoc {
            rev,
            place,
            key,
            value,
        });
        None
    }
}

/// What changes mean. One that cannot be read is reported and must not hide the others.
pub fn deltas<'m>(
    documents: &'m mut Documents,
    changed: &'m [ChangedDoc],
    report: impl Fn(&str, Option<Unreadable>) + 'm,
) -> impl Iterator<Item = Delta> + 'm {
    changed.iter().filter_map(move |one| {
        match documents.apply(one.rev, one.place, &one.key, one.value.as_deref()) {
            Ok(delta) => {
                report(&one.key, None);
                Some(delta)
            }
            Err(error) => {
                report(&one.key, Some(error));
                None
            }
        }
    })
}
