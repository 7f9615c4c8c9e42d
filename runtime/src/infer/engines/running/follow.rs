//! The task that follows an engine: takes its replies, sends what waits, asks for signs of life, and tells its end.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::process::Child;

use super::{Ended, InFlight, LoadFailure, RunEnd, Running, Sentence, State, Took};
use crate::infer::backend::RunError;
use crate::infer::engines::history::{EndReason, Suspect};
use crate::infer::engines::ring::{Sent, Taking};
use crate::infer::engines::wire::{self, Failure, Order, Reply, Request};
use crate::process::{frames, oom, signal_name};
use crate::text::bounded;

/// How long an engine whose socket is closed has until it is killed.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often it is asked for a sign of life, and how long it may be without one.
const PING_EVERY: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Whether there are more replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    Nothing,
    /// Perhaps.
    More,
}

impl Running {
    /// Follows the engine to its end, and tells everybody who waits.
    pub(super) async fn follow(self: Arc<Self>, mut child: Option<Child>) {
        let mut pings = tokio::time::interval(PING_EVERY);
        self.lock().sign_of_life = Some(Instant::now());
        let killed = loop {
            tokio::select! {
                went = self.hand_on() => if let Err(error) = went {
                    let why = format!("its messages are wrong: {error}");
                    break Some(Sentence {
                        reason: EndReason::InvalidMessage,
                        why,
                        graph: None,
                    });
                },
                () = self.gone.notified() => break None,
                () = self.kill.notified() => break self.lock().sentence.clone(),
                _ = pings.tick() => {
                    if let Some(why) = self.check_life() {
                        break Some(Sentence {
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

    /// The runs of which the engine has not heard: whatever ended it, they did not.
    fn untaken_runs(&self) -> HashSet<u64> {
        let mut messages = self.requests.untaken();
        messages.extend(self.outbox.lock().iter().cloned());
        let run = |message: &Vec<u8>| match wire::decode::<Request>(message) {
            Ok((Request::Run { run, .. }, _)) => Some(run),
            _ => None,
        };
        messages.iter().filter_map(run).collect()
    }

    /// Notes the end, and tells everybody who waits.
    fn end(&self, killed: Option<Sentence>, status: Option<ExitStatus>) {
        let untaken = self.untaken_runs();
        let (ended, state) = {
            let mut state = self.lock();
            let suspects = match &killed {
                Some(Sentence {
                    graph: Some(graph), ..
                }) => vec![*graph],
                _ => state.busy(&untaken),
            };
            let (reason, why) = match (killed, status) {
                (Some(sentence), _) => (sentence.reason, sentence.why),
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
        if let Some(told) = self.lock_told().take() {
            told(&ended, self.suspects(&ended, &state.runs));
        }
        for (_, run) in state.runs {
            (run.done)(RunEnd::Lost {
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

    /// The graphs that may have ended it, each with the inputs of one of its runs.
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

    /// Why it ended by itself. `oom_kills` is how often the kernel had killed a process for want of memory a moment before.
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

    /// Why the engine counts as dead though its process is there, if it does; asks for the next sign of life otherwise.
    fn check_life(&self) -> Option<String> {
        let oom_kills = oom::kills();
        let mut state = self.lock();
        state.oom_kills = oom_kills;
        let last = state.sign_of_life;
        drop(state);
        if last.is_some_and(|last| last.elapsed() > PING_TIMEOUT) {
            return Some(format!("it gave no sign of life for {PING_TIMEOUT:?}"));
        }
        let asked = self.number();
        // Never waits: so few bytes are on their way, unless nobody reads them, which is noticed above.
        if let Ok(control) = self.control.try_lock() {
            let _ = frames::write_frame(&control, &Order::Ping { asked });
        }
        None
    }

    /// Hands on the replies that have come and sends what waits, until the engine rings.
    async fn hand_on(self: &Arc<Self>) -> io::Result<()> {
        loop {
            self.flush()?;
            if self.replies.about_to_sleep().is_some() {
                break;
            }
            if self.take_replies(self.replies.take())? == Left::More {
                tokio::task::yield_now().await;
            }
        }
        self.bell.readable().await?.clear_ready();
        Ok(())
    }

    /// Hands on replies that have come: some of them, so that a busy engine does not keep the executor's thread.
    pub(super) fn take_replies(self: &Arc<Self>, mut taking: Taking<'_>) -> io::Result<Left> {
        const AT_ONCE: usize = 64;
        thread_local! {
            static MESSAGE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        let mut message = MESSAGE.take();
        let mut taken = || {
            for _ in 0..AT_ONCE {
                if !taking.next(&mut message)? {
                    return Ok(Left::Nothing);
                }
                self.take_reply(&message);
            }
            io::Result::Ok(Left::More)
        };
        let taken = taken();
        MESSAGE.set(message);
        if self.replies.made_room() {
            self.replies.wake_senders();
        }
        taken
    }

    fn take_reply(self: &Arc<Self>, message: &[u8]) {
        let (reply, behind) = match wire::decode::<Reply>(message) {
            Ok(read) => read,
            Err(error) => return tracing::error!(error, "a reply of an engine is left out"),
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
                let end = match self.unpack(outputs, behind) {
                    Ok(outputs) => {
                        let time = Duration::from_nanos(took_ns);
                        RunEnd::Ran(outputs, Took { time, peak_bytes })
                    }
                    Err(error) => RunEnd::Failed(RunError::Failed(error)),
                };
                (in_flight.done)(end);
            }
            Reply::Failed { run, failure } => {
                let Some(in_flight) = self.lock().runs.remove(&run) else {
                    return;
                };
                let error = match failure {
                    Failure::Inputs(text) => RunError::Inputs(bounded(text)),
                    Failure::Backend(text) => RunError::Failed(bounded(text)),
                };
                (in_flight.done)(RunEnd::Failed(error));
            }
            Reply::Read { read, error } => {
                let Some((part, sender)) = self.lock().reads.remove(&read) else {
                    return;
                };
                let read = match error {
                    None => part.copy(),
                    Some(error) => Err(bounded(error)),
                };
                let _ = sender.send(read);
            }
        }
    }

    /// Sends what waits, as far as there is room.
    pub(super) fn flush(&self) -> io::Result<()> {
        if !self.outbox.is_used.load(Ordering::Acquire) {
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
        self.outbox.is_used.store(false, Ordering::Release);
        Ok(())
    }
}
