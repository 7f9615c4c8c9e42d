//! Takes the news of ended runs to the tasks that wait for them, where the cores are all taken by runs.
//!
//! Waking a task of the executor from another thread wakes two of its threads: one for the task, and one more to look for
//! others. Where every core runs a graph, each of them takes a core from a run. A byte in a pipe that the executor watches
//! anyway wakes one alone, which finds the task at hand.

#[cfg(test)]
mod interleavings;
mod wakes;

use std::io::{self, PipeWriter, Write};
use std::sync::{Arc, Weak};
use std::task::{Wake, Waker};

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use sync::{AtomicBool, Ordering};
use wakes::Wakes;

/// The primitives that `wakes` runs on; `interleavings` runs it on loom's.
mod sync {
    pub use std::sync::atomic::{AtomicBool, Ordering};
    pub use std::sync::{Mutex, MutexGuard};
}

/// Wakes tasks of the executor that it was started on.
pub(super) struct Courier {
    wakes: Wakes,
    bell: PipeWriter,
}

impl Courier {
    /// Starts its task on the executor that this is called on.
    ///
    /// # Errors
    /// When there can be no more pipes.
    pub fn start() -> io::Result<Arc<Self>> {
        let (heard, bell) = io::pipe()?;
        let mut heard = pipe::Receiver::from_owned_fd(heard.into())?;
        let courier = Arc::new(Self {
            wakes: Wakes::default(),
            bell,
        });
        let round = Round(Arc::downgrade(&courier));
        // The pipe ends with the courier.
        tokio::spawn(async move {
            // Room for more than there can be: a read that fills it would be followed by another in vain.
            while let Ok(1..) = heard.read(&mut [0; 8]).await {
                if let Some(courier) = round.0.upgrade() {
                    courier.wakes.deliver();
                }
            }
        });
        Ok(courier)
    }

    /// A waker that goes through the courier while `crowded`.
    pub fn waker(self: &Arc<Self>, task: &Waker, crowded: &Arc<AtomicBool>) -> Waker {
        let waker = CourierWaker {
            task: task.clone(),
            crowded: crowded.clone(),
            courier: self.clone(),
        };
        Arc::new(waker).into()
    }

    fn send(&self, task: Waker) {
        self.wakes
            .send(task, || (&self.bell).write_all(&[1]).is_ok());
    }
}

/// The courier's task. When its executor ends, whoever sends delivers by himself.
struct Round(Weak<Courier>);

impl Drop for Round {
    fn drop(&mut self) {
        if let Some(courier) = self.0.upgrade() {
            courier.wakes.close();
        }
    }
}

struct CourierWaker {
    task: Waker,
    crowded: Arc<AtomicBool>,
    courier: Arc<Courier>,
}

impl Wake for CourierWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        match self.crowded.load(Ordering::Relaxed) {
            true => self.courier.send(self.task.clone()),
            false => self.task.wake_by_ref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Context;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nobody_is_forgotten_who_waits_for_many_threads_at_once() {
        let courier = Courier::start().unwrap();
        for crowded in [true, false] {
            let crowded = Arc::new(AtomicBool::new(crowded));
            let (mut senders, mut waiting) = (Vec::new(), Vec::new());
            for number in 0..1000 {
                let (sender, receiver) = oneshot::channel();
                senders.push((number, sender));
                let (courier, crowded) = (courier.clone(), crowded.clone());
                waiting.push(tokio::spawn(async move {
                    let mut receiver = pin!(receiver);
                    poll_fn(|cx| {
                        let waker = courier.waker(cx.waker(), &crowded);
                        receiver.as_mut().poll(&mut Context::from_waker(&waker))
                    })
                    .await
                }));
            }
            std::thread::scope(|scope| {
                while !senders.is_empty() {
                    let some = senders.split_off(senders.len().saturating_sub(250));
                    scope.spawn(move || {
                        for (number, sender) in some {
                            sender.send(number).unwrap();
                        }
                    });
                }
            });
            for (number, task) in waiting.into_iter().enumerate() {
                assert_eq!(task.await.unwrap(), Ok(number));
            }
        }
        assert!(courier.wakes.waiting().is_empty());
    }

    #[test]
    fn news_arrive_also_after_the_executor_has_ended() {
        let executor = || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
        };
        let (first, second) = (executor().unwrap(), executor().unwrap());
        let courier = first.block_on(async { Courier::start().unwrap() });
        let crowded = Arc::new(AtomicBool::new(true));
        let wait = |receiver: oneshot::Receiver<u8>| {
            let mut receiver = Box::pin(receiver);
            let (courier, crowded) = (courier.clone(), crowded.clone());
            poll_fn(move |cx| {
                let waker = courier.waker(cx.waker(), &crowded);
                receiver.as_mut().poll(&mut Context::from_waker(&waker))
            })
        };
        let (early, receiver) = oneshot::channel();
        let early_news = second.spawn(wait(receiver));
        second.block_on(tokio::task::yield_now());
        // Rings, and nobody comes any more.
        early.send(1).unwrap();
        drop(first);
        assert_eq!(second.block_on(early_news).unwrap(), Ok(1));
        let (late, receiver) = oneshot::channel();
        let late_news = second.spawn(wait(receiver));
        second.block_on(tokio::task::yield_now());
        late.send(2).unwrap();
        assert_eq!(second.block_on(late_news).unwrap(), Ok(2));
    }
}
