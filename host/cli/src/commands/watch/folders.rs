//! The folders that the system watches for us. What it says is only a reason to look, so that nothing depends on how an
//! editor saves, and what it misses is found by the next look.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use super::debounce::Burst;

/// Folders that are watched; what changes in others is seen by the looks that come without a reason.
pub const MAX_FOLDERS: usize = 8_000;
/// A look is taken after so long without a reason: some file systems tell nothing.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// A look that takes long leaves the machine alone for so many times as long.
const REST: u32 = 50;

/// A folder, and not another of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FolderId {
    inode: u64,
    made: Option<SystemTime>,
}

impl FolderId {
    fn read(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = std::fs::metadata(path).ok().filter(|one| one.is_dir())?;
        Some(Self {
            inode: metadata.ino(),
            made: metadata.created().ok(),
        })
    }
}

/// The folders that are watched.
pub struct Folders {
    watcher: Option<RecommendedWatcher>,
    watched: BTreeMap<PathBuf, FolderId>,
    trouble: Option<String>,
}

/// What is heard of them.
pub struct Hints {
    heard: mpsc::Receiver<()>,
    burst: Burst,
}

/// Begins with no folder.
pub fn start() -> (Folders, Hints) {
    let (tell, heard) = mpsc::channel(1);
    let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        // An error is that some were lost.
        if event.map_or(true, |event| is_change(&event.kind)) {
            // One that nobody has heard yet says the same.
            let _ = tell.try_send(());
        }
    });
    let (watcher, trouble) = match watcher {
        Ok(watcher) => (Some(watcher), None),
        Err(error) => (None, Some(error.to_string())),
    };
    let folders = Folders {
        watcher,
        watched: BTreeMap::new(),
        trouble,
    };
    let hints = Hints {
        heard,
        burst: Burst::default(),
    };
    (folders, hints)
}

/// Whether something is other than it was; that somebody reads a file, as we do, is nothing.
fn is_change(kind: &EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}

impl Folders {
    /// Watches these and no others. Answers whether one is new, of which something may have been missed.
    pub fn watch(&mut self, wanted: &BTreeSet<PathBuf>) -> bool {
        let Some(watcher) = &mut self.watcher else {
            return false;
        };
        let present = wanted.iter().take(MAX_FOLDERS);
        let present: BTreeMap<&PathBuf, FolderId> = present
            .filter_map(|path| Some((path, FolderId::read(path)?)))
            .collect();
        self.watched.retain(|path, id| {
            let stays = present.get(path) == Some(id);
            if !stays {
                // It may be gone, and with it the watch.
                let _ = watcher.unwatch(path);
            }
            stays
        });
        let mut is_any_new = false;
        for (path, id) in present {
            if self.watched.contains_key(path) {
                continue;
            }
            match watcher.watch(path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(path.clone(), id);
                    is_any_new = true;
                }
                // Gone again.
                Err(_) if FolderId::read(path).is_none() => {}
                Err(error) => {
                    self.trouble.get_or_insert_with(|| error.to_string());
                    break;
                }
            }
        }
        if wanted.len() > MAX_FOLDERS {
            let found = wanted.len();
            let text = format!("found {found} folders, but only {MAX_FOLDERS} can be watched");
            self.trouble.get_or_insert(text);
        }
        is_any_new
    }

    /// Why not all that was to be watched is, if that was not said yet.
    pub fn take_trouble(&mut self) -> Option<String> {
        let trouble = self.trouble.take()?;
        Some(format!(
            "not all folders can be watched: {trouble}; checking all files every {} s instead",
            LOOK_INTERVAL.as_secs()
        ))
    }
}

impl Hints {
    /// Waits until a burst of changes is over, or for the time to look without one, which depends on how long a look takes.
    pub async fn next(&mut self, look: Duration) {
        let begun = Instant::now();
        loop {
            let due = self.burst.due();
            let due = due.unwrap_or(begun + LOOK_INTERVAL.max(look * REST));
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(due.into()) => break,
                heard = self.heard.recv() => match heard {
                    Some(()) => self.burst.add(Instant::now()),
                    // There is no watcher.
                    None => {
                        tokio::time::sleep_until(due.into()).await;
                        break;
                    }
                }
            }
        }
        self.burst.end();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    async fn heard(hints: &mut Hints) -> bool {
        let begun = Instant::now();
        hints.next(Duration::ZERO).await;
        begun.elapsed() < LOOK_INTERVAL
    }

    #[tokio::test]
    async fn changes_are_heard_however_they_are_made_and_reading_is_not() {
        let root = tempfile::tempdir().unwrap();
        let (folder, below) = (root.path().join("a"), root.path().join("a/below"));
        fs::create_dir_all(&below).unwrap();
        let file = folder.join("file");
        fs::write(&file, "1").unwrap();
        let (mut folders, mut hints) = start();
        let wanted = BTreeSet::from([folder.clone()]);
        assert!(folders.watch(&wanted) && !folders.watch(&wanted));
        assert_eq!(folders.take_trouble(), None);
        fs::read(&file).unwrap();
        fs::read_dir(&folder).unwrap().for_each(drop);
        fs::write(below.join("other"), "not watched").unwrap();
        assert!(!heard(&mut hints).await);

        fs::write(&file, "2").unwrap();
        assert!(heard(&mut hints).await, "written");
        fs::write(folder.join("new"), "3").unwrap();
        fs::rename(folder.join("new"), &file).unwrap();
        assert!(heard(&mut hints).await, "renamed");
        fs::remove_file(&file).unwrap();
        assert!(heard(&mut hints).await, "removed");

        // Another folder of the same name.
        fs::remove_dir_all(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        assert!(heard(&mut hints).await);
        assert!(folders.watch(&wanted));
        while heard(&mut hints).await {}
        fs::write(&file, "4").unwrap();
        assert!(heard(&mut hints).await, "written again");
    }
}
