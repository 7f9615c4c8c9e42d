//! Tests of the registry, on a store of its own each.

use jiff::Timestamp;
use samovar_store::sqlite::SqliteStore;
use samovar_types::api_key::KeyType;
use samovar_types::deployment::DeploymentStatus;
use samovar_types::digest::Digest;
use samovar_types::error::ErrorCode;
use samovar_types::names::PRODUCTION;

use super::*;
use crate::domain::api_key::ApiKey;
use crate::domain::changes::{Done, Promote, Refusal};
use crate::domain::deployment::DeploymentKind;
use crate::domain::model::Target;
use crate::random::random_id;

async fn registry() -> (Registry, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("state.db"))
        .await
        .unwrap();
    (Registry::new(Arc::new(store)), folder)
}

fn push(to: PushTo) -> Push {
    let digest = Digest::of(b"component");
    let text = format!(r#"{{"name":"m","component":{{"digest":"{digest}","size":9}}}}"#);
    Push {
        to,
        bundle: serde_json::from_str(&text).unwrap(),
        kind: DeploymentKind::Published,
        deployment_name: None,
        environment: None,
        labels: BTreeMap::new(),
    }
}

fn named(name: &str) -> Push {
    push(PushTo::Named(name.to_owned()))
}

fn now() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

#[tokio::test]
async fn the_first_deployment_goes_to_production_and_the_next_does_not() {
    let (registry, _folder) = registry().await;
    let Pushed {
        view, id: first, ..
    } = registry.push(named("digits"), now()).await.unwrap();
    assert_eq!(view.deployments[&first].name, "deployment-1");
    assert_eq!(view.production().unwrap().id, first);
    registry
        .change("digits", |view| {
            view.built(first, DeploymentStatus::Active, None)
        })
        .await
        .unwrap();

    let Pushed {
        view, id: second, ..
    } = registry.push(named("digits"), now()).await.unwrap();
    assert_eq!(view.deployments[&second].name, "deployment-2");
    assert_eq!(view.production().unwrap().id, first);
    let by_id = push(PushTo::Existing(view.model.id.to_string()));
    let Pushed {
        view, id: third, ..
    } = registry
        .push(
            Push {
                deployment_name: Some("mine".into()),
                ..by_id
            },
            now(),
        )
        .await
        .unwrap();
    assert_eq!(view.deployments[&third].name, "mine");

    assert_eq!(registry.model("digits").await.unwrap(), view);
    assert_eq!(registry.model(view.model.id.as_str()).await.unwrap(), view);
    assert_eq!(registry.models().await.unwrap(), [view]);
}

#[tokio::test]
async fn a_deployment_that_never_answered_leaves_production_to_the_next() {
    let (registry, _folder) = registry().await;
    let Pushed { id: first, .. } = registry.push(named("m"), now()).await.unwrap();
    let reason = Some("import refused".to_owned());
    let changed = registry
        .change("m", |view| {
            view.built(first, DeploymentStatus::BuildFailed, reason.clone())
        })
        .await
        .unwrap();
    let failed = changed.view.deployment(first).unwrap();
    assert_eq!(failed.status_reason, reason);
    let Pushed {
        view, id: second, ..
    } = registry.push(named("m"), now()).await.unwrap();
    assert_eq!(view.production().unwrap().id, second);
    let delete = |view: &mut ModelView| view.delete_deployment(first);
    registry.change("m", delete).await.unwrap();
}

#[tokio::test]
async fn what_breaks_a_rule_is_refused() {
    let (registry, _folder) = registry().await;
    let refused = async |push: Push| registry.push(push, now()).await.unwrap_err().to_string();
    assert!(
        refused(named("Digits"))
            .await
            .starts_with("name: found \"Digits\"")
    );
    assert!(
        refused(push(PushTo::Existing("none".into())))
            .await
            .contains("no model \"none\"")
    );
    assert!(
        refused(push(PushTo::Existing("../x\n".into())))
            .await
            .contains("no model")
    );
    let mut bad = named("m");
    bad.bundle.component.size = 0;
    assert!(refused(bad).await.starts_with("component.size"));
    let bad = Push {
        deployment_name: Some("a b".into()),
        ..named("m")
    };
    assert!(refused(bad).await.starts_with("deployment_name"));
    let bad = Push {
        environment: Some("staging".into()),
        ..named("m")
    };
    assert!(refused(bad).await.contains("no environment \"staging\""));
    assert!(registry.models().await.unwrap().is_empty());

    let to_production = || Push {
        environment: Some(PRODUCTION.into()),
        ..named("m")
    };
    let Pushed {
        view, id: first, ..
    } = registry.push(to_production(), now()).await.unwrap();
    assert_eq!(view.production().unwrap().id, first);
    // Another goes there by a promotion once it is built.
    let Pushed {
        view, id: second, ..
    } = registry.push(to_production(), now()).await.unwrap();
    assert_eq!(view.production().unwrap().id, first);
    let promote_to = view.deployment(second).unwrap().promote_to.as_deref();
    assert_eq!(promote_to, Some(PRODUCTION));
}

#[tokio::test]
async fn a_name_that_is_a_models_id_means_that_model() {
    let (registry, _folder) = registry().await;
    let Pushed { view, .. } = registry.push(named("m"), now()).await.unwrap();
    let Pushed { view: again, .. } = registry
        .push(named(view.model.id.as_str()), now())
        .await
        .unwrap();
    assert_eq!(again.model.id, view.model.id);
    assert_eq!(registry.models().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_at_once_make_one_model_and_give_each_its_name() {
    let (registry, _folder) = registry().await;
    let tasks: Vec<_> = (0..40)
        .map(|_| {
            let registry = registry.clone();
            tokio::spawn(async move { registry.push(named("m"), now()).await.unwrap() })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let models = registry.models().await.unwrap();
    let [view] = &models[..] else {
        panic!("{models:?}")
    };
    let mut names: Vec<_> = view.deployments.values().map(|one| &*one.name).collect();
    names.sort_unstable();
    let mut wanted: Vec<_> = (1..=40)
        .map(|number| format!("deployment-{number}"))
        .collect();
    wanted.sort_unstable();
    assert_eq!(names, wanted);
    assert_eq!(view.production().unwrap().name, "deployment-1");
}

#[tokio::test]
async fn a_deployment_in_production_goes_only_with_its_model() {
    let (registry, _folder) = registry().await;
    let Pushed {
        view, id: first, ..
    } = registry.push(named("m"), now()).await.unwrap();
    let Pushed { id: second, .. } = registry.push(named("m"), now()).await.unwrap();
    let delete = async |id| {
        registry
            .change("m", |view| view.delete_deployment(id))
            .await
    };
    let error = delete(first).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("is in environment production of model m"),
        "{error}"
    );
    delete(second).await.unwrap();
    let gone = delete(second).await.unwrap_err();
    assert!(matches!(gone, RegistryError::Refused(Refusal::NotFound(_))));
    let Pushed { id: third, .. } = registry.push(named("m"), now()).await.unwrap();
    assert_eq!(
        registry
            .deployment(view.model.id, third)
            .await
            .unwrap()
            .name,
        "deployment-3"
    );

    let (deleted, _) = registry.delete_model("m").await.unwrap();
    assert_eq!(deleted.deployments.len(), 2);
    assert!(matches!(
        registry.delete_model("m").await,
        Err(RegistryError::NoModel { .. })
    ));
    let left = registry.store.list("").await.unwrap().docs;
    assert!(left.iter().all(|doc| doc.key.starts_with(keys::AUDIT)));
    // The name is free again.
    let Pushed { view: again, .. } = registry.push(named("m"), now()).await.unwrap();
    assert_ne!(again.model.id, view.model.id);
}

#[tokio::test]
async fn a_restart_finds_everything() {
    let (registry, folder) = registry().await;
    for name in ["b", "a"] {
        registry.push(named(name), now()).await.unwrap();
    }
    let before = registry.models().await.unwrap();
    registry.store.close().await;
    let store = SqliteStore::open(&folder.path().join("state.db"))
        .await
        .unwrap();
    let registry = Registry::new(Arc::new(store));
    assert_eq!(registry.models().await.unwrap(), before);
    let names: Vec<_> = before.iter().map(|view| &*view.model.name).collect();
    assert_eq!(names, ["a", "b"]);
    let target = Target::Environment(PRODUCTION);
    assert!(before.iter().all(|view| view.find(target).is_ok()));
    assert_eq!(registry.recover().await.unwrap().rev, 2);
}

/// Puts a field that nobody knows into every object of a document.
fn add_unknown(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(fields) => {
            fields.values_mut().for_each(add_unknown);
            // Maps by name would read it as one more of their entries.
            let is_struct = !fields.is_empty() && fields.values().any(|one| !one.is_object());
            if is_struct {
                fields.insert(
                    "from_a_newer_release".into(),
                    serde_json::json!({ "x": [1] }),
                );
            }
        }
        serde_json::Value::Array(all) => all.iter_mut().for_each(add_unknown),
        _ => {}
    }
}

#[tokio::test]
async fn fields_of_a_newer_release_are_passed_over() {
    let (registry, folder) = registry().await;
    let mut pushed = named("m");
    pushed.bundle.graphs.insert(
        "g".into(),
        serde_json::from_value(serde_json::json!({
            "digest": Digest::of(b"graph"), "size": 5, "file": "m.onnx", "batch": { "max_size": 2, "max_delay_ms": 1 },
        }))
        .unwrap(),
    );
    let Pushed { id: first, .. } = registry.push(pushed, now()).await.unwrap();
    let Pushed { id: second, .. } = registry.push(named("m"), now()).await.unwrap();
    for id in [first, second] {
        let built = |view: &mut ModelView| view.built(id, DeploymentStatus::Active, None);
        registry.change("m", built).await.unwrap();
    }
    let promoted = registry.change("m", |view| {
        view.promote(PRODUCTION, second, Promote::AsSet, random_id(), now())
    });
    promoted.await.unwrap();
    let (key, _) = ApiKey::generate(KeyType::Personal, None, Default::default(), now());
    registry.add_api_key(&key).await.unwrap();
    let before = (
        registry.models().await.unwrap(),
        registry.api_keys().await.unwrap(),
    );
    let mut ops = Vec::new();
    for doc in registry.store.list("").await.unwrap().docs {
        let mut value: serde_json::Value = serde_json::from_slice(&doc.value).unwrap();
        add_unknown(&mut value);
        ops.push(Op::put(
            doc.key,
            serde_json::to_vec(&value).unwrap(),
            Expect::Any,
        ));
    }
    registry.store.commit(ops).await.unwrap();
    registry.store.close().await;

    let store = SqliteStore::open(&folder.path().join("state.db")).await;
    let registry = Registry::new(Arc::new(store.unwrap()));
    assert_eq!(registry.models().await.unwrap(), before.0);
    assert_eq!(registry.api_keys().await.unwrap(), before.1);
    assert_eq!(registry.unreadable().list(), []);
}

#[tokio::test]
async fn a_document_that_cannot_be_read_is_reported_and_hides_no_other() {
    let (registry, _folder) = registry().await;
    let Pushed { id: good, .. } = registry.push(named("m"), now()).await.unwrap();
    let Pushed { view, id: bad, .. } = registry.push(named("m"), now()).await.unwrap();
    registry.push(named("other"), now()).await.unwrap();
    let model = view.model.id;
    let bad_key = keys::deployment(model, bad);
    let ops = vec![
        Op::put("models/aaaaaaaa", "{}", Expect::Any),
        Op::put(&*bad_key, "not JSON", Expect::Any),
        Op::put(keys::environment(model, "staging"), "[]", Expect::Any),
        Op::put("api-keys/abcd", "{\"prefix\":7}", Expect::Any),
    ];
    registry.store.commit(ops).await.unwrap();

    let models = registry.models().await.unwrap();
    let names: Vec<_> = models.iter().map(|view| &*view.model.name).collect();
    assert_eq!(names, ["m", "other"]);
    assert!(registry.api_keys().await.unwrap().is_empty());
    let told = registry.unreadable().list();
    let told: Vec<&str> = told.iter().map(|one| &*one.key).collect();
    let staging = keys::environment(model, "staging");
    let mut wanted = vec!["api-keys/abcd", &bad_key, &staging, "models/aaaaaaaa"];
    wanted.sort_unstable();
    assert_eq!(told, wanted);

    // What is beside it can be changed, and is not written over it.
    let view = registry.model("m").await.unwrap();
    assert_eq!(view.deployments.keys().collect::<Vec<_>>(), [&good]);
    let built = |view: &mut ModelView| view.built(good, DeploymentStatus::Active, None);
    registry.change("m", built).await.unwrap();
    let create =
        |view: &mut ModelView| view.create_environment("staging", Default::default(), now());
    let error = registry.change("m", create).await.unwrap_err();
    assert!(
        matches!(&error, RegistryError::InTheWay { key, .. } if *key == staging),
        "{error}"
    );
    let stored = registry.store.get(&bad_key).await.unwrap().unwrap();
    assert_eq!(&stored.value[..], b"not JSON");

    // It goes with its model.
    registry.delete_model("m").await.unwrap();
    assert!(registry.store.get(&bad_key).await.unwrap().is_none());
    assert!(registry.store.get(&staging).await.unwrap().is_none());
}

#[tokio::test]
async fn production_that_cannot_be_read_is_not_taken_by_the_next_push() {
    let (registry, _folder) = registry().await;
    let Pushed {
        view, id: first, ..
    } = registry.push(named("m"), now()).await.unwrap();
    let key = keys::deployment(view.model.id, first);
    let ops = vec![Op::put(key, "{}", Expect::Any)];
    registry.store.commit(ops).await.unwrap();
    let Pushed { view, .. } = registry.push(named("m"), now()).await.unwrap();
    let production = view.environment(PRODUCTION).unwrap();
    assert_eq!(production.current_deployment_id, Some(first));
}

#[tokio::test]
async fn api_keys_are_stored_listed_and_removed() {
    let (registry, _folder) = registry().await;
    let (key, _) = ApiKey::generate(KeyType::WorkspaceInvoke, None, Default::default(), now());
    registry.add_api_key(&key).await.unwrap();
    let keys = registry.api_keys().await.unwrap();
    assert_eq!(keys.values().collect::<Vec<_>>(), [&key]);
    assert_eq!(registry.delete_api_key("../../x").await.unwrap(), None);
    let deleted = registry.delete_api_key(&key.prefix).await.unwrap();
    assert!(deleted.is_some());
    assert_eq!(registry.delete_api_key(&key.prefix).await.unwrap(), None);
    assert!(registry.api_keys().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_who_promote_at_once_one_is_told_no() {
    let (registry, _folder) = registry().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let Pushed { id, .. } = registry.push(named("m"), now()).await.unwrap();
        let built = registry.change("m", |view| view.built(id, DeploymentStatus::Active, None));
        assert_eq!(built.await.unwrap().value, Done::Changed);
        ids.push(id);
    }
    let tasks: Vec<_> = ids[1..]
        .iter()
        .map(|id| {
            let (registry, id) = (registry.clone(), *id);
            tokio::spawn(async move {
                let fresh = random_id();
                let promote = |view: &mut ModelView| {
                    view.promote(PRODUCTION, id, Promote::AsSet, fresh, now())
                };
                registry.change("m", promote).await
            })
        })
        .collect();
    let mut won = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => won += 1,
            Err(RegistryError::Refused(Refusal::Conflict { code, .. })) => {
                assert_eq!(code, ErrorCode::PromotionInProgress);
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(won, 1);
}

#[tokio::test]
async fn a_build_that_is_switched_off_is_stopped_and_can_be_taken_up_again() {
    let (registry, _folder) = registry().await;
    let Pushed { id, .. } = registry.push(named("m"), now()).await.unwrap();
    let stopped = registry
        .change("m", |view| view.deactivate(id))
        .await
        .unwrap();
    let deployment = stopped.view.deployment(id).unwrap();
    assert_eq!(deployment.status, DeploymentStatus::BuildStopped);
    assert!(deployment.status_reason.is_some());
    // What the build then says comes too late.
    let late = registry
        .change("m", |view| view.built(id, DeploymentStatus::Active, None))
        .await
        .unwrap();
    assert_eq!(late.value, Done::Unchanged);
    assert_eq!(late.view, stopped.view);
    for again in [ModelView::retry, ModelView::activate] {
        let changed = registry.change("m", |view| again(view, id)).await.unwrap();
        let deployment = changed.view.deployment(id).unwrap();
        assert_eq!(deployment.status, DeploymentStatus::Building);
        assert_eq!(deployment.status_reason, None);
        registry
            .change("m", |view| view.deactivate(id))
            .await
            .unwrap();
    }
}
