//! The replicas of one deployment, and the way of a request through them: acquire, wait, run, give back.

mod error;
mod gate;
mod inspect;
mod lease;
mod replica_id;
mod scaling;
mod seen;
mod stop;
mod upkeep;
mod waiting;

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::HOST;
use http_body_util::{BodyExt, Empty};
use tokio::sync::{Notify, oneshot};
use wasmtime_wasi_http::WasiBody;

use crate::artifact::{Artifact, ArtifactError, ArtifactStore, ComponentFile};
use crate::body::{GuestBody, LimitedBody};
use crate::engine::SharedEngine;
use crate::exchange::Exchange;
use crate::failure::GuestFailure;
use crate::infer::graphs::{GraphSpec, GraphStore, GraphUse};
use crate::infer::loading::Loading;
use crate::infer::nn::{NnCtx, NnLimits};
use crate::ledger::{Freed, Ledger, Next, PoolSettings};
use crate::limits::Limits;
use crate::load::Traffic;
use crate::log::{Level, LogSink, ReplicaLog};
use crate::meter::{Counted, Meter, Outcome};
use crate::replica::{Blueprint, Call, Replica, Served, StartError, StartTimings};
use crate::roster::{Listed, Roster};
use crate::sandbox::Capabilities;
use crate::slots::{IdleHolder, Slots};
use crate::snapshot::Setting;
pub use error::RunError;
use gate::Gate;
use lease::Lease;
use replica_id::replica_id;
pub use seen::{RunsOn, Seen};
use stop::{Stop, stop};
use waiting::Waiting;

/// Tells whether the files of a deployment hold what was pushed.
pub trait FileCheck: Send + Sync {
    /// Quick when nothing changed since they were checked last.
    ///
    /// # Errors
    /// Names the file that is damaged, and what to do about it.
    fn check(&self) -> BoxFuture<'_, Result<(), String>>;
}

/// Everything a pool needs to know of its deployment.
pub struct DeploymentSpec {
    /// The component.
    pub component: ComponentFile,
    /// Whether its replicas shall start where `init` ended: a digest of what `init` may see besides the component.
    pub snapshot: Option<String>,
    /// The graphs it may load by name.
    pub graphs: Vec<GraphSpec>,
    /// Asked before each start of a replica whether the files are what they should be.
    pub files: Option<Arc<dyn FileCheck>>,
    /// What its replicas may see and reach.
    pub capabilities: Capabilities,
    /// What its replicas may use.
    pub limits: Limits,
    /// How many there may be, and for how long.
    pub settings: PoolSettings,
    /// Where their lines go.
    pub log: Arc<dyn LogSink>,
}

/// Where the time before an answer went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// Waiting for a replica.
    pub queue: Duration,
    /// Starting one, if this request had to.
    pub start: Option<StartTimings>,
    /// From handing the request to the guest until the head of its answer.
    pub run: Duration,
}

/// What pools share on a node.
pub(crate) struct Machine {
    pub engine: Arc<SharedEngine>,
    pub artifacts: Arc<ArtifactStore>,
    pub graphs: Arc<GraphStore>,
    pub slots: Slots,
}

impl Machine {
    /// Where a deployment's `init` runs whose memory is taken.
    pub fn setting(&self, spec: &DeploymentSpec) -> Setting {
        Setting {
            engine: self.engine.clone(),
            graphs: self.graphs.clone(),
            capabilities: spec.capabilities.clone(),
            limits: spec.limits.clone(),
            log: spec.log.clone(),
        }
    }
}

type Waiter = oneshot::Sender<Lease>;

/// The replicas of one deployment.
pub struct Pool {
    machine: Arc<Machine>,
    spec: DeploymentSpec,
    ledger: Mutex<Ledger<Box<Replica>, Waiter>>,
    changed: Notify,
    health: Arc<Gate>,
    roster: Arc<Roster>,
    settings: RwLock<PoolSettings>,
    meter: Arc<Meter>,
    uses: Arc<[Arc<GraphUse>]>,
    seen: Mutex<Seen>,
}

