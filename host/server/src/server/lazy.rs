//! Timeouts of connections that cost nothing per request: they are looked at now and then, not woken for.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};

/// A timer whose sleeps end when they are polled after their time. [`looking`] sees that they are.
///
/// Hyper sets a timeout for each ping of HTTP/2. In a real timer's wheel each is an entry that is made and taken out again
/// a moment later, under a lock that all connections share.
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

/// Drives a connection, looks at it and polls it at least once in each `every`, so that its lazy timeouts end at most so
/// much late.
pub async fn looking<F: Future>(
    every: Duration,
    mut look: impl FnMut(Instant),
    connection: F,
) -> F::Output {
    let mut connection = pin!(connection);
    let mut looks = tokio::time::interval(every);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    poll_fn(|cx| {
        while looks.poll_tick(cx).is_ready() {
            look(Instant::now());
        }
        connection.as_mut().poll(cx)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sleep_ends_although_nobody_is_woken_for_it() {
        let end = Instant::now() + Duration::from_millis(200);
        let mut looks = 0;
        let look = |_| looks += 1;
        looking(Duration::from_millis(1), look, LazyTimer.sleep_until(end)).await;
        assert!(looks > 1);
        assert!(Instant::now() >= end);
    }
}
