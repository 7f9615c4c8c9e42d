//! The parts of the attack, each for a time. What is done is decided by the seed and the number of the job, whichever thread does it.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::setpriority_process;

use super::Part;
use super::bombs;
use super::campaign::Target;
use super::campaign::corpus::Case;
use super::campaign::http::Client;
use super::campaign::neighbours::{Calls, Neighbours};
use super::campaign::report::Report;
use super::campaign::{inputs, kills, loops, models, push};
use super::dice::Dice;
use super::summary::Summary;

/// Threads that attack.
const THREADS: u64 = 3;
/// How much less than the node the threads that attack get of the cores.
const NICENESS: i32 = 10;
/// Runs against each model.
const RUNS: u64 = 40;
/// Models that the guest loads from bytes for each that is pushed.
const LOADS: u64 = 12;

/// What is attacked, and with what.
pub struct Attack {
    pub report: Report,
    target: Target,
    cases: Vec<Case>,
    mutants: Vec<Case>,
    seed: u64,
}

impl Attack {
    /// Pushes what all parts need.
    pub fn new(
        target: &Target,
        folder: &Path,
        cases: Vec<Case>,
        mutants: Vec<Case>,
        seed: u64,
    ) -> Result<Self> {
        let guest = crate::repository().join("target/guests/components/tensors.wasm");
        let guest = std::fs::read(&guest)
            .with_context(|| format!("no {}: run `cargo xtask guests`", guest.display()))?;
        models::push_loader(target, &guest)?;
        Ok(Self {
            report: Report::new(folder.to_owned(), &target.url)?,
            target: target.clone(),
            cases,
            mutants,
            seed,
        })
    }

    /// Runs a part, with the neighbours beside it.
    pub fn run(&self, part: Part, time: Duration, summary: &mut Summary) -> Result<Calls> {
        let until = Instant::now() + time;
        if part == Part::Kills {
            // Neighbours would be killed with it: those that are called here are the ones whose answers count.
            let mut dice = Dice::of(self.seed);
            let is_over = |_| Instant::now() >= until;
            summary.kills = kills::kills(&self.target, &mut dice, is_over)?;
            return Ok(Calls::default());
        }
        let neighbours = Neighbours::start(&self.target)?;
        let done = match part {
            Part::Inputs => self.in_threads(until, |dice, model| self.inputs(dice, model)),
            Part::Models => self.in_threads(until, |dice, model| self.models(dice, model)),
            Part::Loops => self.loops(until, summary),
            Part::Bombs => self.bombs(until, summary),
            Part::Kills => Ok(()),
        };
        let calls = neighbours.end();
        done.map(|()| calls)
    }

    /// Does jobs in threads until the time is over.
    fn in_threads(&self, until: Instant, job: impl Fn(&mut Dice, &str) + Sync) -> Result<()> {
        let next = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    // Attackers compute on machines of their own, but here they share the cores with the node. Linux sets it
                    // for this thread alone.
                    let _ = setpriority_process(None, NICENESS);
                    while Instant::now() < until {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let seed = self.seed.wrapping_add(number.wrapping_mul(0x9e37_79b9));
                        job(&mut Dice::of(seed), &format!("attacked-{number}"));
                    }
                });
            }
        });
        Ok(())
    }

    fn backend(&self, dice: &mut Dice) -> &'static str {
        let &backend = dice.choose(&self.target.backends);
        backend
    }

    fn inputs(&self, dice: &mut Dice, model: &str) {
        let case = dice.choose(&self.cases).clone();
        let (backend, seed) = (self.backend(dice), dice.below(1 << 48));
        inputs::push_and_attack(
            &self.report,
            &self.target,
            model,
            &case,
            backend,
            seed,
            RUNS,
        );
    }

    fn models(&self, dice: &mut Dice, model: &str) {
        let mut client = Client::new(&self.target);
        let changed = |dice: &mut Dice| -> Result<(Case, Vec<u8>)> {
            let is_mutant = dice.below(2) == 0;
            let from = if is_mutant {
                &self.mutants
            } else {
                &self.cases
            };
            let case = dice.choose(from).clone();
            let other = dice.choose(&self.cases);
            let bytes = models::changed(dice, &case, other)?;
            Ok((case, bytes))
        };
        for _ in 0..LOADS {
            if let Ok((case, bytes)) = changed(dice) {
                models::load(&self.report, &mut client, &case, &bytes);
            }
        }
        let backend = self.backend(dice);
        if let Ok((case, bytes)) = changed(dice) {
            let (report, target) = (&self.report, &self.target);
            models::push(report, target, &mut client, model, &case, &bytes, backend);
        }
    }

    fn loops(&self, until: Instant, summary: &mut Summary) -> Result<()> {
        loop {
            summary.loops.extend(loops::loops(&self.target)?);
            if Instant::now() >= until {
                return Ok(());
            }
        }
    }

    /// Each kind at least once.
    fn bombs(&self, until: Instant, summary: &mut Summary) -> Result<()> {
        for round in 0.. {
            if round > 0 && Instant::now() >= until {
                break;
            }
            for (name, component) in [
                ("deep", bombs::component(1, 3000 + round, 3000)),
                ("many", bombs::component(400_000 + round, 0, 1)),
                ("large", bombs::component(20_000 + round, 40, 40)),
            ] {
                let manifest = format!("name = \"bomb-{name}\"\ncomponent = \"guest.wasm\"\n");
                let files = [
                    ("samovar.toml", manifest.as_bytes()),
                    ("guest.wasm", component.as_slice()),
                ];
                let model = format!("bomb-{name}");
                let begun = Instant::now();
                let refusal = push::bundle(&self.target, &model, &files)?;
                summary.bomb(name, refusal, begun.elapsed());
                push::delete(&mut Client::new(&self.target), &model)?;
            }
        }
        Ok(())
    }
}
