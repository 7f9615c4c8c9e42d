//! Measures the memory of the graphs of an engine, in the engine.
//!
//! The system reports only the memory of the whole process. So the memory of a graph is the growth of the process while nothing else
//! happens in it: when a graph is loaded, and when a run uses more than any before.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::process::status_bytes;

/// Memory that libraries may keep after runs, for the next ones, before it is returned to the system.
const EXCESS_BYTES: u64 = 256 << 20;

/// The memory of this process.
pub(super) struct Gauge {
    /// `/proc/self/statm`: resident pages, and those of them that belong to files.
    pages: File,
    /// `/proc/self/status`, which has the peak.
    status: File,
    /// `/proc/self/clear_refs`, which resets the peak, if permitted.
    reset: Option<File>,
    page_bytes: u64,
    /// Loads and runs under way.
    active: AtomicUsize,
    /// Loads and runs that were started.
    begun: AtomicU64,
    /// The peak of this process at the last check. Needed only if the peak cannot be reset.
    last_peak_bytes: AtomicU64,
    /// Its memory when it contained only its graphs.
    baseline_bytes: AtomicU64,
}

/// A load or a run under way.
pub(super) struct Activity<'a> {
    gauge: &'a Gauge,
    /// Its number, and the memory before it; `None` if something else was under way.
    alone: Option<(u64, MemoryUsage)>,
    /// Whether the peak was reset for it.
    has_own_peak: bool,
}

/// The memory of a process.
#[derive(Clone, Copy, Debug)]
struct MemoryUsage {
    /// Private memory in bytes, without mapped files.
    private_bytes: u64,
    /// Resident memory in bytes.
    resident_bytes: u64,
}

impl Gauge {
    /// Opens the gauge of this process, before the process is confined, because it opens a file for writing. `is_engine` means that the
    /// process is only an engine, whose peak may be reset.
    ///
    /// # Errors
    /// If the system does not report the memory of this process.
    pub fn open(is_engine: bool) -> io::Result<Self> {
        let reset = || File::options().write(true).open("/proc/self/clear_refs");
        let gauge = Self {
            pages: File::open("/proc/self/statm")?,
            status: File::open("/proc/self/status")?,
            reset: is_engine.then(reset).and_then(Result::ok),
            page_bytes: rustix::param::page_size() as u64,
            active: AtomicUsize::new(0),
            begun: AtomicU64::new(0),
            last_peak_bytes: AtomicU64::new(0),
            baseline_bytes: AtomicU64::new(0),
        };
        gauge.usage().ok_or(io::ErrorKind::Unsupported)?;
        gauge.set_baseline();
        Ok(gauge)
    }

    /// Starts the measurement of a load or a run.
    pub fn begin(&self) -> Activity<'_> {
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let others = self.active.fetch_add(1, Ordering::SeqCst);
        let alone = match others {
            0 => self.usage().map(|taken| (number, taken)),
            _ => None,
        };
        // The peak must not include anything before, such as short runs, which are not measured.
        let has_own_peak = alone.is_some() && self.reset_peak();
        Activity {
            gauge: self,
            alone,
            has_own_peak,
        }
    }

    /// Sets the baseline: the process contains only its graphs now.
    pub fn set_baseline(&self) {
        if let Some(taken) = self.usage() {
            self.baseline_bytes
                .store(taken.private_bytes, Ordering::Relaxed);
        }
    }

    /// Resets the peak to the current memory. Returns `false` if the system does not permit it.
    fn reset_peak(&self) -> bool {
        /// The kernel's code for this.
        const RESET: &[u8] = b"5";
        let mut reset = self.reset.as_ref();
        reset
            .as_mut()
            .is_some_and(|file| file.write_all(RESET).is_ok())
    }

    /// Whether libraries keep so much memory after runs that it should be returned to the system.
    pub fn has_excess(&self) -> bool {
        let floor = self.baseline_bytes.load(Ordering::Relaxed);
        let is_over = |taken: MemoryUsage| taken.private_bytes > floor.saturating_add(EXCESS_BYTES);
        self.usage().is_some_and(is_over)
    }

    fn usage(&self) -> Option<MemoryUsage> {
        let mut text = [0; 128];
        let bytes = self.pages.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(&text[..bytes]).ok()?;
        let mut numbers = text.split_ascii_whitespace().skip(1);
        let mut next = || numbers.next()?.parse::<u64>().ok();
        let (resident, of_files) = (next()?, next()?);
        Some(MemoryUsage {
            private_bytes: resident.saturating_sub(of_files) * self.page_bytes,
            resident_bytes: resident * self.page_bytes,
        })
    }

    /// The peak of this process.
    fn peak(&self) -> Option<u64> {
        let mut text = [0; 4096];
        let bytes = self.status.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(&text[..bytes]).ok()?;
        status_bytes(text, "VmHWM:")
    }
}

impl Activity<'_> {
    /// The memory before, if nothing else has happened since.
    fn before(&self) -> Option<MemoryUsage> {
        let (number, before) = self.alone?;
        (self.gauge.begun.load(Ordering::SeqCst) == number).then_some(before)
    }

    /// The growth of the process, if nothing else has happened meanwhile.
    pub fn growth_bytes(&self) -> Option<u64> {
        let before = self.before()?;
        let after = self.gauge.usage()?;
        Some(after.private_bytes.saturating_sub(before.private_bytes))
    }

    /// The peak of this load or run, if nothing else has happened meanwhile. If the peak cannot be reset, only if it was higher than any
    /// before.
    pub fn peak_bytes(&self) -> Option<u64> {
        let peak = self.gauge.peak()?;
        let last_peak_bytes = self.gauge.last_peak_bytes.fetch_max(peak, Ordering::SeqCst);
        let before = self.before()?;
        let is_own = self.has_own_peak || peak > last_peak_bytes;
        is_own.then(|| peak.saturating_sub(before.resident_bytes))
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

    /// Held by tests that read the peak, which is of the whole process.
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
        assert!(gauge.has_excess());
        gauge.set_baseline();
        assert!(!gauge.has_excess(), "it is the graphs' own");
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
