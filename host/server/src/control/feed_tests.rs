//! Tests of what reaches a node and its subscribers, with changes that another made in the same store.

use std::collections::BTreeMap;
use std::time::Instant;

use jiff::Timestamp;
use samovar_runtime::backend::BackendOptions;
use samovar_runtime::{Compilation, EngineOptions, Engines, Runtime, RuntimeOptions};
use samovar_store::blobs::Blobs;
use samovar_store::sqlite::SqliteStore;
use samovar_store::vault::{KeyAbsent, Vault};
use samovar_types::api_key::KeyType;
use samovar_types::deployment::DeploymentStatus;
use samovar_types::digest::Digest;
use samovar_types::id::Id;
use samovar_types::names::PRODUCTION;
use tokio::sync::mpsc;

use super::*;
use crate::control::access::AuthMode;
use crate::control::builder::Builder;
use crate::control::secrets::GuestSecrets;
use crate::control::serving::{EngineMode, NodeLimits, Serving};
use crate::control::subscriber::{self, Begin, Outlet, Told};
use crate::domain::api_key::{Action, ApiKey};
use crate::domain::changes::Promote;
use crate::domain::model::Target;
use crate::random::random_id;
use crate::registry::{Push, PushTo, Secrets};
use crate::tasks::Tasks;
use crate::telemetry::logs::Logs;
use crate::telemetry::meters::Meters;

const PATIENCE: Duration = Duration::from_secs(30);
/// Nobody who reads takes as long as this to be read from.
const SHORT: Duration = Duration::from_millis(500);

struct Node {
    feed: Arc<Feed>,
    builder: Builder,
    access: Arc<Access>,
    /// The store as another node changes it.
    other: Registry,
    store: Arc<dyn DocStore>,
    _folder: tempfile::TempDir,
}

impl Node {
    /// A node that does not follow the store yet.
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let store = SqliteStore::open(&path.join("state.db")).await.unwrap();
        let store: Arc<dyn DocStore> = Arc::new(store);
        let vault = Vault::open(&path.join("key"), KeyAbsent::Create).unwrap();
        let secrets = Secrets::new(store.clone(), Arc::new(vault));
        let blobs = Blobs::open(&path.join("blobs")).await.unwrap();
        let bytes = stream::iter([Ok::<_, std::io::Error>("component".into())]);
        let digest = Digest::of(b"component");
        blobs.put_stream(digest, 9, bytes).await.unwrap();
        let options = RuntimeOptions {
            artifacts: path.join("artifacts"),
            engine: EngineOptions::default(),
            backends: BackendOptions::default(),
            engines: Engines::InProcess,
            compilation: Compilation::InProcess,
        };
        let limits = NodeLimits {
            engines: EngineMode::InProcess,
            max_queued_requests: 10,
            max_requests_per_replica: None,
            drain_timeout: Duration::from_secs(60),
        };
        let serving = Serving::new(
            Arc::new(Runtime::new(options).unwrap()),
            blobs,
            Logs::open(&path.join("logs"), &mut Tasks::default()).unwrap(),
            Arc::new(Meters::default()),
            Arc::new(GuestSecrets::new(secrets)),
            path.join("bundles"),
            limits,
        );
        let registry = Registry::new(store.clone());
        Self {
            feed: Arc::new(Feed::new(store.clone(), CancellationToken::new())),
            builder: Builder::new(registry, Arc::new(serving)),
            access: Arc::new(Access::new(AuthMode::Keys, BTreeMap::new())),
            other: Registry::new(store.clone()),
            store,
            _folder: folder,
        }
    }

    /// Follows from the beginning, or as if it had seen everything up to a revision.
    fn follow(&self, at: Option<Rev>) {
        let (feed, access) = (self.feed.clone(), self.access.clone());
        let applier = Applier::new(self.builder.clone());
        tokio::spawn(applier.clone().run());
        let registry = self.builder.registry.clone();
        feed.told.send_replace(at);
        tokio::spawn(async move {
            let follower = Follower {
                feed: &feed,
                registry,
                access,
                applier,
                mirror: Mirror::default(),
                at,
            };
            follower.run().await;
        });
    }

    async fn push(&self) -> Id {
        let digest = Digest::of(b"component");
        let text = format!(r#"{{"name":"m","component":{{"digest":"{digest}","size":9}}}}"#);
        let push = Push {
            to: PushTo::Named("m".into()),
            bundle: serde_json::from_str(&text).unwrap(),
            kind: crate::domain::deployment::DeploymentKind::Published,
            deployment_name: None,
            environment: None,
            labels: BTreeMap::new(),
        };
        let (_, id) = self.other.push(push, Timestamp::now()).await.unwrap();
        let built = |view: &mut ModelView| view.built(id, DeploymentStatus::Active, None);
        self.other.change("m", built).await.unwrap();
        id
    }

    async fn rename(&self, name: &str) {
        let rename = |view: &mut ModelView| view.rename(name);
        self.other.change("m", rename).await.unwrap();
        let back = |view: &mut ModelView| view.rename("m");
        self.other.change(name, back).await.unwrap();
    }

    /// What somebody is told who begins there.
    async fn subscriber(&self, begin: Begin) -> Reader {
        let subscription = self.feed.subscribe().await.unwrap();
        let (sender, told) = mpsc::channel(subscriber::MAX_PENDING);
        let out = Outlet {
            sender,
            patience: SHORT,
        };
        let telling = subscriber::tell(self.feed.clone(), subscription, begin, |_| true, out);
        tokio::spawn(telling);
        let mut reader = Reader { told };
        let first = reader.next().await;
        assert!(matches!(first, Told::Ready(_)), "{first:?}");
        reader
    }

    fn serves(&self) -> Option<Id> {
        let serving = &self.builder.serving;
        let model = serving.model_id("m")?;
        let served = serving.resolve(model, Target::Environment(PRODUCTION), |_| None);
        Some(served.ok()?.id)
    }
}

