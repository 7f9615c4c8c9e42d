//! Every document in the stores of previous releases is read as what it is; see `tests/data-folders/README.md`.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use samovar_store::Order;
use samovar_store::sqlite::SqliteStore;
use samovar_store::vault::KEY_FILE;
use samovar_types::deployment::DeploymentStatus;
use samovar_types::names::PRODUCTION;
use samovar_types::promotion::PromotionStatus;
use secrecy::ExposeSecret as _;

use super::*;
use crate::domain::api_key::ApiKey;
use crate::domain::audit::Entry;
use crate::domain::keys::Key;
use crate::domain::organization::Organization;
use crate::domain::secret::Secret;
use crate::domain::webhook_secret::WebhookSecret;

/// A copy of each release's store and key, in a folder of its own.
async fn stores() -> Vec<(Arc<dyn DocStore>, tempfile::TempDir)> {
    let folders = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data-folders");
    let releases: Vec<PathBuf> = std::fs::read_dir(folders)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    assert!(!releases.is_empty(), "there is no data folder");
    let mut stores: Vec<(Arc<dyn DocStore>, _)> = Vec::new();
    for release in releases {
        let folder = tempfile::tempdir().unwrap();
        let (database, key) = (folder.path().join("state.db"), folder.path().join(KEY_FILE));
        std::fs::copy(release.join("state.db"), &database).unwrap();
        std::fs::copy(release.join(KEY_FILE), &key).unwrap();
        // Git keeps no such permissions.
        std::fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
        let store = SqliteStore::open(&database).await.unwrap();
        stores.push((Arc::new(store), folder));
    }
    stores
}

/// Panics unless the document is of a kind that there is, and keeps its values.
fn check(doc: &Doc) {
    let key = doc.key.as_str();
    match Key::parse(key) {
        Some(Key::Model(_)) => check_as::<Model>(doc),
        Some(Key::Deployment(..)) => check_as::<Deployment>(doc),
        Some(Key::Environment(..)) => check_as::<Environment>(doc),
        Some(Key::ApiKey(_)) => check_as::<ApiKey>(doc),
        Some(Key::Secret(_)) => check_as::<Secret>(doc),
        Some(Key::Audit) => check_as::<Entry>(doc),
        None if key == keys::ORGANIZATION => check_as::<Organization>(doc),
        None if key == keys::WEBHOOK_SECRETS => check_as::<Vec<WebhookSecret>>(doc),
        None if key.starts_with(&keys::model_name("")) => check_as::<ModelId>(doc),
        None => panic!("{key} is no document that this release knows"),
    }
}

/// The fields that a document had, and this release still has, keep their values when it is written again.
fn check_as<T: DeserializeOwned + Serialize>(doc: &Doc) {
    let value: T = read(doc).unwrap_or_else(|error| panic!("{}: {error}", doc.key));
    let before: serde_json::Value = serde_json::from_slice(&doc.value).unwrap();
    let after = serde_json::to_value(value).unwrap();
    check_kept(&doc.key, &before, &after);
}

fn check_kept(place: &str, before: &serde_json::Value, after: &serde_json::Value) {
    match (before, after) {
        (serde_json::Value::Object(before), serde_json::Value::Object(after)) => {
            for (name, value) in before {
                let place = format!("{place}, {name}");
                // This release may have no use for a field.
                if let Some(now) = after.get(name) {
                    check_kept(&place, value, now);
                }
            }
        }
        _ => assert_eq!(before, after, "{place}"),
    }
}

#[tokio::test]
async fn every_document_is_read_and_says_the_same() {
    for (store, _folder) in stores().await {
        let docs = store.list("").await.unwrap().docs;
        docs.iter().for_each(check);
    }
}

#[tokio::test]
async fn models_and_their_promotions_are_as_they_were() {
    for (store, _folder) in stores().await {
        let registry = Registry::new(store);
        let models = registry.models().await.unwrap();
        let names: Vec<&str> = models.iter().map(|one| one.model.name.as_str()).collect();
        assert_eq!(names, ["digits"]);
        let view = registry.model("digits").await.unwrap();
        assert_eq!(view.deployments.len(), 4);
        for deployment in view.deployments.values() {
            assert_eq!(deployment.status, DeploymentStatus::Active);
            deployment.bundle.validate().unwrap();
            assert_eq!(deployment.bundle.digest(), deployment.bundle_digest);
        }
        let named = |name: &str| {
            let mut all = view.deployments.values();
            all.find(|one| one.name == name).unwrap()
        };
        assert_eq!(named("second").labels["commit"], "abc123");
        assert_eq!(named("second").autoscaling().max_replica, 3);
        let production = &view.environments[PRODUCTION];
        assert_eq!(production.current_deployment_id, Some(named("first").id));
        let promotion = production.in_progress().unwrap();
        assert_eq!(promotion.status, PromotionStatus::Paused);
        assert_eq!(promotion.candidate_deployment_id, named("second").id);
        let analysis = promotion.settings.analysis.as_ref().unwrap();
        assert_eq!(analysis.max_error_rate, Some(0.05));
        assert!(view.environments["staging"].current_deployment_id.is_some());
        assert!(registry.unreadable().list().is_empty());
    }
}

#[tokio::test]
async fn keys_secrets_and_the_audit_log_are_read() {
    for (store, folder) in stores().await {
        let registry = Registry::new(store.clone());
        let unreadable = registry.unreadable();
        let api_keys = registry.api_keys().await.unwrap();
        let limited = api_keys
            .values()
            .find(|key| key.name.as_deref() == Some("caller"));
        assert_eq!(limited.unwrap().model_ids.len(), 1);

        let key = folder.path().join(KEY_FILE);
        let vault = open_vault(&*store, &key, LostSecrets::Refuse, unreadable).await;
        let vault = Arc::new(vault.unwrap());
        let secrets = Secrets::new(store.clone(), vault.clone());
        let values = secrets.values(&["TOKEN".to_owned()].into()).await.unwrap();
        assert_eq!(values["TOKEN"].expose_secret(), "the-value-of-TOKEN");
        let webhook_secrets = WebhookSecrets::new(store.clone(), vault);
        let live = webhook_secrets.live(Timestamp::now()).await.unwrap();
        assert_eq!(live.len(), 1);

        let page = Page {
            start: None,
            end: None,
            order: Order::Ascending,
            after: None,
            limit: MAX_LOOKED_AT,
        };
        let entries = registry.audit_log().page(&page, |_| true).await.unwrap();
        let stored = store.list(keys::AUDIT).await.unwrap().docs.len();
        assert_eq!(entries.entries.len(), stored);
        let types: Vec<&str> = entries
            .entries
            .iter()
            .map(|entry| entry.event_type.as_str())
            .collect();
        for wanted in ["MODEL_DEPLOYED", "MODEL_DELETED"] {
            assert!(types.contains(&wanted), "{types:?}");
        }
        assert!(unreadable.list().is_empty());
    }
}
