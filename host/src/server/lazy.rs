//! Timeouts of connections that cost nothing per request: they are looked at now and then, not woken for.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};

/// How often a connection looks whether one of its timeouts is over.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A timer whose sleeps end when they are polled after their time. [`looking`] sees that they are.
///
/// Hyper sets a timeout for the head of each request. In a real timer's wheel each is an entry that is made and taken out
/// again a moment later, under a lock that all connections share.
#[derive(Clone, Copy, Debug)]
pub struct LazyTimer;

struct LazySleep(Instant);

impl Future for LazySleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        match Instant::now() >= self.0 {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

impl Sleep for LazySleep {}

impl Timer for LazyTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(LazySleep(deadline))
    }
}

/// Drives a connection, and polls it at least every [`LOOK_EVERY`] so that its lazy timeouts end at most so much late.
pub async fn looking<F: Future>(connection: F) -> F::Output {
    let mut connection = pin!(connection);
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    poll_fn(|cx| {
        while looks.poll_tick(cx).is_ready() {}
        connection.as_mut().poll(cx)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_sleep_ends_although_nobody_was_woken_for_it() {
        // The clock of the test is tokio's; the sleep's own is past its time from the start of the second poll on.
        let mut polls = 0;
        let mut sleep = LazyTimer.sleep_until(Instant::now() + Duration::from_millis(20));
        looking(poll_fn(|cx| {
            polls += 1;
            if polls == 2 {
                std::thread::sleep(Duration::from_millis(25));
            }
            sleep.as_mut().poll(cx)
        }))
        .await;
        assert_eq!(polls, 2);
    }
}
