//! Writes lines with a level to the deployment's log. Standard output and standard error are also logged, with the levels `INFO` and `WARNING`.
//!
//! ```
//! use samovar_sdk::log;
//!
//! log::info("the tokenizer has 30522 words");
//! log::warn(format_args!("cut a text of {} tokens", 700));
//! ```
//!
//! `samovar logs MODEL` shows the lines with the request during which each was written. Trace lines are stored as `DEBUG`, and lines are
//! truncated at 16 KiB.

use std::fmt::Display;

use crate::bindings::wasi::logging::logging::Level;

macro_rules! levels {
    ($($name:ident $level:ident $doc:literal;)*) => {$(
        #[doc = $doc]
        ///
        /// ```
        #[doc = concat!("samovar_sdk::log::", stringify!($name), "(format_args!(\"{} tokens\", 512));")]
        /// ```
        pub fn $name(message: impl Display) {
            write(Level::$level, &message.to_string());
        }
    )*};
}

levels! {
    trace Trace "A step, for who follows the code.";
    debug Debug "A fact, for who looks for a fault.";
    info Info "Something that happened as it should.";
    warn Warn "Something odd that the model got over.";
    error Error "Something that failed.";
}

#[cfg(target_family = "wasm")]
fn write(level: Level, message: &str) {
    crate::bindings::wasi::logging::logging::log(level, "", message);
}

/// In native builds there is no host, so lines are printed.
#[cfg(not(target_family = "wasm"))]
fn write(level: Level, message: &str) {
    eprintln!("{level:?}: {message}");
}
