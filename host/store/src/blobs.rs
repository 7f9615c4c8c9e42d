//! Blobs, each stored under the SHA-256 of its bytes.
//!
//! All access goes through `object_store`, so that a bucket can replace the folder. A blob is written as a multipart
//! upload, which is invisible until it is complete, and is completed only if its digest is right. On disk that is a staging
//! file beside the blob's final path, synced and renamed (`with_fsync`), so an acknowledged blob survives a power cut.

mod error;
mod integrity;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as StdError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{MultipartUpload, ObjectStore as _, ObjectStoreExt, PutPayload};
use samovar_types::digest::Digest;
use sha2::{Digest as _, Sha256};

use error::{from_io, from_store};
use integrity::{Integrity, Pace, Verdict};

pub use error::BlobError;
pub use integrity::FileVersion;

/// Bytes gathered before they are written; buckets want at least 5 MiB for a part.
const PART_BYTES: usize = 8 << 20;

/// The result of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOutcome {
    /// The blob is on disk now.
    Created,
    /// The blob was there before and is sound; the bytes of the upload were ignored.
    AlreadyThere,
}

/// The blobs of a node.
#[derive(Clone)]
pub struct Blobs {
    store: Arc<LocalFileSystem>,
    root: PathBuf,
    integrity: Integrity,
}

