//! What stops a running guest from outside.

use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Instant;

use crate::request::state::{Exchange, Halt, Stop};

/// Waits for the first reason to stop a guest.
///
/// Its task may have used up tokio's cooperative budget in the guest's poll, as a guest can do in each of them: this must not
/// keep the deadline from being seen, so it takes no part in that budget.
pub(crate) async fn stop(
    deadline: Instant,
    exchange: &Exchange,
    mut poll_killed: impl FnMut(&Context<'_>) -> Poll<()>,
) -> Stop {
    let mut timeout = pin!(tokio::time::sleep_until(deadline.into()));
    tokio::task::unconstrained(poll_fn(|cx| {
        if poll_killed(cx).is_ready() {
            return Poll::Ready(Stop::Killed);
        }
        match exchange.poll_halt(cx) {
            Poll::Ready(Halt::BodyTooLarge) => Poll::Ready(Stop::BodyTooLarge),
            Poll::Ready(Halt::ClientGone) => Poll::Ready(Stop::ClientGone),
            Poll::Pending => timeout.as_mut().poll(cx).map(|()| Stop::Timeout),
        }
    }))
    .await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Stops a future that uses up the budget of its task in each poll, as a guest can.
    async fn stopped(deadline: Instant, is_killed: bool) -> Stop {
        let exchange = Exchange::default();
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
                stopped = stop(deadline, &exchange, poll_killed) => stopped,
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
    async fn a_guest_that_uses_up_its_budget_in_each_poll_is_stopped_all_the_same() {
        let deadline = Instant::now() + Duration::from_millis(20);
        assert_eq!(stopped(deadline, false).await, Stop::Timeout);
        let far = Instant::now() + Duration::from_secs(600);
        assert_eq!(stopped(far, true).await, Stop::Killed);
    }
}
