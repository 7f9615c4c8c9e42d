//! The body of an answer, which tells its connection whether it waits for the server or for the client.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use http_body::{Frame, SizeHint};

use super::state::ConnectionState;

/// A request that runs. Dropping it ends it.
#[derive(Debug)]
pub struct Running {
    state: Arc<ConnectionState>,
    working: bool,
}

impl Running {
    /// The head of a request arrived.
    pub fn begin(state: Arc<ConnectionState>) -> Self {
        state.begins();
        Self {
            state,
            working: true,
        }
    }

    fn works(&mut self, working: bool) {
        if working != self.working {
            self.working = working;
            match working {
                true => self.state.works(),
                false => self.state.yields(),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.works(false);
    }
}

/// The body of its answer.
#[derive(Debug)]
pub struct Answer {
    body: Body,
    running: Running,
}

impl Answer {
    /// The answer is there; what follows depends on who reads it.
    pub fn new(body: Body, mut running: Running) -> Self {
        running.works(false);
        Self { body, running }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        self.running.works(polled.is_pending());
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    #[tokio::test]
    async fn it_works_while_the_component_is_awaited_and_not_while_the_client_is() {
        let state = Arc::new(ConnectionState::new(0));
        let running = Running::begin(state.clone());
        assert!(state.is_working() && state.has_asked());
        let (sender, receiver) = tokio::sync::oneshot::channel::<std::io::Result<&str>>();
        let chunks = futures::stream::once(async { receiver.await.unwrap() });
        let mut answer = Answer::new(Body::from_stream(chunks), running);
        assert!(!state.is_working());
        assert!(futures::poll!(answer.frame()).is_pending());
        assert!(state.is_working());
        sender.send(Ok("chunk")).unwrap();
        assert!(answer.frame().await.is_some());
        assert!(!state.is_working());
        drop(answer);
        assert!(!state.is_working());
    }

    #[test]
    fn a_request_that_is_cancelled_works_no_more() {
        let state = Arc::new(ConnectionState::new(0));
        drop(Running::begin(state.clone()));
        assert!(!state.is_working() && state.has_asked());
    }
}