struct Reader {
    told: mpsc::Receiver<Told>,
}

impl Reader {
    async fn next(&mut self) -> Told {
        let told = tokio::time::timeout(PATIENCE, self.told.recv()).await;
        told.expect("nothing was told").expect("the end was told")
    }

    /// The events up to the one that names a model so.
    async fn up_to(&mut self, wanted: &str) -> Vec<Arc<Event>> {
        let mut events = Vec::new();
        loop {
            let Told::Event(event) = self.next().await else {
                panic!("told twice that it begins");
            };
            events.push(event.clone());
            if matches!(&event.what, What::Model { name } if name == wanted) {
                return events;
            }
        }
    }
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_node_changed_is_served() {
    let node = Node::new().await;
    let first = node.push().await;
    node.follow(None);
    eventually("what was there", || node.serves() == Some(first)).await;
    let second = node.push().await;
    let promote = |view: &mut ModelView| {
        let now = Timestamp::now();
        // This node may have tried to build it meanwhile, and found that it cannot.
        view.retry(second)?;
        view.built(second, DeploymentStatus::Active, None)?;
        view.promote(PRODUCTION, second, Promote::AsSet, random_id(), now)?;
        view.release_promotion(PRODUCTION, now)
    };
    node.other.change("m", promote).await.unwrap();
    eventually("the promotion", || node.serves() == Some(second)).await;

    let now = Timestamp::now();
    let (key, plain) = ApiKey::generate(KeyType::Personal, None, [].into(), now);
    let header = format!("Bearer {}", plain.reveal());
    let admitted = || {
        node.access
            .check(Some(header.as_bytes()), Action::Manage)
            .is_ok()
    };
    let (spare, _) = ApiKey::generate(KeyType::Personal, None, [].into(), now);
    node.other.add_api_key(&spare).await.unwrap();
    assert!(!admitted());
    node.other.add_api_key(&key).await.unwrap();
    eventually("the key", admitted).await;
    node.other.delete_api_key(&key.prefix).await.unwrap();
    eventually("the end of the key", || !admitted()).await;

    let view = node.other.delete_model("m").await.unwrap();
    let serving = &node.builder.serving;
    eventually("the deletion", || serving.model_id("m").is_none()).await;
    // Whoever is late with an older view does not bring it back.
    node.builder.apply(view).await.unwrap();
    assert_eq!(serving.model_id("m"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_back_is_told_the_rest_once() {
    let node = Node::new().await;
    node.follow(None);
    let mut live = node.subscriber(Begin::Now).await;
    node.push().await;
    node.rename("n").await;
    let mut all = live.up_to("m").await;
    all.extend(live.up_to("m").await);
    let ids: Vec<EventId> = all.iter().filter_map(|event| event.id).collect();
    assert_eq!(ids.len(), all.len());
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");

    for (at, id) in ids.iter().enumerate() {
        let mut again = node.subscriber(Begin::After(*id)).await;
        let name = format!("o{at}");
        node.rename(&name).await;
        let told = again.up_to(&name).await;
        let wanted = &all[at + 1..];
        assert!(told.starts_with(wanted), "{told:?}\n{wanted:?}");
        // Everybody is told the same, whether it saw it happen or not.
        let seen = live.up_to(&name).await;
        let mut expected = wanted.to_vec();
        expected.extend(seen.clone());
        assert_eq!(told, expected);
        all.extend(seen);
        all.extend(live.up_to("m").await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_longer_known_is_said_so() {
    let node = Node::new().await;
    node.follow(None);
    let mut live = node.subscriber(Begin::Now).await;
    node.push().await;
    let first = live.up_to("m").await[0].id.unwrap();
    let newest = node.store.list("none").await.unwrap().rev;
    // An event is told a moment before it is noted how far the node has come.
    eventually("all is told", || *node.feed.told.borrow() >= Some(newest)).await;
    node.store.compact(newest).await.unwrap();
    // From another store, too.
    for begin in [first, EventId::end_of(newest + 1000)] {
        let mut late = node.subscriber(Begin::After(begin)).await;
        let Told::Event(event) = late.next().await else {
            panic!("told twice that it begins");
        };
        assert_eq!(event.what, What::Missed);
        assert!(event.id >= Some(EventId::end_of(newest)));
        node.rename("n").await;
        late.up_to("n").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_fell_behind_reads_everything_again() {
    let node = Node::new().await;
    let first = node.push().await;
    let newest = node.store.list("none").await.unwrap().rev;
    node.store.compact(newest).await.unwrap();
    let now = Timestamp::now();
    let (key, plain) = ApiKey::generate(KeyType::Personal, None, [].into(), now);
    node.other.add_api_key(&key).await.unwrap();
    node.feed.told.send_replace(Some(1));
    let mut live = node.subscriber(Begin::Now).await;
    node.follow(Some(1));
    eventually("what was missed", || node.serves() == Some(first)).await;
    let Told::Event(event) = live.next().await else {
        panic!("told twice that it begins");
    };
    assert_eq!(event.what, What::Missed);
    let header = format!("Bearer {}", plain.reveal());
    let admitted = node.access.check(Some(header.as_bytes()), Action::Manage);
    assert!(admitted.is_ok());
    node.rename("n").await;
    live.up_to("n").await;
}

#[tokio::test]
async fn who_does_not_read_is_dropped() {
    let node = Node::new().await;
    node.feed.told.send_replace(Some(7));
    let mut reading = node.subscriber(Begin::Now).await;
    let idle = node.subscriber(Begin::Now).await;
    let free = || node.feed.places.available_permits();
    assert_eq!(free(), MAX_SUBSCRIBERS - 2);
    for _ in 0..2 * KEPT_EVENTS {
        node.feed.tell(Event {
            id: None,
            model: None,
            what: What::ModelDeleted,
        });
        reading.next().await;
    }
    eventually("its place is free", || free() == MAX_SUBSCRIBERS - 1).await;
    drop(idle);
    drop(reading);
    eventually("all are free", || free() == MAX_SUBSCRIBERS).await;
}

#[tokio::test]
async fn there_are_only_so_many_and_they_end_with_the_node() {
    let node = Node::new().await;
    node.feed.told.send_replace(Some(7));
    let mut readers = Vec::new();
    for _ in 0..MAX_SUBSCRIBERS {
        readers.push(node.subscriber(Begin::Now).await);
    }
    assert!(node.feed.subscribe().await.is_none());
    node.feed.stop().cancel();
    for mut reader in readers {
        assert_eq!(reader.told.recv().await, None);
    }
}
