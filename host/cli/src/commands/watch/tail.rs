//! Follows the log of the development deployment.

use std::time::Duration;

use samovar_client::Client;
use samovar_types::names::DEVELOPMENT;
use tokio::sync::mpsc;

use super::link::{self, Link};
use super::report::{Event, Report};
use crate::commands::logs::{Follower, Fresh};

const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Starts to follow the log of a model's development deployment, without the lines that it already has.
pub async fn begin(client: &Client, model: &str) -> anyhow::Result<Follower> {
    let mut follower = Follower::new(model, DEVELOPMENT);
    match follower.fresh(client).await {
        Ok(_) => {}
        Err(error) if link::unreachable(&error).is_some() => return Err(error),
        // There is none yet, so all its lines are to come. What else is wrong, the push will say.
        Err(_) => {}
    }
    Ok(follower)
}

/// Prints the lines of the latest follower until the watch ends.
pub async fn follow(
    client: &Client,
    followers: &mut mpsc::Receiver<Follower>,
    link: &Link,
    report: &Report,
) -> anyhow::Result<()> {
    let mut now: Option<Follower> = None;
    loop {
        tokio::select! {
            biased;
            Some(next) = followers.recv() => now = Some(next),
            () = tokio::time::sleep(POLL_INTERVAL) => {}
        }
        let Some(follower) = &mut now else {
            continue;
        };
        match follower.fresh(client).await {
            Ok(Fresh { lines, are_all }) => {
                link.answers(report)?;
                if !are_all {
                    let text =
                        "some lines were skipped, because the log grows faster than it can be read"
                            .into();
                    report.tell(&Event::Note { text })?;
                }
                for line in &lines {
                    report.tell(&Event::Log { line })?;
                }
            }
            Err(error) => match link::unreachable(&error) {
                Some(why) => link.lost(why, report)?,
                // It was deleted; the next push makes it again.
                None => link.answers(report)?,
            },
        }
    }
}
