//! Reads the bundle's files, which are below `/`.
//!
//! `std::fs` also reads them, but the C library below it keeps the host's folders open. A `load` that leaves nothing open can be kept as a
//! snapshot (`snapshot = true` in the manifest), which cannot contain handles of the host.

use std::path::Path;

use crate::Error;

/// Reads a whole file without leaving anything open.
///
/// # Errors
/// Status 500 and `internal`; the message names the file.
///
/// ```
/// let error = samovar_sdk::files::read("/no/such/words.txt").unwrap_err();
/// assert!(error.message().starts_with("/no/such/words.txt: "));
/// ```
pub fn read(path: impl AsRef<Path>) -> Result<Vec<u8>, Error> {
    let path = path.as_ref();
    let read = std::fs::read(path);
    close_folders();
    read.map_err(|error| Error::internal(format!("{}: {error}", path.display())))
}

/// Reads a whole file as UTF-8 text.
///
/// # Errors
/// Those of [`read`], and the same if the file is not UTF-8.
///
/// ```
/// let words = samovar_sdk::files::read_to_string("Cargo.toml")?;
/// assert!(words.contains("samovar-sdk"));
/// # Ok::<(), samovar_sdk::Error>(())
/// ```
pub fn read_to_string(path: impl AsRef<Path>) -> Result<String, Error> {
    let path = path.as_ref();
    String::from_utf8(read(path)?)
        .map_err(|error| Error::internal(format!("{}: {error}", path.display())))
}

/// Closes the folders that `std::fs` has opened. Call it at the end of a `load` whose libraries read files with `std::fs`; the folders are
/// opened again when they are needed.
///
/// ```
/// let words = std::fs::read("Cargo.toml")?;
/// samovar_sdk::files::close_folders();
/// # let _ = words;
/// # Ok::<(), samovar_sdk::Error>(())
/// ```
pub fn close_folders() {
    // Not after each `load`: what it is made of would be a tenth of a component that reads no file.
    #[cfg(all(target_os = "wasi", target_env = "p2"))]
    {
        unsafe extern "C" {
            fn __wasilibc_reset_preopens();
        }
        // SAFETY: wasi-libc offers it for this, it has no preconditions, and a component has one thread.
        unsafe { __wasilibc_reset_preopens() }
    }
}
