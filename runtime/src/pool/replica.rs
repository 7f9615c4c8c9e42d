//! A replica: a warm instance of a deployment's component. Starts it, runs `init`, and runs requests.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use wasmtime::{AsContextMut, PoolConcurrencyLimitError, Store};
use wasmtime_wasi_http::handler::{Prepared, Proxy};
use wasmtime_wasi_http::p2::bindings::http::types as p2;
use wasmtime_wasi_http::{WasiBody, WasiHttpView};

use crate::artifact::{Artifact, HandlerPre};
use crate::engine::SharedEngine;
use crate::guest::{TimedOut, call_init, classify, with_timeout};
use crate::infer::loading::{Loading, NotLoaded};
use crate::infer::nn::NnCtx;
use crate::limits::Limits;
use crate::log::{Level, LogSink, ReplicaLog};
use crate::meter::{Alive, Meter, Outcome};
use crate::pool::registry::{Card, Listed};
use crate::pool::slots::Slot;
use crate::request::cancellation::stop;
use crate::request::failure::GuestFailure;
use crate::request::response_body::AnswerBody;
use crate::request::state::{Exchange, Settled, Stop};
use crate::sandbox::{Capabilities, Sandbox};
use crate::text::bounded_format;

/// Why a replica did not start.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StartError {
    /// A file of the deployment is damaged.
    #[error("{0}")]
    Files(String),
    /// The component could not be compiled or linked.
    #[error(transparent)]
    Artifact(Arc<crate::artifact::ArtifactError>),
    /// A graph of the manifest did not load.
    #[error(transparent)]
    Graph(#[from] NotLoaded),
    /// The instance could not be created.
    #[error("the component does not start: {0}")]
    Instantiate(String),
    /// `lifecycle.init` returned an error.
    #[error("`init` failed: {0}")]
    Init(String),
    /// `lifecycle.init`, or creating the instance, exceeded the timeout.
    #[error("`init` took longer than the request timeout of {timeout:?}")]
    InitTimeout {
        /// The deployment's request timeout, which also limits `init`.
        timeout: Duration,
    },
    /// The engine has no room for another instance now. The start is tried again.
    #[error("the engine has no room for another instance: {0}")]
    Exhausted(String),
    /// The replica was stopped before its start was done.
    #[error("the replica was stopped while it started")]
    Stopped,
}

/// What a replica needs besides its component and graphs.
pub(crate) struct Blueprint<'a> {
    pub engine: &'a SharedEngine,
    pub capabilities: &'a Capabilities,
    pub limits: &'a Limits,
    pub log: Arc<dyn LogSink>,
    pub listed: Listed,
    pub meter: Arc<Meter>,
    /// Its graphs, which may still be loading.
    pub graphs: &'a Loading,
}

/// Durations of the phases of a start. Graphs load in parallel with the other phases.
#[derive(Clone, Copy, Debug, Default)]
pub struct StartTimings {
    /// Mapping and linking the component.
    pub artifact: Duration,
    /// Time from the beginning of the start until all graphs were loaded.
    pub graphs: Duration,
    /// Creating store and instance.
    pub instantiate: Duration,
    /// Running `lifecycle.init`, including its wait for graphs.
    pub init: Duration,
}

/// A request, and the receiver of its response.
pub(crate) struct Call {
    pub request: http::Request<WasiBody>,
    pub request_id: Arc<str>,
    /// Receives the head of the response or the error, and the body.
    pub exchange: Arc<Exchange>,
}

/// A warm instance with its store.
pub(crate) struct Replica {
    store: Store<Sandbox>,
    proxy: Proxy,
    listed: Listed,
    alive: Alive,
    _slot: Slot,
}