impl Pool {
    pub(crate) fn new(machine: Arc<Machine>, spec: DeploymentSpec) -> Arc<Self> {
        let settings = spec.settings;
        let meter = Arc::<Meter>::default();
        let uses = spec
            .graphs
            .iter()
            .map(|graph| GraphUse::new(graph.name.clone(), graph.batching, meter.clone()));
        let pool = Arc::new(Self {
            uses: uses.collect(),
            machine,
            spec,
            ledger: Mutex::default(),
            changed: Notify::new(),
            health: Gate::new(),
            roster: Arc::default(),
            settings: RwLock::new(settings),
            meter,
            seen: Mutex::default(),
        });
        let holder: Arc<dyn IdleHolder> = pool.clone();
        pool.machine.slots.register(Arc::downgrade(&holder));
        pool
    }

    /// Runs one request: on a warm replica, on a new one, or after waiting for one.
    ///
    /// Dropping the future, or the body of the answer before its end, cancels the guest.
    ///
    /// # Errors
    /// Whatever kept the guest from answering; once its head is there, trouble ends the body with an error instead.
    pub async fn handle<B>(
        self: &Arc<Self>,
        request: http::Request<B>,
        request_id: Arc<str>,
        traffic: Traffic,
    ) -> Result<(http::Response<GuestBody>, Timings), RunError>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display,
    {
        let arrived = Instant::now();
        let mut counted = Counted::new(self.meter.clone());
        let limits = &self.spec.limits;
        if let Some(size) = http_body::Body::size_hint(request.body()).exact()
            && size > limits.body_bytes
        {
            counted.ends(Outcome::TooLarge);
            return Err(self.too_large());
        }
        let attempt = self.health.admit(arrived).map_err(|trouble| {
            let error = RunError::Unhealthy(trouble);
            counted.ends(error.outcome());
            error
        })?;
        let deadline = arrived + limits.timeout;
        let mut timings = Timings::default();
        let acquired = self.acquire(traffic, deadline, &mut timings).await;
        let (lease, replica) = acquired.inspect_err(|error| counted.ends(error.outcome()))?;

        let begun = Instant::now();
        let exchange = Arc::new(Exchange::default());
        let call = Call {
            request: self.sealed(request, &exchange),
            request_id,
            exchange: exchange.clone(),
        };
        let stop = stop(deadline, exchange.clone());
        let pool = self.clone();
        let mut running = Box::pin(async move {
            let (limits, engine) = (&pool.spec.limits, &pool.machine.engine);
            let served = replica.serve(call, limits, engine, stop).await;
            let _attempt = attempt;
            match served {
                Served::Reusable(replica, status) => {
                    if status.is_some() {
                        pool.health.answered();
                    }
                    counted.ends(Outcome::answered(status));
                    drop(counted);
                    lease.give_back(replica);
                    None
                }
                Served::Failed(failure) => {
                    counted.ends(Outcome::Trapped);
                    pool.health.crashed(&failure.to_string());
                    tracing::debug!(%failure, "replica dropped");
                    None
                }
                Served::Stopped(stop) => {
                    counted.ends(stop.outcome());
                    Some(stop)
                }
            }
        });
        // On this very task until the head is there: most guests are done by then, and need no task of their own.
        let (head, ended) = poll_fn(|cx| {
            let ended = running.as_mut().poll(cx);
            match (exchange.take_head(), ended) {
                (None, Poll::Pending) => Poll::Pending,
                seen => Poll::Ready(seen),
            }
        })
        .await;
        let stopped = match ended {
            Poll::Ready(stopped) => stopped,
            Poll::Pending => {
                tokio::spawn(running);
                None
            }
        };
        match (head, stopped) {
            (Some(Ok(response)), _) => {
                timings.run = begun.elapsed();
                let response =
                    response.map(|body| GuestBody::new(body, exchange, self.meter.clone()));
                Ok((response, timings))
            }
            (Some(Err(failure)), _) => Err(failure.into()),
            (None, Some(Stop::Timeout)) => Err(RunError::Timeout {
                timeout: limits.timeout,
            }),
            (None, Some(Stop::BodyTooLarge)) => Err(self.too_large()),
            (None, Some(Stop::ClientGone)) => Err(RunError::Host("cancelled".into())),
            (None, None) => Err(GuestFailure::NoAnswer.into()),
        }
    }

