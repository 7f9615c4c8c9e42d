//! What a pool promises while its settings change and requests come, crash, hang up and are killed, all at once: real
//! replicas of a small guest, and two pools that share the slots of a node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use proptest::prelude::*;
use proptest::sample::Index;
use tokio::task::JoinSet;

use super::load::Traffic;
use super::replica::StartError;
use super::slots::IdleHolder;
use super::state::PoolSettings;
use super::{DeploymentSpec, Pool, RunError};
use crate::compile::{Compilation, ComponentFile};
use crate::engine::EngineOptions;
use crate::infer::backend::BackendOptions;
use crate::limits::Limits;
use crate::log::{LogLine, LogSink};
use crate::metrics::Outcome;
use crate::permits::Owner;
use crate::runtime::{Runtime, RuntimeOptions};
use crate::sandbox::Capabilities;

/// Slots that the two pools share: fewer than they may have replicas together.
const SLOTS: u32 = 4;
/// Longer than anything here takes, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct NoLog;

impl LogSink for NoLog {
    fn write(&self, _line: LogLine) {}
}

/// A runtime with the component of `guest.wat`.
struct Node {
    runtime: Runtime,
    folder: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let guest = wat::parse_str(include_str!("guest.wat")).unwrap();
        std::fs::write(folder.path().join("guest.wasm"), guest).unwrap();
        let runtime = Runtime::new(RuntimeOptions {
            engines: crate::Engines::InProcess,
            artifacts: folder.path().join("artifacts"),
            engine: EngineOptions {
                max_replicas: SLOTS,
                allocator: None,
            },
            backends: BackendOptions {
                // A process can open the library but once, and other tests do.
                onnxruntime: Some("/nowhere".into()),
                ..BackendOptions::default()
            },
            compilation: Compilation::InProcess,
        });
        let runtime = runtime.unwrap();
        Self { runtime, folder }
    }

    fn pool(&self) -> Tried {
        let settings = PoolSettings {
            max_replica: 2,
            ..PoolSettings::default()
        };
        let pool = self.runtime.pool(DeploymentSpec {
            component: ComponentFile {
                digest: "guest".into(),
                path: self.folder.path().join("guest.wasm"),
                owner: Owner::named("tests"),
            },
            snapshot: None,
            graphs: Vec::new(),
            own_engine: None,
            files: None,
            capabilities: Capabilities::default(),
            limits: Limits {
                memory_bytes: 4 << 20,
                timeout: PATIENCE,
                body_bytes: 0,
            },
            settings,
            log: Arc::new(NoLog),
        });
        Tried {
            pool,
            settings,
            allowed: settings.max_replica,
            calls: 0,
            kills: 0,
        }
    }
}

/// What happens to a pool.
#[derive(Clone, Debug)]
enum Step {
    /// A request that the guest answers after so many milliseconds, or never; its client hangs up after so many, or not.
    Request(&'static str, Option<u64>),
    Settings(PoolSettings),
    /// Other values of its config.
    Config,
    /// One of its replicas is told to stop, and to stop at once.
    Stop(Index),
    Kill(Index),
    /// What the scaler does.
    Warm(usize),
    Shrink(usize),
    /// So many milliseconds go by.
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let good = prop::sample::select(vec!["/0", "/1", "/3", "/9"]);
    let bad = prop::sample::select(vec!["/x", "/n"]);
    let settings = (
        (0usize..2, 1usize..5),
        prop_oneof![Just(1000), 0usize..3],
        prop::option::of(1u64..4),
    );
    let settings = settings.prop_map(|((min, max), queue, requests)| PoolSettings {
        min_replica: min,
        max_replica: max,
        max_queued_requests: queue,
        max_requests_per_replica: requests,
    });
    prop_oneof![
        12 => good.clone().prop_map(|path| Step::Request(path, None)),
        3 => (good, 0u64..6).prop_map(|(path, after)| Step::Request(path, Some(after))),
        4 => bad.prop_map(|path| Step::Request(path, None)),
        4 => settings.prop_map(Step::Settings),
        1 => Just(Step::Config),
        2 => any::<Index>().prop_map(Step::Stop),
        1 => any::<Index>().prop_map(Step::Kill),
        1 => (0usize..4).prop_map(Step::Warm),
        1 => (0usize..4).prop_map(Step::Shrink),
        3 => (0u64..5).prop_map(Step::Wait),
    ]
}

/// How a request ended for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ended {
    Answered,
    HungUp,
    Failed,
    QueueFull,
    Killed,
}

