//! How many replicas a deployment keeps, and when that changes.

use samovar_client::Client;
use samovar_client::text::printable;
use samovar_types::settings::AutoscalingUpdate;

use super::Place;
use crate::failure::UsageError;
use crate::output::{self, Format};

/// What is set; the rest stays.
#[derive(Debug, clap::Args)]
pub struct Settings {
    /// Replicas kept without traffic
    #[arg(long, value_name = "N")]
    min: Option<u32>,
    /// Replicas at most
    #[arg(long, value_name = "N")]
    max: Option<u32>,
    /// Seconds over which traffic is averaged, 10 to 3600
    #[arg(long, value_name = "SECONDS")]
    window: Option<u32>,
    /// Seconds that traffic has to stay low before replicas go, up to 3600
    #[arg(long, value_name = "SECONDS")]
    scale_down_delay: Option<u32>,
    /// Requests that one replica is meant to have at once
    #[arg(long, value_name = "N")]
    concurrency_target: Option<u32>,
    /// Percentage of the concurrency target that is aimed at
    #[arg(long, value_name = "PERCENT")]
    target_utilization: Option<u32>,
    /// Percentage of the excess replicas that go at one time, 1 to 50
    #[arg(long, value_name = "PERCENT")]
    max_scale_down_rate: Option<u32>,
}

impl Settings {
    fn update(&self) -> AutoscalingUpdate {
        AutoscalingUpdate {
            min_replica: self.min,
            max_replica: self.max,
            autoscaling_window: self.window,
            scale_down_delay: self.scale_down_delay,
            concurrency_target: self.concurrency_target,
            target_utilization_percentage: self.target_utilization,
            max_scale_down_rate: self.max_scale_down_rate,
            target_in_flight_tokens: None,
        }
    }
}

/// Changes the settings.
pub async fn run(
    client: &Client,
    place: &Place,
    settings: &Settings,
    format: Format,
) -> anyhow::Result<()> {
    let update = settings.update();
    if update == AutoscalingUpdate::default() {
        return Err(UsageError {
            problem: "nothing to change was named".into(),
            hint: Some(format!(
                "`samovar deployment scale {} {} --min 0 --max 4`; `samovar deployment show` tells what holds",
                place.model, place.deployment
            )),
        }
        .into());
    }
    let Place { model, deployment } = place;
    let answer = client
        .update_autoscaling(model, deployment, &update)
        .await?;
    match format {
        Format::Json => output::document(&answer),
        Format::Text => output::line(&format!("{place}: {}", printable(&answer.message))),
    }
}

#[cfg(test)]
mod tests {
    use samovar_types::settings::AutoscalingSettings;

    use super::*;

    #[test]
    fn every_setting_can_be_set() {
        let settings = Settings {
            min: Some(1),
            max: Some(2),
            window: Some(10),
            scale_down_delay: Some(0),
            concurrency_target: Some(3),
            target_utilization: Some(4),
            max_scale_down_rate: Some(5),
        };
        let update = serde_json::to_value(settings.update()).unwrap();
        let mut named: Vec<String> = update.as_object().unwrap().keys().cloned().collect();
        let mut wanted = AutoscalingSettings::NAMES;
        named.sort();
        wanted.sort_unstable();
        assert_eq!(named, wanted);
    }
}
