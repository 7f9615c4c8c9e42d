//! Tests that are skipped because this machine lacks what they need: counted, and failures in CI, whose set-up provides it.
//!
//! Other crates include this file by its path, so it depends on nothing.

use std::io::Write as _;

/// What a test may need of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// A Python with packages, in `SAMOVAR_TEST_PYTHON`.
    Python,
    Onnxruntime,
    Npm,
    /// A guest in a language whose tools may be missing.
    Guest,
    /// An NVIDIA card, which few machines have.
    Card,
    /// The right to mount file systems.
    Mounts,
}

/// The file that `cargo xtask test` counts skipped tests in.
pub const FILE: &str = "SAMOVAR_TEST_SKIPS";

/// Says that the test which calls this is skipped, or one of its parts. The test returns afterwards.
///
/// # Panics
/// In CI, unless it is for want of a card or of the right to mount, which no set-up can provide.
pub fn skip(need: Need, reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    eprintln!("skipped: {test} needs {need:?}: {reason}");
    let in_ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(
        !in_ci || matches!(need, Need::Card | Need::Mounts),
        "{test} needs {need:?}, which the set-up of CI provides: {reason}"
    );
    let Some(path) = std::env::var_os(FILE) else {
        return;
    };
    // One write of a short line, so that tests that run beside each other do not mix theirs.
    let line = format!("{need:?}\t{test}\t{}\n", reason.replace(['\n', '\t'], " "));
    let file = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(path);
    let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
    written.expect("a skipped test is counted");
}
