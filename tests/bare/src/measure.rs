//! A loop on several threads for a given time, and what it took.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

pub struct Runs {
    elapsed: Duration,
    took: Vec<Duration>,
    processor_ms: f64,
}

impl Runs {
    pub fn per_second(&self) -> f64 {
        self.took.len() as f64 / self.elapsed.as_secs_f64()
    }

    pub fn p50_ms(&self) -> f64 {
        median_ms(self.took.clone())
    }

    /// Processor time of a run, all threads together.
    pub fn processor_ms(&self) -> f64 {
        self.processor_ms
    }
}

/// Milliseconds of processor time that this process has used.
fn processor_ms() -> Result<f64> {
    /// Of Linux for programs, whatever the kernel's own are.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // Past the name, which may hold anything: state is the first, utime and stime the twelfth and thirteenth.
    let (_, fields) = stat
        .rsplit_once(')')
        .context("no name in /proc/self/stat")?;
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: f64 = ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
    Ok(ticks / TICKS_PER_SECOND * 1e3)
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
    let processor_before = processor_ms()?;
    let threads = |mut body: F| {
        start.wait();
        let (warm, mut warm_runs) = (Instant::now(), 0);
        while warm.elapsed() < duration / 5 {
            body()?;
            warm_runs += 1;
        }
        let (begun, mut took) = (Instant::now(), Vec::new());
        while begun.elapsed() < duration {
            let one = Instant::now();
            body()?;
            took.push(one.elapsed());
        }
        Ok((begun.elapsed(), took, warm_runs))
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = bodies
            .into_iter()
            .map(|body| scope.spawn(|| threads(body)))
            .collect();
        let mut all = Runs {
            elapsed: Duration::ZERO,
            took: Vec::new(),
            processor_ms: 0.0,
        };
        let mut warm = 0;
        for thread in running {
            let ended: Result<_> = thread.join().map_err(|_| anyhow!("a run panicked"))?;
            let (elapsed, took, warm_runs) = ended.context("a run failed")?;
            all.elapsed = all.elapsed.max(elapsed);
            all.took.extend(took);
            warm += warm_runs;
        }
        let count = (all.took.len() + warm) as f64;
        all.processor_ms = (processor_ms()? - processor_before) / count;
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
        assert!(
            runs.processor_ms() < 1.0,
            "a nap takes no processor: {}",
            runs.processor_ms()
        );
    }

    #[test]
    fn a_failed_run_is_told() {
        let fail = || Err(anyhow!("no"));
        assert!(in_parallel(vec![fail], Duration::from_millis(5)).is_err());
    }
}
