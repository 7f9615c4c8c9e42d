//! Blobs, each stored under the SHA-256 of its bytes.
//!
//! All through `object_store`, so that a bucket can stand in for the folder. A blob is written as a multipart upload,
//! which nobody sees before it is complete, and is completed only when its digest is right. On disk that is a staging
//! file beside the blob's place, synced and renamed (`with_fsync`), so an acknowledged blob survives a lost power line.

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

use super::integrity::{Integrity, Pace, Verdict};

/// Bytes gathered before they are written; buckets want at least 5 MiB for a part.
const PART_BYTES: usize = 8 << 20;

/// Why a blob was not stored or not read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// There is no such blob.
    #[error("there is no blob {digest}")]
    NotFound {
        /// Which.
        digest: Digest,
    },
    /// The bytes are not those of the digest; nothing was kept.
    #[error("the bytes have the digest {found}, wanted {wanted}: nothing was kept")]
    WrongDigest {
        /// The digest that was announced.
        wanted: Digest,
        /// The digest of the bytes that came.
        found: Digest,
    },
    /// More bytes came than are accepted; nothing was kept.
    #[error(
        "more than {limit_bytes} bytes came, which is the most accepted here: nothing was kept"
    )]
    TooLarge {
        /// The most that is accepted.
        limit_bytes: u64,
    },
    /// The size that was announced for a blob is not its size.
    #[error("blob {digest} was announced with {announced} bytes, but has {size}")]
    WrongSize {
        /// Which.
        digest: Digest,
        /// What was announced.
        announced: u64,
        /// What it has.
        size: u64,
    },
    /// The file of a blob holds other bytes than those that were stored.
    #[error(
        "blob {digest} is damaged on disk: its file now has the digest {found}. Push the model again, which replaces it"
    )]
    Damaged {
        /// Which.
        digest: Digest,
        /// The digest of what its file holds.
        found: Digest,
    },
    /// The sender broke off; nothing was kept.
    #[error("the upload broke off: {0}")]
    Interrupted(Box<dyn StdError + Send + Sync>),
    /// There is no room.
    #[error("no space is left in {}: free some, or move the data folder to a larger disk", root.display())]
    Full {
        /// The folder of the blobs.
        root: PathBuf,
    },
    /// The storage failed.
    #[error("the blob storage failed: {0}")]
    Unavailable(String),
}

/// What became of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOutcome {
    /// It was stored, and is on disk.
    Created,
    /// The blob was there before and is sound; the bytes that came were not looked at.
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
    /// Opens a folder of blobs, made if it is not there, and removes what uploads cut off by a crash left in it.
    ///
    /// One process alone may have it open: another's uploads would look like leftovers.
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
            tracing::info!(files = swept, "removed what interrupted uploads left");
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

    /// Whether the file of a blob holds the bytes of its digest. Hashes it if this version of it was not hashed before.
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

    /// The same, hashed again even if this version of the file was found sound before, and without haste.
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

    /// Whether this version of the blob's file was hashed.
    pub fn is_known(&self, digest: Digest) -> bool {
        let known = |path: PathBuf| self.integrity.known(digest, &path).ok().flatten();
        self.path(digest).ok().and_then(known).is_some()
    }

    /// The first of these blobs that was found damaged or gone, and not sound since.
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

    /// Which of these blobs are not there, or damaged. [`BlobError::WrongSize`] if one is there with another size than announced.
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

    /// Stores the bytes of a stream if they have that digest. When it answers, the blob is on disk.
    ///
    /// A blob that is there and sound is not written again; the stream is read to its end all the same, so that a sender who
    /// does not listen before it has sent everything gets its answer.
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
                // What is left of it otherwise goes when the folder is next opened.
                if let Err(abort) = upload.abort().await {
                    tracing::warn!(%digest, error = %abort, "an upload that failed left a file");
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

    /// The size and the bytes of a blob, which is sound.
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

    /// The file of a blob, to map or load it after [`Blobs::check`]. It must not be written to.
    pub async fn local_path(&self, digest: Digest) -> Result<PathBuf, BlobError> {
        match self.stored(digest).await? {
            Some(_) => self.path(digest),
            None => Err(BlobError::NotFound { digest }),
        }
    }

    /// Removes a blob; nothing happens if it is not there.
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
            // A clock that was set back makes every blob a new one.
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

/// The first two digits make the folder, so that no folder holds them all.
fn location(digest: Digest) -> ObjectPath {
    let name = digest.to_string();
    ObjectPath::from_iter([&name[..2], &name[..]])
}

/// Ends with an error instead of the bytes beyond the limit.
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

fn from_store(root: &Path, digest: Option<Digest>, error: object_store::Error) -> BlobError {
    if let (object_store::Error::NotFound { .. }, Some(digest)) = (&error, digest) {
        return BlobError::NotFound { digest };
    }
    let mut cause: Option<&(dyn StdError + 'static)> = Some(&error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return from_io(root, error);
        }
        cause = error.source();
    }
    BlobError::Unavailable(error.to_string())
}

