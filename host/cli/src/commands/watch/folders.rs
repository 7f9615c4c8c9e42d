//! Watches folders with the operating system's notifications. A notification only triggers a scan, so nothing depends on how an
//! editor saves files, and the next scan finds changes that the notifications missed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use super::debounce::Burst;

/// Number of folders that are watched; changes in others are found by periodic scans.
pub const MAX_FOLDERS: usize = 8_000;
/// Interval of periodic scans, because some file systems report no changes.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// After a scan, the next periodic one starts at the earliest after this many times its duration, so that slow scans do not keep the
/// machine busy.
const REST: u32 = 50;

/// Identifies a folder, to detect another one of the same name.
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

/// Receives the notifications.
pub struct Hints {
    heard: mpsc::Receiver<()>,
    burst: Burst,
}

/// Starts without folders.
pub fn start() -> (Folders, Hints) {
    let (tell, heard) = mpsc::channel(1);
    let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        // An error means that notifications were lost.
        if event.map_or(true, |event| is_change(&event.kind)) {
            // If one is pending already, it serves for this one, too.
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

/// Whether the event is a change. Reading a file, as a scan does, is none.
fn is_change(kind: &EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}

impl Folders {
    /// Watches exactly these folders. Returns whether one is new, so that changes in it may have been missed.
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

    /// Why some folders are not watched, if that was not reported yet.
    pub fn take_trouble(&mut self) -> Option<String> {
        let trouble = self.trouble.take()?;
        Some(format!(
            "not all folders can be watched: {trouble}; checking all files every {} s instead",
            LOOK_INTERVAL.as_secs()
        ))
    }
}

impl Hints {
    /// Waits until a burst of changes is over, or until the next periodic scan, whose time depends on the duration of a scan.
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
