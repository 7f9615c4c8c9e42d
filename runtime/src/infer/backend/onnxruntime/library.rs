//! Whether a library may be used: its version, and that it sends nobody a report of its start.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::infer::backend::discovery::OLDEST;

/// The library writes a device id to the home folder and resolves a telemetry host as soon as its environment is made,
/// unless this is `1` by then. Its own call for it comes too late.
const SWITCH: &str = "ORT_DISABLE_TELEMETRY";

/// Turns the telemetry of ONNX Runtime off for this process and its children.
///
/// # Safety
/// No other thread may run: it changes an environment variable.
pub unsafe fn disable_telemetry() {
    // SAFETY: the caller promises that nobody reads the environment meanwhile.
    unsafe { std::env::set_var(SWITCH, "1") };
}

/// # Errors
/// When the library must not be opened.
pub(super) fn check(path: &Path) -> Result<(), String> {
    let switch = std::env::var(SWITCH).ok();
    check_telemetry(switch.as_deref())?;
    // What it is instead, opening it tells.
    ort::util::probe(path).map_or(Ok(()), |minor| {
        MINOR.store(minor, Ordering::Relaxed);
        check_version(minor)
    })
}

/// The minor version of the library that was checked last: a process opens one. 0 when it is not known.
static MINOR: AtomicU32 = AtomicU32::new(0);

/// From this version on, the library can be told how much of a model's constants it may compute when it loads it. The change
/// was made in spring 2026; older releases take the setting and do nothing with it.
const BOUNDS_FOLDING: u32 = 27;

/// Whether the library can bound what it makes of constants.
pub(super) fn bounds_folding() -> bool {
    MINOR.load(Ordering::Relaxed) >= BOUNDS_FOLDING
}

fn check_telemetry(switch: Option<&str>) -> Result<(), String> {
    match switch {
        Some("1") => Ok(()),
        _ => Err(format!(
            "its telemetry is on: {SWITCH} must be 1 when the process starts"
        )),
    }
}

/// Takes the minor version; the major one is 1.
fn check_version(minor: u32) -> Result<(), String> {
    if u64::from(minor) >= OLDEST.minor {
        return Ok(());
    }
    Err(format!(
        "it is version 1.{minor}, and the oldest that is used is {}.{}, because older ones read files that a model names: `samovar backends install onnxruntime`, or pip install -U onnxruntime",
        OLDEST.major, OLDEST.minor
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_versions_are_refused_with_what_to_do() {
        assert_eq!(check_version(24), Ok(()));
        assert_eq!(check_version(32), Ok(()));
        for old in [9, 23] {
            let error = check_version(old).unwrap_err();
            assert!(
                error.contains(&format!("version 1.{old}")) && error.contains("1.24"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_library_is_not_opened_while_its_telemetry_is_on() {
        assert_eq!(check_telemetry(Some("1")), Ok(()));
        for on in [None, Some("0"), Some("")] {
            assert!(check_telemetry(on).unwrap_err().contains(SWITCH));
        }
    }
}
