//! What a guest prints, cut into lines and handed to whoever keeps a deployment's log.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// A longer line is cut here.
pub const MAX_LINE_BYTES: usize = 16 << 10;

/// How serious a line is; what a guest prints to stdout is `Info`, to stderr `Warning`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Level {
    Debug,
    Info,
    Warning,
    Error,
}

impl Level {
    /// The name in logs and answers, as `INFO`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warning => "WARNING",
            Self::Error => "ERROR",
        }
    }
}

/// One line of a deployment's log.
#[derive(Clone, Debug)]
pub struct LogLine {
    /// When it was printed.
    pub time: std::time::SystemTime,
    /// How serious it is.
    pub level: Level,
    /// Which replica printed it.
    pub replica: String,
    /// The request it was serving, if any.
    pub request_id: Option<Arc<str>>,
    /// The text, without its line end, at most [`MAX_LINE_BYTES`] long.
    pub message: String,
}

/// Takes a deployment's log lines. Must not block: it is called while the guest runs.
pub trait LogSink: Send + Sync {
    /// Keeps the line, or counts it as dropped.
    fn write(&self, line: LogLine);
}

/// Who prints: shared by the streams of one replica and by the host on its behalf.
pub struct ReplicaLog {
    sink: Arc<dyn LogSink>,
    replica: String,
    request_id: Mutex<Option<Arc<str>>>,
}

impl ReplicaLog {
    /// A log for the replica of this id.
    pub fn new(sink: Arc<dyn LogSink>, replica: String) -> Self {
        Self {
            sink,
            replica,
            request_id: Mutex::new(None),
        }
    }

    /// Which request the following lines belong to.
    pub fn set_request(&self, id: Option<Arc<str>>) {
        *lock(&self.request_id) = id;
    }

    /// Writes one line.
    pub fn write(&self, level: Level, message: String) {
        self.sink.write(LogLine {
            time: std::time::SystemTime::now(),
            level,
            replica: self.replica.clone(),
            request_id: lock(&self.request_id).clone(),
            message,
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A panic while the lock was held cannot leave these plain values half-written.
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A guest's stdout or stderr.
#[derive(Clone)]
pub struct LogStream {
    log: Arc<ReplicaLog>,
    level: Level,
    partial: Arc<Mutex<Vec<u8>>>,
}

impl LogStream {
    /// A stream whose lines have this level.
    pub fn new(log: Arc<ReplicaLog>, level: Level) -> Self {
        Self {
            log,
            level,
            partial: Arc::default(),
        }
    }

    fn push(&self, mut bytes: &[u8]) {
        let mut partial = lock(&self.partial);
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            let room = MAX_LINE_BYTES.saturating_sub(partial.len());
            partial.extend_from_slice(&bytes[..end.min(room)]);
            self.emit(&mut partial);
            bytes = &bytes[end + 1..];
        }
        let room = MAX_LINE_BYTES.saturating_sub(partial.len());
        partial.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn emit(&self, partial: &mut Vec<u8>) {
        let text = String::from_utf8_lossy(partial)
            .trim_end_matches('\r')
            .to_owned();
        partial.clear();
        self.log.write(self.level, text);
    }

    /// Writes out a line that has no end yet: a request is over, or the replica is.
    pub fn finish_line(&self) {
        let mut partial = lock(&self.partial);
        if !partial.is_empty() {
            self.emit(&mut partial);
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

    // Lines go to a sink that never blocks, so the adapter with its task is not needed.
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

    #[derive(Default)]
    struct Kept(Mutex<Vec<String>>);
    impl LogSink for Kept {
        fn write(&self, line: LogLine) {
            lock(&self.0).push(line.message);
        }
    }

    #[test]
    fn lines_are_joined_cut_and_finished() {
        let kept = Arc::new(Kept::default());
        let log = Arc::new(ReplicaLog::new(kept.clone(), "r".into()));
        let stream = LogStream::new(log, Level::Info);
        stream.push(b"one\ntw");
        stream.push(b"o\r\n");
        stream.push(&vec![b'x'; 3 * MAX_LINE_BYTES]);
        stream.push(b"\nlast");
        stream.finish_line();
        let lines = lock(&kept.0);
        assert_eq!(lines[0], "one");
        assert_eq!(lines[1], "two");
        assert_eq!(lines[2].len(), MAX_LINE_BYTES);
        assert_eq!(lines[3], "last");
    }
}
