//! The replicas of one deployment: which request runs on which, when they start, and when they go.

#[cfg(test)]
mod change_tests;
pub(crate) mod circuit_breaker;
mod error;
mod handoff;
mod inspect;
mod last_start;
pub(crate) mod load;
pub(crate) mod registry;
pub(crate) mod replica;
mod replica_id;
mod scaling;
mod serving;
pub(crate) mod slots;
mod starting;
pub(crate) mod state;
mod upkeep;

use std::sync::{Arc, Weak};
use std::time::Instant;

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::artifact::ArtifactStore;
use crate::compile::ComponentFile;
use crate::engine::SharedEngine;
use crate::infer::graph::{DeploymentGraph, GraphSpec, GraphStore};
use crate::limits::Limits;
use crate::log::LogSink;
use crate::metrics::PoolMetrics;
use crate::sandbox::Capabilities;
use crate::snapshot::SnapshotContext;
use circuit_breaker::CircuitBreaker;
pub use error::RunError;
use handoff::{Lease, Places, Waiter};
pub use last_start::{GraphPlacement, LastStart};
use registry::ReplicaRegistry;
use replica::Replica;
pub use serving::Timings;
use slots::{SlotShare, Slots};
use state::{PoolSettings, PoolState};

/// Checks that the files of a deployment hold what was pushed. Implemented by the host, which knows their digests.
pub trait FileCheck: Send + Sync {
    /// Checks the files. Called before each start of a replica, so it must be quick when they have not changed since the last
    /// check.
    ///
    /// # Errors
    /// Names the damaged file, and what to do about it.
    fn check(&self) -> BoxFuture<'_, Result<(), String>>;
}

/// What a pool needs to know of its deployment.
pub struct DeploymentSpec {
    /// The component that replicas run.
    pub component: ComponentFile,
    /// If replicas shall start from a snapshot of the memory after `init`: a digest of everything that `init` can see besides
    /// the component. `None` runs `init` in each replica.
    pub snapshot: Option<String>,
    /// The graphs that the component may load by name.
    pub graphs: Vec<GraphSpec>,
    /// The deployment's id if it has engine processes of its own, where graphs from its replicas' own bytes are loaded.
    pub own_engine: Option<String>,
    /// Called before each start of a replica; `None` checks nothing.
    pub files: Option<Arc<dyn FileCheck>>,
    /// What replicas may see and reach.
    pub capabilities: Capabilities,
    /// What a replica may use.
    pub limits: Limits,
    /// The initial settings; see [`Pool::set_settings`].
    pub settings: PoolSettings,
    /// Receives the log lines of replicas.
    pub log: Arc<dyn LogSink>,
}

/// What the pools of a node share.
pub(crate) struct NodeResources {
    pub engine: Arc<SharedEngine>,
    pub artifacts: Arc<ArtifactStore>,
    pub graphs: Arc<GraphStore>,
    pub slots: Slots,
}

impl NodeResources {
    /// What an `init` runs with whose memory becomes a snapshot.
    pub fn snapshot_context(&self, spec: &DeploymentSpec) -> SnapshotContext {
        SnapshotContext {
            engine: self.engine.clone(),
            graphs: self.graphs.clone(),
            capabilities: spec.capabilities.clone(),
            limits: spec.limits.clone(),
            log: spec.log.clone(),
        }
    }
}

type PoolLease = Lease<Pool>;

/// The replicas of one deployment.
pub struct Pool {
    node: Arc<NodeResources>,
    share: SlotShare,
    spec: DeploymentSpec,
    state: Mutex<PoolState<Box<Replica>, Waiter<Self>>>,
    /// Notified whenever a place becomes free.
    place_freed: Notify,
    breaker: Arc<CircuitBreaker>,
    registry: Arc<ReplicaRegistry>,
    settings: ArcSwap<PoolSettings>,
    metrics: Arc<PoolMetrics>,
    graph_uses: Arc<[Arc<DeploymentGraph>]>,
    last_start: Mutex<LastStart>,
}

impl Pool {
    pub(crate) fn new(node: Arc<NodeResources>, spec: DeploymentSpec) -> Arc<Self> {
        let settings = spec.settings;
        let metrics = Arc::<PoolMetrics>::default();
        let uses = spec
            .graphs
            .iter()
            .map(|graph| DeploymentGraph::new(graph.name.clone(), graph.batching, metrics.clone()));
        let uses = uses.collect();
        Arc::new_cyclic(|pool: &Weak<Self>| Self {
            graph_uses: uses,
            share: node.slots.add_deployment(pool.clone()),
            node,
            spec,
            state: Mutex::default(),
            place_freed: Notify::new(),
            breaker: CircuitBreaker::new(),
            registry: Arc::default(),
            settings: ArcSwap::from_pointee(settings),
            metrics,
            last_start: Mutex::default(),
        })
    }

    /// Returns a replica with its place, or drops it if it may serve no more.
    fn give_back(&self, lease: PoolLease, replica: Box<Replica>) {
        let max_requests = self.settings().max_requests_per_replica;
        let is_worn = max_requests.is_some_and(|max| replica.entry().served() >= max);
        if is_worn || self.is_spent(&replica) || self.share.must_yield() {
            // Before the place becomes free for another replica.
            drop(replica);
            return drop(lease);
        }
        lease.give_back(replica);
    }

    /// Whether a replica may serve no more: it was told to stop, or has read older values of the config.
    fn is_spent(&self, replica: &Replica) -> bool {
        replica.entry().is_stopping() || self.is_outdated(replica)
    }

    fn is_outdated(&self, replica: &Replica) -> bool {
        replica.config_generation() != self.spec.capabilities.config.generation()
    }

    fn lock(&self) -> MutexGuard<'_, PoolState<Box<Replica>, Waiter<Self>>> {
        self.state.lock()
    }
}

impl Places for Pool {
    type Replica = Replica;

    fn with_state<T>(
        &self,
        update: impl FnOnce(&mut PoolState<Box<Replica>, Waiter<Self>>) -> T,
    ) -> T {
        update(&mut self.lock())
    }

    fn current_settings(&self) -> PoolSettings {
        self.settings()
    }

    fn start_settings(&self, now: Instant) -> PoolSettings {
        let mut settings = self.settings();
        if self.breaker.refuses_starts(now) && self.registry.readiness().ready > 0 {
            // Requests wait for the replicas that are ready instead of failing to start others.
            settings.max_replica = 0;
        }
        settings
    }

    fn is_stopping(replica: &Replica) -> bool {
        replica.entry().is_stopping()
    }

    fn on_place_free(&self) {
        self.share.on_place_free();
        self.place_freed.notify_waiters();
    }
}
