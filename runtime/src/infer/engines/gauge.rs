//! What the graphs of an engine take of its memory, as the engine itself sees it.
//!
//! The system tells how much a whole process takes, and nothing of graphs. So what a graph takes is what the engine grows by
//! while nothing else happens in it: when a graph is loaded, and when a run takes more than any before.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::process::status_bytes;

/// Memory that runs may leave with the libraries, for the next ones, before it is asked back.
const EXCESS_BYTES: u64 = 256 << 20;

/// The memory of this process.
pub(super) struct Gauge {
    /// `/proc/self/statm`: pages, of which some are of files.
    pages: File,
    /// `/proc/self/status`, which has the highest mark.
    status: File,
    /// `/proc/self/clear_refs`, which resets that mark, if the system lets this process.
    reset: Option<File>,
    page_bytes: u64,
    /// Loads and runs that are going on.
    active: AtomicUsize,
    /// Loads and runs that have begun.
    begun: AtomicU64,
    /// The most that this process ever took, as of the last look. Only of use where the mark cannot be reset.
    highest_bytes: AtomicU64,
    /// What it took when it had no more than its graphs.
    floor_bytes: AtomicU64,
}

/// Something that takes memory, while it goes on.
pub(super) struct Activity<'a> {
    gauge: &'a Gauge,
    /// Which it is, and what the process took before; nothing when it was not alone.
    alone: Option<(u64, Taken)>,
    /// Whether the highest mark is its own.
    is_marked: bool,
}

/// What a process takes.
#[derive(Clone, Copy, Debug)]
struct Taken {
    /// Of its own, without mapped files.
    own_bytes: u64,
    /// All that is in memory.
    bytes: u64,
}

impl Gauge {
    /// The gauge of this process, before it is confined: it opens a file to write to. `is_alone` says that the process is an engine
    /// and nothing else, whose highest mark may be reset.
    ///
    /// # Errors
    /// When the system says nothing of its memory.
    pub fn open(is_alone: bool) -> io::Result<Self> {
        let reset = || File::options().write(true).open("/proc/self/clear_refs");
        let gauge = Self {
            pages: File::open("/proc/self/statm")?,
            status: File::open("/proc/self/status")?,
            reset: is_alone.then(reset).and_then(Result::ok),
            page_bytes: rustix::param::page_size() as u64,
            active: AtomicUsize::new(0),
            begun: AtomicU64::new(0),
            highest_bytes: AtomicU64::new(0),
            floor_bytes: AtomicU64::new(0),
        };
        gauge.taken().ok_or(io::ErrorKind::Unsupported)?;
        gauge.settle();
        Ok(gauge)
    }

    /// Notes that something begins.
    pub fn begin(&self) -> Activity<'_> {
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let others = self.active.fetch_add(1, Ordering::SeqCst);
        let alone = match others {
            0 => self.taken().map(|taken| (number, taken)),
            _ => None,
        };
        // What went before must not count, also not what only short runs took, at which nobody looks.
        let is_marked = alone.is_some() && self.reset_highest();
        Activity {
            gauge: self,
            alone,
            is_marked,
        }
    }

    /// Notes that the process takes what its graphs take, and no more.
    pub fn settle(&self) {
        if let Some(taken) = self.taken() {
            self.floor_bytes.store(taken.own_bytes, Ordering::Relaxed);
        }
    }

    /// Sets the highest mark to what the process takes now. False where the system does not let it.
    fn reset_highest(&self) -> bool {
        /// What the kernel takes as the order to do so.
        const RESET: &[u8] = b"5";
        let mut reset = self.reset.as_ref();
        reset
            .as_mut()
            .is_some_and(|file| file.write_all(RESET).is_ok())
    }

    /// Whether runs have left so much memory with the libraries that it is to be asked back.
    pub fn is_in_excess(&self) -> bool {
        let floor = self.floor_bytes.load(Ordering::Relaxed);
        let is_over = |taken: Taken| taken.own_bytes > floor.saturating_add(EXCESS_BYTES);
        self.taken().is_some_and(is_over)
    }

    fn taken(&self) -> Option<Taken> {
        let mut text = [0; 128];
        let bytes = self.pages.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(&text[..bytes]).ok()?;
        let mut numbers = text.split_ascii_whitespace().skip(1);
        let mut next = || numbers.next()?.parse::<u64>().ok();
        let (resident, of_files) = (next()?, next()?);
        Some(Taken {
            own_bytes: resident.saturating_sub(of_files) * self.page_bytes,
            bytes: resident * self.page_bytes,
        })
    }

    /// The most that this process ever took.
    fn highest(&self) -> Option<u64> {
        let mut text = [0; 4096];
        let bytes = self.status.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(&text[..bytes]).ok()?;
        status_bytes(text, "VmHWM:")
    }
}

