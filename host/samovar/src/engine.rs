//! `samovar engine`: loads graphs and runs them for the node that started it. It is not meant to be called by users.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::Context as _;
use samovar_server::node;

/// Runs until the node closes its end of the socket that is this process's standard input.
pub fn run() -> anyhow::Result<()> {
    node::start_logging();
    let input: OwnedFd = std::io::stdin().as_fd().try_clone_to_owned()?;
    samovar_runtime::serve_engine(UnixStream::from(input), collect).context(
        "`samovar engine` is started by `samovar serve` and talks to it over its standard input",
    )
}

/// Returns free memory of the allocator to the system.
fn collect() {
    // SAFETY: may be called at any time, from any thread.
    unsafe { libmimalloc_sys::mi_collect(true) };
}
