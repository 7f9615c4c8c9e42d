//! Leveled lines in the deployment's log. What a model prints to stdout and stderr goes there too, without a level.

use std::fmt::Display;

use crate::bindings::wasi::logging::logging::{self, Level};

macro_rules! levels {
    ($($name:ident $level:ident $doc:literal;)*) => {$(
        #[doc = $doc]
        pub fn $name(message: impl Display) {
            logging::log(Level::$level, "", &message.to_string());
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