fn from_io(root: &Path, error: &io::Error) -> BlobError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => BlobError::Full {
            root: root.to_owned(),
        },
        _ => BlobError::Unavailable(format!("{}: {error}", root.display())),
    }
}

/// Removes staging files, `{digest}#{number}`, and says how many there were.
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

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    const LIMIT: u64 = 64 << 20;

    fn chunks(bytes: &[u8]) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        let chunks: Vec<_> = bytes
            .chunks(100_000)
            .map(Bytes::copy_from_slice)
            .map(Ok)
            .collect();
        stream::iter(chunks)
    }

    fn files(root: &Path) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for folder in std::fs::read_dir(root).unwrap() {
            for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
                files.push(file.unwrap().path());
            }
        }
        files
    }

    async fn read(blobs: &Blobs, digest: Digest) -> Vec<u8> {
        let (size, stream) = blobs.get_stream(digest).await.unwrap();
        let chunks: Vec<Bytes> = stream.try_collect().await.unwrap();
        let bytes = chunks.concat();
        assert_eq!(bytes.len() as u64, size);
        bytes
    }

    #[tokio::test]
    async fn a_blob_is_stored_once_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).await.unwrap();
        // Empty, less than a part, several parts.
        for size in [0, 1, 20 << 20] {
            let bytes: Vec<u8> = (0..size).map(|n: u32| (n % 251) as u8).collect();
            let digest = Digest::of(&bytes);
            assert_eq!(blobs.head(digest).await.unwrap(), None);
            assert!(matches!(
                blobs.local_path(digest).await,
                Err(BlobError::NotFound { .. })
            ));
            let put = || blobs.put_stream(digest, LIMIT, chunks(&bytes));
            assert_eq!(put().await.unwrap(), PutOutcome::Created);
            assert_eq!(put().await.unwrap(), PutOutcome::AlreadyThere);
            assert_eq!(blobs.head(digest).await.unwrap(), Some(bytes.len() as u64));
            assert_eq!(read(&blobs, digest).await, bytes);
            let path = blobs.local_path(digest).await.unwrap();
            assert_eq!(std::fs::read(path).unwrap(), bytes);
            let again = Blobs::open(folder.path()).await.unwrap();
            assert_eq!(read(&again, digest).await, bytes);
            blobs.delete(digest).await.unwrap();
            blobs.delete(digest).await.unwrap();
            assert_eq!(blobs.head(digest).await.unwrap(), None);
            assert!(blobs.get_stream(digest).await.is_err());
        }
    }

    #[tokio::test]
    async fn a_damaged_blob_counts_as_missing_until_it_is_stored_again() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).await.unwrap();
        let bytes = vec![3; 300_000];
        let digest = Digest::of(&bytes);
        let put = async |blobs: &Blobs| blobs.put_stream(digest, LIMIT, chunks(&bytes)).await;
        put(&blobs).await.unwrap();
        let path = blobs.local_path(digest).await.unwrap();
        let mut flipped = bytes.clone();
        flipped[77] ^= 4;
        // Those that were cut short have another size, too.
        for damage in [flipped, bytes[..1000].to_vec(), Vec::new()] {
            std::fs::write(&path, &damage).unwrap();
            // Not within the same tick of the file system's clock as the write before.
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(60))
                .unwrap();
            for blobs in [&blobs, &Blobs::open(folder.path()).await.unwrap()] {
                assert!(matches!(
                    blobs.check(digest).await,
                    Err(BlobError::Damaged { found, .. }) if found == Digest::of(&damage)
                ));
                assert!(blobs.get_stream(digest).await.is_err());
                assert_eq!(blobs.head(digest).await.unwrap(), None);
                let wanted = BTreeMap::from([(digest, bytes.len() as u64)]);
                assert_eq!(blobs.missing(&wanted).await.unwrap(), [digest]);
            }
            assert_eq!(put(&blobs).await.unwrap(), PutOutcome::Created);
            assert_eq!(put(&blobs).await.unwrap(), PutOutcome::AlreadyThere);
            blobs.scrub(digest).await.unwrap();
            assert_eq!(read(&blobs, digest).await, bytes);
        }
    }

    #[tokio::test]
    async fn an_upload_that_fails_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).await.unwrap();
        let wanted = Digest::of(b"right");
        let error = blobs
            .put_stream(wanted, LIMIT, chunks(b"wrong"))
            .await
            .unwrap_err();
        assert!(
            matches!(error, BlobError::WrongDigest { found, .. } if found == Digest::of(b"wrong"))
        );

        let large = vec![0; PART_BYTES * 2];
        let limit = large.len() as u64 - 1;
        let error = blobs
            .put_stream(Digest::of(&large), limit, chunks(&large))
            .await
            .unwrap_err();
        assert!(matches!(error, BlobError::TooLarge { limit_bytes } if limit_bytes == limit));

        let broken = chunks(&large).chain(stream::iter([Err(io::Error::other("hung up"))]));
        let error = blobs
            .put_stream(Digest::of(&large), LIMIT, broken)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("hung up"), "{error}");
        assert_eq!(files(folder.path()), Vec::<PathBuf>::new());
        assert_eq!(blobs.head(wanted).await.unwrap(), None);
    }

    #[tokio::test]
    async fn nothing_is_seen_before_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).await.unwrap();
        let bytes = vec![3; PART_BYTES + 1];
        let digest = Digest::of(&bytes);
        let seen = blobs.clone();
        let looking = chunks(&bytes).and_then(move |chunk| {
            let seen = seen.clone();
            async move {
                assert_eq!(seen.head(digest).await.unwrap(), None);
                Ok(chunk)
            }
        });
        blobs.put_stream(digest, LIMIT, looking).await.unwrap();
        assert!(blobs.head(digest).await.unwrap().is_some());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn many_may_upload_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).await.unwrap();
        let bytes = vec![9; 300_000];
        let digest = Digest::of(&bytes);
        let tasks: Vec<_> = (0..16)
            .map(|_| {
                let (blobs, chunks) = (blobs.clone(), chunks(&bytes));
                tokio::spawn(async move { blobs.put_stream(digest, LIMIT, chunks).await.unwrap() })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(read(&blobs, digest).await, bytes);
        assert_eq!(files(folder.path()).len(), 1);
    }

    #[tokio::test]
    async fn what_a_crash_left_is_swept_and_the_rest_stays() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).await.unwrap();
        let digest = Digest::of(b"kept");
        blobs
            .put_stream(digest, LIMIT, chunks(b"kept"))
            .await
            .unwrap();
        let place = blobs.local_path(digest).await.unwrap();
        let wanted = BTreeMap::from([(digest, 4), (Digest::of(b"missing"), 7)]);
        assert_eq!(
            blobs.missing(&wanted).await.unwrap(),
            [Digest::of(b"missing")]
        );
        let error = blobs
            .missing(&BTreeMap::from([(digest, 5)]))
            .await
            .unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("announced with 5 bytes, but has 4"),
            "{error}"
        );
        let staged = PathBuf::from(format!("{}#7", place.display()));
        std::fs::write(&staged, "ke").unwrap();
        let blobs = Blobs::open(folder.path()).await.unwrap();
        assert!(!staged.exists());
        assert_eq!(read(&blobs, digest).await, b"kept");
    }

    #[tokio::test]
    async fn blobs_are_known_by_their_age() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).await.unwrap();
        let put = async |text: &'static [u8]| {
            let digest = Digest::of(text);
            let stored = blobs.put_stream(digest, LIMIT, chunks(text)).await;
            stored.map(|_| digest).unwrap()
        };
        let (old, young) = (put(b"old").await, put(b"young").await);
        let file = std::fs::File::open(blobs.local_path(old).await.unwrap()).unwrap();
        let hour = Duration::from_secs(3600);
        file.set_modified(SystemTime::now() - 2 * hour).unwrap();
        let found = async |age| blobs.older_than(age).await.unwrap();
        assert_eq!(found(hour).await, BTreeSet::from([old]));
        assert_eq!(found(Duration::ZERO).await, BTreeSet::from([old, young]));
        assert_eq!(found(3 * hour).await, BTreeSet::new());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_called_one() {
        use std::io::Write;
        let full = std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let source = (&full).write_all(b"x").unwrap_err();
        let error = object_store::Error::Generic {
            store: "LocalFileSystem",
            source: Box::new(source),
        };
        let error = from_store(Path::new("/data/blobs"), None, error);
        assert!(
            error
                .to_string()
                .starts_with("no space is left in /data/blobs"),
            "{error}"
        );
    }
}
