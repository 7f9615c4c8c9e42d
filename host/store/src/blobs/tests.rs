//! Blobs are stored whole or not at all, found damaged, and stored again.

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
    assert!(matches!(error, BlobError::WrongDigest { found, .. } if found == Digest::of(b"wrong")));

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
