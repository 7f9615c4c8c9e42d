//! Engines are killed at any instant while models are called: each answer is right or an error, and right again soon.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::answers::Outcome;
use super::dice::Dice;
use super::http::Client;
use super::neighbours::{add, sum};
use super::onnx::looping;
use super::processes::{engines, kill};
use super::protocol::{Form, Request};
use super::push::{self, Push};
use super::values::Tensor;
use super::{DEADLINE, Target};

/// A model whose own engine ended three times within ten minutes is not run for a while, as it should be. What is asked here is how
/// soon others are back, so another one takes its place before that.
const MAX_KILLS: u64 = 2;
/// Rounds of a loop that takes a moment, so that runs are cut off.
const MAX_ROUNDS: u64 = 3_000;

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Kills {
    pub kills: u64,
    /// Requests that were under way all the time.
    pub requests: u64,
    /// Those that were answered with an error.
    pub errors: u64,
    /// Other answers than right ones and errors: there must be none.
    pub wrong: Vec<String>,
    pub hung: Vec<String>,
    /// Time from each kill to a right answer of each model.
    pub recoveries: Vec<Duration>,
}

/// What a model computes.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Sum,
    Loop,
}

/// A model that is called and whose engine is killed.
struct Victim {
    kind: Kind,
    backend: &'static str,
    /// Which of its copies is called now: they differ in their digest.
    copy: RwLock<u64>,
    kills: AtomicU64,
}

impl Victim {
    fn model(&self, copy: u64) -> String {
        let kind = match self.kind {
            Kind::Sum => "sum",
            Kind::Loop => "loop",
        };
        format!("killed-{kind}-{}-{copy}", self.backend)
    }

    /// Pushes a copy.
    fn push(&self, target: &Target, copy: u64) -> Result<()> {
        let mut bytes = match self.kind {
            Kind::Sum => sum(),
            Kind::Loop => looping(),
        };
        // The model's documentation, the sixth field.
        let text = format!("{copy:020}");
        bytes.extend([6 << 3 | 2, 20]);
        bytes.extend(text.as_bytes());
        match push::graph(target, &self.model(copy), &bytes, self.backend)? {
            Push::Served(_) => Ok(()),
            Push::Refused(why) => bail!("a model to kill is refused: {why}"),
        }
    }

    /// One request whose answer is known. The copy that it goes to is not replaced meanwhile.
    fn call(&self, client: &mut Client, number: u32) -> Result<bool, Outcome> {
        let copy = self.copy.read().unwrap_or_else(PoisonError::into_inner);
        let model = self.model(*copy);
        match self.kind {
            Kind::Sum => add(client, &model, number),
            Kind::Loop => negate(client, &model, number),
        }
    }
}

/// `x`, negated so many times.
fn negate(client: &mut Client, model: &str, number: u32) -> Result<bool, Outcome> {
    let rounds = u64::from(number) % MAX_ROUNDS;
    let x = number as f32;
    let tensor = |name: &str, datatype: &str, data: Vec<u8>| Tensor {
        name: name.to_owned(),
        datatype: datatype.to_owned(),
        shape: vec![1],
        data,
    };
    let tensors = [
        tensor("n", "INT64", rounds.to_le_bytes().to_vec()),
        tensor("x", "FP32", x.to_le_bytes().to_vec()),
    ];
    match Outcome::of(Request::new(model, model, &tensors, Form::Binary).send(client)) {
        Outcome::Ran(outputs) => {
            let wanted = if rounds.is_multiple_of(2) { x } else { -x };
            Ok(outputs.len() == 1 && outputs[0].data == [f64::from(wanted)])
        }
        other => Err(other),
    }
}

/// Calls the victims until it is dropped.
struct Callers {
    stop: Arc<AtomicBool>,
    found: Arc<Mutex<Kills>>,
    threads: Vec<JoinHandle<()>>,
}