impl Blobs {
    /// Opens a folder of blobs, creates it if needed, and removes staging files of uploads that a crash interrupted.
    ///
    /// Only one process may have it open, because the uploads of another would look like leftovers.
    pub async fn open(root: &Path) -> Result<Self, BlobError> {
        let folder = root.to_owned();
        let swept = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&folder)?;
            sweep(&folder)
        });
        let swept = swept
            .await
            .map_err(|error| BlobError::Unavailable(error.to_string()))?
            .map_err(|error| from_io(root, &error))?;
        if swept > 0 {
            tracing::info!(
                files = swept,
                "removed staging files of interrupted uploads"
            );
        }
        let store = LocalFileSystem::new_with_prefix(root)
            .map_err(|error| from_store(root, None, error))?
            .with_fsync(true);
        Ok(Self {
            store: Arc::new(store),
            root: root.to_owned(),
            integrity: Integrity::default(),
        })
    }

    /// The size of a blob, if it is there and sound. A damaged one counts as missing, so that a push replaces it.
    pub async fn head(&self, digest: Digest) -> Result<Option<u64>, BlobError> {
        let Some(size) = self.stored(digest).await? else {
            return Ok(None);
        };
        match self.check(digest).await {
            Ok(()) => Ok(Some(size)),
            Err(error @ BlobError::Damaged { .. }) => {
                tracing::error!(%error, "a damaged blob counts as missing");
                Ok(None)
            }
            Err(BlobError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Checks that the file of a blob holds the bytes of its digest. Hashes the file unless this version of it was hashed before.
    ///
    /// # Errors
    /// [`BlobError::Damaged`], or that it is not there or cannot be read.
    pub async fn check(&self, digest: Digest) -> Result<(), BlobError> {
        let path = self.path(digest)?;
        match self.integrity.known(digest, &path) {
            Ok(Some(verdict)) => return verdict_of(digest, verdict),
            Ok(None) => {}
            Err(error) => return Err(self.unreadable(digest, &error)),
        }
        let integrity = self.integrity.clone();
        self.hashed(digest, move || integrity.check(digest, &path))
            .await
    }

    /// Like [`Blobs::check`], but always hashes the file, slowly.
    ///
    /// # Errors
    /// [`BlobError::Damaged`], or that it is not there or cannot be read.
    pub async fn scrub(&self, digest: Digest) -> Result<(), BlobError> {
        let (path, integrity) = (self.path(digest)?, self.integrity.clone());
        self.hashed(digest, move || integrity.hash(digest, &path, Pace::Gentle))
            .await
    }

    async fn hashed(
        &self,
        digest: Digest,
        hash: impl FnOnce() -> io::Result<Verdict> + Send + 'static,
    ) -> Result<(), BlobError> {
        match tokio::task::spawn_blocking(hash).await {
            Ok(Ok(verdict)) => verdict_of(digest, verdict),
            Ok(Err(error)) => Err(self.unreadable(digest, &error)),
            Err(stopped) => Err(BlobError::Unavailable(stopped.to_string())),
        }
    }

    /// Whether this version of the blob's file has been hashed.
    pub fn is_known(&self, digest: Digest) -> bool {
        let known = |path: PathBuf| self.integrity.known(digest, &path).ok().flatten();
        self.path(digest).ok().and_then(known).is_some()
    }

    /// The first of these blobs whose last check found it damaged or missing.
    pub fn first_damaged(&self, digests: impl IntoIterator<Item = Digest>) -> Option<Digest> {
        self.integrity.first_damaged(digests)
    }

    fn unreadable(&self, digest: Digest, error: &io::Error) -> BlobError {
        match error.kind() {
            io::ErrorKind::NotFound => BlobError::NotFound { digest },
            _ => from_io(&self.root, error),
        }
    }

    fn path(&self, digest: Digest) -> Result<PathBuf, BlobError> {
        self.store
            .path_to_filesystem(&location(digest))
            .map_err(|error| self.failed(digest, error))
    }

    /// The size of a blob's file, if there is one.
    async fn stored(&self, digest: Digest) -> Result<Option<u64>, BlobError> {
        match self.store.head(&location(digest)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed(digest, error)),
        }
    }

    /// Which of these blobs are missing or damaged. [`BlobError::WrongSize`] if one has another size than announced.
    pub async fn missing(&self, wanted: &BTreeMap<Digest, u64>) -> Result<Vec<Digest>, BlobError> {
        let mut missing = Vec::new();
        for (&digest, &announced) in wanted {
            match self.head(digest).await? {
                None => missing.push(digest),
                Some(size) if size == announced => {}
                Some(size) => {
                    return Err(BlobError::WrongSize {
                        digest,
                        announced,
                        size,
                    });
                }
            }
        }
        Ok(missing)
    }

    /// Stores the bytes of a stream if they have that digest. The blob is on disk before it returns.
    ///
    /// A sound blob is not written again. The stream is read to its end all the same, because some clients read the response
    /// only after they have sent everything.
    pub async fn put_stream<S, E>(
        &self,
        digest: Digest,
        limit_bytes: u64,
        stream: S,
    ) -> Result<PutOutcome, BlobError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        let stream = std::pin::pin!(limited(stream, limit_bytes));
        if self.head(digest).await?.is_some() {
            stream.try_for_each(|_| async { Ok(()) }).await?;
            return Ok(PutOutcome::AlreadyThere);
        }
        let mut upload = self
            .store
            .put_multipart(&location(digest))
            .await
            .map_err(|error| self.failed(digest, error))?;
        match self.receive(digest, stream, &mut *upload).await {
            Ok(()) => {
                upload
                    .complete()
                    .await
                    .map_err(|error| self.failed(digest, error))?;
                self.integrity.written(digest, &self.path(digest)?);
                Ok(PutOutcome::Created)
            }
            Err(error) => {
                // If this fails, the staging file is removed when the folder is next opened.
                if let Err(abort) = upload.abort().await {
                    tracing::warn!(%digest, error = %abort, "staging file of a failed upload could not be removed");
                }
                Err(error)
            }
        }
    }

    async fn receive(
        &self,
        wanted: Digest,
        mut stream: impl Stream<Item = Result<Bytes, BlobError>> + Unpin,
        upload: &mut dyn MultipartUpload,
    ) -> Result<(), BlobError> {
        let mut hasher = Sha256::new();
        let mut part = Vec::new();
        let mut part_bytes = 0;
        while let Some(bytes) = stream.try_next().await? {
            hasher.update(&bytes);
            part_bytes += bytes.len();
            part.push(bytes);
            if part_bytes >= PART_BYTES {
                self.write(wanted, upload, std::mem::take(&mut part))
                    .await?;
                part_bytes = 0;
            }
        }
        let found = Digest::from_hasher(hasher);
        if found != wanted {
            return Err(BlobError::WrongDigest { wanted, found });
        }
        self.write(wanted, upload, part).await
    }

    async fn write(
        &self,
        digest: Digest,
        upload: &mut dyn MultipartUpload,
        part: Vec<Bytes>,
    ) -> Result<(), BlobError> {
        upload
            .put_part(PutPayload::from_iter(part))
            .await
            .map_err(|error| self.failed(digest, error))
    }

    /// The size and the bytes of a blob, after a check.
    pub async fn get_stream(
        &self,
        digest: Digest,
    ) -> Result<(u64, BoxStream<'static, Result<Bytes, BlobError>>), BlobError> {
        self.check(digest).await?;
        let found = self
            .store
            .get(&location(digest))
            .await
            .map_err(|error| self.failed(digest, error))?;
        let size = found.meta.size;
        let blobs = self.clone();
        let stream = found
            .into_stream()
            .map_err(move |error| blobs.failed(digest, error))
            .boxed();
        Ok((size, stream))
    }

    /// The path of a blob's file, to map or load it after [`Blobs::check`]. The file must not be written to.
    pub async fn local_path(&self, digest: Digest) -> Result<PathBuf, BlobError> {
        match self.stored(digest).await? {
            Some(_) => self.path(digest),
            None => Err(BlobError::NotFound { digest }),
        }
    }

    /// Deletes a blob, if it is there.
    pub async fn delete(&self, digest: Digest) -> Result<(), BlobError> {
        self.integrity.forget(digest);
        match self.store.delete(&location(digest)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed(digest, error)),
        }
    }

    /// The blobs that were stored longer than `age` ago.
    pub async fn older_than(&self, age: Duration) -> Result<BTreeSet<Digest>, BlobError> {
        let now = SystemTime::now();
        let mut found = BTreeSet::new();
        let mut list = self.store.list(None);
        while let Some(meta) = list.next().await {
            let meta = meta.map_err(|error| from_store(&self.root, None, error))?;
            let digest = meta.location.filename().and_then(|name| name.parse().ok());
            // After the clock was set back, blobs are from the future, and count as new.
            let stored = now.duration_since(meta.last_modified.into());
            if let Some(digest) = digest
                && stored.is_ok_and(|stored| stored >= age)
            {
                found.insert(digest);
            }
        }
        Ok(found)
    }

    fn failed(&self, digest: Digest, error: object_store::Error) -> BlobError {
        from_store(&self.root, Some(digest), error)
    }
}