async fn request(pool: Arc<Pool>, path: &'static str) -> Result<Ended, String> {
    let request = http::Request::get(path).body(Empty::<Bytes>::new());
    let request = request.map_err(|error| error.to_string())?;
    match pool.handle(request, "r".into(), Traffic::Sync).await {
        Ok((answer, _)) => {
            let status = answer.status();
            let body = answer.into_body().collect().await;
            match (status.as_u16(), body) {
                (200, Ok(_)) => Ok(Ended::Answered),
                // Between the head of its answer and the end.
                (200, Err(_)) => Ok(Ended::Killed),
                (_, body) => Err(format!("{path}: {status}, {:?}", body.err())),
            }
        }
        Err(RunError::Guest(_)) => Ok(Ended::Failed),
        Err(RunError::QueueFull { .. }) => Ok(Ended::QueueFull),
        // What waits in a pool that is open is never told this.
        Err(RunError::Closed | RunError::Start(StartError::Stopped)) => Ok(Ended::Killed),
        Err(error) => Err(format!("{path}: {error}")),
    }
}

/// A pool, and what is known of it.
struct Tried {
    pool: Arc<Pool>,
    settings: PoolSettings,
    /// Replicas that it may have now: the maximum, or as many as were busy when that was lowered.
    allowed: usize,
    calls: u64,
    kills: u64,
}

impl Tried {
    fn replica(&self, which: Index) -> Option<String> {
        let replicas = self.pool.replicas();
        (!replicas.is_empty()).then(|| which.get(&replicas).id.clone())
    }

