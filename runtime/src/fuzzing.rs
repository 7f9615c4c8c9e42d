//! Entry points for fuzz targets, and for nothing else.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use wasmtime_wasi::cli::StdoutStream as _;

use crate::infer::backend::tensor::Tensor;
use crate::infer::batch::rows;
use crate::log::{Level, LogLine, LogSink, LogStream, ReplicaLog};

/// Longest error, in bytes, that a guest's tensors can cause.
pub const MAX_ERROR_BYTES: usize = crate::text::MAX_TEXT_BYTES;

/// Whether a guest with this `network.allow` may send a request to `uri`.
pub fn is_allowed(allow: &[String], uri: &http::Uri) -> bool {
    crate::sandbox::outgoing::is_allowed(allow, uri)
}

/// The log lines of a guest that prints these parts one after another.
pub fn log_lines<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
    #[derive(Default)]
    struct Lines(Mutex<Vec<String>>);
    impl LogSink for Lines {
        fn write(&self, line: LogLine) {
            self.0.lock().push(line.message);
        }
    }
    let lines = Arc::new(Lines::default());
    let log = Arc::new(ReplicaLog::new(lines.clone(), "replica".to_owned()));
    let stream = LogStream::new(log, Level::Info);
    let mut guest = stream.p2_stream();
    for part in parts {
        // The stream accepts any bytes.
        let _ = guest.write(Bytes::copy_from_slice(part));
    }
    stream.flush_line();
    std::mem::take(&mut lines.0.lock())
}

/// The tensors of a call after it was joined with `copies` calls like it and the result was split again: one call's tensors
/// for each. `None` when calls like it are not joined.
///
/// # Errors
/// Those of joining and splitting.
pub fn joined_and_split(
    call: &[Tensor],
    copies: usize,
) -> Option<Result<Vec<Vec<Tensor>>, String>> {
    let (_, rows) = rows::batch_key(call)?;
    let calls = vec![call; copies];
    let joined = rows::join(&calls);
    Some(joined.and_then(|joined| rows::split(&joined, &vec![rows; copies])))
}
