//! Checks that a library may be opened: its version, and that its telemetry is off.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::infer::backend::discovery::OLDEST;

/// Must be `1` before the environment of the library is created. Otherwise the library writes a device ID to the home folder and
/// resolves a telemetry host; its API to disable that comes too late.
const SWITCH: &str = "ORT_DISABLE_TELEMETRY";

/// Disables the telemetry of ONNX Runtime for this process and its children.
///
/// # Safety
/// No other thread may run: it changes an environment variable.
pub unsafe fn disable_telemetry() {
    // SAFETY: the caller guarantees that no thread reads the environment meanwhile.
    unsafe { std::env::set_var(SWITCH, "1") };
}

/// Checks a library before it is opened.
///
/// # Errors
/// Why it must not be opened.
pub(super) fn check(path: &Path) -> Result<(), String> {
    let switch = std::env::var(SWITCH).ok();
    check_telemetry(switch.as_deref())?;
    // If it is another file, opening it fails with the reason.
    ort::util::probe(path).map_or(Ok(()), |minor| {
        MINOR.store(minor, Ordering::Relaxed);
        check_version(minor)
    })
}

/// The minor version of the library that was checked last; 0 if unknown. A process opens only one library.
static MINOR: AtomicU32 = AtomicU32::new(0);

/// From this minor version on, the library has a setting that limits constant folding (added in spring 2026). Older releases ignore
/// the setting.
const BOUNDS_FOLDING: u32 = 27;

/// Whether the library can limit constant folding.
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

/// Checks the minor version; the major version is 1.
fn check_version(minor: u32) -> Result<(), String> {
    if u64::from(minor) >= OLDEST.minor {
        return Ok(());
    }
    Err(format!(
        "it is version 1.{minor}; the oldest supported version is {}.{}, because older ones read any file that a model names: `samovar backends install onnxruntime`, or pip install -U onnxruntime",
        OLDEST.major, OLDEST.minor
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_version_is_refused_with_a_hint() {
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
    fn a_library_with_telemetry_is_not_opened() {
        assert_eq!(check_telemetry(Some("1")), Ok(()));
        for on in [None, Some("0"), Some("")] {
            assert!(check_telemetry(on).unwrap_err().contains(SWITCH));
        }
    }
}
