//! A node without its HTTP side, for tests of what follows the catalog.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream;
use jiff::Timestamp;
use samovar_runtime::backend::BackendOptions;
use samovar_runtime::{Compilation, EngineOptions, Engines, Runtime, RuntimeOptions};
use samovar_store::blobs::Blobs;
use samovar_store::sqlite::SqliteStore;
use samovar_store::vault::{KeyAbsent, Vault};
use samovar_store::{DocStore, Rev};
use samovar_types::deployment::DeploymentStatus;
use samovar_types::digest::Digest;
use samovar_types::id::DeploymentId;
use samovar_types::names::PRODUCTION;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::catalog::cache::Cache;
use crate::catalog::informer::{Informer, Observer};
use crate::control::access::{Access, AuthMode};
use crate::domain::deployment::DeploymentKind;
use crate::domain::model::{ModelView, Target};
use crate::events::bus::EventBus;
use crate::registry::{Push, PushTo, Pushed, Registry, Secrets};
use crate::serving::blob_pins::BlobPins;
use crate::serving::drains::Drains;
use crate::serving::guest_secrets::GuestSecrets;
use crate::serving::reconciler::Reconciler;
use crate::serving::{EngineMode, NodeLimits, Serving, ServingParts};
use crate::tasks::Tasks;
use crate::telemetry::logs::Logs;
use crate::telemetry::meters::Meters;

/// How long a test waits for what has to happen.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct TestNode {
    pub bus: Arc<EventBus>,
    pub cache: Arc<Cache>,
    pub access: Arc<Access>,
    pub serving: Arc<Serving>,
    pub reconciler: Arc<Reconciler>,
    pub guest_secrets: Arc<GuestSecrets>,
    pub secrets: Secrets,
    /// The store as another node changes it.
    pub other: Registry,
    pub store: Arc<dyn DocStore>,
    _folder: tempfile::TempDir,
}

impl TestNode {
    /// A node that does not follow the store yet.
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let store = SqliteStore::open(&path.join("state.db")).await.unwrap();
        let store: Arc<dyn DocStore> = Arc::new(store);
        let vault = Vault::open(&path.join("key"), KeyAbsent::Create).unwrap();
        let secrets = Secrets::new(store.clone(), Arc::new(vault));
        let guest_secrets = Arc::new(GuestSecrets::new(secrets.clone()));
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
        let serving = Arc::new(Serving::new(ServingParts {
            runtime: Arc::new(Runtime::new(options).unwrap()),
            blobs,
            pins: BlobPins::new(mpsc::unbounded_channel().0),
            logs: Logs::open(&path.join("logs"), &mut Tasks::default()).unwrap(),
            meters: Arc::new(Meters::default()),
            secrets: guest_secrets.clone(),
            drains: Drains::new(mpsc::unbounded_channel().0),
            folder: path.join("bundles"),
            limits: NodeLimits {
                engines: EngineMode::InProcess,
                max_queued_requests: 10,
                max_requests_per_replica: None,
                drain_timeout: Duration::from_secs(60),
            },
        }));
        let cache = Arc::new(Cache::default());
        let bus = EventBus::new(store.clone(), cache.clone(), CancellationToken::new());
        Self {
            bus: Arc::new(bus),
            access: Arc::new(Access::new(AuthMode::Keys)),
            reconciler: Arc::new(Reconciler::new(cache.clone(), serving.clone())),
            cache,
            serving,
            guest_secrets,
            secrets,
            other: Registry::new(store.clone()),
            store,
            _folder: folder,
        }
    }

    /// Follows from the beginning, or as if it had seen everything up to a revision; wakes these observers, too.
    pub fn follow(&self, also: Vec<Arc<dyn Observer>>, at: Option<Rev>) {
        tokio::spawn(self.reconciler.clone().run());
        let mut observers: Vec<Arc<dyn Observer>> =
            vec![self.access.clone(), self.reconciler.clone()];
        observers.extend(also);
        if let Some(at) = at {
            self.cache.set_observed(at);
        }
        let (store, registry) = (self.store.clone(), Registry::new(self.store.clone()));
        let informer = Informer::new(
            store,
            registry,
            self.cache.clone(),
            self.bus.sender(),
            observers,
        );
        tokio::spawn(informer.at(at).run());
    }

    /// Stores a deployment that another node has built.
    pub async fn push(&self) -> DeploymentId {
        let digest = Digest::of(b"component");
        let text = format!(r#"{{"name":"m","component":{{"digest":"{digest}","size":9}}}}"#);
        let push = Push {
            to: PushTo::Named("m".into()),
            bundle: serde_json::from_str(&text).unwrap(),
            kind: DeploymentKind::Published,
            deployment_name: None,
            environment: None,
            labels: BTreeMap::new(),
        };
        let Pushed { id, .. } = self.other.push(push, Timestamp::now()).await.unwrap();
        let built = |view: &mut ModelView| view.built(id, DeploymentStatus::Active, None);
        self.other.change("m", built).await.unwrap();
        id
    }

    /// The deployment that production of model `m` leads to.
    pub fn serves(&self) -> Option<DeploymentId> {
        let table = self.serving.table();
        let routed = table
            .model("m")?
            .route(Target::Environment(PRODUCTION), |_| None);
        Some(routed.ok()?.served.id)
    }

    /// Whether there is a model of this name.
    pub fn knows(&self, model: &str) -> bool {
        self.serving.table().model(model).is_some()
    }
}

/// Waits until something holds.
pub async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
