//! Waits for what cancels a running request: its deadline, its client, a body that is too large, or a kill of its replica.

use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Instant;

use super::state::{CancelReason, RequestState};

/// Waits for the first reason to cancel a request.
///
/// A guest can use up the cooperative budget of its task in each of its polls. The deadline must be seen all the same, so
/// this future takes no part in that budget.
pub(crate) async fn wait_cancelled(
    deadline: Instant,
    state: &RequestState,
    mut poll_killed: impl FnMut(&Context<'_>) -> Poll<()>,
) -> CancelReason {
    let mut timeout = pin!(tokio::time::sleep_until(deadline.into()));
    tokio::task::unconstrained(poll_fn(|cx| {
        if poll_killed(cx).is_ready() {
            return Poll::Ready(CancelReason::Killed);
        }
        match state.poll_cancelled(cx) {
            Poll::Ready(reason) => Poll::Ready(reason),
            Poll::Pending => timeout.as_mut().poll(cx).map(|()| CancelReason::Timeout),
        }
    }))
    .await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Cancels a future that uses up the budget of its task in each poll, as a guest can.
    async fn cancelled(deadline: Instant, is_killed: bool) -> CancelReason {
        let state = RequestState::default();
        let poll_killed = |_: &Context<'_>| match is_killed {
            true => Poll::Ready(()),
            false => Poll::Pending,
        };
        let greedy = poll_fn(|cx| {
            while pin!(tokio::task::consume_budget()).poll(cx).is_ready() {}
            Poll::<()>::Pending
        });
        let stopped = async {
            tokio::select! {
                biased;
                () = greedy => unreachable!("it never ends"),
                stopped = wait_cancelled(deadline, &state, poll_killed) => stopped,
            }
        };
        // Not `timeout`, which would give the inner future another chance.
        tokio::select! {
            biased;
            stopped = stopped => stopped,
            () = tokio::task::unconstrained(tokio::time::sleep(Duration::from_secs(10))) => {
                panic!("the deadline was not seen")
            }
        }
    }

    #[tokio::test]
    async fn a_guest_that_uses_up_its_budget_in_each_poll_is_cancelled() {
        let deadline = Instant::now() + Duration::from_millis(20);
        assert_eq!(cancelled(deadline, false).await, CancelReason::Timeout);
        let far = Instant::now() + Duration::from_secs(600);
        assert_eq!(cancelled(far, true).await, CancelReason::Killed);
    }
}
