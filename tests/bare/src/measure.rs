//! A loop on several threads for a given time, and what it took.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

/// What was counted.
pub struct Runs {
    elapsed: Duration,
    took: Vec<Duration>,
}

impl Runs {
    pub fn per_second(&self) -> f64 {
        self.took.len() as f64 / self.elapsed.as_secs_f64()
    }

    pub fn p50_ms(&self) -> f64 {
        median_ms(self.took.clone())
    }
}

/// The middle one, in milliseconds.
pub fn median_ms(mut took: Vec<Duration>) -> f64 {
    took.sort();
    took.get(took.len() / 2)
        .map_or(f64::NAN, |middle| middle.as_secs_f64() * 1e3)
}

/// Calls each of `bodies` on a thread of its own, again and again. What runs in the first fifth does not count.
pub fn in_parallel<F>(bodies: Vec<F>, duration: Duration) -> Result<Runs>
where
    F: FnMut() -> Result<()> + Send,
{
    let start = Barrier::new(bodies.len());
    let threads = |mut body: F| {
        start.wait();
        let warm = Instant::now();
        while warm.elapsed() < duration / 5 {
            body()?;
        }
        let (begun, mut took) = (Instant::now(), Vec::new());
        while begun.elapsed() < duration {
            let one = Instant::now();
            body()?;
            took.push(one.elapsed());
        }
        Ok((begun.elapsed(), took))
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = bodies
            .into_iter()
            .map(|body| scope.spawn(|| threads(body)))
            .collect();
        let mut all = Runs {
            elapsed: Duration::ZERO,
            took: Vec::new(),
        };
        for thread in running {
            let ended: Result<_> = thread.join().map_err(|_| anyhow!("a run panicked"))?;
            let (elapsed, took) = ended.context("a run failed")?;
            all.elapsed = all.elapsed.max(elapsed);
            all.took.extend(took);
        }
        Ok(all)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_is_counted() {
        let nap = || {
            std::thread::sleep(Duration::from_millis(1));
            Ok(())
        };
        let runs = in_parallel(vec![nap, nap], Duration::from_millis(50)).unwrap();
        assert!(runs.p50_ms() >= 1.0);
        assert!(runs.per_second() > 0.0 && runs.per_second() <= 2000.0);
    }

    #[test]
    fn a_failed_run_is_told() {
        let fail = || Err(anyhow!("no"));
        assert!(in_parallel(vec![fail], Duration::from_millis(5)).is_err());
    }
}