    async fn acquire(
        self: &Arc<Self>,
        traffic: Traffic,
        deadline: Instant,
        timings: &mut Timings,
    ) -> Result<(Lease, Box<Replica>), RunError> {
        let settings = &self.settings();
        let waited = Instant::now();
        let waiting = {
            let mut ledger = self.lock();
            match self.next(&mut ledger, traffic, waited) {
                Next::Reuse(replica) => {
                    drop(ledger);
                    if !self.is_spent(&replica) {
                        return Ok((self.lease(traffic), replica));
                    }
                    None
                }
                Next::Start => None,
                Next::Wait => {
                    let (sender, receiver) = oneshot::channel();
                    ledger.wait(sender);
                    Some(receiver)
                }
                Next::Full => {
                    return Err(RunError::QueueFull {
                        max_replica: settings.max_replica,
                        max_queued_requests: settings.max_queued_requests,
                    });
                }
                Next::Closed => return Err(RunError::Closed),
            }
        };
        let timed_out = || RunError::QueueTimeout {
            timeout: self.spec.limits.timeout,
        };
        let deadline = tokio::time::Instant::from_std(deadline);
        let mut lease = match waiting {
            None => self.lease(traffic),
            Some(receiver) => {
                let waiting = Waiting::new(self, traffic);
                let mut lease = tokio::time::timeout_at(deadline, receiver)
                    .await
                    .map_err(|_| timed_out())?
                    .map_err(|_| RunError::Closed)?;
                waiting.over();
                lease.traffic = Some(traffic);
                lease
            }
        };
        timings.queue = waited.elapsed();
        // It may have been handed over in the moment before the config changed.
        if let Some(replica) = lease.replica.take()
            && !self.is_spent(&replica)
        {
            return Ok((lease, replica));
        }
        let mut start = StartTimings::default();
        let replica = tokio::time::timeout_at(deadline, self.start(&mut start))
            .await
            .map_err(|_| self.did_not_start(timed_out()))??;
        timings.start = Some(start);
        Ok((lease, replica))
    }

    fn lease(self: &Arc<Self>, traffic: Traffic) -> Lease {
        Lease::new(self.clone(), None, Some(traffic))
    }

    fn next(
        &self,
        ledger: &mut Ledger<Box<Replica>, Waiter>,
        traffic: Traffic,
        now: Instant,
    ) -> Next<Box<Replica>> {
        let mut settings = self.settings();
        if self.health.starts_pause(now) && self.roster.presence().ready > 0 {
            // Others do not start just now: those that are there serve all.
            settings.max_replica = 0;
        }
        match ledger.next(traffic, &settings, now) {
            Next::Full => {
                // Places of clients that hung up while waiting are free again.
                ledger.forget_waiting(oneshot::Sender::is_closed);
                ledger.next(traffic, &settings, now)
            }
            next => next,
        }
    }

    /// Starts a replica, unless too many failed to just now.
    async fn start(&self, timings: &mut StartTimings) -> Result<Box<Replica>, RunError> {
        let _attempt = self
            .health
            .may_start(Instant::now())
            .map_err(RunError::Unhealthy)?;
        let listed = self.roster.enter(replica_id);
        let id = listed.id().to_owned();
        let made = self.make(listed, timings).await;
        match &made {
            Ok(_) => self.health.started(),
            Err(error) => {
                self.health.start_failed(&error.to_string());
                let log = ReplicaLog::new(self.spec.log.clone(), id);
                log.write(Level::Error, format!("the replica did not start: {error}"));
            }
        }
        Ok(Box::new(made?))
    }

    /// A start took too long, which is the deployment's fault unless the machine was full.
    fn did_not_start(&self, error: RunError) -> RunError {
        if self.machine.slots.has_free() {
            self.health.start_failed(&format!(
                "it took longer than the request timeout of {:?}",
                self.spec.limits.timeout
            ));
        }
        error
    }

    async fn make(
        &self,
        listed: Listed,
        timings: &mut StartTimings,
    ) -> Result<Replica, StartError> {
        // Before anything is read from them: what is made of a damaged file would be kept beyond its repair.
        if let Some(files) = &self.spec.files {
            files.check().await.map_err(StartError::Files)?;
        }
        let machine = &self.machine;
        let graphs = Loading::new(machine.graphs.clone(), self.spec.graphs.clone());
        let started = tokio::select! {
            biased;
            // Polled first, so that they load from the beginning; when one fails, whatever fails for want of it is not
            // the reason.
            error = graphs.failure() => Err(error.into()),
            started = self.make_beside(&graphs, listed, timings) => started,
        };
        let started = started?;
        let loaded = graphs.ready().await?;
        timings.graphs = loaded.took;
        self.see_graphs(&loaded.graphs);
        Ok(started)
    }

