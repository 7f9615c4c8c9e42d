//! Batches of usage on disk, from when they were counted until the store has them.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use samovar_types::usage::UsageRow;
use serde::{Deserialize, Serialize};

/// Largest spool. What comes while it is full stays in the meters, and is counted in a later minute.
pub const MAX_SPOOL_BYTES: u64 = 64 << 20;

/// Rows that the store takes together, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Its id, which no other batch of any node has.
    pub id: String,
    /// What was used.
    pub rows: Vec<UsageRow>,
}

/// A file of batches, one JSON document a line.
pub struct Spool {
    file: File,
    bytes: u64,
    end: End,
    batches: VecDeque<Batch>,
}

/// What the file ends with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Line,
    /// A line that a crash or an error cut off; it was never acknowledged.
    Torn,
}

impl Spool {
    /// Opens the file, made if it is not there, with the batches that the store may not have.
    ///
    /// # Errors
    /// When the file cannot be made or read.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let mut file = File::options()
            .create(true)
            .append(true)
            .read(true)
            .open(path)?;
        let mut text = Vec::new();
        (&mut file)
            .take(2 * MAX_SPOOL_BYTES)
            .read_to_end(&mut text)?;
        let mut batches = VecDeque::new();
        let lines = text.split(|byte| *byte == b'\n');
        for line in lines.filter(|line| !line.is_empty()) {
            match serde_json::from_slice(line) {
                Ok(batch) => batches.push_back(batch),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a line of the usage spool was cut off");
                }
            }
        }
        let end = match text.last() {
            None | Some(b'\n') => End::Line,
            Some(_) => End::Torn,
        };
        Ok(Self {
            bytes: file.metadata()?.len(),
            file,
            end,
            batches,
        })
    }

    /// Adds batches; they are on disk when it answers.
    ///
    /// # Errors
    /// When the disk fails or the spool is full; then none was added.
    pub fn push(&mut self, batches: Vec<Batch>) -> std::io::Result<()> {
        let mut text = Vec::new();
        if self.end == End::Torn {
            text.push(b'\n');
        }
        for batch in &batches {
            serde_json::to_writer(&mut text, batch)?;
            text.push(b'\n');
        }
        let bytes = self.bytes + text.len() as u64;
        if bytes > MAX_SPOOL_BYTES {
            return Err(std::io::Error::other(format!(
                "the usage spool is full: {MAX_SPOOL_BYTES} bytes wait for the store"
            )));
        }
        let written = self.file.write_all(&text);
        if let Err(error) = written.and_then(|()| self.file.sync_data()) {
            // What is there of it must not be read back as if it had been taken.
            if self.file.set_len(self.bytes).is_err() {
                self.end = End::Torn;
            }
            return Err(error);
        }
        self.bytes = bytes;
        self.end = End::Line;
        self.batches.extend(batches);
        Ok(())
    }

    /// The oldest batch.
    pub fn oldest(&self) -> Option<&Batch> {
        self.batches.front()
    }

    /// Forgets a batch that the store has, if it is the oldest.
    pub fn forget(&mut self, id: &str) {
        if self.oldest().is_some_and(|batch| batch.id == id) {
            self.batches.pop_front();
        }
        // A batch that comes back after a crash is known to the store, so lines may stay until all are done.
        if self.batches.is_empty() && self.bytes > 0 && self.file.set_len(0).is_ok() {
            self.bytes = 0;
            self.end = End::Line;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(id: &str) -> Batch {
        let row = r#"{"minute": 1, "model_id": "abcd1234", "model_name": "m", "deployment_id": "abcd1234",
            "deployment_name": "d", "requests_ok": 7}"#;
        Batch {
            id: id.into(),
            rows: vec![serde_json::from_str(row).unwrap()],
        }
    }

    fn ids(spool: &Spool) -> Vec<&str> {
        spool.batches.iter().map(|batch| &batch.id[..]).collect()
    }

    #[test]
    fn batches_come_back_until_the_store_has_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("usage");
        let mut spool = Spool::open(&path).unwrap();
        spool.push(vec![batch("a"), batch("b")]).unwrap();
        spool.push(vec![batch("c")]).unwrap();
        spool.forget("a");
        assert_eq!(ids(&spool), ["b", "c"]);
        let mut spool = Spool::open(&path).unwrap();
        assert_eq!(ids(&spool), ["a", "b", "c"]);
        assert_eq!(spool.oldest(), Some(&batch("a")));
        spool.forget("c");
        for id in ["a", "b", "c"] {
            spool.forget(id);
        }
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
        spool.push(vec![batch("d")]).unwrap();
        assert_eq!(ids(&Spool::open(&path).unwrap()), ["d"]);
    }

    #[test]
    fn a_line_that_was_cut_off_spoils_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("usage");
        let mut spool = Spool::open(&path).unwrap();
        spool.push(vec![batch("a"), batch("b")]).unwrap();
        let text = std::fs::read(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 10]).unwrap();
        let mut spool = Spool::open(&path).unwrap();
        assert_eq!(ids(&spool), ["a"]);
        spool.push(vec![batch("c")]).unwrap();
        assert_eq!(ids(&Spool::open(&path).unwrap()), ["a", "c"]);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

        #[test]
        fn no_bytes_panic_and_none_spoil_what_comes_next(
            noise in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
            at in 0..400_usize,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("usage");
            Spool::open(&path).unwrap().push(vec![batch("a"), batch("b")]).unwrap();
            let mut text = std::fs::read(&path).unwrap();
            let at = at.min(text.len());
            text.splice(at..at, noise);
            std::fs::write(&path, &text).unwrap();
            let mut spool = Spool::open(&path).unwrap();
            let before = spool.batches.len();
            spool.push(vec![batch("c")]).unwrap();
            let spool = Spool::open(&path).unwrap();
            let found = ids(&spool);
            proptest::prop_assert_eq!(found.len(), before + 1);
            proptest::prop_assert_eq!(found.last(), Some(&"c"));
        }
    }

    #[test]
    fn a_full_spool_takes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("usage");
        let mut spool = Spool::open(&path).unwrap();
        spool.bytes = MAX_SPOOL_BYTES;
        assert!(spool.push(vec![batch("a")]).is_err());
        assert!(spool.oldest().is_none());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
    }
}
