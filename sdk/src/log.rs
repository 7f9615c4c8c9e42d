//! Leveled lines in the deployment's log. What a model prints to stdout and stderr goes there too, as lines of level `INFO` and `WARNING`.
//!
//! ```
//! use samovar_sdk::log;
//!
//! log::info("the tokenizer has 30522 words");
//! log::warn(format_args!("cut a text of {} tokens", 700));
//! ```
//!
//! `samovar logs MODEL` shows them, and which request each was written for; trace lines are kept as `DEBUG`, and a line is cut
//! at 16 KiB.

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

/// In a test there is no host to take it.
#[cfg(not(target_family = "wasm"))]
fn write(level: Level, message: &str) {
    eprintln!("{level:?}: {message}");
}