    async fn artifact(&self) -> Result<Arc<Artifact>, Arc<ArtifactError>> {
        let spec = &self.spec;
        let artifacts = &self.machine.artifacts;
        let Some(seen) = &spec.snapshot else {
            return artifacts.get(&spec.component).await;
        };
        let artifact = artifacts
            .get_snapshot(&spec.component, seen, self.machine.setting(spec))
            .await?;
        self.see_snapshot(&artifact.snapshot);
        Ok(artifact)
    }

    /// Makes the replica while its graphs load.
    async fn make_beside(
        &self,
        graphs: &Loading,
        listed: Listed,
        timings: &mut StartTimings,
    ) -> Result<Replica, StartError> {
        let machine = &self.machine;
        let begun = Instant::now();
        let artifact = self.artifact().await.map_err(StartError::Artifact)?;
        timings.artifact = begun.elapsed();
        let slot = machine.slots.take().await;
        let nn = NnCtx::new(
            graphs.clone(),
            self.uses.clone(),
            machine.graphs.clone(),
            NnLimits {
                max_bytes: self.spec.limits.memory_bytes,
            },
            self.meter.clone(),
        );
        let blueprint = Blueprint {
            engine: &machine.engine,
            capabilities: &self.spec.capabilities,
            limits: &self.spec.limits,
            log: self.spec.log.clone(),
            listed,
            meter: self.meter.clone(),
            graphs,
        };
        Replica::start(&artifact, blueprint, nn, slot, timings).await
    }

    fn sealed<B>(
        &self,
        mut request: http::Request<B>,
        exchange: &Arc<Exchange>,
    ) -> http::Request<WasiBody>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display,
    {
        // HTTP/1.0 knows no Host, and `wasi:http` no request without one.
        if request.uri().authority().is_none() && !request.headers().contains_key(HOST) {
            let host = http::HeaderValue::from_static("localhost");
            request.headers_mut().insert(HOST, host);
        }
        let limit = self.spec.limits.body_bytes;
        request.map(|body| match body.is_end_stream() {
            true => Empty::new().map_err(|never| match never {}).boxed_unsync(),
            false => {
                LimitedBody::new(body, limit, exchange.clone(), self.meter.clone()).boxed_unsync()
            }
        })
    }

    fn too_large(&self) -> RunError {
        RunError::BodyTooLarge {
            limit_bytes: self.spec.limits.body_bytes,
        }
    }

    fn put_back(self: &Arc<Self>, mut replica: Box<Replica>, mut from: Option<Traffic>) {
        let settings = self.settings();
        let max_requests = settings.max_requests_per_replica;
        let worn = max_requests.is_some_and(|max| replica.card().served() >= max);
        if worn || self.is_spent(&replica) {
            drop(replica);
            return self.lost(from);
        }
        let now = Instant::now();
        loop {
            let waiter = {
                let mut ledger = self.lock();
                match ledger.freed(from.take(), &settings, now) {
                    Freed::To(waiter) => waiter,
                    Freed::Kept => {
                        // Whoever tells it to stop from now on finds it idle.
                        let dropped = match replica.card().stops() {
                            true => Some(replica),
                            false => ledger.keep(replica, &settings, now),
                        };
                        drop(ledger);
                        drop(dropped);
                        self.changed.notify_waiters();
                        return;
                    }
                }
            };
            match waiter.send(Lease::new(self.clone(), Some(replica), None)) {
                Ok(()) => return,
                Err(mut lease) => match lease.replica.take() {
                    Some(unused) => {
                        lease.disarm();
                        replica = unused;
                    }
                    None => return,
                },
            }
        }
    }

    /// A replica is gone: whoever waits may start another in its place.
    fn lost(self: &Arc<Self>, mut from: Option<Traffic>) {
        let settings = self.settings();
        loop {
            let freed = self.lock().freed(from.take(), &settings, Instant::now());
            let Freed::To(waiter) = freed else {
                self.changed.notify_waiters();
                return;
            };
            match waiter.send(Lease::new(self.clone(), None, None)) {
                Ok(()) => return,
                Err(lease) => lease.disarm(),
            }
        }
    }

    /// Whether a replica may serve no more.
    fn is_spent(&self, replica: &Replica) -> bool {
        replica.card().stops() || self.is_outdated(replica)
    }

    fn is_outdated(&self, replica: &Replica) -> bool {
        replica.config_generation() != self.spec.capabilities.config.generation()
    }

    fn lock(&self) -> MutexGuard<'_, Ledger<Box<Replica>, Waiter>> {
        lock(&self.ledger)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every method of the ledger leaves it whole, also when a later one panics.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
