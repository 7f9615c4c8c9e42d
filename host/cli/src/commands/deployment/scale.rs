//! How many replicas a deployment keeps, and when that changes.

use reqwest::Method;
use samovar_client::{ANSWER_TIMEOUT, Client};
use serde_json::{Map, Value};

use super::Place;
use crate::failure::UsageError;
use crate::output::{self, Format, cell};

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
    /// What is set, by the names of the API.
    fn update(&self) -> Map<String, Value> {
        let fields = [
            ("min_replica", self.min),
            ("max_replica", self.max),
            ("autoscaling_window", self.window),
            ("scale_down_delay", self.scale_down_delay),
            ("concurrency_target", self.concurrency_target),
            ("target_utilization_percentage", self.target_utilization),
            ("max_scale_down_rate", self.max_scale_down_rate),
        ];
        let set = fields.into_iter();
        set.filter_map(|(name, value)| Some((name.to_owned(), value?.into())))
            .collect()
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
    if update.is_empty() {
        return Err(UsageError {
            problem: "nothing to change was named".into(),
            hint: Some(format!(
                "`samovar deployment scale {} {} --min 0 --max 4`; `samovar deployment show` tells what holds",
                place.model, place.deployment
            )),
        }
        .into());
    }
    let path = format!("{}/autoscaling_settings", place.path());
    let request = client.request(Method::PATCH, &path)?.json(&update);
    let answer = client.json(request.timeout(ANSWER_TIMEOUT)).await?;
    match format {
        Format::Json => output::document(&answer),
        Format::Text => output::line(&format!("{place}: {}", cell(&answer["message"]))),
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
        let mut named: Vec<String> = settings.update().keys().cloned().collect();
        let mut wanted = AutoscalingSettings::NAMES;
        named.sort();
        wanted.sort_unstable();
        assert_eq!(named, wanted);
    }
}
