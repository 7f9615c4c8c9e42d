//! What guests print, split into lines and passed to the log of their deployment.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// Longest line in bytes. A longer one is truncated, and says so.
pub const MAX_LINE_BYTES: usize = 16 << 10;
/// The end of a truncated line.
const CUT: &str = "… [cut: a line may have 16 KiB]";

/// The severity of a line. What a guest prints to stdout is `Info`, to stderr `Warning`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Level {
    Debug,
    Info,
    Warning,
    Error,
}

impl Level {
    /// The name in logs and in the API, such as `INFO`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warning => "WARNING",
            Self::Error => "ERROR",
        }
    }
}

/// A line of a deployment's log.
#[derive(Clone, Debug)]
pub struct LogLine {
    /// When the line was written.
    pub time: std::time::SystemTime,
    /// Its severity.
    pub level: Level,
    /// The id of the replica.
    pub replica: String,
    /// The request that the replica was serving, if any.
    pub request_id: Option<Arc<str>>,
    /// The text without line end, at most [`MAX_LINE_BYTES`] long.
    pub message: String,
}

/// Receives the log lines of a deployment. Called while the guest runs, so it must not block.
pub trait LogSink: Send + Sync {
    /// Stores the line, or counts it as dropped.
    fn write(&self, line: LogLine);
}

/// The log of one replica, shared by its streams and by the host on its behalf.
pub struct ReplicaLog {
    sink: Arc<dyn LogSink>,
    replica: String,
    request_id: Mutex<Option<Arc<str>>>,
}

impl ReplicaLog {
    /// A log for the replica with this id.
    pub fn new(sink: Arc<dyn LogSink>, replica: String) -> Self {
        Self {
            sink,
            replica,
            request_id: Mutex::new(None),
        }
    }

    /// Sets the request that the following lines belong to.
    pub fn set_request(&self, id: Option<Arc<str>>) {
        *self.request_id.lock() = id;
    }

    /// Writes one line.
    pub fn write(&self, level: Level, message: String) {
        self.sink.write(LogLine {
            time: std::time::SystemTime::now(),
            level,
            replica: self.replica.clone(),
            request_id: self.request_id.lock().clone(),
            message,
        });
    }
}

/// Truncates a line, with a mark, if it is too long or if its end was dropped before.
pub(crate) fn truncate_line(mut text: String, is_cut: bool) -> String {
    if is_cut || text.len() > MAX_LINE_BYTES {
        let end = MAX_LINE_BYTES - CUT.len();
        text.truncate(text.floor_char_boundary(end));
        // Frees the rest, which may have been megabytes.
        text.shrink_to(MAX_LINE_BYTES);
        text.push_str(CUT);
    }
    text
}

/// A guest's standard output or standard error.
#[derive(Clone)]
pub struct LogStream {
    log: Arc<ReplicaLog>,
    level: Level,
    partial: Arc<Mutex<Partial>>,
}

/// A line without its end so far. A line that is overwritten (`\r`, as by progress bars) keeps its last state.
#[derive(Debug, Default)]
struct Partial {
    bytes: Vec<u8>,
    /// The next bytes overwrite the line.
    returned: bool,
    /// The end of the line was dropped, because the line is too long.
    is_cut: bool,
}

impl Partial {
    /// Adds bytes without a line end.
    fn push(&mut self, mut bytes: &[u8]) {
        let shown = bytes
            .iter()
            .rposition(|b| *b != b'\r')
            .map_or(0, |at| at + 1);
        let returns = shown < bytes.len();
        bytes = &bytes[..shown];
        if !bytes.is_empty() {
            let over = bytes.iter().rposition(|b| *b == b'\r');
            if self.returned || over.is_some() {
                self.bytes.clear();
                self.is_cut = false;
            }
            bytes = &bytes[over.map_or(0, |at| at + 1)..];
            let room = MAX_LINE_BYTES - self.bytes.len();
            self.is_cut |= bytes.len() > room;
            self.bytes
                .extend_from_slice(&bytes[..bytes.len().min(room)]);
            self.returned = false;
        }
        self.returned |= returns;
    }