fn verdict_of(digest: Digest, verdict: Verdict) -> Result<(), BlobError> {
    match verdict {
        Verdict::Sound => Ok(()),
        Verdict::Damaged { found } => Err(BlobError::Damaged { digest, found }),
    }
}

/// Blobs are spread over folders by the first two digits, so that no folder holds them all.
fn location(digest: Digest) -> ObjectPath {
    let name = digest.to_string();
    ObjectPath::from_iter([&name[..2], &name[..]])
}

/// Fails at the first byte beyond the limit.
fn limited<S, E>(stream: S, limit_bytes: u64) -> impl Stream<Item = Result<Bytes, BlobError>> + Send
where
    S: Stream<Item = Result<Bytes, E>> + Send,
    E: Into<Box<dyn StdError + Send + Sync>>,
{
    let mut left = limit_bytes;
    stream.map(move |bytes| {
        let bytes = bytes.map_err(|error| BlobError::Interrupted(error.into()))?;
        left = left
            .checked_sub(bytes.len() as u64)
            .ok_or(BlobError::TooLarge { limit_bytes })?;
        Ok(bytes)
    })
}

/// Removes staging files, `{digest}#{number}`, and returns how many there were.
fn sweep(root: &Path) -> io::Result<usize> {
    let mut removed = 0;
    for folder in std::fs::read_dir(root)? {
        let folder = folder?;
        if !folder.file_type()?.is_dir() {
            continue;
        }
        for file in std::fs::read_dir(folder.path())? {
            let file = file?;
            let name = file.file_name();
            let staged = name.to_str().and_then(|name| name.split_once('#'));
            if staged.is_some_and(|(digest, _)| digest.parse::<Digest>().is_ok()) {
                std::fs::remove_file(file.path())?;
                removed += 1;
            }
        }
    }
    Ok(removed)
}
