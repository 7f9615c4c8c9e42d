//! `samovar logs`: shows the log of a deployment, and follows it with `-f`.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::Timestamp;
use samovar_client::text::printable;
use samovar_client::{Client, Received};
use samovar_types::api::logs::{LogEntry, LogsQuery};
use samovar_types::names::PRODUCTION;

use crate::identifier;
use crate::output::{self, Format};

/// Lines of one response; the server's limit.
const LIMIT: usize = 1000;
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How far back to read: a little less than the server's limit of 7 days, because clocks may differ.
const WINDOW_MS: i64 = 6 * 24 * 3600 * 1000;
/// A follower reads again from this long before its newest line, because lines of several replicas may arrive out of order.
const OVERLAP_MS: i64 = 2000;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The model's name or id
    #[arg(value_parser = identifier)]
    model: String,
    #[command(flatten)]
    follow: Follow,
}

/// Whether to wait for new lines.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Follow {
    /// Wait for new lines and print them
    #[arg(long, short)]
    follow: bool,
}

/// Prints the logs of the production deployment.
pub async fn run(client: &Client, arguments: Arguments, format: Format) -> anyhow::Result<()> {
    print(
        client,
        &arguments.model,
        PRODUCTION,
        arguments.follow,
        format,
    )
    .await
}

/// Prints the logs of a deployment.
pub async fn print(
    client: &Client,
    model: &str,
    deployment: &str,
    follow: Follow,
    format: Format,
) -> anyhow::Result<()> {
    let mut follower = Follower::new(model, deployment);
    let mut is_first = true;
    loop {
        let Fresh { lines, are_all } = follower.fresh(client).await?;
        if !are_all {
            output::note(match is_first {
                true => "older lines are not shown\n",
                false => {
                    "some lines were skipped, because the log grows faster than it can be read\n"
                }
            });
        } else if lines.is_empty() && is_first {
            output::note("no lines yet\n");
        }
        is_first = false;
        for line in lines {
            match format {
                Format::Json => output::json_line(&line)?,
                Format::Text => output::line(&text(&line))?,
            }
        }
        if !follow.follow {
            return Ok(());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Follows the log of a deployment.
pub struct Follower {
    model: String,
    deployment: String,
    printed: Printed,
}

/// Lines that were not read before.
pub struct Fresh {
    /// The lines, oldest first.
    pub lines: Vec<Received<LogEntry>>,
    /// Whether these are all of them.
    pub are_all: bool,
}

impl Follower {
    /// Starts with the oldest line of a deployment that the server returns.
    pub fn new(model: &str, deployment: &str) -> Self {
        Self {
            model: model.to_owned(),
            deployment: deployment.to_owned(),
            printed: Printed::default(),
        }
    }

    /// The lines since the last call.
    pub async fn fresh(&mut self, client: &Client) -> anyhow::Result<Fresh> {
        let start = (self.printed).start_epoch_millis(Timestamp::now().as_millisecond());
        let query = LogsQuery {
            limit: Some(LIMIT),
            start_epoch_millis: Some(start),
            ..LogsQuery::default()
        };
        let read = client.deployment_logs(&self.model, &self.deployment, &query);
        let answer = read.await?;
        let lines = answer.items("logs", |answer| &answer.logs);
        let fresh = self.printed.fresh(&lines);
        Ok(Fresh {
            // A full answer of new lines alone has no overlap with the one before it.
            are_all: fresh.len() < LIMIT,
            lines: fresh.into_iter().cloned().collect(),
        })
    }
}

/// A line as text.
pub fn text(line: &LogEntry) -> String {
    let level = printable(&line.level);
    let (time, replica) = (line.timestamp, printable(&line.replica));
    let message = printable(line.message.trim_end());
    format!("{time} {level:<7} [{replica}] {message}")
}

/// The printed lines that the server may return again.
#[derive(Default)]
struct Printed {
    newest_ms: Option<i64>,
    lines: VecDeque<Received<LogEntry>>,
}

impl Printed {
    fn start_epoch_millis(&self, now_ms: i64) -> i64 {
        let furthest = now_ms.saturating_sub(WINDOW_MS);
        self.overlap_ms()
            .map_or(furthest, |start| start.max(furthest))
    }

    /// Older lines cannot be returned again.
    fn overlap_ms(&self) -> Option<i64> {
        self.newest_ms
            .map(|newest| newest.saturating_sub(OVERLAP_MS))
    }

    /// Filters out lines seen before, and remembers the others.
    fn fresh<'a>(&mut self, lines: &'a [Received<LogEntry>]) -> Vec<&'a Received<LogEntry>> {
        let mut old = std::mem::take(&mut self.lines);
        let mut fresh = Vec::new();
        for line in lines {
            // Two lines may be alike in all their fields; each covers one.
            match old.iter().position(|seen| seen == line) {
                Some(position) => drop(old.remove(position)),
                None => fresh.push(line),
            }
            self.newest_ms = self.newest_ms.max(epoch_millis(line));
        }
        let start = self.overlap_ms();
        let again = lines.iter().filter(|line| epoch_millis(line) >= start);
        self.lines = again.cloned().collect();
        fresh
    }
}

fn epoch_millis(line: &LogEntry) -> Option<i64> {
    Some(line.timestamp.as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(second: u32, message: &str) -> Received<LogEntry> {
        Received::from(LogEntry {
            timestamp: format!("2026-01-01T00:00:{second:02}.000001Z")
                .parse()
                .unwrap(),
            level: "INFO".into(),
            message: message.into(),
            replica: "r1".into(),
            request_id: None,
        })
    }

    #[test]
    fn a_follower_prints_each_line_once() {
        let mut printed = Printed::default();
        let now = 1_767_225_605_000;
        assert_eq!(printed.start_epoch_millis(now), now - WINDOW_MS);
        let first = [line(1, "a"), line(5, "b"), line(5, "b")];
        assert_eq!(printed.fresh(&first).len(), 3);
        assert_eq!(printed.start_epoch_millis(now), now - OVERLAP_MS);
        // Lines of long ago are out of what the server lets be asked for.
        let later = now + 2 * WINDOW_MS;
        assert_eq!(printed.start_epoch_millis(later), later - WINDOW_MS);
        // One more of the same, one that came late, one new.
        let second = [
            line(4, "late"),
            line(5, "b"),
            line(5, "b"),
            line(5, "b"),
            line(6, "c"),
        ];
        assert_eq!(
            printed.fresh(&second),
            [&line(4, "late"), &line(5, "b"), &line(6, "c")]
        );
        assert!(printed.fresh(&second).is_empty());
        assert!(printed.fresh(&[]).is_empty());
        assert!(printed.overlap_ms().is_some());
    }

    #[test]
    fn a_line_cannot_break_out_of_its_own() {
        assert_eq!(
            text(&line(1, "two\nlines\n")),
            "2026-01-01T00:00:01.000001Z INFO    [r1] two\\nlines"
        );
    }
}