impl Replica {
    /// Creates the instance, runs its `init`, and waits for its graphs.
    pub async fn start(
        artifact: &Artifact,
        blueprint: Blueprint<'_>,
        nn: NnCtx,
        slot: Slot,
        timings: &mut StartTimings,
    ) -> Result<Self, StartError> {
        let made = Instant::now();
        let begun = made;
        let engine = blueprint.engine;
        let log = Arc::new(ReplicaLog::new(
            blueprint.log,
            blueprint.listed.id().to_owned(),
        ));
        let failed = |e: wasmtime::Error| StartError::Instantiate(format!("{e:#}"));
        let mut store = Sandbox::store(
            artifact.instance_pre().component().engine(),
            blueprint.capabilities,
            nn,
            log,
        )
        .map_err(failed)?;
        let timeout = blueprint.limits.timeout;
        let init_timeout = |TimedOut| StartError::InitTimeout { timeout };
        let instance = {
            let made = pin!(artifact.instance_pre().instantiate_async(&mut store));
            let made = pin!(engine.watch(made));
            with_timeout(timeout, std::future::ready(()), made)
                .await
                .map_err(init_timeout)?
        };
        let instance = instance.map_err(|e| match e.is::<PoolConcurrencyLimitError>() {
            true => StartError::Exhausted(format!("{e:#}")),
            false => {
                StartError::Instantiate(classify(&e, &mut store, blueprint.limits).to_string())
            }
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
            let begun = Instant::now();
            let init = pin!(call_init(&mut store, &instance, blueprint.limits));
            let init = pin!(blueprint.meter.guest(init));
            let init = pin!(engine.watch(init));
            // What it waits for graphs is not its own time.
            let ready = async { drop(blueprint.graphs.ready().await) };
            with_timeout(timeout, ready, init)
                .await
                .map_err(init_timeout)?
                .map_err(StartError::Init)?;
            timings.init = begun.elapsed();
        }
        store.data().finish_lines();
        blueprint.graphs.ready().await?;
        blueprint.listed.set_ready();
        Ok(Self {
            store,
            proxy,
            listed: blueprint.listed,
            alive: Alive::since(made, blueprint.meter),
            _slot: slot,
        })
    }

    /// Information about the replica.
    pub fn card(&self) -> &Card {
        &self.listed
    }

    /// The generation of the config that it has read.
    pub fn config_generation(&self) -> u64 {
        self.store.data().config_generation
    }

    /// Runs a request to its end, and returns the replica if it can serve another one.
    ///
    /// The head of the response is sent as soon as the guest sets it. At the deadline, or for another reason to stop, the guest is dropped.
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
            exchange,
        } = call;
        // Dropped before the store, also by a panic: what the store cuts off then never looks whole.
        let cut = CutOff(&exchange);
        let log = self.store.data().log.clone();
        log.set_request(Some(request_id));
        self.listed.count_request();
        // While it was idle epochs went by, and with the deadline behind it the guest would yield at its first step.
        self.store.set_epoch_deadline(1);
        let fuel = self.store.data().hostcall_fuel();
        self.store.set_hostcall_fuel(fuel);
        let ended = {
            let run = pin!(run(&mut self.store, &self.proxy, request, &exchange));
            let _serving = self.alive.meter().serve();
            let run = pin!(self.alive.meter().guest(run));
            let run = engine.watch(run);
            tokio::select! {
                biased;
                ended = run => Ok(ended),
                stopped = stop(deadline, &exchange, |cx| self.listed.poll_killed(cx)) => Err(stopped),
            }
        };
        let result = match ended {
            Err(stopped) => {
                if stopped == Stop::Timeout && exchange.body(AnswerBody::is_open) {
                    let timeout = limits.timeout;
                    let text = format!(
                        "the model did not finish the body of its answer within {timeout:?}, which was cut off"
                    );
                    log.write(Level::Error, text);
                }
                drop(cut);
                self.store.data().finish_lines();
                return Served::Stopped(stopped);
            }
            Ok(Ok(())) => match exchange.settle() {
                Settled::NoAnswer => Err(GuestFailure::NoAnswer),
                Settled::Unfinished => Err(GuestFailure::Unfinished),
                Settled::Refused => Ok(Outcome::Trapped),
                Settled::BrokenOff(reason) => {
                    let text = format!("the model broke off the body of its answer: {reason}");
                    log.write(Level::Error, text);
                    Ok(Outcome::Trapped)
                }
                Settled::Whole(status) => Ok(Outcome::answered(status)),
            },
            Ok(Err(error)) => Err(classify(&error, &mut self.store, limits)),
        };
        self.store.data().finish_lines();
        match result {
            Ok(outcome) => {
                // A refusal that the guest survived must not be blamed on a later trap.
                self.store.data_mut().limiter.take_denied();
                self.store.data_mut().finish_bodies(&exchange);
                log.set_request(None);
                // It is settled.
                std::mem::forget(cut);
                Served::Reusable(self, outcome)
            }
            Err(failure) => {
                drop(cut);
                exchange.answer(Err(failure.clone()));
                log.write(Level::Error, failure.to_string());
                Served::Failed(failure)
            }
        }
    }
}

