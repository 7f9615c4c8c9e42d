//! `samovar compile-worker`: compiles components for the server that started it. It is not meant to be called by users.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::Context as _;
use samovar_server::node;

/// Runs until the server closes its end of the socket that is this process's standard input.
pub fn run() -> anyhow::Result<()> {
    node::start_logging();
    let input: OwnedFd = std::io::stdin().as_fd().try_clone_to_owned()?;
    samovar_runtime::serve_compile_worker(UnixStream::from(input)).context(
        "`samovar compile-worker` is started by `samovar serve` and talks to it over its standard input",
    )
}
