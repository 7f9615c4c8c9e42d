//! A replica: an instance of a deployment's component with its store. Starts it, and runs one request at a time on it.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use wasmtime::{AsContextMut, PoolConcurrencyLimitError, Store};
use wasmtime_wasi_http::handler::{Prepared, Proxy};
use wasmtime_wasi_http::p2::bindings::http::types as p2;
use wasmtime_wasi_http::{WasiBody, WasiHttpView};

use super::registry::{RegistryGuard, ReplicaEntry};
use super::slots::SlotPermit;
use crate::artifact::{Artifact, HandlerPre};
use crate::engine::SharedEngine;
use crate::guest::{TimedOut, call_init, classify, with_timeout};
use crate::infer::graph::loading::{GraphLoadError, LoadingGraphs};
use crate::infer::nn::NnCtx;
use crate::limits::Limits;
use crate::log::{Level, LogSink, ReplicaLog};
use crate::metrics::{Outcome, PoolMetrics, ReplicaTimer};
use crate::request::cancellation::wait_cancelled;
use crate::request::failure::GuestFailure;
use crate::request::response_body::ResponseBody;
use crate::request::state::{CancelReason, Completion, RequestState};
use crate::sandbox::{Capabilities, Sandbox};
use crate::text::bounded_format;

/// Why a replica did not start.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StartError {
    /// A file of the deployment is damaged; the text names it.
    #[error("{0}")]
    Files(String),
    /// The component could not be compiled or loaded.
    #[error(transparent)]
    Artifact(Arc<crate::artifact::ArtifactError>),
    /// A graph of the manifest did not load.
    #[error(transparent)]
    Graph(#[from] GraphLoadError),
    /// Instantiation failed.
    #[error("the component does not start: {0}")]
    Instantiate(String),
    /// `lifecycle.init` returned an error or trapped.
    #[error("`init` failed: {0}")]
    Init(String),
    /// `lifecycle.init`, or the instantiation before it, took longer than the request timeout.
    #[error("`init` took longer than the request timeout of {timeout:?}")]
    InitTimeout {
        /// The request timeout, which also limits `init`.
        timeout: Duration,
    },
    /// The engine has no room for another instance now; the start is retried.
    #[error("the engine has no room for another instance: {0}")]
    Exhausted(String),
    /// The replica was killed while it started.
    #[error("the replica was stopped while it started")]
    Stopped,
}

/// What a replica starts with besides its component.
pub(crate) struct StartContext<'a> {
    pub engine: &'a SharedEngine,
    pub capabilities: &'a Capabilities,
    pub limits: &'a Limits,
    pub log: Arc<dyn LogSink>,
    pub registration: RegistryGuard,
    pub metrics: Arc<PoolMetrics>,
    /// The replica's graphs, which may still be loading.
    pub graphs: &'a LoadingGraphs,
}

/// How long the parts of a start took. Graphs load at the same time as the others.
#[derive(Clone, Copy, Debug, Default)]
pub struct StartTimings {
    /// Getting the compiled component: mapped and linked, or cached.
    pub artifact: Duration,
    /// From the beginning of the start until all graphs are loaded.
    pub graphs: Duration,
    /// Making the store and the instance.
    pub instantiate: Duration,
    /// Running `lifecycle.init`, including its waits for graphs.
    pub init: Duration,
}

/// One request for a replica.
pub(crate) struct Call {
    pub request: http::Request<WasiBody>,
    pub request_id: Arc<str>,
    /// Receives the response.
    pub state: Arc<RequestState>,
}

/// A warm instance with its store.
pub(crate) struct Replica {
    store: Store<Sandbox>,
    proxy: Proxy,
    registration: RegistryGuard,
    timer: ReplicaTimer,
    _slot: SlotPermit,
}

