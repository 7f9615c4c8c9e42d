//! The pool of a deployment's replicas: acquires a replica for a request, or waits for one, runs the request, and releases the replica.

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

/// Checks whether the files of a deployment are what was pushed.
pub trait FileCheck: Send + Sync {
    /// Fast if nothing changed since the last check.
    ///
    /// # Errors
    /// Names the damaged file, and what to do.
    fn check(&self) -> BoxFuture<'_, Result<(), String>>;
}

/// Description of a deployment for its pool.
pub struct DeploymentSpec {
    /// The component.
    pub component: ComponentFile,
    /// If replicas start from a snapshot after `init`: a digest of everything that `init` may read besides the component.
    pub snapshot: Option<String>,
    /// The graphs that it may load by name.
    pub graphs: Vec<GraphSpec>,
    /// The deployment's id if it has its own engines; graphs from bytes are loaded there, too.
    pub own_engine: Option<String>,
    /// Checks the files before each start of a replica.
    pub files: Option<Arc<dyn FileCheck>>,
    /// What its replicas may access.
    pub capabilities: Capabilities,
    /// Limits of its replicas.
    pub limits: Limits,
    /// Settings of the pool.
    pub settings: PoolSettings,
    /// Receives their log lines.
    pub log: Arc<dyn LogSink>,
}

/// Durations before a response.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// Time that the request waited for a replica.
    pub queue: Duration,
    /// Start of a replica, if the request had to start one.
    pub start: Option<StartTimings>,
    /// Time from passing the request to the guest until the head of its response.
    pub run: Duration,
}

/// What the pools of a node share.
pub(crate) struct Machine {
    pub engine: Arc<SharedEngine>,
    pub artifacts: Arc<ArtifactStore>,
    pub graphs: Arc<GraphStore>,
    pub slots: Slots,
}

impl Machine {
    /// Where `init` runs for a snapshot.
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

    /// Runs a request on a warm replica, on a new one, or after waiting for one.
    ///
    /// Dropping the future, or the response body before its end, cancels the guest.
    ///
    /// # Errors
    /// The reason why there is no response. After the head of the response, errors end the body with an error instead.
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

    /// Why a request got no replica.
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

    /// Releases a replica, unless it may serve no more requests.
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

    /// Whether a replica may serve no more requests.
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
