//! Changes a deployment's autoscaling settings.

use samovar_client::Client;
use samovar_client::text::printable;
use samovar_types::settings::AutoscalingUpdate;

use super::Place;
use crate::failure::UsageError;
use crate::output::{self, Format};

/// The settings to change; those that are left out keep their values.
#[derive(Debug, clap::Args)]
pub struct Settings {
    /// Replicas to keep without traffic
    #[arg(long, value_name = "N")]
    min: Option<u32>,
    /// Maximum number of replicas
    #[arg(long, value_name = "N")]
    max: Option<u32>,
    /// Seconds over which traffic is averaged, 10 to 3600
    #[arg(long, value_name = "SECONDS")]
    window: Option<u32>,
    /// Seconds that traffic has to stay low before replicas are removed, up to 3600
    #[arg(long, value_name = "SECONDS")]
    scale_down_delay: Option<u32>,
    /// Intended number of concurrent requests per replica
    #[arg(long, value_name = "N")]
    concurrency_target: Option<u32>,
    /// Intended utilization of replicas, as a percentage of the concurrency target
    #[arg(long, value_name = "PERCENT")]
    target_utilization: Option<u32>,
    /// Percentage of the excess replicas that are removed at one time, 1 to 50
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

pub async fn run(
    client: &Client,
    place: &Place,
    settings: &Settings,
    format: Format,
) -> anyhow::Result<()> {
    let update = settings.update();
    if update == AutoscalingUpdate::default() {
        return Err(UsageError {
            problem: "no setting to change was given".into(),
            hint: Some(format!(
                "`samovar deployment scale {} {} --min 0 --max 4`; `samovar deployment show` shows the current settings",
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