    async fn take(&mut self, step: Step, clients: &mut JoinSet<Result<(bool, Ended), String>>) {
        let pool = self.pool.clone();
        match step {
            Step::Request(path, hangs_up) => {
                self.calls += 1;
                let is_good = !matches!(path, "/x" | "/n");
                clients.spawn(async move {
                    let request = request(pool, path);
                    let ended = match hangs_up {
                        None => request.await?,
                        Some(after) => tokio::time::timeout(Duration::from_millis(after), request)
                            .await
                            .unwrap_or(Ok(Ended::HungUp))?,
                    };
                    Ok((is_good, ended))
                });
            }
            Step::Settings(settings) => {
                pool.set_settings(settings);
                self.settings = settings;
                let counts = pool.counts();
                self.allowed = settings.max_replica.max(counts.busy);
            }
            Step::Config => {
                let config = &pool.spec.capabilities.config;
                let generation = config.generation().to_string();
                config.set(vec![("generation".into(), generation)]);
                pool.recycle();
            }
            Step::Stop(which) => {
                if let Some(id) = self.replica(which) {
                    pool.stop_replica(&id, PATIENCE);
                }
            }
            Step::Kill(which) => {
                if let Some(id) = self.replica(which) {
                    self.kills += 1;
                    pool.stop_replica(&id, Duration::ZERO);
                }
            }
            Step::Warm(count) => pool.warm(count),
            Step::Shrink(count) => drop(pool.shrink(count)),
            Step::Wait(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
        }
    }

    /// What holds at every moment.
    fn check(&mut self) -> Result<(), TestCaseError> {
        let (counts, max) = (self.pool.counts(), self.settings.max_replica);
        let replicas = counts.idle + counts.busy;
        prop_assert!(
            replicas <= self.allowed,
            "{counts:?}, but {} at most",
            self.allowed
        );
        prop_assert!(
            counts.idle == 0 || replicas <= max,
            "{counts:?} with a maximum of {max}"
        );
        self.allowed = max.max(replicas);
        Ok(())
    }

    /// Whether all is done and as the settings say, once nobody asks for anything any more.
    fn is_settled(&self) -> bool {
        let pool = &self.pool;
        // As the scaler does each second.
        pool.warm(self.settings.min_replica);
        let (counts, readiness, now) = (pool.counts(), pool.readiness(), Instant::now());
        let outdated = pool.lock().idle().any(|replica| pool.is_outdated(replica));
        let totals = pool.metrics().totals(now);
        let counted: u64 = ALL_OUTCOMES.iter().map(|one| totals.requests(*one)).sum();
        (counts.busy, counts.waiting) == (0, 0)
            && counts.idle >= self.settings.min_replica
            && counts.idle <= self.settings.max_replica
            && (readiness.ready, readiness.starting) == (counts.idle, 0)
            && !outdated
            && counted == self.calls
            && pool.metrics().in_flight() == 0
    }
}

const ALL_OUTCOMES: [Outcome; Outcome::COUNT] = [
    Outcome::Ok,
    Outcome::ClientError,
    Outcome::ServerError,
    Outcome::Trapped,
    Outcome::Timeout,
    Outcome::Rejected,
    Outcome::QueueTimeout,
    Outcome::StartFailed,
    Outcome::Cancelled,
    Outcome::TooLarge,
    Outcome::Closed,
    Outcome::HostFailed,
];

/// Takes the steps, each at the first or the second of two pools, and says how many requests ended how.
async fn round(
    node: &Node,
    steps: Vec<(bool, Step)>,
) -> Result<BTreeMap<Ended, u64>, TestCaseError> {
    let begun = Instant::now();
    let mut pools = [node.pool(), node.pool()];
    let mut clients = JoinSet::new();
    for (second, step) in steps {
        pools[usize::from(second)].take(step, &mut clients).await;
        for pool in &mut pools {
            pool.check()?;
        }
    }
    let mut ended = BTreeMap::new();
    loop {
        let next = tokio::time::timeout(PATIENCE, clients.join_next()).await;
        let Ok(next) = next else {
            let counts = pools.each_ref().map(|pool| pool.pool.counts());
            return Err(TestCaseError::fail(format!(
                "requests are lost: {counts:?}"
            )));
        };
        let Some(client) = next else { break };
        let (is_good, how) = client.unwrap().map_err(TestCaseError::fail)?;
        prop_assert_ne!((is_good, how), (true, Ended::Failed));
        prop_assert_ne!((is_good, how), (false, Ended::Answered));
        *ended.entry(how).or_insert(0) += 1;
        for pool in &mut pools {
            pool.check()?;
        }
    }
    let kills: u64 = pools.iter().map(|pool| pool.kills).sum();
    let killed = ended.get(&Ended::Killed).copied().unwrap_or(0);
    prop_assert!(killed <= kills, "{ended:?} with {kills} kills");
    for tried in &pools {
        let settled = async {
            while !tried.is_settled() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, settled).await.is_err() {
            let (counts, readiness) = (tried.pool.counts(), tried.pool.readiness());
            let (settings, calls) = (tried.settings, tried.calls);
            let totals = tried.pool.metrics().totals(Instant::now());
            return Err(TestCaseError::fail(format!(
                "never settled: {counts:?} {readiness:?} {settings:?} {calls} {totals:?}"
            )));
        }
    }
    for tried in &pools {
        let (pool, now) = (&tried.pool, Instant::now());
        // Nobody is there, so the load stands still; and idle is who came back in this round.
        let later = now + Duration::from_secs(1);
        prop_assert_eq!(pool.load(now), pool.load(later));
        prop_assert!(pool.oldest_idle().is_none_or(|since| since >= begun));
        pool.drain(PATIENCE).await;
        prop_assert_eq!(pool.counts(), crate::PoolCounts::default());
        let refused = request(pool.clone(), "/0").await;
        prop_assert_eq!(refused, Ok(Ended::Killed));
    }
    Ok(ended)
}

#[test]
fn a_pool_keeps_its_bounds_and_loses_no_request_while_its_settings_change() {
    let executor = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(3)
        .enable_all()
        .build()
        .unwrap();
    let node = Node::new();
    let config = ProptestConfig {
        cases: 48,
        max_shrink_iters: 200,
        // The same steps may go another way the next time.
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let steps = prop::collection::vec((any::<bool>(), step()), 1..60);
    let seen = Mutex::new(BTreeSet::new());
    proptest!(config, |(steps in steps)| {
        let ended = executor.block_on(round(&node, steps))?;
        seen.lock().unwrap().extend(ended.into_keys());
    });
    // Else the steps were too tame to show anything.
    let seen = seen.into_inner().unwrap();
    for how in [
        Ended::Answered,
        Ended::HungUp,
        Ended::Failed,
        Ended::QueueFull,
    ] {
        assert!(seen.contains(&how), "no request is {how:?}");
    }
}
