//! `samovar engine`: loads graphs and runs them for the node that started it. Nobody calls it by hand.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::Context as _;
use samovar_server::node;

/// Runs until the node is gone, which handed its end of a stream over as standard input.
pub fn run() -> anyhow::Result<()> {
    node::start_logging();
    let input: OwnedFd = std::io::stdin().as_fd().try_clone_to_owned()?;
    samovar_runtime::serve_engine(UnixStream::from(input), collect).context(
        "`samovar engine` is started by `samovar serve` and talks to it over its standard input",
    )
}

/// Has this program's allocator give back what it keeps.
fn collect() {
    // SAFETY: may be called at any time, from any thread.
    unsafe { libmimalloc_sys::mi_collect(true) };
}
