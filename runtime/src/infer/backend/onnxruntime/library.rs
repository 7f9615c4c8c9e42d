//! Whether a library may be used: its version, and that it sends nobody a report of its start.

use std::path::Path;

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
    if std::env::var_os(SWITCH).is_none_or(|value| value != "1") {
        return Err(format!(
            "its telemetry is on: {SWITCH} must be 1 when the process starts"
        ));
    }
    let minor = ort::util::probe(path);
    let oldest = u32::try_from(OLDEST.minor).unwrap_or(u32::MAX);
    match minor {
        Some(minor) if minor < oldest => Err(format!(
            "it is version 1.{minor}, and the oldest that is used is {}.{oldest}, because older ones read files that a model names: `samovar backends install onnxruntime`, or pip install -U onnxruntime",
            OLDEST.major
        )),
        // What it is instead, opening it tells.
        _ => Ok(()),
    }
}
