//! A blob that gives nothing to whoever reads it until it is told to, as a disk that is slow.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::Server;

/// A blob, or another file, in the place of which there is a pipe.
pub struct Withheld {
    path: PathBuf,
    bytes: Vec<u8>,
    pipe: File,
}

impl Withheld {
    /// Withholds the blob of these bytes.
    ///
    /// # Errors
    /// When there is none, or no pipe can take its place.
    pub fn new(server: &Server, bytes: Vec<u8>) -> Result<Self> {
        Self::file(blob(server, &bytes), bytes)
    }

    /// Withholds a file that is there, and gives these bytes in its place.
    ///
    /// # Errors
    /// When it is not there, or no pipe can take its place.
    pub fn file(path: PathBuf, bytes: Vec<u8>) -> Result<Self> {
        std::fs::remove_file(&path)?;
        let name = std::ffi::CString::new(path.to_str().context("path")?)?;
        // SAFETY: the name is a string that ends with a zero.
        let made = unsafe { libc::mkfifo(name.as_ptr(), 0o600) };
        ensure!(made == 0, "{}", std::io::Error::last_os_error());
        // Open for both, so that neither side waits for the other to open it.
        let pipe = OpenOptions::new().read(true).write(true).open(&path)?;
        Ok(Self { path, bytes, pipe })
    }

    /// Gives the bytes to who reads them, and to all who will.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn give(mut self) -> Result<()> {
        put_file(&self.path, &self.bytes)?;
        Ok(self.pipe.write_all(&self.bytes)?)
    }
}

/// Puts a file where another may be.
///
/// # Errors
/// When it cannot be written.
pub fn put_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let _ = std::fs::remove_file(path);
    Ok(std::fs::write(path, bytes)?)
}

/// Where a server keeps these bytes.
pub fn blob(server: &Server, bytes: &[u8]) -> PathBuf {
    let digest = hex::encode(Sha256::digest(bytes));
    let blobs = server.folder().join("data/blobs");
    blobs.join(&digest[..2]).join(&digest)
}
