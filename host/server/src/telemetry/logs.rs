//! The logs of deployments: lines from guests, the newest few megabytes of each on disk.
//!
//! A deployment's log is two files of JSON Lines. Lines are appended to the current one; when it is full it becomes
//! the previous one, whose predecessor goes. Guests put lines into their deployment's queue (`log_queue.rs`) and never wait:
//! what does not fit is counted, and the count is a line of the log itself.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use regex::Regex;
use samovar_runtime::log::{LogLine, LogSink};
use samovar_types::api::logs::LogEntry;
use tokio::sync::oneshot;

use super::log_queue::{LogQueue, Step};
use crate::tasks::Tasks;

/// The newest log of one deployment that is kept, in bytes on disk.
pub const MAX_LOG_BYTES: u64 = 16 << 20;
/// Most lines in one answer.
pub const MAX_LINES: usize = 1000;
/// Log files held open; beyond this the writer opens them anew.
const MAX_OPEN: usize = 64;
/// Lines that were written are readable after a pause of so long.
const FLUSH_AFTER: Duration = Duration::from_millis(200);

/// Which lines are wanted.
#[derive(Clone, Debug)]
pub struct LogQuery {
    /// Lines from then on.
    pub start: Timestamp,
    /// Lines before then.
    pub end: Timestamp,
    /// Lines at least this serious.
    pub min_level: Option<String>,
    /// Lines of this replica.
    pub replica: Option<String>,
    /// Lines of this request.
    pub request_id: Option<String>,
    /// Lines that contain each of these texts.
    pub includes: Vec<String>,
    /// Lines that contain none of these.
    pub excludes: Vec<String>,
    /// Lines that this fits.
    pub pattern: Option<Regex>,
    /// At most so many, the newest of them.
    pub limit: usize,
}

/// The logs of a node.
#[derive(Clone)]
pub struct Logs {
    folder: PathBuf,
    inlet: Arc<Inlet>,
}

/// The way to the writer, which ends with it.
struct Inlet(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    queue: LogQueue,
    /// The writer sleeps until it is called.
    asleep: bool,
    /// Nothing is pushed any more.
    closed: bool,
    /// The writer has ended: what is pushed is dropped.
    ended: bool,
}

impl Logs {
    /// Keeps logs under `folder`, written by a thread of their own, which is one of `tasks`.
    ///
    /// # Errors
    /// When the folder or the thread cannot be made.
    pub fn open(folder: &Path, tasks: &mut Tasks) -> std::io::Result<Self> {
        Self::open_with(folder, tasks, Writer::run)
    }

    fn open_with(
        folder: &Path,
        tasks: &mut Tasks,
        write: impl FnOnce(Writer) + Send + 'static,
    ) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let shared = Arc::<Shared>::default();
        let writer = Writer {
            folder: folder.to_owned(),
            open: HashMap::new(),
            shared: shared.clone(),
        };
        tasks.spawn_thread("log writer", move || write(writer))?;
        Ok(Self {
            folder: folder.to_owned(),
            inlet: Arc::new(Inlet(shared)),
        })
    }

    /// The log of one deployment.
    pub fn of(&self, deployment: &str) -> Arc<DeploymentLog> {
        Arc::new(DeploymentLog {
            deployment: deployment.into(),
            inlet: self.inlet.clone(),
        })
    }

    /// The lines that a query asks for, oldest first, also those written just before it.
    ///
    /// # Errors
    /// When the files cannot be read, or the thread that writes them has ended.
    pub async fn read(&self, deployment: &str, query: LogQuery) -> std::io::Result<Vec<LogEntry>> {
        let (done, flushed) = oneshot::channel();
        let folder = self.folder.join(deployment);
        let deployment: Arc<str> = deployment.into();
        self.inlet.push(|queue| queue.push_flush(&deployment, done));
        // A deletion drops flushes that wait, too: then there is nothing to flush.
        if flushed.await.is_err() && self.inlet.0.lock().ended {
            return Err(std::io::Error::other(
                "the thread that writes logs has ended, so the newest lines are missing: restart the node",
            ));
        }
        // The files are large.
        let read = tokio::task::spawn_blocking(move || read_lines(&folder, &query));
        read.await.map_err(std::io::Error::other)?
    }

    /// Deletes the log of a deployment.
    pub fn delete(&self, deployment: &str) {
        let deployment: Arc<str> = deployment.into();
        self.inlet.push(|queue| queue.push_delete(&deployment));
    }
}

impl Inlet {
    fn push(&self, change: impl FnOnce(&mut LogQueue)) {
        let mut state = self.0.lock();
        if state.ended {
            return;
        }
        change(&mut state.queue);
        let asleep = std::mem::take(&mut state.asleep);
        drop(state);
        if asleep {
            self.0.changed.notify_one();
        }
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_one();
    }
}

