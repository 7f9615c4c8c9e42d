//! Tests whether the store takes writes, after a write that failed.
//!
//! A failed write does not say how long the fault lasts, and a small write that succeeds does not say that the disk has
//! room, because SQLite's log reuses its file. So a failed write only raises a suspicion, which a probe confirms or clears:
//! it writes a file of [`PROBE_BYTES`] beside the database, and then a transaction. Without a suspicion nothing is written.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::StoreError;

/// Free space that a disk must have to count as writable.
const PROBE_BYTES: usize = 1 << 20;

/// Counts failed writes, and writes the probe's file.
pub(super) struct WriteProbe {
    failures: AtomicU64,
    /// How many of them a successful probe has cleared.
    settled: AtomicU64,
    file: PathBuf,
    /// Held while the file is written, so that a disk that hangs blocks one thread and not one for each probe.
    writing: Arc<tokio::sync::Mutex<()>>,
}

impl WriteProbe {
    /// The probe of the store in this file.
    pub fn new(database: &Path) -> Self {
        Self {
            failures: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            file: database.with_extension("probe"),
            writing: Arc::default(),
        }
    }

    /// Records that a write failed.
    pub fn suspect(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// How many writes have failed, if any did since the last successful probe.
    pub fn suspicion(&self) -> Option<u64> {
        let failures = self.failures.load(Ordering::Relaxed);
        (failures > self.settled.load(Ordering::Relaxed)).then_some(failures)
    }

    /// Records that a probe succeeded which began after so many failures.
    pub fn settle(&self, failures: u64) {
        self.settled.fetch_max(failures, Ordering::Relaxed);
    }

    /// Writes the file, and removes it.
    ///
    /// # Errors
    /// The disk refuses it.
    pub async fn write_file(&self) -> Result<(), StoreError> {
        let alone = self.writing.clone().lock_owned().await;
        let file = self.file.clone();
        let written = tokio::task::spawn_blocking(move || {
            let _alone = alone;
            let written = write(&file);
            let _ = std::fs::remove_file(&file);
            written
        });
        let written = written.await.unwrap_or_else(|e| Err(io::Error::other(e)));
        written.map_err(|error| {
            let folder = self.file.parent().unwrap_or(&self.file);
            StoreError::Unavailable(format!(
                "the disk of the data folder takes no writes: a file of {PROBE_BYTES} bytes in {} failed ({error}): free \
                 some space, or make the folder writable again",
                folder.display()
            ))
        })
    }
}

fn write(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file: File = options.open(path)?;
    file.write_all(&vec![0; PROBE_BYTES])?;
    file.sync_all()
}