impl Replica {
    /// Creates the instance, runs its `init`, and waits for its graphs.
    pub async fn start(
        artifact: &Artifact,
        context: StartContext<'_>,
        nn: NnCtx,
        slot: SlotPermit,
        timings: &mut StartTimings,
    ) -> Result<Self, StartError> {
        let begun = Instant::now();
        let engine = context.engine;
        let log = Arc::new(ReplicaLog::new(
            context.log,
            context.registration.id().to_owned(),
        ));
        let failed = |e: wasmtime::Error| StartError::Instantiate(format!("{e:#}"));
        let mut store = Sandbox::store(
            artifact.instance_pre().component().engine(),
            context.capabilities,
            nn,
            log,
        )
        .map_err(failed)?;
        let timeout = context.limits.timeout;
        let init_timeout = |TimedOut| StartError::InitTimeout { timeout };
        let instance = {
            let made = pin!(artifact.instance_pre().instantiate_async(&mut store));
            let made = pin!(engine.run_preemptible(made));
            with_timeout(timeout, std::future::ready(()), made)
                .await
                .map_err(init_timeout)?
        };
        let instance = instance.map_err(|e| match e.is::<PoolConcurrencyLimitError>() {
            true => StartError::Exhausted(format!("{e:#}")),
            false => StartError::Instantiate(classify(&e, &mut store, context.limits).to_string()),
        })?;
        let proxy = match &artifact.pre {
            HandlerPre::Wasi02(_, indices) => {
                Proxy::P2(indices.load(&mut store, &instance).map_err(failed)?)
            }
            HandlerPre::Wasi03(_, indices) => {
                Proxy::P3(indices.load(&mut store, &instance).map_err(failed)?)
            }
        };
        timings.instantiate = begun.elapsed();
        if artifact.runs_init() {
            let init_begun = Instant::now();
            let init = pin!(call_init(&mut store, &instance, context.limits));
            let init = pin!(context.metrics.time_guest(init));
            let init = pin!(engine.run_preemptible(init));
            // The timeout of `init` begins once its graphs are loaded.
            let ready = async { drop(context.graphs.ready().await) };
            with_timeout(timeout, ready, init)
                .await
                .map_err(init_timeout)?
                .map_err(StartError::Init)?;
            timings.init = init_begun.elapsed();
        }
        store.data().flush_lines();
        context.graphs.ready().await?;
        context.registration.mark_ready();
        Ok(Self {
            store,
            proxy,
            registration: context.registration,
            timer: ReplicaTimer::since(begun, context.metrics),
            _slot: slot,
        })
    }

    /// Its entry in the registry.
    pub fn entry(&self) -> &ReplicaEntry {
        &self.registration
    }

    /// The generation of the config that the replica has read.
    pub fn config_generation(&self) -> u64 {
        self.store.data().config_generation
    }

    /// Runs one request to its end, and returns the replica if it can serve another.
    ///
    /// The head of the response is available as soon as the guest has set it. If the request is cancelled, by its deadline or
    /// for another reason, the guest is dropped wherever it is.
    pub async fn serve(
        mut self: Box<Self>,
        call: Call,
        limits: &Limits,
        engine: &SharedEngine,
        deadline: Instant,
    ) -> Served {
        let Call {
            request,
            request_id,
            state,
        } = call;
        // Dropped before the store, even by a panic: a body that ends with the store never looks complete.
        let abort = AbortOnDrop(&state);
        let log = self.store.data().log.clone();
        log.set_request(Some(request_id));
        self.registration.count_request();
        // Epochs have passed while the replica was idle; with the old deadline the guest would yield at once.
        self.store.set_epoch_deadline(1);
        let fuel = self.store.data().hostcall_fuel();
        self.store.set_hostcall_fuel(fuel);
        let ended = {
            let run = pin!(run(&mut self.store, &self.proxy, request, &state));
            let _in_flight = self.timer.metrics().enter_guest();
            let run = pin!(self.timer.metrics().time_guest(run));
            let run = engine.run_preemptible(run);
            tokio::select! {
                biased;
                ended = run => Ok(ended),
                reason = wait_cancelled(deadline, &state, |cx| self.registration.poll_killed(cx)) => Err(reason),
            }
        };
        let result = match ended {
            Err(reason) => {
                if reason == CancelReason::Timeout && state.with_body(ResponseBody::is_open) {
                    let timeout = limits.timeout;
                    let text = format!(
                        "the model did not finish the body of its answer within {timeout:?}, which was cut off"
                    );
                    log.write(Level::Error, text);
                }
                drop(abort);
                self.store.data().flush_lines();
                return Served::Cancelled(reason);
            }
            Ok(Ok(())) => match state.complete() {
                Completion::NoResponse => Err(GuestFailure::NoResponse),
                Completion::Unfinished => Err(GuestFailure::Unfinished),
                Completion::Failed => Ok(Outcome::Trapped),
                Completion::Aborted(reason) => {
                    let text = format!("the model broke off the body of its answer: {reason}");
                    log.write(Level::Error, text);
                    Ok(Outcome::Trapped)
                }
                Completion::Complete(status) => Ok(Outcome::of_response(status)),
            },
            Ok(Err(error)) => Err(classify(&error, &mut self.store, limits)),
        };
        self.store.data().flush_lines();
        match result {
            Ok(outcome) => {
                // A denied allocation that the guest survived must not be blamed for a later trap.
                self.store.data_mut().limiter.take_denied();
                self.store.data_mut().finish_bodies(&state);
                log.set_request(None);
                // The response is complete.
                std::mem::forget(abort);
                Served::Reusable(self, outcome)
            }
            Err(failure) => {
                drop(abort);
                state.set_response(Err(failure.clone()));
                log.write(Level::Error, failure.to_string());
                Served::Failed(failure)
            }
        }
    }
}

