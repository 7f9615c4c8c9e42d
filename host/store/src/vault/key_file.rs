//! The key file: made once, readable by its owner alone.

use std::fs::{File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use rand::RngExt as _;
use secrecy::zeroize::Zeroizing;

use super::VaultError;

/// Its name in the data folder.
pub const KEY_FILE: &str = "secrets.key";

pub const KEY_BYTES: usize = 32;
/// Enough to recognize a file that is not a key.
const MAX_FILE_BYTES: u64 = 1024;

pub type PlainKey = Zeroizing<[u8; KEY_BYTES]>;

/// The key in a file, if there is one.
pub fn read_key(path: &Path) -> Result<Option<PlainKey>, VaultError> {
    let failed = |source| VaultError::File {
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    // Of the open file, because the path may name another one by now.
    let mode = file.metadata().map_err(failed)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        let path = path.to_owned();
        return Err(VaultError::Exposed { path, mode });
    }
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_FILE_BYTES as usize));
    file.take(MAX_FILE_BYTES)
        .read_to_end(&mut text)
        .map_err(failed)?;
    let mut key = PlainKey::default();
    match hex::decode_to_slice(text.trim_ascii(), key.as_mut_slice()) {
        Ok(()) => Ok(Some(key)),
        Err(_) => Err(VaultError::NoKey {
            path: path.to_owned(),
        }),
    }
}

/// Makes a key and its file, atomically even if the power fails.
pub fn create_key(path: &Path) -> Result<PlainKey, VaultError> {
    let mut key = PlainKey::default();
    rand::rng().fill(key.as_mut_slice());
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let written = || -> io::Result<()> {
        let mut file = tempfile::Builder::new()
            .prefix(".secrets")
            .permissions(Permissions::from_mode(0o600))
            .tempfile_in(folder)?;
        let text = Zeroizing::new(hex::encode(key.as_slice()));
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        file.as_file().sync_all()?;
        file.persist_noclobber(path).map_err(|error| error.error)?;
        File::open(folder)?.sync_all()
    };
    written().map_err(|source| VaultError::File {
        path: path.to_owned(),
        source,
    })?;
    Ok(key)
}
