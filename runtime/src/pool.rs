//! The replicas of one deployment, and the way of a request through them: acquire, wait, run, give back.

#[cfg(test)]
mod change_tests;
pub(crate) mod circuit_breaker;
mod error;
mod handoff;
mod inspect;
pub(crate) mod load;
pub(crate) mod registry;
pub(crate) mod replica;
mod replica_id;
mod scaling;
mod seen;
pub(crate) mod slots;
mod starting;
pub(crate) mod state;
mod upkeep;

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::HOST;
use http_body_util::{BodyExt, Empty};
use tokio::sync::Notify;
use wasmtime_wasi_http::WasiBody;

use crate::artifact::ArtifactStore;
use crate::compile::ComponentFile;
use crate::engine::SharedEngine;
use crate::infer::graphs::{GraphSpec, GraphStore, GraphUse};
use crate::limits::Limits;
use crate::log::LogSink;
use crate::meter::{Counted, Meter, Outcome};
use crate::pool::load::Traffic;
use crate::pool::registry::Roster;
use crate::pool::replica::{Call, Replica, Served, StartTimings};
use crate::pool::slots::{Share, Slots};
use crate::pool::state::{Ledger, PoolSettings};
use crate::request::body::{GuestBody, LimitedBody};
use crate::request::failure::GuestFailure;
use crate::request::state::{Exchange, Stop};
use crate::sandbox::Capabilities;
use crate::snapshot::Setting;
use circuit_breaker::Gate;
pub use error::RunError;
use handoff::{Asked, Lease, Places, Waiter};
pub use seen::{RunsOn, Seen};
use starting::Starting;

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
    /// The deployment's id if it has engines for itself: graphs from its replicas' own bytes are loaded there.
    pub own_engine: Option<String>,
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

type PoolLease = Lease<Pool>;

/// The replicas of one deployment.
pub struct Pool {
    machine: Arc<Machine>,
    share: Share,
    spec: DeploymentSpec,
    ledger: Mutex<Ledger<Box<Replica>, Waiter<Self>>>,
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
        let uses = uses.collect();
        Arc::new_cyclic(|pool: &Weak<Self>| Self {
            uses,
            share: machine.slots.share(pool.clone()),
            machine,
            spec,
            ledger: Mutex::default(),
            changed: Notify::new(),
            health: Gate::new(),
            roster: Arc::default(),
            settings: RwLock::new(settings),
            meter,
            seen: Mutex::default(),
        })
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
        let deadline = arrived + limits.timeout;
        let mut timings = Timings::default();
        let acquired = self.acquire(traffic, deadline, &mut timings).await;
        let (lease, replica) = acquired.inspect_err(|error| counted.ends(error.outcome()))?;

        let begun = Instant::now();
        let exchange = Arc::new(Exchange::new(request.method()));
        let call = Call {
            request: self.sealed(request, &exchange),
            request_id,
            exchange: exchange.clone(),
        };
        let pool = self.clone();
        let mut running = Box::pin(async move {
            let (limits, engine) = (&pool.spec.limits, &pool.machine.engine);
            match replica.serve(call, limits, engine, deadline).await {
                Served::Reusable(replica, outcome) => {
                    counted.ends(outcome);
                    drop(counted);
                    pool.give_back(lease, replica);
                    None
                }
                Served::Failed(failure) => {
                    counted.ends(Outcome::Trapped);
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
            // Whatever the guest made of a body that ended with an error: why it did is known here.
            (Some(_), _) if exchange.is_too_large() => Err(self.too_large()),
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
            (None, Some(Stop::Killed)) => Err(RunError::Closed),
            (None, None) => Err(GuestFailure::NoAnswer.into()),
        }
    }

    async fn acquire(
        self: &Arc<Self>,
        traffic: Traffic,
        deadline: Instant,
        timings: &mut Timings,
    ) -> Result<(PoolLease, Box<Replica>), RunError> {
        let timed_out = || RunError::QueueTimeout {
            timeout: self.spec.limits.timeout,
        };
        let asked = Instant::now();
        let until = tokio::time::Instant::from_std(deadline);
        let mut lease = match self.ask(traffic, asked) {
            Asked::Place(lease) => lease,
            Asked::Queued(queued) => tokio::time::timeout_at(until, queued.turn())
                .await
                .map_err(|_| timed_out())?
                .ok_or(RunError::Closed)?,
            Asked::Refused => return Err(self.refused()),
        };
        timings.queue = asked.elapsed();
        if let Some(replica) = lease.replica.take()
            && !self.is_spent(&replica)
        {
            return Ok((lease, replica));
        }
        let starting = Starting::new(self.clone(), lease);
        let (lease, replica, start) = tokio::time::timeout_at(until, starting)
            .await
            .map_err(|_| timed_out())??;
        timings.start = Some(start);
        Ok((lease, replica))
    }

    /// Why a request got no place.
    fn refused(&self) -> RunError {
        if self.lock().is_closed() {
            return RunError::Closed;
        }
        let settings = self.settings();
        RunError::QueueFull {
            max_replica: settings.max_replica,
            max_queued_requests: settings.max_queued_requests,
        }
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

    /// Gives a replica back with its place, unless it may serve no more.
    fn give_back(&self, lease: PoolLease, replica: Box<Replica>) {
        let max_requests = self.settings().max_requests_per_replica;
        let worn = max_requests.is_some_and(|max| replica.card().served() >= max);
        if worn || self.is_spent(&replica) || self.share.must_yield() {
            // Before the place is free for another.
            drop(replica);
            return drop(lease);
        }
        lease.give_back(replica);
    }

    /// Whether a replica may serve no more.
    fn is_spent(&self, replica: &Replica) -> bool {
        replica.card().stops() || self.is_outdated(replica)
    }

    fn is_outdated(&self, replica: &Replica) -> bool {
        replica.config_generation() != self.spec.capabilities.config.generation()
    }

    fn lock(&self) -> MutexGuard<'_, Ledger<Box<Replica>, Waiter<Self>>> {
        lock(&self.ledger)
    }
}

impl Places for Pool {
    type Replica = Replica;

    fn ledger<T>(&self, act: impl FnOnce(&mut Ledger<Box<Replica>, Waiter<Self>>) -> T) -> T {
        act(&mut self.lock())
    }

    fn bounds(&self) -> PoolSettings {
        self.settings()
    }

    fn bounds_now(&self, now: Instant) -> PoolSettings {
        let mut settings = self.settings();
        if self.health.starts_pause(now) && self.roster.presence().ready > 0 {
            // Others do not start just now: those that are there serve all.
            settings.max_replica = 0;
        }
        settings
    }

    fn is_stopped(replica: &Replica) -> bool {
        replica.card().stops()
    }

    fn place_came_free(&self) {
        self.share.place_came_free();
        self.changed.notify_waiters();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every method of the ledger leaves it whole, also when a later one panics.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
