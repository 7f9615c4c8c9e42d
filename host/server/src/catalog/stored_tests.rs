//! Whatever bytes a store hands back, reading and using them panics nowhere: they are read, or refused as unreadable.

use jiff::Timestamp;
use proptest::prelude::*;
use samovar_types::id::Id;
use samovar_types::promotion::PromotionStatus;
use serde_json::{Value, json};

use super::cache::Documents;
use crate::domain::environment::Environment;
use crate::domain::model::Target;
use crate::domain::promotion::Promotion;

const MODEL: &str = "model000";
const DEPLOYMENT: &str = "deploy00";

fn id<Kind>(text: &str) -> Id<Kind> {
    text.parse().unwrap()
}

/// A document of each kind under its key.
fn documents() -> Vec<(String, Value)> {
    let model = json!({
        "id": MODEL, "name": "m", "created_at": "2026-01-01T00:00:00Z", "generation": 3, "deployments_made": 1,
    });
    let bundle = json!({
        "name": "m", "component": { "digest": "0".repeat(64), "size": 1 },
        "graphs": { "default": { "digest": "1".repeat(64), "size": 2, "file": "a.onnx", "threads": 1 } },
        "files": { "a/b": { "digest": "2".repeat(64), "size": 3 } },
        "limits": { "memory_bytes": 1, "timeout_ms": 2, "body_bytes": 3 },
    });
    let deployment = json!({
        "id": DEPLOYMENT, "model_id": MODEL, "name": "deployment-1", "created_at": "2026-01-01T00:00:00Z",
        "status": "ACTIVE", "bundle": bundle, "bundle_digest": "3".repeat(64), "labels": { "a": "b" },
        "autoscaling": { "min_replica": 0, "max_replica": 1 },
    });
    let mut environment = Environment::new(id(MODEL), "staging", Timestamp::UNIX_EPOCH);
    environment.current_deployment_id = Some(id(DEPLOYMENT));
    let mut promotion = Promotion::new(
        id(DEPLOYMENT),
        None,
        Default::default(),
        Timestamp::UNIX_EPOCH,
    );
    promotion.status = PromotionStatus::RampingUp;
    promotion.ramp_started_at = Some(Timestamp::UNIX_EPOCH);
    environment.promotion = Some(promotion);
    vec![
        (format!("models/{MODEL}"), model),
        (format!("deployments/{MODEL}/{DEPLOYMENT}"), deployment),
        (
            format!("environments/{MODEL}/staging"),
            serde_json::to_value(environment).unwrap(),
        ),
        (
            "api-keys/abcdefgh".to_owned(),
            json!({ "prefix": "abcdefgh", "scopes": [] }),
        ),
        ("audit/0001".to_owned(), json!({ "model_id": MODEL })),
    ]
}

/// Values that arithmetic or parsers may stumble over.
fn odd_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        prop::sample::select(vec![
            json!(null),
            json!(0),
            json!(-1),
            json!(u64::MAX),
            json!(i64::MIN),
            json!(u32::MAX),
            json!(1e308),
            json!(""),
            json!([]),
            json!({}),
            json!(true),
            json!("-009999-01-02T01:59:59Z"),
            json!("9999-12-30T22:00:00Z"),
            json!("RAMPING_UP"),
            json!("PAUSED"),
            json!("a/../b"),
        ]),
        "\\PC{0,12}".prop_map(Value::String),
        any::<i64>().prop_map(|number| json!(number)),
    ]
}

/// Puts a value in the `place`th position of the document, counted depth first; says how many positions there are.
fn replace(document: &mut Value, place: usize, odd: &Value) -> usize {
    if place == 0 {
        *document = odd.clone();
        return 1;
    }
    let mut counted = 1;
    let children: Vec<&mut Value> = match document {
        Value::Object(fields) => fields.values_mut().collect(),
        Value::Array(items) => items.iter_mut().collect(),
        _ => Vec::new(),
    };
    for child in children {
        if counted > place {
            break;
        }
        counted += replace(child, place - counted, odd);
    }
    counted
}

/// Uses what was read as a node does.
fn use_all(known: &Documents, now: Timestamp) {
    let Some(view) = known.view(id(MODEL)) else {
        return;
    };
    let _ = view.resolve(Target::Deployment(DEPLOYMENT));
    let _ = view.production();
    let _ = view.environment_of(id(DEPLOYMENT));
    for deployment in view.deployments.values() {
        let _ = deployment.autoscaling();
        let _ = deployment.bundle.validate();
        let _ = deployment.bundle.blobs();
        let _ = deployment.bundle.digest();
    }
    for environment in view.environments.values() {
        if let Some(promotion) = environment.in_progress() {
            let _ = promotion.percent(now);
            let _ = promotion.is_ramped(now);
            let _ = promotion.stage_started_at(now);
            let _ = promotion.next_stage_at(now);
        }
    }
}

fn apply(known: &mut Documents, key: &str, bytes: &[u8]) -> bool {
    let delta = known.apply(7, 3, key, Some(bytes));
    let read = delta.is_ok();
    let models = delta.ok().and_then(|delta| delta.model);
    known.publish(&models.into_iter().collect());
    for now in [Timestamp::MIN, Timestamp::UNIX_EPOCH, Timestamp::MAX] {
        use_all(known, now);
    }
    read
}

#[test]
fn the_documents_that_are_changed_below_can_be_read() {
    let mut known = Documents::default();
    for (key, document) in documents().into_iter().take(3) {
        let bytes = serde_json::to_vec(&document).unwrap();
        known
            .apply(1, 0, &key, Some(&bytes))
            .map(drop)
            .unwrap_or_else(|error| panic!("{key}: {error:?}"));
    }
    known.publish(&[id(MODEL)].into());
    let view = known.view(id(MODEL)).unwrap();
    assert_eq!((view.deployments.len(), view.environments.len()), (1, 1));
}

proptest! {
    #[test]
    fn no_value_in_a_document_panics(
        which in 0..5_usize,
        changes in prop::collection::vec((0..40_usize, odd_value()), 1..4),
    ) {
        let mut known = Documents::default();
        let documents = documents();
        for (key, document) in &documents {
            apply(&mut known, key, &serde_json::to_vec(document).unwrap());
        }
        let (key, mut document) = documents[which].clone();
        for (place, odd) in changes {
            replace(&mut document, place, &odd);
        }
        apply(&mut known, &key, &serde_json::to_vec(&document).unwrap());
    }

    #[test]
    fn no_bytes_panic(
        key in prop_oneof![
            prop::sample::select(documents().into_iter().map(|(key, _)| key).collect::<Vec<_>>()),
            "[ -~]{0,40}",
            "(models|deployments|environments|api-keys|audit)/[a-z0-9]{0,9}(/[ -~]{0,9})?",
        ],
        which in 0..5_usize,
        cut in 0..600_usize,
        noise in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let mut known = Documents::default();
        apply(&mut known, &key, &noise);
        let mut bytes = serde_json::to_vec(&documents()[which].1).unwrap();
        bytes.truncate(cut);
        bytes.extend(noise);
        apply(&mut known, &key, &bytes);
    }
}
