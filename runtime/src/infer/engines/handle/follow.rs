//! The task that follows an engine: receives replies, sends queued messages, checks that it is alive, and handles its end.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::process::Child;

use super::{Ended, EngineHandle, InFlight, KillReason, LoadFailure, RunCost, RunEnd, State};
use crate::infer::backend::RunError;
use crate::infer::engines::history::{EndReason, Suspect};
use crate::infer::engines::ring::{LockedReceiver, Sent};
use crate::infer::engines::wire::{self, Failure, Order, Reply, Request};
use crate::process::{frames, oom, signal_name};
use crate::text::bounded;

/// How long an engine may run after its socket was closed, before it is killed.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often it is pinged, and how long it may not answer.
const PING_EVERY: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Whether there may be more replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    Nothing,
    More,
}

impl EngineHandle {
    /// Follows the engine to its end, then completes all pending requests.
    pub(super) async fn follow(self: Arc<Self>, mut child: Option<Child>) {
        let mut pings = tokio::time::interval(PING_EVERY);
        self.lock().last_answer = Some(Instant::now());
        let killed = loop {
            tokio::select! {
                result = self.exchange() => if let Err(error) = result {
                    let why = format!("its messages are invalid: {error}");
                    break Some(KillReason {
                        reason: EndReason::InvalidMessage,
                        why,
                        graph: None,
                    });
                },
                () = self.closed.notified() => break None,
                () = self.kill.notified() => break self.lock().killed.clone(),
                _ = pings.tick() => {
                    if let Some(why) = self.find_unresponsive() {
                        break Some(KillReason {
                            reason: EndReason::Unresponsive,
                            why,
                            graph: None,
                        });
                    }
                }
            }
        };
        if killed.is_some() {
            self.hang_up();
            if let Some(child) = &mut child {
                let _ = child.start_kill();
            }
        }
        let status = match &mut child {
            None => None,
            Some(child) => match tokio::time::timeout(EXIT_TIMEOUT, child.wait()).await {
                Ok(status) => status.ok(),
                Err(_) => {
                    let _ = child.kill().await;
                    child.wait().await.ok()
                }
            },
        };
        self.end(killed, status);
    }

    /// The runs that the engine has not received, which therefore are not the cause of its end.
    fn unreceived_runs(&self) -> HashSet<u64> {
        let mut messages = self.requests.unreceived();
        messages.extend(self.outbox.lock().iter().cloned());
        let run = |message: &Vec<u8>| match wire::decode::<Request>(message) {
            Ok((Request::Run { run, .. }, _)) => Some(run),
            _ => None,
        };
        messages.iter().filter_map(run).collect()
    }

    /// Records the end and completes all pending requests.
    fn end(&self, killed: Option<KillReason>, status: Option<ExitStatus>) {
        let unreceived = self.unreceived_runs();
        let (ended, state) = {
            let mut state = self.lock();
            let suspects = match &killed {
                Some(KillReason {
                    graph: Some(graph), ..
                }) => vec![*graph],
                _ => state.busy_graphs(&unreceived),
            };
            let (reason, why) = match (killed, status) {
                (Some(killed), _) => (killed.reason, killed.why),
                (None, Some(status)) => self.explain(status, state.oom_kills),
                (None, None) => (EndReason::Exit, "it ended".into()),
            };
            let ended = Arc::new(Ended {
                reason,
                why,
                suspects,
                process: self.process,
            });
            let after = State {
                ended: Some(ended.clone()),
                ..State::default()
            };
            (ended, std::mem::replace(&mut *state, after))
        };
        if let Some(on_end) = self.lock_on_end().take() {
            on_end(&ended, self.suspects(&ended, &state.runs));
        }
        for (_, run) in state.runs {
            (run.on_end)(RunEnd::Lost {
                ended: ended.clone(),
                inputs: run.inputs,
            });
        }
        for (_, sender) in state.loads {
            let _ = sender.send(Err(LoadFailure::Ended(ended.clone())));
        }
        for (_, (_, sender)) in state.reads {
            let _ = sender.send(Err(ended.why.clone()));
        }
    }

    /// The graphs that may be the cause, each with the inputs of one of its runs.
    fn suspects(&self, ended: &Ended, runs: &HashMap<u64, InFlight>) -> Vec<Suspect> {
        let labels = self.lock_labels();
        let suspect = |graph: &u32| {
            let run = runs.values().find(|run| run.graph == *graph);
            Some(Suspect {
                graph: labels.get(graph)?.clone(),
                inputs: run.map(InFlight::shapes).unwrap_or_default(),
            })
        };
        ended.suspects.iter().filter_map(suspect).collect()
    }

