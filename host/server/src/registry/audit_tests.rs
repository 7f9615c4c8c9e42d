//! Tests of the audit log: that it tells of every change and of nothing else.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use samovar_store::sqlite::SqliteStore;
use samovar_types::api_key::KeyType;
use samovar_types::deployment::DeploymentStatus;
use samovar_types::digest::Digest;
use samovar_types::names::PRODUCTION;
use samovar_types::settings::BackpressurePolicy;

use super::*;
use crate::domain::api_key::ApiKey;
use crate::domain::audit::{Act, Actor};
use crate::domain::changes::{EnvironmentUpdate, Promote};
use crate::domain::model::ModelView;
use crate::random::random_id;
use crate::registry::{Push, PushTo, Pushed};

fn author(prefix: &str) -> Author {
    Author {
        actor: Actor::ApiKey {
            prefix: prefix.to_owned(),
            name: None,
        },
        client: None,
    }
}

/// The registry as the server and as a caller changes it.
async fn registries() -> (Registry, Registry, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("state.db")).await;
    let system = Registry::new(Arc::new(store.unwrap()));
    let caller = system.by(author("abcd1234"));
    (system, caller, folder)
}

fn push(name: &str) -> Push {
    let digest = Digest::of(b"component");
    let text = format!(r#"{{"name":"m","component":{{"digest":"{digest}","size":9}}}}"#);
    Push {
        to: PushTo::Named(name.to_owned()),
        bundle: serde_json::from_str(&text).unwrap(),
        kind: crate::domain::deployment::DeploymentKind::Published,
        deployment_name: None,
        environment: None,
        labels: BTreeMap::new(),
    }
}

fn everything() -> Page {
    Page {
        start: None,
        end: None,
        order: Order::Ascending,
        after: None,
        limit: 1000,
    }
}

async fn told(registry: &Registry) -> Vec<Entry> {
    let page = registry.audit_log().page(&everything(), |_| true).await;
    page.unwrap().entries
}

async fn types(registry: &Registry) -> Vec<String> {
    let entries = told(registry).await;
    entries.into_iter().map(|entry| entry.event_type).collect()
}

#[tokio::test]
async fn every_change_is_told_with_its_author_and_nothing_else_is() {
    let (system, caller, _folder) = registries().await;
    let now = Timestamp::now();
    let Pushed { id: first, .. } = caller.push(push("m"), now).await.unwrap();
    let Pushed { id: second, .. } = caller.push(push("m"), now).await.unwrap();
    for id in [first, second] {
        let built = |view: &mut ModelView| view.built(id, DeploymentStatus::Active, None);
        system.change("m", built).await.unwrap();
    }
    assert_eq!(types(&system).await, ["MODEL_DEPLOYED"; 2]);

    // What changes nothing and what is refused.
    let name = |view: &mut ModelView| view.rename("m");
    caller.change("m", name).await.unwrap();
    let delete = |view: &mut ModelView| view.delete_deployment(first);
    caller.change("m", delete).await.unwrap_err();
    assert_eq!(caller.delete_api_key("abcd1234").await.unwrap(), None);
    assert_eq!(types(&system).await.len(), 2);

    let fresh = random_id();
    let change = async |change: &mut (dyn FnMut(&mut ModelView) + Send)| {
        let changed = caller.change("m", |view| {
            change(view);
            Ok(())
        });
        changed.await.unwrap();
    };
    change(&mut |view| {
        let to = view.promote(PRODUCTION, second, Promote::AsSet, fresh, now);
        assert_eq!(to, Ok(second));
    })
    .await;
    change(&mut |view| view.force_cancel_promotion(PRODUCTION, now).unwrap()).await;
    change(&mut |view| {
        let update = EnvironmentUpdate::default();
        view.create_environment("staging", update, now).unwrap();
    })
    .await;
    change(&mut |view| {
        let policy = BackpressurePolicy::RejectOnFull;
        view.update_backpressure(second, policy).unwrap();
    })
    .await;
    change(&mut |view| {
        view.deactivate(second).unwrap();
        view.rename_deployment(second, "mine").unwrap();
    })
    .await;
    change(&mut |view| {
        view.delete_environment("staging").unwrap();
        view.delete_deployment(second).unwrap();
    })
    .await;
    let (deleted, _) = caller.delete_model("m").await.unwrap();
    let (key, _) = ApiKey::generate(KeyType::WorkspaceInvoke, None, Default::default(), now);
    caller.add_api_key(&key).await.unwrap();
    system.delete_api_key(&key.prefix).await.unwrap();
    let replica = Note::of_server(Act::ReplicaTerminated {
        replica_id: "r".into(),
    });
    caller.note(replica).await.unwrap();

    let entries = told(&system).await;
    let types: Vec<&str> = entries.iter().map(|one| &*one.event_type).collect();
    assert_eq!(
        types[2..],
        [
            "MODEL_DEPLOYMENT_PROMOTED",
            "MODEL_PROMOTION_CONTROL_ACTION",
            "ENVIRONMENT_CREATED",
            "MODEL_DEPLOYMENT_REQUEST_BACKPRESSURE_SETTINGS_CHANGED",
            "MODEL_DEPLOYMENT_DEACTIVATED",
            "MODEL_DEPLOYMENT_RENAMED",
            "ENVIRONMENT_DELETED",
            "MODEL_DEPLOYMENT_DELETED",
            "MODEL_DELETED",
            "API_KEY_CREATED",
            "API_KEY_DELETED",
            "REPLICA_TERMINATED",
        ]
    );
    for entry in &entries {
        let wanted = match &*entry.event_type {
            "API_KEY_DELETED" => "system",
            _ => "abcd1234",
        };
        assert_eq!(entry.actor.id(), wanted, "{entry:?}");
    }
    let control = &entries[3];
    assert_eq!(control.fact("action"), Some("FORCE_CANCEL"));
    assert_eq!(control.fact("environment_name"), Some(PRODUCTION));
    assert_eq!(control.fact("deployment_id"), Some(second.as_str()));
    assert_eq!(entries[5].fact("previous_policy"), Some("QUEUE_ON_FULL"));
    assert_eq!(entries[7].fact("previous_name"), Some("deployment-2"));
    assert_eq!(entries[9].fact("deployment_name"), Some("mine"));
    let id = deleted.model.id.to_string();
    assert_eq!(entries[10].fact("model_id"), Some(&*id));
    assert_eq!(entries[11].fact("prefix"), Some(&*key.prefix));
    let digest = key.digest.to_string();
    let stored = serde_json::to_string(&entries).unwrap();
    assert!(!stored.contains(&digest), "{stored}");
}

#[tokio::test]
async fn what_the_server_does_by_itself_has_no_user() {
    let (system, caller, _folder) = registries().await;
    let now = Timestamp::now();
    let mut ids = Vec::new();
    for _ in 0..2 {
        let Pushed { id, .. } = caller.push(push("m"), now).await.unwrap();
        let built = |view: &mut ModelView| view.built(id, DeploymentStatus::Active, None);
        system.change("m", built).await.unwrap();
        ids.push(id);
    }
    let promote =
        |view: &mut ModelView| view.promote(PRODUCTION, ids[1], Promote::AsSet, random_id(), now);
    caller.change("m", promote).await.unwrap();
    let fail = |view: &mut ModelView| view.fail_promotion(PRODUCTION, "it crashed", now);
    system.change("m", fail).await.unwrap();
    let entries = told(&system).await;
    let last = entries.last().unwrap();
    assert_eq!(last.event_type, "MODEL_PROMOTION_ENDED");
    assert_eq!(last.actor, Actor::System);
    assert_eq!(last.fact("status"), Some("FAILED"));
    assert_eq!(last.fact("error_message"), Some("it crashed"));
}

#[tokio::test]
async fn a_change_that_notes_nothing_is_not_made_for_a_caller() {
    let (system, caller, _folder) = registries().await;
    caller.push(push("m"), Timestamp::now()).await.unwrap();
    let silent = |view: &mut ModelView| {
        view.model.deployments_made += 1;
        Ok(())
    };
    let error = caller.change("m", silent).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unaudited { .. }), "{error}");
    let view = system.model("m").await.unwrap();
    assert_eq!(view.model.deployments_made, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_two_do_at_once_is_told_once() {
    let (system, _, _folder) = registries().await;
    let now = Timestamp::now();
    let Pushed { id, .. } = system.push(push("m"), now).await.unwrap();
    let built = |view: &mut ModelView| view.built(id, DeploymentStatus::Active, None);
    system.change("m", built).await.unwrap();
    let tasks = (0..16).map(|number| {
        let caller = system.by(author(&format!("caller-{number}")));
        tokio::spawn(async move { caller.change("m", |view| view.deactivate(id)).await })
    });
    let mut winners = 0;
    for task in tasks.collect::<Vec<_>>() {
        let changed = task.await.unwrap().unwrap();
        winners += usize::from(changed.value == crate::domain::changes::Done::Changed);
    }
    assert_eq!(winners, 1);
    let types = types(&system).await;
    assert_eq!(types, ["MODEL_DEPLOYED", "MODEL_DEPLOYMENT_DEACTIVATED"]);
}

async fn store_entries(registry: &Registry, times: &[Timestamp]) {
    let ops = times.iter().enumerate().map(|(number, time)| {
        let note = Note::of_server(Act::ReplicaTerminated {
            replica_id: number.to_string(),
        });
        let entry = Entry::new(note, &Author::SYSTEM, *time, 0);
        put(keys::audit(&entry.id), &entry, Expect::Absent).unwrap()
    });
    registry.store.commit(ops.collect()).await.unwrap();
}

#[tokio::test]
async fn pages_follow_each_other_without_a_gap_both_ways() {
    let (system, _, _folder) = registries().await;
    let at = |second| Timestamp::from_second(second).unwrap();
    let times: Vec<Timestamp> = (0..2500).map(at).collect();
    store_entries(&system, &times).await;
    let log = system.audit_log();
    for order in [Order::Ascending, Order::Descending] {
        let mut page = Page {
            start: Some(at(10)),
            end: Some(at(2400)),
            order,
            after: None,
            limit: 7,
        };
        let mut seen = Vec::new();
        loop {
            // Every third of them.
            let wanted = |entry: &Entry| entry.created.as_second() % 3 == 0;
            let read = log.page(&page, wanted).await.unwrap();
            assert!(read.entries.len() <= 7);
            seen.extend(read.entries.iter().map(|one| one.created.as_second()));
            match read.next {
                Some(next) => page.after = Some(next),
                None => break,
            }
        }
        let mut wanted: Vec<i64> = (10..2400).filter(|second| second % 3 == 0).collect();
        if order == Order::Descending {
            wanted.reverse();
        }
        assert_eq!(seen, wanted);
    }
}

#[tokio::test]
async fn a_page_looks_at_only_so_many() {
    let (system, _, _folder) = registries().await;
    let at = |millis| Timestamp::from_millisecond(millis).unwrap();
    let most = i64::try_from(MAX_LOOKED_AT).unwrap();
    let times: Vec<Timestamp> = (0..most + 10).map(at).collect();
    for part in times.chunks(10_000) {
        store_entries(&system, part).await;
    }
    let log = system.audit_log();
    let last = |entry: &Entry| entry.created == at(most + 5);
    let mut page = everything();
    let read = log.page(&page, last).await.unwrap();
    assert!(read.entries.is_empty());
    page.after = Some(read.next.unwrap());
    let read = log.page(&page, last).await.unwrap();
    assert_eq!((read.entries.len(), read.next), (1, None));
}

#[tokio::test]
async fn what_is_older_than_90_days_is_forgotten_bit_by_bit() {
    let (system, _, _folder) = registries().await;
    let now: Timestamp = "2026-11-24T00:00:00Z".parse().unwrap();
    let ago = |hours| now - SignedDuration::from_hours(hours);
    let mut times = vec![ago(90 * 24 + 1); 700];
    times.extend([ago(90 * 24 - 1), now]);
    store_entries(&system, &times).await;
    let log = system.audit_log();
    let mut purged = Vec::new();
    loop {
        match log.purge(now).await.unwrap() {
            0 => break,
            count => purged.push(count),
        }
    }
    assert_eq!(purged, [500, 200]);
    assert_eq!(told(&system).await.len(), 2);
}
