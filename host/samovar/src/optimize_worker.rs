//! `samovar optimize-worker`: brings one model into the form that loads quickest, for the server that started it. Nobody calls it
//! by hand.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::Context as _;
use samovar_server::node;

/// Does what the server asks for, whose socket is this process's standard input, and ends the process.
pub fn run() -> anyhow::Result<()> {
    node::start_logging();
    let input: OwnedFd = std::io::stdin().as_fd().try_clone_to_owned()?;
    samovar_runtime::serve_optimizer(UnixStream::from(input)).context(
        "`samovar optimize-worker` is started by `samovar serve` and talks to it over its standard input",
    )
}