impl Shared {
    /// The next steps of a deployment; `None` when there are none for `patience`, or for good.
    fn next(&self, patience: Option<Duration>) -> Result<(Arc<str>, Vec<Step>), Idle> {
        let mut state = self.lock();
        loop {
            if let Some(next) = state.queue.next() {
                return Ok(next);
            }
            if state.closed {
                return Err(Idle::Closed);
            }
            state.asleep = true;
            let Some(patience) = patience else {
                let woken = self.changed.wait(state);
                state = woken.unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let woken = self.changed.wait_timeout(state, patience);
            let (woken, waited) = woken.unwrap_or_else(PoisonError::into_inner);
            state = woken;
            if waited.timed_out() && state.asleep {
                return Err(Idle::Pause);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every method of the queue leaves it whole, also when a later one panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why the writer has nothing to write.
enum Idle {
    Pause,
    Closed,
}

/// Takes the lines of one deployment.
pub struct DeploymentLog {
    deployment: Arc<str>,
    inlet: Arc<Inlet>,
}

impl LogSink for DeploymentLog {
    fn write(&self, line: LogLine) {
        let stored = LogEntry {
            timestamp: Timestamp::try_from(line.time).unwrap_or_else(|_| Timestamp::now()),
            level: line.level.name().into(),
            message: line.message,
            replica: line.replica,
            request_id: line.request_id.map(|id| id.to_string()),
        };
        self.inlet
            .push(|queue| queue.push_line(&self.deployment, stored));
    }
}

struct Writer {
    folder: PathBuf,
    open: HashMap<Arc<str>, OpenLog>,
    shared: Arc<Shared>,
}

impl Drop for Writer {
    /// Also when it panicked: drops what waits, so that readers do not wait for a flush that never comes.
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.ended = true;
        let waiting = std::mem::take(&mut state.queue);
        drop(state);
        // Outside the lock: this wakes the readers.
        drop(waiting);
    }
}

struct OpenLog {
    file: BufWriter<File>,
    bytes: u64,
}

impl Writer {
    fn run(mut self) {
        let mut flushed = true;
        loop {
            let patience = (!flushed).then_some(FLUSH_AFTER);
            match self.shared.next(patience) {
                Ok((deployment, steps)) => {
                    flushed = false;
                    for step in steps {
                        self.take(&deployment, step);
                    }
                }
                Err(Idle::Pause) => {
                    self.flush();
                    flushed = true;
                }
                Err(Idle::Closed) => return self.flush(),
            }
        }
    }

    fn take(&mut self, deployment: &Arc<str>, step: Step) {
        match step {
            Step::Write(line) | Step::Note(line) => {
                if let Err(error) = self.append(deployment, &line) {
                    tracing::warn!(%deployment, %error, "a log line could not be written");
                    self.open.remove(deployment);
                }
            }
            Step::Flush(done) => {
                if let Some(log) = self.open.get_mut(deployment)
                    && let Err(error) = log.file.flush()
                {
                    tracing::warn!(%deployment, %error, "a log could not be written");
                }
                let _ = done.send(());
            }
            Step::Delete => {
                self.open.remove(deployment);
                let _ = std::fs::remove_dir_all(self.folder.join(&**deployment));
            }
        }
    }

    fn append(&mut self, deployment: &Arc<str>, line: &LogEntry) -> std::io::Result<()> {
        if !self.open.contains_key(deployment) {
            if self.open.len() >= MAX_OPEN {
                self.flush();
                self.open.clear();
            }
            let log = OpenLog::open(&self.folder.join(&**deployment))?;
            self.open.insert(deployment.clone(), log);
        }
        let Some(log) = self.open.get_mut(deployment) else {
            return Ok(());
        };
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        log.file.write_all(&text)?;
        log.bytes += text.len() as u64;
        if log.bytes >= MAX_LOG_BYTES / 2 {
            log.file.flush()?;
            self.open.remove(deployment);
            let folder = self.folder.join(&**deployment);
            std::fs::rename(folder.join(CURRENT), folder.join(PREVIOUS))?;
        }
        Ok(())
    }

    fn flush(&mut self) {
        for (deployment, log) in &mut self.open {
            if let Err(error) = log.file.flush() {
                tracing::warn!(%deployment, %error, "a log could not be written");
            }
        }
    }
}

const CURRENT: &str = "current.jsonl";
const PREVIOUS: &str = "previous.jsonl";

impl OpenLog {
    fn open(folder: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let file = File::options()
            .create(true)
            .append(true)
            .open(folder.join(CURRENT))?;
        let bytes = file.metadata()?.len();
        Ok(Self {
            file: BufWriter::new(file),
            bytes,
        })
    }
}

fn read_lines(folder: &Path, query: &LogQuery) -> std::io::Result<Vec<LogEntry>> {
    let mut found = std::collections::VecDeque::new();
    for name in [PREVIOUS, CURRENT] {
        let file = match File::open(folder.join(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for line in BufReader::new(file).split(b'\n') {
            // A line cut off by a crash is no line.
            let Ok(line) = serde_json::from_slice::<LogEntry>(&line?) else {
                continue;
            };
            if query.wants(&line) {
                if found.len() == query.limit.min(MAX_LINES) {
                    found.pop_front();
                }
                found.push_back(line);
            }
        }
    }
    Ok(found.into())
}

impl LogQuery {
    fn wants(&self, line: &LogEntry) -> bool {
        let is = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| Some(wanted) == found)
        };
        (self.start..self.end).contains(&line.timestamp)
            && self
                .min_level
                .as_deref()
                .is_none_or(|wanted| rank(&line.level) >= rank(wanted))
            && is(&self.replica, Some(&line.replica))
            && is(&self.request_id, line.request_id.as_deref())
            && self.includes.iter().all(|text| line.message.contains(text))
            && !self.excludes.iter().any(|text| line.message.contains(text))
            && self
                .pattern
                .as_ref()
                .is_none_or(|pattern| pattern.is_match(&line.message))
    }
}

fn rank(level: &str) -> usize {
    ["DEBUG", "INFO", "WARNING", "ERROR"]
        .iter()
        .position(|name| *name == level)
        .unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use samovar_runtime::log::Level;

    use super::*;

    fn line(message: String) -> LogLine {
        LogLine {
            time: std::time::SystemTime::now(),
            level: Level::Info,
            replica: "abcde".into(),
            request_id: Some("r1".into()),
            message,
        }
    }

    fn all() -> LogQuery {
        LogQuery {
            start: Timestamp::MIN,
            end: Timestamp::MAX,
            min_level: None,
            replica: None,
            request_id: None,
            includes: Vec::new(),
            excludes: Vec::new(),
            pattern: None,
            limit: 1000,
        }
    }

    #[tokio::test]
    async fn lines_are_read_back_and_filtered() {
        let folder = tempfile::tempdir().unwrap();
        let logs = Logs::open(folder.path(), &mut Tasks::default()).unwrap();
        let log = logs.of("d1");
        for number in 0..10 {
            log.write(line(format!("line {number}")));
        }
        let lines = logs.read("d1", all()).await.unwrap();
        assert_eq!(lines.len(), 10);
        assert_eq!(lines[9].message, "line 9");
        let last = LogQuery { limit: 2, ..all() };
        assert_eq!(logs.read("d1", last).await.unwrap()[0].message, "line 8");
        let some = LogQuery {
            includes: vec!["7".into()],
            ..all()
        };
        assert_eq!(logs.read("d1", some).await.unwrap().len(), 1);
        let errors = LogQuery {
            min_level: Some("ERROR".into()),
            ..all()
        };
        assert!(logs.read("d1", errors).await.unwrap().is_empty());
        assert!(logs.read("other", all()).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_deleted_log_is_gone_with_what_was_on_its_way() {
        let folder = tempfile::tempdir().unwrap();
        let logs = Logs::open(folder.path(), &mut Tasks::default()).unwrap();
        let log = logs.of("d1");
        log.write(line("kept".into()));
        assert_eq!(logs.read("d1", all()).await.unwrap().len(), 1);
        log.write(line("on its way".into()));
        logs.delete("d1");
        assert!(logs.read("d1", all()).await.unwrap().is_empty());
        assert!(!folder.path().join("d1").exists());
    }

    #[tokio::test]
    async fn the_newest_megabytes_stay_and_what_is_too_fast_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let logs = Logs::open(folder.path(), &mut Tasks::default()).unwrap();
        let log = logs.of("d1");
        for number in 0..3000 {
            log.write(line(format!("{number} {}", "x".repeat(10_000))));
        }
        log.write(line("the last".into()));
        let lines = logs
            .read("d1", LogQuery { limit: 1, ..all() })
            .await
            .unwrap();
        assert_eq!(lines[0].message, "the last");
        let bytes: u64 = std::fs::read_dir(folder.path().join("d1"))
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert!(bytes <= MAX_LOG_BYTES, "{bytes}");
    }

    #[tokio::test]
    async fn a_writer_that_panics_ends_its_task_and_what_is_asked_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut tasks = Tasks::default();
        let (open, gate) = std::sync::mpsc::channel::<()>();
        let logs = Logs::open_with(folder.path(), &mut tasks, move |_writer| {
            let _ = gate.recv();
            panic!("on purpose")
        });
        let logs = logs.unwrap();
        let log = logs.of("d1");
        log.write(line("lost".into()));
        let mut waiting = Box::pin(logs.read("d1", all()));
        assert!(futures::poll!(&mut waiting).is_pending());
        open.send(()).unwrap();
        let error = waiting.await.unwrap_err().to_string();
        assert!(error.contains("writes logs has ended"), "{error}");
        assert_eq!(
            tasks.ended().await.to_string(),
            "background task `log writer` ended: it panicked: on purpose"
        );
        log.write(line("late".into()));
        assert!(logs.inlet.0.lock().queue.next().is_none());
        assert!(logs.read("d1", all()).await.is_err());
    }
}