impl Activity<'_> {
    /// What the process took before, if nothing else has happened since.
    fn before(&self) -> Option<Taken> {
        let (number, before) = self.alone?;
        (self.gauge.begun.load(Ordering::SeqCst) == number).then_some(before)
    }

    /// What the process has grown by, if nothing else has happened meanwhile.
    pub fn growth_bytes(&self) -> Option<u64> {
        let before = self.before()?;
        let after = self.gauge.taken()?;
        Some(after.own_bytes.saturating_sub(before.own_bytes))
    }

    /// What this took at its highest, if nothing else has happened meanwhile; where the mark cannot be reset, only if it took more than
    /// anything before.
    pub fn peak_bytes(&self) -> Option<u64> {
        let highest = self.gauge.highest()?;
        let before_bytes = self
            .gauge
            .highest_bytes
            .fetch_max(highest, Ordering::SeqCst);
        let before = self.before()?;
        let is_own = self.is_marked || highest > before_bytes;
        is_own.then(|| highest.saturating_sub(before.bytes))
    }
}

impl Drop for Activity<'_> {
    fn drop(&mut self) {
        self.gauge.active.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Held by tests that look at the highest mark, which is the whole process's.
    static ALONE: Mutex<()> = Mutex::new(());

    #[test]
    fn what_is_alone_is_measured() {
        let _alone = ALONE.lock();
        let gauge = Gauge::open(false).unwrap();
        let activity = gauge.begin();
        let memory = std::hint::black_box(vec![1u8; 512 << 20]);
        // Other tests of this process take and give back memory meanwhile.
        assert!(activity.growth_bytes().unwrap() > 256 << 20);
        assert!(activity.peak_bytes().unwrap() > 256 << 20);
        assert!(gauge.is_in_excess());
        gauge.settle();
        assert!(!gauge.is_in_excess(), "it is the graphs' own");
        drop(memory);
    }

    #[test]
    fn a_load_is_measured_that_takes_less_than_one_before() {
        let _alone = ALONE.lock();
        let gauge = Gauge::open(true).unwrap();
        let mut peaks = [1024u64, 512].map(|mib| {
            let activity = gauge.begin();
            drop(std::hint::black_box(vec![1u8; (mib << 20) as usize]));
            activity.peak_bytes().unwrap_or(0) >> 20
        });
        // Other tests of this process take and give back memory meanwhile.
        assert!(peaks[0] > 700 && peaks[1] > 256, "{peaks:?}");
        peaks.sort_unstable();
        assert!(peaks[0] < 900, "{peaks:?}");
    }

    #[test]
    fn what_is_not_alone_is_not() {
        let gauge = Gauge::open(false).unwrap();
        let first = gauge.begin();
        let second = gauge.begin();
        assert_eq!(second.growth_bytes(), None);
        drop(second);
        assert_eq!(first.growth_bytes(), None);
        assert_eq!(first.peak_bytes(), None);
        drop(first);
        assert!(gauge.begin().growth_bytes().is_some());
    }
}
