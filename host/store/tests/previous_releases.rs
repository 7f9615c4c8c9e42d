//! Opens the data folders of previous releases, which are in `tests/data-folders`, and reads what is stored in them.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::TryStreamExt as _;
use samovar_store::async_requests::{AsyncRequests, Cancellation};
use samovar_store::blobs::Blobs;
use samovar_store::sqlite::SqliteStore;
use samovar_store::usage::{UsageLog, UsageQuery};
use samovar_store::vault::{KEY_FILE, KeyAbsent, Sealed, Vault};
use samovar_store::{Change, DocStore, Expect, Op};
use samovar_types::async_request::{AsyncRequestId, AsyncStatus, WebhookStatus};
use samovar_types::usage::Resolution;
use serde_json::Value;

/// A copy of a release's data folder.
struct Release {
    name: String,
    about: Value,
    folder: tempfile::TempDir,
}

impl Release {
    fn copy(from: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for file in ["state.db", KEY_FILE] {
            std::fs::copy(from.join(file), folder.path().join(file)).unwrap();
        }
        // Git keeps no such permissions.
        let key = folder.path().join(KEY_FILE);
        std::fs::set_permissions(key, Permissions::from_mode(0o600)).unwrap();
        for file in files(&from.join("blobs")) {
            let to = folder.path().join(file.strip_prefix(from).unwrap());
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(&file, to).unwrap();
        }
        let about = std::fs::read(from.join("about.json")).unwrap();
        Self {
            name: from.file_name().unwrap().to_str().unwrap().to_owned(),
            about: serde_json::from_slice(&about).unwrap(),
            folder,
        }
    }

    async fn store(&self) -> SqliteStore {
        let file = self.folder.path().join("state.db");
        let opened = SqliteStore::open(&file).await;
        opened.unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    fn async_request(&self, name: &str) -> AsyncRequestId {
        let id = self.about["async_requests"][name].as_str().unwrap();
        id.parse().unwrap()
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(self::files(&path)),
            false => files.push(path),
        }
    }
    files
}

fn releases() -> Vec<Release> {
    let folders = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data-folders");
    let mut releases: Vec<Release> = std::fs::read_dir(folders)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .map(|path| Release::copy(&path))
        .collect();
    assert!(!releases.is_empty(), "there is no data folder");
    releases.sort_by(|a, b| a.name.cmp(&b.name));
    releases
}

#[tokio::test]
async fn documents_are_listed_watched_and_written() {
    for release in releases() {
        let store = release.store().await;
        let listing = store.list("").await.unwrap();
        let kinds: BTreeSet<&str> = listing
            .docs
            .iter()
            .filter_map(|doc| doc.key.split('/').next())
            .collect();
        for kind in [
            "api-keys",
            "audit",
            "deployments",
            "environments",
            "model-names",
            "models",
            "organization",
            "secrets",
            "webhook-secrets",
        ] {
            assert!(kinds.contains(kind), "{}: {kinds:?}", release.name);
        }

        // The log of changes leads to the documents that there are.
        let mut docs = BTreeMap::new();
        let mut changes = store.watch("", 0);
        loop {
            match changes.try_next().await.unwrap().unwrap() {
                Change::Put(doc) => drop(docs.insert(doc.key.clone(), doc)),
                Change::Delete { key, .. } => drop(docs.remove(&key)),
                Change::Progress(rev) if rev >= listing.rev => break,
                Change::Progress(_) => {}
            }
        }
        assert!(docs.into_values().eq(listing.docs), "{}", release.name);

        let op = Op::put("models/new00000", "{}", Expect::Absent);
        let rev = store.commit(vec![op]).await.unwrap();
        assert_eq!(rev, listing.rev + 1);
        let lease = store.lease("a", "test", Duration::from_secs(1)).await;
        assert!(lease.unwrap().is_some(), "{}", release.name);
    }
}

#[tokio::test]
async fn async_requests_are_where_they_were() {
    for release in releases() {
        let store: Box<dyn AsyncRequests> = Box::new(release.store().await);
        for (name, status, errors) in [
            ("answered", AsyncStatus::Succeeded, 0),
            ("refused", AsyncStatus::Failed, 1),
            ("waiting", AsyncStatus::Queued, 0),
            ("taken_back", AsyncStatus::Canceled, 0),
        ] {
            let id = release.async_request(name);
            let request = store.get(&id).await.unwrap().unwrap();
            assert_eq!(request.status, status, "{name}");
            assert_eq!(request.errors.len(), errors, "{name}");
        }
        let answered = store.result(&release.async_request("answered")).await;
        let answered = answered.unwrap().unwrap();
        let body: Value = serde_json::from_slice(&answered.body).unwrap();
        assert_eq!((answered.status, &body["sum"]), (200, &Value::from(3.0)));

        // The one that waits is claimed, and another worker gets nothing.
        let id = release.async_request("waiting");
        let waiting = store.get(&id).await.unwrap().unwrap();
        assert_eq!(waiting.webhook_status, WebhookStatus::Pending);
        let claim = || store.claim(waiting.deployment_id, 9, Duration::from_secs(60));
        let claimed = claim().await.unwrap();
        assert_eq!(claimed.len(), 1);
        assert_eq!(
            (&claimed[0].claim.id, &claimed[0].input[..]),
            (&id, &b"[3]"[..])
        );
        assert!(claim().await.unwrap().is_empty());
        let late = Cancellation::TooLate(AsyncStatus::InProgress);
        assert_eq!(store.cancel(&id).await.unwrap(), late);
    }
}

#[tokio::test]
async fn usage_names_models_that_are_gone() {
    for release in releases() {
        let store = release.store().await;
        let query = |model: &str| UsageQuery {
            from: 0,
            to: 1 << 32,
            model: Some(model.to_owned()),
            deployment: None,
            resolution: Resolution::Day,
        };
        for (model, requests) in [("digits", 2), ("gone", 1)] {
            let buckets = store.query(&query(model)).await.unwrap();
            let ok: u64 = buckets.iter().map(|one| one.counters.requests_ok).sum();
            assert!(ok >= requests, "{} {model}: {buckets:?}", release.name);
        }
    }
}

#[tokio::test]
async fn blobs_are_sound() {
    for release in releases() {
        let root = release.folder.path().join("blobs");
        let blobs = Blobs::open(&root).await.unwrap();
        let stored = blobs.older_than(Duration::ZERO).await.unwrap();
        assert_eq!(stored.len(), files(&root).len(), "{}", release.name);
        for digest in stored {
            blobs.check(digest).await.unwrap();
        }
    }
}

#[tokio::test]
async fn secrets_are_unsealed() {
    for release in releases() {
        let store = release.store().await;
        let vault = Vault::open(&release.folder.path().join(KEY_FILE), KeyAbsent::Refuse);
        let doc = DocStore::get(&store, "secrets/TOKEN")
            .await
            .unwrap()
            .unwrap();
        let secret: Value = serde_json::from_slice(&doc.value).unwrap();
        let sealed: Sealed = serde_json::from_value(secret["sealed"].clone()).unwrap();
        let plain = vault.unwrap().unseal(&doc.key, &sealed).unwrap();
        let plain = secrecy::ExposeSecret::expose_secret(&plain);
        assert_eq!(plain, "the-value-of-TOKEN", "{}", release.name);
    }
}