    /// Why it ended without being killed by the node. `oom_kills` is the kernel's count of OOM kills shortly before.
    fn explain(&self, status: ExitStatus, oom_kills: Option<u64>) -> (EndReason, String) {
        let Some(signal) = status.signal() else {
            return (EndReason::Exit, format!("it ended with {status}"));
        };
        let name = signal_name(signal);
        if signal == libc::SIGKILL && oom::kills() > oom_kills && oom_kills.is_some() {
            let why = format!("the kernel killed it because memory was short ({name})");
            return (EndReason::OutOfMemory, why);
        }
        (EndReason::Signal, format!("it was killed by {name}"))
    }

    /// Why the engine counts as unresponsive; otherwise sends the next ping.
    fn find_unresponsive(&self) -> Option<String> {
        let oom_kills = oom::kills();
        let mut state = self.lock();
        state.oom_kills = oom_kills;
        let last = state.last_answer;
        drop(state);
        if last.is_some_and(|last| last.elapsed() > PING_TIMEOUT) {
            return Some(format!("it did not respond for {PING_TIMEOUT:?}"));
        }
        let id = self.new_id();
        // Does not block: the few bytes always fit, unless the engine does not read them, which is noticed above.
        if let Ok(control) = self.control.try_lock() {
            let _ = frames::write_frame(&control, &Order::Ping { id });
        }
        None
    }

    /// Handles replies and sends queued messages, then waits until the engine wakes this task.
    async fn exchange(self: &Arc<Self>) -> io::Result<()> {
        loop {
            self.flush()?;
            if self.replies.about_to_sleep().is_some() {
                break;
            }
            if self.receive_replies(self.replies.lock())? == Left::More {
                tokio::task::yield_now().await;
            }
        }
        self.wake.readable().await?.clear_ready();
        Ok(())
    }

    /// Handles a limited number of replies, so that a busy engine does not block the thread of the executor.
    pub(super) fn receive_replies(
        self: &Arc<Self>,
        mut receiver: LockedReceiver<'_>,
    ) -> io::Result<Left> {
        const MAX_REPLIES: usize = 64;
        thread_local! {
            static MESSAGE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        let mut message = MESSAGE.take();
        let mut receive = || {
            for _ in 0..MAX_REPLIES {
                if !receiver.next(&mut message)? {
                    return Ok(Left::Nothing);
                }
                self.handle_reply(&message);
            }
            io::Result::Ok(Left::More)
        };
        let received = receive();
        MESSAGE.set(message);
        if self.replies.must_wake_sender() {
            self.replies.wake_senders();
        }
        received
    }

    fn handle_reply(self: &Arc<Self>, message: &[u8]) {
        let (reply, inline) = match wire::decode::<Reply>(message) {
            Ok(read) => read,
            Err(error) => return tracing::error!(error, "invalid reply of an engine ignored"),
        };
        match reply {
            Reply::Ran {
                run,
                took_ns,
                peak_bytes,
                outputs,
            } => {
                let Some(in_flight) = self.lock().runs.remove(&run) else {
                    return;
                };
                let end = match self.unpack(outputs, inline) {
                    Ok(outputs) => {
                        let time = Duration::from_nanos(took_ns);
                        RunEnd::Ran(outputs, RunCost { time, peak_bytes })
                    }
                    Err(error) => RunEnd::Failed(RunError::Failed(error)),
                };
                (in_flight.on_end)(end);
            }
            Reply::Failed { run, failure } => {
                let Some(in_flight) = self.lock().runs.remove(&run) else {
                    return;
                };
                let error = match failure {
                    Failure::Inputs(text) => RunError::Inputs(bounded(text)),
                    Failure::Backend(text) => RunError::Failed(bounded(text)),
                };
                (in_flight.on_end)(RunEnd::Failed(error));
            }
            Reply::Read { read, error } => {
                let Some((block, sender)) = self.lock().reads.remove(&read) else {
                    return;
                };
                let read = match error {
                    None => block.copy(),
                    Some(error) => Err(bounded(error)),
                };
                let _ = sender.send(read);
            }
        }
    }

    /// Sends queued messages as far as there is room.
    pub(super) fn flush(&self) -> io::Result<()> {
        if !self.outbox.has_messages.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut messages = self.outbox.lock();
        while let Some(message) = messages.front() {
            match self.requests.try_send(&[message])? {
                Sent::Full => return Ok(()),
                Sent::Awake => {}
                Sent::Asleep => self.requests.wake_one(),
            }
            messages.pop_front();
        }
        self.outbox.has_messages.store(false, Ordering::Release);
        Ok(())
    }
}
