//! A stored document is read, used and written again as it was, or refused; nothing in it makes the node panic.
//!
//! An input is a key of the store, a line's end, and the document.

#![no_main]

use libfuzzer_sys::fuzz_target;
use samovar_fuzz::documents::read_and_write;
use samovar_server::domain::api_key::ApiKey;
use samovar_server::domain::audit::Entry;
use samovar_server::domain::deployment::Deployment;
use samovar_server::domain::environment::Environment;
use samovar_server::domain::keys::{self, Key};
use samovar_server::domain::model::{Model, Target};
use samovar_server::domain::organization::Organization;
use samovar_server::domain::secret::Secret;
use samovar_server::domain::webhook_secret::WebhookSecret;
use samovar_server::fuzzing::Documents;
use samovar_types::id::ModelId;

const MODEL: &str = "model000";
const DEPLOYMENT: &str = "deploy00";

fuzz_target!(|bytes: &[u8]| {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        return;
    };
    let Ok(key) = std::str::from_utf8(&bytes[..end]) else {
        return;
    };
    let document = &bytes[end + 1..];
    let is_read = match Key::parse(key) {
        Some(Key::Model(_)) => read_and_write::<Model>(document).is_some(),
        Some(Key::Deployment(..)) => read_and_write::<Deployment>(document).is_some(),
        Some(Key::Environment(..)) => read_and_write::<Environment>(document).is_some(),
        Some(Key::ApiKey(_)) => read_and_write::<ApiKey>(document).is_some(),
        Some(Key::Audit) => read_and_write::<Entry>(document).is_some(),
        Some(Key::Secret(_)) => {
            read_and_write::<Secret>(document);
            // A node only notes that a secret changed, and reads it when a guest needs it.
            true
        }
        None => return check_others(key, document),
    };
    let mut documents = Documents::default();
    for (key, document) in [
        (
            format!("models/{MODEL}"),
            include_str!("../seeds/stored_documents/model"),
        ),
        (
            format!("deployments/{MODEL}/{DEPLOYMENT}"),
            include_str!("../seeds/stored_documents/deployment"),
        ),
    ] {
        let (_, document) = document.split_once('\n').expect("a key comes first");
        let read = documents.apply(1, 0, &key, Some(document.as_bytes()));
        assert!(read.is_ok(), "{key}: {read:?}");
    }
    let applied = documents.apply(u64::MAX, u32::MAX, key, Some(document));
    assert_eq!(applied.is_ok(), is_read, "{key}: {applied:?}");
    let model: ModelId = MODEL.parse().expect("an id");
    documents.publish(&[model].into());
    use_all(&documents, model);
});

/// Documents that no node follows.
fn check_others(key: &str, document: &[u8]) {
    if key == keys::ORGANIZATION {
        read_and_write::<Organization>(document);
    } else if key == keys::WEBHOOK_SECRETS {
        read_and_write::<Vec<WebhookSecret>>(document);
    }
}

/// Uses what was read as a node does, long before, during and long after its time.
fn use_all(documents: &Documents, model: ModelId) {
    let Some(view) = documents.view(model) else {
        return;
    };
    let _ = view.resolve(Target::Deployment(DEPLOYMENT));
    let _ = view.production();
    for deployment in view.deployments.values() {
        let _ = view.environment_of(deployment.id);
        let _ = deployment.autoscaling();
        let _ = deployment.bundle.digest();
        if deployment.bundle.validate().is_ok() {
            samovar_fuzz::bundles::check_folder(&deployment.bundle);
        }
    }
    for environment in view.environments.values() {
        let Some(promotion) = environment.in_progress() else {
            continue;
        };
        for now in [
            jiff::Timestamp::MIN,
            promotion.created_at,
            jiff::Timestamp::MAX,
        ] {
            assert!(promotion.percent(now) <= 100, "{promotion:?}");
            let stage = promotion.stage(now);
            assert!(stage.is_none_or(|stage| stage < 10), "{promotion:?}");
            let _ = promotion.is_ramped(now);
            let _ = promotion.stage_started_at(now);
            let _ = promotion.next_stage_at(now);
        }
    }
}
