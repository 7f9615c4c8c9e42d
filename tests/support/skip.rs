//! Tests that are skipped because this machine lacks what they need: counted, and failures where the set-up was meant to provide it.
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
/// In CI, unless a card or the right to mount is missing, which no set-up can provide. Where `SAMOVAR_TEST_PYTHON` names a Python,
/// also when that one lacks a package.
pub fn skip(need: Need, reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    eprintln!("skipped: {test} needs {need:?}: {reason}");
    let in_ci = std::env::var("CI").is_ok_and(|value| value == "true");
    let has_python = std::env::var_os("SAMOVAR_TEST_PYTHON").is_some();
    assert!(
        !is_provided(need, in_ci, has_python),
        "{test} needs {need:?}, which the set-up of the tests provides: {reason}"
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

/// Whether the set-up of the tests is to blame when this is missing.
fn is_provided(need: Need, in_ci: bool, has_python: bool) -> bool {
    match need {
        Need::Card | Need::Mounts => false,
        Need::Python | Need::Onnxruntime => in_ci || has_python,
        Need::Npm | Need::Guest => in_ci,
    }
}

#[cfg(test)]
#[test]
fn what_a_set_up_provides_is_not_skipped() {
    for need in [Need::Python, Need::Onnxruntime] {
        assert!(is_provided(need, true, false) && is_provided(need, false, true));
        assert!(!is_provided(need, false, false));
    }
    for need in [Need::Npm, Need::Guest] {
        assert!(is_provided(need, true, false) && !is_provided(need, false, true));
    }
    for need in [Need::Card, Need::Mounts] {
        assert!(!is_provided(need, true, true));
    }
}
