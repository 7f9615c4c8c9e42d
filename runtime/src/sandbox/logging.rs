//! The host side of `wasi:logging`: messages of a guest become lines of its deployment's log.

use wasmtime::component::{HasData, Linker};

use crate::log::{Level, MAX_LINE_BYTES, ReplicaLog, truncate_line};
use crate::text::bounded_to;

mod generated {
    #![allow(missing_docs, reason = "generated from the standard's WIT")]
    wasmtime::component::bindgen!({
        path: "wit/logging",
        world: "wasi:logging/imports",
    });
}

use generated::wasi::logging::logging;

/// The log of the calling replica.
pub struct LoggingView<'a>(pub &'a ReplicaLog);

impl logging::Host for LoggingView<'_> {
    fn log(&mut self, level: logging::Level, context: String, message: String) {
        let level = match level {
            logging::Level::Trace | logging::Level::Debug => Level::Debug,
            logging::Level::Info => Level::Info,
            logging::Level::Warn => Level::Warning,
            logging::Level::Error | logging::Level::Critical => Level::Error,
        };
        let text = if context.is_empty() {
            message
        } else {
            // One byte above the limit makes it truncated visibly.
            bounded_to(MAX_LINE_BYTES + 1, format_args!("{context}: {message}"))
        };
        self.0.write(level, truncate_line(text, false));
    }
}

struct HasLogging;
impl HasData for HasLogging {
    type Data<'a> = LoggingView<'a>;
}

/// Adds `wasi:logging/logging` to a linker.
pub fn add_to_linker<T: 'static>(
    linker: &mut Linker<T>,
    view: fn(&mut T) -> LoggingView<'_>,
) -> wasmtime::Result<()> {
    logging::add_to_linker::<T, HasLogging>(linker, view)
}
