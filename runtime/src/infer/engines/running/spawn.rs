//! How the process of an engine is started, and what it gets of this one's environment.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::infer::engines::Program;

/// Variables that an engine gets: none that could hold a secret.
const VARIABLES: [&str; 8] = [
    "PATH",
    "LD_LIBRARY_PATH",
    "SAMOVAR_LOG",
    "RUST_BACKTRACE",
    "HOME",
    "TZ",
    "LANG",
    "ORT_DISABLE_TELEMETRY",
];

/// Variables of the graphics drivers begin so.
const CARD_VARIABLES: [&str; 2] = ["CUDA_", "NVIDIA_"];

/// Starts the program with its end of the stream as standard input.
pub(super) fn start(program: &Program, theirs: UnixStream) -> io::Result<Option<Child>> {
    match program {
        Program::Process(path) => {
            let mut command = Command::new(path);
            command
                .arg("engine")
                .env_clear()
                // Addresses that the allocator only reserves do not count towards the limit of memory.
                .env("MIMALLOC_ARENA_EAGER_COMMIT", "0")
                .envs(passed_on())
                .stdin(Stdio::from(OwnedFd::from(theirs)))
                .stdout(Stdio::null())
                // Ctrl-C is for the node, which lets runs end first.
                .process_group(0)
                .kill_on_drop(true);
            command.spawn().map(Some)
        }
        #[cfg(test)]
        Program::Thread => {
            std::thread::Builder::new()
                .spawn(move || crate::infer::engines::serve::serve(theirs, || {}))?;
            Ok(None)
        }
    }
}

/// The variables that an engine gets.
pub(in crate::infer::engines) fn passed_on() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| is_passed_on(name))
}

/// Whether an engine gets this variable.
fn is_passed_on(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    VARIABLES.contains(&&*name) || CARD_VARIABLES.iter().any(|begin| name.starts_with(begin))
}
