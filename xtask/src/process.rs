//! Programs that are run.

use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Runs a command that must succeed.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{command:?} failed ({status})");
    Ok(())
}

/// `cargo`, as if started by hand.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    forget(&mut command, says_who_runs);
    command
}

/// Whether `cargo run` sets this variable to tell a program about itself. Where a cargo is started with it, build scripts that
/// look at it run again, and what is built upon them is built again.
pub fn says_who_runs(variable: &str) -> bool {
    variable.starts_with("CARGO_PKG_")
        || variable.starts_with("CARGO_BIN_")
        || variable.starts_with("CARGO_MANIFEST_")
}

/// Runs a command without some of this program's variables.
pub fn forget(command: &mut Command, which: impl Fn(&str) -> bool) {
    for (name, _) in std::env::vars_os() {
        if which(&name.to_string_lossy()) {
            command.env_remove(&name);
        }
    }
}