impl Callers {
    fn start(target: &Target, victims: &Arc<Vec<Victim>>) -> Self {
        let (stop, found) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Kills>>::default());
        let caller = |at: usize| {
            let (target, victims) = (target.clone(), victims.clone());
            let (stop, found) = (stop.clone(), found.clone());
            std::thread::spawn(move || {
                let mut client = Client::new(&target);
                let mut number = at as u32;
                while !stop.load(Ordering::Relaxed) {
                    number = (number + 7) % 1_000_000;
                    let victim = &victims[at];
                    let outcome = victim.call(&mut client, number);
                    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                    found.note(victim, outcome);
                }
            })
        };
        let threads = (0..victims.len()).map(caller).collect();
        Self {
            stop,
            found,
            threads,
        }
    }

    fn end(self) -> Kills {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            let _ = thread.join();
        }
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *found)
    }
}

impl Kills {
    fn note(&mut self, victim: &Victim, outcome: Result<bool, Outcome>) {
        self.requests += 1;
        let name = || format!("{:?} on {}", victim.kind, victim.backend);
        match outcome {
            Ok(true) => {}
            Ok(false) => self.wrong.push(format!("{}: another answer", name())),
            Err(Outcome::Hung) => self.hung.push(name()),
            Err(Outcome::Broken(why)) => self.wrong.push(format!("{}: {why}", name())),
            Err(_) => self.errors += 1,
        }
    }
}

/// Kills an engine again and again until `is_over` of the number of kills says that it is enough.
///
/// # Errors
/// When the node does not do what it must for this, such as taking a model.
pub fn kills(target: &Target, dice: &mut Dice, is_over: impl Fn(u64) -> bool) -> Result<Kills> {
    let victim = |(kind, &backend): (Kind, &&'static str)| Victim {
        kind,
        backend,
        copy: RwLock::new(0),
        kills: AtomicU64::new(0),
    };
    let kinds = [Kind::Sum, Kind::Loop];
    let victims = kinds
        .into_iter()
        .flat_map(|kind| target.backends.iter().map(move |backend| (kind, backend)));
    let victims: Arc<Vec<Victim>> = Arc::new(victims.map(victim).collect());
    let mut next = dice.below(1 << 40) << 10;
    for victim in victims.iter() {
        next += 1;
        victim.push(target, next)?;
        *victim.copy.write().unwrap_or_else(PoisonError::into_inner) = next;
    }
    let mut client = Client::new(target);
    let callers = Callers::start(target, &victims);
    let killed = kill_in_turns(target, &mut client, dice, &victims, &mut next, is_over);
    let mut found = callers.end();
    for victim in victims.iter() {
        let copy = *victim.copy.read().unwrap_or_else(PoisonError::into_inner);
        push::delete(&mut client, &victim.model(copy))?;
    }
    let (kills, recoveries) = killed?;
    found.kills = kills;
    found.recoveries = recoveries;
    Ok(found)
}

fn kill_in_turns(
    target: &Target,
    client: &mut Client,
    dice: &mut Dice,
    victims: &[Victim],
    next: &mut u64,
    is_over: impl Fn(u64) -> bool,
) -> Result<(u64, Vec<Duration>)> {
    let (mut kills, mut recoveries) = (0, Vec::new());
    while !is_over(kills) {
        std::thread::sleep(dice.within_ms(100));
        let mut running = engines(client)?;
        running.retain(|engine| engine.graphs > 0);
        if running.is_empty() {
            continue;
        }
        if !kill(dice.choose(&running).process) {
            continue;
        }
        kills += 1;
        let begun = Instant::now();
        for victim in victims {
            // What was under way when the engine was killed may be an error; that may be one of several.
            while victim.call(client, kills as u32) != Ok(true) {
                ensure!(
                    begun.elapsed() < DEADLINE,
                    "{:?} on {} has no right answer {DEADLINE:?} after its engine was killed",
                    victim.kind,
                    victim.backend
                );
                std::thread::sleep(Duration::from_millis(1));
            }
            recoveries.push(begun.elapsed());
        }
        // Each may have been in it.
        for victim in victims {
            if victim.kills.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_KILLS {
                *next += 1;
                victim.push(target, *next)?;
                let mut copy = victim.copy.write().unwrap_or_else(PoisonError::into_inner);
                let old = std::mem::replace(&mut *copy, *next);
                victim.kills.store(0, Ordering::Relaxed);
                drop(copy);
                push::delete(client, &victim.model(old))?;
            }
        }
    }
    Ok((kills, recoveries))
}