    /// Ends the line and returns it.
    fn take(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.bytes).into_owned();
        let text = truncate_line(text, self.is_cut);
        self.bytes.clear();
        (self.returned, self.is_cut) = (false, false);
        text
    }
}

impl LogStream {
    /// Creates a stream whose lines have this level.
    pub fn new(log: Arc<ReplicaLog>, level: Level) -> Self {
        Self {
            log,
            level,
            partial: Arc::default(),
        }
    }

    fn push(&self, mut bytes: &[u8]) {
        let mut partial = self.partial.lock();
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            partial.push(&bytes[..end]);
            self.log.write(self.level, partial.take());
            bytes = &bytes[end + 1..];
        }
        partial.push(bytes);
    }

    /// Writes a line that has no end yet, at the end of a request or replica.
    pub fn flush_line(&self) {
        let mut partial = self.partial.lock();
        if !partial.bytes.is_empty() {
            self.log.write(self.level, partial.take());
        }
    }
}

impl IsTerminal for LogStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogStream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    // The sink never blocks, so wasmtime's adapter with its own task is not needed.
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for LogStream {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.push(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for LogStream {
    async fn ready(&mut self) {}
}

#[wasmtime_wasi::async_trait]
impl OutputStream for LogStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.push(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 << 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<String>>);
    impl LogSink for Kept {
        fn write(&self, line: LogLine) {
            self.0.lock().push(line.message);
        }
    }

    fn lines<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
        let kept = Arc::new(Kept::default());
        let log = Arc::new(ReplicaLog::new(kept.clone(), "r".into()));
        let stream = LogStream::new(log, Level::Info);
        for part in parts {
            stream.push(part);
        }
        stream.flush_line();
        let lines = kept.0.lock();
        lines.clone()
    }

    #[test]
    fn lines_are_joined_truncated_and_flushed() {
        let long = vec![b'x'; 3 * MAX_LINE_BYTES];
        let lines = lines([&b"one\ntw"[..], &b"o\r\n"[..], &long[..], &b"\nlast"[..]]);
        assert_eq!(lines[0], "one");
        assert_eq!(lines[1], "two");
        assert_eq!(lines[2].len(), MAX_LINE_BYTES);
        assert!(lines[2].starts_with("xxx") && lines[2].ends_with(CUT));
        assert_eq!(lines[3], "last");
    }

    #[test]
    fn a_line_of_the_longest_length_is_not_truncated() {
        let whole = vec![b'x'; MAX_LINE_BYTES];
        assert_eq!(lines([&whole[..], &b"\n"[..]])[0].as_bytes(), whole);
    }

    #[test]
    fn a_progress_bar_is_its_last_state() {
        let mut bar = Vec::new();
        for percent in 0..=100 {
            bar.extend(format!("\r{percent:>3} % {}", "#".repeat(1000)).bytes());
        }
        bar.extend(b"\rdone\r\n");
        assert_eq!(lines([&bar[..]]), ["done"]);
        assert_eq!(lines([&b"1 %\r"[..], &b"2 %\r"[..], &b"3 %"[..]]), ["3 %"]);
        assert_eq!(lines([&b"50 %\r"[..], &b"\n"[..]]), ["50 %"]);
        assert_eq!(lines([&b"50 %\r\r"[..]]), ["50 %"]);
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_their_bytes_are_split(
            text in "[a-c\r\n]{0,60}",
            cuts in prop::collection::vec(0usize..60, 0..8),
        ) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let parts = cuts.windows(2).map(|ends| &bytes[ends[0]..ends[1]]);
            prop_assert_eq!(lines(parts), lines([bytes]));
        }

        #[test]
        fn no_line_exceeds_the_limit(parts: Vec<Vec<u8>>, times in 1usize..2000) {
            let all = parts.concat().repeat(times);
            let kept = lines([&all[..]]);
            prop_assert!(kept.iter().all(|line| line.len() <= MAX_LINE_BYTES));
        }
    }
}