/// Breaks off a response body that is still open when this is dropped.
struct CutOff<'e>(&'e Exchange);

impl Drop for CutOff<'_> {
    fn drop(&mut self) {
        self.0.break_off();
    }
}

/// How serving a request ended for the replica.
pub(crate) enum Served {
    /// It can serve the next request; with the outcome of this one.
    Reusable(Box<Replica>, Outcome),
    /// The guest failed.
    Failed(GuestFailure),
    /// It was stopped.
    Stopped(Stop),
}

async fn run(
    store: &mut Store<Sandbox>,
    proxy: &Proxy,
    request: http::Request<WasiBody>,
    exchange: &Arc<Exchange>,
) -> wasmtime::Result<()> {
    match proxy {
        // Not through `Prepared`: it keeps silent about a trap that comes after the head of the answer.
        Proxy::P2(guest) => {
            let mut http = store.data_mut().http();
            let request = http.new_incoming_request(p2::Scheme::Http, request)?;
            let exchange = exchange.clone();
            let out = http.new_response_outparam_from_callback(move |answer| {
                exchange.answer(match answer {
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
        // Apart: its state is far larger than the other's.
        Proxy::P3(_) => Box::pin(run_concurrent(store, proxy, request, exchange)).await,
    }
}

async fn run_concurrent(
    store: &mut Store<Sandbox>,
    proxy: &Proxy,
    request: http::Request<WasiBody>,
    exchange: &Arc<Exchange>,
) -> wasmtime::Result<()> {
    let (sender, answer) = futures::channel::oneshot::channel();
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
        match answer.await {
            Ok(Ok(response)) => exchange.answer(Ok(response)),
            // The error of the run: the caller makes a failure of it.
            Ok(Err(error)) => return Err(error),
            Err(_) => {}
        }
        // The guest may go on writing its body, and tidy up, after it has returned the head.
        poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
        // A body that is passed on from elsewhere needs no task of the guest's, only the store.
        exchange.collect_body();
        poll_fn(|cx| exchange.poll_ended(cx)).await;
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
    async fn a_panic_breaks_off_the_body_instead_of_ending_it() {
        let (sender, receiver) = futures::channel::mpsc::unbounded::<Result<Frame<Bytes>, Error>>();
        let exchange = Arc::new(Exchange::default());
        let body = StreamBody::new(receiver).boxed_unsync();
        exchange.answer(Ok(http::Response::new(body)));
        let written = Frame::data(Bytes::from_static(b"written"));
        sender.unbounded_send(Ok(written)).unwrap();
        let serving: JoinHandle<()> = tokio::spawn({
            let exchange = exchange.clone();
            async move {
                // Like a replica's store, it is dropped after `cut`, and the body then has an end.
                let _store = sender;
                let _cut = CutOff(&exchange);
                panic!("a bug of the host");
            }
        });
        assert!(serving.await.unwrap_err().is_panic());
        let next = || poll_fn(|cx| exchange.poll_frame(cx));
        let first = next().await.unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "written");
        assert!(next().await.unwrap().is_err());
    }
}
