//! Progress on standard error, only on a terminal and only for work that takes longer than a moment.

use std::future::Future;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Shorter work shows no progress.
const MOMENT: Duration = Duration::from_millis(500);
const SPINNER_INTERVAL: Duration = Duration::from_millis(100);

/// Several progress bars.
pub(crate) struct Progress {
    bars: MultiProgress,
    moment: Duration,
}

impl Progress {
    /// Without bars, and not shown yet.
    pub fn new() -> Self {
        Self {
            bars: MultiProgress::with_draw_target(ProgressDrawTarget::hidden()),
            moment: MOMENT,
        }
    }

    /// A bar for a number of bytes.
    pub fn bytes(&self, size: u64, name: String) -> ProgressBar {
        let template = "{wide_msg} {bytes:>10} / {total_bytes:10} {bytes_per_sec:>12} {bar:24}";
        // The default serves too, should a later version no longer know a word of the template.
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(size).with_style(style).with_message(name);
        self.bars.add(bar)
    }

    /// Does the work. Shows the bars if it takes long and removes them afterwards, so that they do not mix with an error.
    pub async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        tokio::select! {
            biased;
            result = &mut work => return result,
            () = tokio::time::sleep(self.moment) => {}
        }
        // It draws nothing unless standard error is a terminal.
        self.bars.set_draw_target(ProgressDrawTarget::stderr());
        let result = work.await;
        // A terminal that is gone needs no clearing.
        let _ = self.bars.clear();
        result
    }
}

/// Does work of unknown length and shows a spinner.
pub async fn spin<T>(message: &'static str, work: impl Future<Output = T>) -> T {
    let progress = Progress::new();
    let spinner = progress
        .bars
        .add(ProgressBar::new_spinner().with_message(message));
    spinner.enable_steady_tick(SPINNER_INTERVAL);
    let result = progress.during(work).await;
    spinner.finish_and_clear();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn short_and_long_work_ends_with_its_result() {
        let mut progress = Progress::new();
        let bar = progress.bytes(10, "m.wasm".into());
        assert_eq!(progress.during(async { 1 }).await, 1);
        assert!(bar.is_hidden());
        progress.moment = Duration::ZERO;
        let long = async {
            tokio::time::sleep(Duration::from_millis(2)).await;
            bar.inc(10);
            2
        };
        assert_eq!(progress.during(long).await, 2);
        assert_eq!(bar.position(), 10);
        assert_eq!(spin("working", async { 3 }).await, 3);
    }
}
