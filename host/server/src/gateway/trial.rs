//! What is done beside a request while its environment moves to another deployment: it is copied and measured.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use samovar_runtime::{GuestBody, IncompleteBody, RunError, Timings};

use crate::api::request_id::RequestId;
use crate::control::shadow::Copied;
use crate::control::trial::{Measured, Way};
use crate::serving::Served;

/// Before a request is given to its deployment.
pub fn enter(
    way: Option<Way>,
    shadow: Option<Arc<Served>>,
    request: Request,
    id: &RequestId,
) -> (Request, Option<Measured>) {
    let Some(way) = way else {
        return (request, None);
    };
    let copy = shadow.and_then(|candidate| way.copy(&request, id.shared(), &candidate.pool));
    let request = match copy {
        Some(copy) => request.map(|body| Body::new(Copied::new(body, copy))),
        None => request,
    };
    (request, Some(way.begin()))
}

/// When its answer is there, or will not be.
pub fn leave(
    measured: Option<Measured>,
    answered: Result<(http::Response<GuestBody>, Timings), RunError>,
) -> Result<(Response, Timings), RunError> {
    let Some(mut measured) = measured else {
        return answered.map(|(response, timings)| (response.map(Body::new), timings));
    };
    match answered {
        Ok((response, timings)) => {
            measured.answered(response.status());
            let response = response.map(|inner| Body::new(Watched { inner, measured }));
            Ok((response, timings))
        }
        Err(error) => {
            measured.failed(&error);
            Err(error)
        }
    }
}

/// The body of an answer that may break off yet.
struct Watched {
    inner: GuestBody,
    measured: Measured,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = IncompleteBody;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, IncompleteBody>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if let Poll::Ready(Some(Err(_))) = &polled {
            self.measured.broke_off();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
