//! Wakes the tasks that wait for runs through a pipe, while runs use all cores.
//!
//! Waking a tokio task from a foreign thread wakes two workers: one to run it, one to look for more work. While every core runs a
//! graph, each of them takes a core from a run. A byte in a pipe, which the executor watches anyway, wakes only one worker.

#[cfg(test)]
mod interleavings;
mod pending;

use std::io::{self, PipeWriter, Write};
use std::sync::{Arc, Weak};
use std::task::{Wake, Waker};

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use pending::PendingWakes;
use sync::{AtomicBool, Ordering};

/// The primitives that `pending` uses; `interleavings` runs it on those of loom.
mod sync {
    pub use std::sync::atomic::{AtomicBool, Ordering};
    pub use std::sync::{Mutex, MutexGuard};
}

/// Wakes tasks of the executor on which it was started.
pub(super) struct WakePipe {
    pending: PendingWakes,
    write_end: PipeWriter,
}

impl WakePipe {
    /// Starts a task on the current executor that listens to the pipe.
    ///
    /// # Errors
    /// When no pipe can be created.
    pub fn start() -> io::Result<Arc<Self>> {
        let (read_end, write_end) = io::pipe()?;
        let mut read_end = pipe::Receiver::from_owned_fd(read_end.into())?;
        let pipe = Arc::new(Self {
            pending: PendingWakes::default(),
            write_end,
        });
        let listener = Listener(Arc::downgrade(&pipe));
        // Ends when the write end is dropped.
        tokio::spawn(async move {
            // Larger than what the pipe can hold: tokio would repeat a read that fills the buffer.
            while let Ok(1..) = read_end.read(&mut [0; 8]).await {
                if let Some(pipe) = listener.0.upgrade() {
                    pipe.pending.wake_all();
                }
            }
        });
        Ok(pipe)
    }

    /// A waker for `task` that uses the pipe while `contended`.
    pub fn waker(self: &Arc<Self>, task: &Waker, contended: &Arc<AtomicBool>) -> Waker {
        let waker = PipeWaker {
            task: task.clone(),
            contended: contended.clone(),
            pipe: self.clone(),
        };
        Arc::new(waker).into()
    }

    fn wake(&self, task: Waker) {
        self.pending
            .push(task, || (&self.write_end).write_all(&[1]).is_ok());
    }
}

/// The task that listens. When its executor ends, threads wake tasks directly.
struct Listener(Weak<WakePipe>);

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(pipe) = self.0.upgrade() {
            pipe.pending.close();
        }
    }
}

struct PipeWaker {
    task: Waker,
    contended: Arc<AtomicBool>,
    pipe: Arc<WakePipe>,
}

impl Wake for PipeWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        match self.contended.load(Ordering::Relaxed) {
            true => self.pipe.wake(self.task.clone()),
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
    async fn every_task_is_woken_by_many_threads_at_once() {
        let pipe = WakePipe::start().unwrap();
        for contended in [true, false] {
            let contended = Arc::new(AtomicBool::new(contended));
            let (mut senders, mut waiting) = (Vec::new(), Vec::new());
            for number in 0..1000 {
                let (sender, receiver) = oneshot::channel();
                senders.push((number, sender));
                let (pipe, contended) = (pipe.clone(), contended.clone());
                waiting.push(tokio::spawn(async move {
                    let mut receiver = pin!(receiver);
                    poll_fn(|cx| {
                        let waker = pipe.waker(cx.waker(), &contended);
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
        assert!(pipe.pending.lock().is_empty());
    }

    #[test]
    fn tasks_are_woken_after_the_executor_has_ended() {
        let executor = || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
        };
        let (first, second) = (executor().unwrap(), executor().unwrap());
        let pipe = first.block_on(async { WakePipe::start().unwrap() });
        let contended = Arc::new(AtomicBool::new(true));
        let wait = |receiver: oneshot::Receiver<u8>| {
            let mut receiver = Box::pin(receiver);
            let (pipe, contended) = (pipe.clone(), contended.clone());
            poll_fn(move |cx| {
                let waker = pipe.waker(cx.waker(), &contended);
                receiver.as_mut().poll(&mut Context::from_waker(&waker))
            })
        };
        let (early, receiver) = oneshot::channel();
        let early_task = second.spawn(wait(receiver));
        second.block_on(tokio::task::yield_now());
        // Writes to the pipe, whose listener never runs again.
        early.send(1).unwrap();
        drop(first);
        assert_eq!(second.block_on(early_task).unwrap(), Ok(1));
        let (late, receiver) = oneshot::channel();
        let late_task = second.spawn(wait(receiver));
        second.block_on(tokio::task::yield_now());
        late.send(2).unwrap();
        assert_eq!(second.block_on(late_task).unwrap(), Ok(2));
    }
}