/// Aborts a response body that is still open when this is dropped.
struct AbortOnDrop<'s>(&'s RequestState);

impl Drop for AbortOnDrop<'_> {
    fn drop(&mut self) {
        self.0.abort_body();
    }
}

/// How a replica ended a request.
pub(crate) enum Served {
    /// The replica can serve another; with the outcome of this request.
    Reusable(Box<Replica>, Outcome),
    /// The guest failed, and was dropped.
    Failed(GuestFailure),
    /// The request was cancelled, and the guest dropped.
    Cancelled(CancelReason),
}

async fn run(
    store: &mut Store<Sandbox>,
    proxy: &Proxy,
    request: http::Request<WasiBody>,
    state: &Arc<RequestState>,
) -> wasmtime::Result<()> {
    match proxy {
        // Not through `Prepared`, which does not report a trap after the head of the response.
        Proxy::P2(guest) => {
            let mut http = store.data_mut().http();
            let request = http.new_incoming_request(p2::Scheme::Http, request)?;
            let state = state.clone();
            let out = http.new_response_outparam_from_callback(move |response| {
                state.set_response(match response {
                    Ok(response) => {
                        Ok(response.map(|body| body.map_err(Into::into).boxed_unsync()))
                    }
                    Err(code) => Err(GuestFailure::ErrorCode(bounded_format!("{code:?}"))),
                });
            })?;
            guest
                .wasi_http_incoming_handler()
                .call_handle(store, request, out)
                .await
        }
        // Boxed: this future is far larger than the one of WASI 0.2.
        Proxy::P3(_) => Box::pin(run_concurrent(store, proxy, request, state)).await,
    }
}

async fn run_concurrent(
    store: &mut Store<Sandbox>,
    proxy: &Proxy,
    request: http::Request<WasiBody>,
    state: &Arc<RequestState>,
) -> wasmtime::Result<()> {
    let (sender, response) = futures::channel::oneshot::channel();
    let run = store.run_concurrent(async |accessor| {
        let prepared = accessor.with(|mut store| {
            Prepared::new(
                store.as_context_mut(),
                proxy,
                request,
                |sandbox: &mut Sandbox| sandbox.http(),
                sender,
            )
        })?;
        prepared.run(accessor, std::future::pending()).await?;
        match response.await {
            Ok(Ok(response)) => state.set_response(Ok(response)),
            // The error of the run, which the caller classifies.
            Ok(Err(error)) => return Err(error),
            Err(_) => {}
        }
        // After it has returned the head, the guest may still write its body and clean up.
        poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
        // A body that the guest passes on from an outgoing request needs the store, but none of the guest's tasks.
        state.buffer_body();
        poll_fn(|cx| state.poll_body_end(cx)).await;
        wasmtime::error::Ok(())
    });
    run.await.flatten()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use tokio::task::JoinHandle;
    use wasmtime_wasi_http::Error;

    use super::*;

    #[tokio::test]
    async fn a_panic_aborts_the_body_instead_of_completing_it() {
        let (sender, receiver) = futures::channel::mpsc::unbounded::<Result<Frame<Bytes>, Error>>();
        let state = Arc::new(RequestState::default());
        let body = StreamBody::new(receiver).boxed_unsync();
        state.set_response(Ok(http::Response::new(body)));
        let written = Frame::data(Bytes::from_static(b"written"));
        sender.unbounded_send(Ok(written)).unwrap();
        let serving: JoinHandle<()> = tokio::spawn({
            let state = state.clone();
            async move {
                // Like a replica's store, it is dropped after `_abort`, and ends the body.
                let _store = sender;
                let _abort = AbortOnDrop(&state);
                panic!("a bug of the host");
            }
        });
        assert!(serving.await.unwrap_err().is_panic());
        let next = || poll_fn(|cx| state.poll_frame(cx));
        let first = next().await.unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "written");
        assert!(next().await.unwrap().is_err());
    }
}
