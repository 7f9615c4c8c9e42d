//! A request's way through a pool: get a replica, run on it, give it back.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::HOST;
use http_body_util::{BodyExt, Empty};
use wasmtime_wasi_http::WasiBody;

use super::handoff::{PlaceRequest, Places};
use super::load::Traffic;
use super::replica::{Call, Replica, Served, StartTimings};
use super::starting::Starting;
use super::{Pool, PoolLease, RunError};
use crate::metrics::{Outcome, OutcomeRecorder};
use crate::request::failure::GuestFailure;
use crate::request::guest_body::GuestBody;
use crate::request::limited_body::LimitedBody;
use crate::request::state::{CancelReason, RequestState, ResponseHead};

/// Where the time before the head of a response was spent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// Waiting for a place.
    pub queue: Duration,
    /// Starting a replica, if the request had to.
    pub start: Option<StartTimings>,
    /// From passing the request to the guest until the head of its response.
    pub run: Duration,
}

impl Pool {
    /// Runs one request: on a warm replica, on a new one, or after waiting for one.
    ///
    /// Returns when the head of the response is there. Dropping the future, or the response body before its end, cancels the
    /// guest.
    ///
    /// # Errors
    /// Why the guest did not respond. A failure after the head becomes an error of the body.
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
        let mut recorder = OutcomeRecorder::new(self.metrics.clone());
        let limits = &self.spec.limits;
        if let Some(size) = http_body::Body::size_hint(request.body()).exact()
            && size > limits.body_bytes
        {
            recorder.set(Outcome::TooLarge);
            return Err(self.body_too_large());
        }
        let deadline = arrived + limits.timeout;
        let mut timings = Timings::default();
        let acquired = self.acquire(traffic, deadline, &mut timings).await;
        let (lease, replica) = acquired.inspect_err(|error| recorder.set(error.outcome()))?;

        let begun = Instant::now();
        let state = Arc::new(RequestState::new(request.method()));
        let call = Call {
            request: self.guest_request(request, &state),
            request_id,
            state: state.clone(),
        };
        let pool = self.clone();
        let mut running = Box::pin(pool.run(lease, replica, call, recorder, deadline));
        // Polled by this task until the head is there: most guests are done by then, and need no task of their own.
        let (head, ended) = poll_fn(|cx| {
            let ended = running.as_mut().poll(cx);
            match (state.take_head(), ended) {
                (None, Poll::Pending) => Poll::Pending,
                result => Poll::Ready(result),
            }
        })
        .await;
        let cancelled = match ended {
            Poll::Ready(cancelled) => cancelled,
            Poll::Pending => {
                tokio::spawn(running);
                None
            }
        };
        let response = self.respond(head, cancelled, state)?;
        timings.run = begun.elapsed();
        Ok((response, timings))
    }

    /// Runs a request on a replica to its end, and returns the replica if it can serve another. Returns why the request was
    /// cancelled, if it was.
    async fn run(
        self: Arc<Self>,
        lease: PoolLease,
        replica: Box<Replica>,
        call: Call,
        mut recorder: OutcomeRecorder,
        deadline: Instant,
    ) -> Option<CancelReason> {
        let (limits, engine) = (&self.spec.limits, &self.node.engine);
        match replica.serve(call, limits, engine, deadline).await {
            Served::Reusable(replica, outcome) => {
                recorder.set(outcome);
                drop(recorder);
                self.give_back(lease, replica);
                None
            }
            Served::Failed(failure) => {
                recorder.set(Outcome::Trapped);
                tracing::debug!(%failure, "replica dropped");
                None
            }
            Served::Cancelled(reason) => {
                recorder.set(reason.outcome());
                Some(reason)
            }
        }
    }

    /// The response to the client, from what the guest responded and why it was cancelled.
    fn respond(
        &self,
        head: Option<ResponseHead>,
        cancelled: Option<CancelReason>,
        state: Arc<RequestState>,
    ) -> Result<http::Response<GuestBody>, RunError> {
        match (head, cancelled) {
            // Whatever the guest responded to the failed request body, this is the reason.
            (Some(_), _) if state.is_body_too_large() => Err(self.body_too_large()),
            (Some(Ok(response)), _) => {
                Ok(response.map(|body| GuestBody::new(body, state, self.metrics.clone())))
            }
            (Some(Err(failure)), _) => Err(failure.into()),
            (None, Some(CancelReason::Timeout)) => Err(RunError::Timeout {
                timeout: self.spec.limits.timeout,
            }),
            (None, Some(CancelReason::BodyTooLarge)) => Err(self.body_too_large()),
            (None, Some(CancelReason::ClientGone)) => Err(RunError::Host("cancelled".into())),
            (None, Some(CancelReason::Killed)) => Err(RunError::Closed),
            (None, None) => Err(GuestFailure::NoResponse.into()),
        }
    }

    /// Gets a place with a ready replica, which it may have to start.
    async fn acquire(
        self: &Arc<Self>,
        traffic: Traffic,
        deadline: Instant,
        timings: &mut Timings,
    ) -> Result<(PoolLease, Box<Replica>), RunError> {
        let timed_out = || RunError::QueueTimeout {
            timeout: self.spec.limits.timeout,
        };
        let arrived = Instant::now();
        let until = tokio::time::Instant::from_std(deadline);
        let mut lease = match self.request_place(traffic, arrived) {
            PlaceRequest::Granted(lease) => lease,
            PlaceRequest::Queued(queued) => tokio::time::timeout_at(until, queued.wait())
                .await
                .map_err(|_| timed_out())?
                .ok_or(RunError::Closed)?,
            PlaceRequest::Rejected => return Err(self.rejection()),
        };
        timings.queue = arrived.elapsed();
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
    fn rejection(&self) -> RunError {
        if self.lock().is_closed() {
            return RunError::Closed;
        }
        let settings = self.settings();
        RunError::QueueFull {
            max_replica: settings.max_replica,
            max_queued_requests: settings.max_queued_requests,
        }
    }

    /// The request as the guest gets it: with a host, and with a body that is limited.
    fn guest_request<B>(
        &self,
        mut request: http::Request<B>,
        state: &Arc<RequestState>,
    ) -> http::Request<WasiBody>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display,
    {
        // `wasi:http` requires a host, which HTTP/1.0 does not have.
        if request.uri().authority().is_none() && !request.headers().contains_key(HOST) {
            let host = http::HeaderValue::from_static("localhost");
            request.headers_mut().insert(HOST, host);
        }
        let limit = self.spec.limits.body_bytes;
        request.map(|body| match body.is_end_stream() {
            true => Empty::new().map_err(|never| match never {}).boxed_unsync(),
            false => {
                LimitedBody::new(body, limit, state.clone(), self.metrics.clone()).boxed_unsync()
            }
        })
    }

    fn body_too_large(&self) -> RunError {
        RunError::BodyTooLarge {
            limit_bytes: self.spec.limits.body_bytes,
        }
    }
}
