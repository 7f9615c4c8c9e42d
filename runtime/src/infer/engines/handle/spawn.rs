//! Starts the process of an engine, with a part of this process's environment.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::infer::engines::Program;

/// Variables that engines inherit: none that could contain a secret.
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

/// Prefixes of the variables of GPU drivers.
const GPU_VARIABLES: [&str; 2] = ["CUDA_", "NVIDIA_"];

/// Starts the program with its end of the stream as standard input.
pub(super) fn start(program: &Program, theirs: UnixStream) -> io::Result<Option<Child>> {
    match program {
        Program::Process(path) => {
            let mut command = Command::new(path);
            command
                .arg("engine")
                .env_clear()
                // Address space that the allocator only reserves does not count towards the memory limit.
                .env("MIMALLOC_ARENA_EAGER_COMMIT", "0")
                .envs(passed_variables())
                .stdin(Stdio::from(OwnedFd::from(theirs)))
                .stdout(Stdio::null())
                // Ctrl-C is for the node, which waits for runs.
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

/// The variables that engines and other workers inherit.
pub(in crate::infer::engines) fn passed_variables() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| is_passed(name))
}

/// Whether engines inherit this variable.
fn is_passed(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    VARIABLES.contains(&&*name) || GPU_VARIABLES.iter().any(|begin| name.starts_with(begin))
}
