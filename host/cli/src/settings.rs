//! The settings of an environment as options of a command, and as a request to the server. A new setting is a field and a line.

use std::time::Duration;

use clap::ValueEnum;
use samovar_bundle::manifest::units::{DURATION_WANTED, parse_duration_ms};
use samovar_types::api::deployments::BackpressureUpdate;
use samovar_types::api::environments::{
    CorsUpdate, CreateEnvironmentRequest, UpdateEnvironmentRequest,
};
use samovar_types::promotion_settings::{AnalysisUpdate, CleanupStrategy, PromotionSettingsUpdate};
use samovar_types::settings::{AutoscalingUpdate, BackpressurePolicy};

/// The settings to change; those that are left out keep their values.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Settings {
    /// Replicas to keep without traffic
    #[arg(long, value_name = "COUNT", help_heading = "Autoscaling")]
    min_replica: Option<u32>,
    /// Maximum number of replicas
    #[arg(long, value_name = "COUNT", help_heading = "Autoscaling")]
    max_replica: Option<u32>,
    /// Time over which traffic is averaged, such as 60s
    #[arg(long, value_name = "TIME", value_parser = seconds, help_heading = "Autoscaling")]
    autoscaling_window: Option<u32>,
    /// Time that traffic has to stay low before replicas are removed, such as 15m
    #[arg(long, value_name = "TIME", value_parser = seconds, help_heading = "Autoscaling")]
    scale_down_delay: Option<u32>,
    /// Intended number of concurrent requests per replica
    #[arg(long, value_name = "COUNT", help_heading = "Autoscaling")]
    concurrency_target: Option<u32>,
    /// Intended utilization of replicas, as a percentage of the concurrency target
    #[arg(long, value_name = "PERCENT", help_heading = "Autoscaling")]
    target_utilization: Option<u32>,
    /// Percentage of the excess replicas that are removed at one time
    #[arg(long, value_name = "PERCENT", help_heading = "Autoscaling")]
    max_scale_down_rate: Option<u32>,
    /// What to do with requests while every replica is busy
    #[arg(long, value_name = "POLICY", help_heading = "Autoscaling")]
    on_full: Option<OnFull>,

    /// Origin of web pages that may call the environment from a browser, such as https://app.example, or `*`; may be repeated
    #[arg(
        long = "allow-origin",
        value_name = "ORIGIN",
        overrides_with = "no_allow_origin",
        help_heading = "Browsers"
    )]
    allow_origins: Vec<String>,
    /// Allow no web pages to call it
    #[arg(long, help_heading = "Browsers")]
    no_allow_origin: bool,

    /// Move traffic in ten even stages
    #[arg(long, overrides_with = "no_ramp_up", help_heading = "Promotion")]
    ramp_up: bool,
    /// Move all traffic at once
    #[arg(long, help_heading = "Promotion")]
    no_ramp_up: bool,
    /// Duration of all stages together, such as 10m
    #[arg(long, value_name = "TIME", value_parser = seconds, help_heading = "Promotion")]
    ramp_up_duration: Option<u32>,
    /// Create a new deployment of the same bundle for each promotion
    #[arg(long, overrides_with = "no_redeploy", help_heading = "Promotion")]
    redeploy: bool,
    /// Promote the deployment itself
    #[arg(long, help_heading = "Promotion")]
    no_redeploy: bool,
    /// What to do with the previous deployment
    #[arg(long, value_name = "STRATEGY", help_heading = "Promotion")]
    cleanup: Option<Cleanup>,
    /// Request header whose value keeps each client on one deployment during a canary
    #[arg(
        long,
        value_name = "HEADER",
        overrides_with = "no_sticky_header",
        help_heading = "Promotion"
    )]
    sticky_header: Option<String>,
    /// Split requests without regard to the client
    #[arg(long, help_heading = "Promotion")]
    no_sticky_header: bool,
    /// Percentage of the current deployment's requests to copy to the candidate of a canary; 0 copies none
    #[arg(long, value_name = "PERCENT", help_heading = "Promotion")]
    shadow_percent: Option<u32>,
    #[command(flatten)]
    analysis: Analysis,
}

/// The limits for the candidate in each stage of a canary. They replace all previous limits.
#[derive(Debug, Clone, Default, clap::Args)]
struct Analysis {
    /// Roll back a canary if more than this share of the candidate's requests fails, such as 0.05
    #[arg(
        long,
        value_name = "RATE",
        conflicts_with = "no_analysis",
        help_heading = "Promotion"
    )]
    max_error_rate: Option<f64>,
    /// Roll back a canary if the candidate's p95 latency exceeds this multiple of the current deployment's, such as 1.5
    #[arg(
        long,
        value_name = "RATIO",
        conflicts_with = "no_analysis",
        help_heading = "Promotion"
    )]
    max_p95_latency_ratio: Option<f64>,
    /// Requests that each deployment must have answered in a stage before it is judged [default: 100]
    #[arg(
        long,
        value_name = "COUNT",
        conflicts_with = "no_analysis",
        help_heading = "Promotion"
    )]
    min_requests: Option<u32>,
    /// Remove the analysis of canaries
    #[arg(long, help_heading = "Promotion")]
    no_analysis: bool,
}

impl Analysis {
    /// `Some(None)` turns it off.
    fn update(&self) -> Option<Option<AnalysisUpdate>> {
        let update = AnalysisUpdate {
            max_error_rate: self.max_error_rate,
            max_p95_latency_ratio: self.max_p95_latency_ratio,
            min_requests: self.min_requests,
        };
        match update == AnalysisUpdate::default() {
            true => self.no_analysis.then_some(None),
            false => Some(Some(update)),
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OnFull {
    /// Queue them
    Queue,
    /// Reject them with 429
    Reject,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Cleanup {
    /// Keep its replicas
    Keep,
    /// Set its min_replica to 0
    ScaleToZero,
    /// Deactivate it
    Deactivate,
}

impl Settings {
    /// The request for a new environment with these settings.
    pub fn create(&self, name: &str) -> anyhow::Result<CreateEnvironmentRequest> {
        Ok(CreateEnvironmentRequest {
            name: name.to_owned(),
            autoscaling_settings: self.autoscaling(),
            promotion_settings: self.promotion(),
            request_backpressure_settings: self.backpressure(),
            cors_settings: self.cors()?,
        })
    }

    /// The request that changes the given settings, if there are any.
    pub fn update(&self) -> anyhow::Result<Option<UpdateEnvironmentRequest>> {
        let request = UpdateEnvironmentRequest {
            autoscaling_settings: self.autoscaling(),
            promotion_settings: self.promotion(),
            request_backpressure_settings: self.backpressure(),
            cors_settings: self.cors()?,
            ..UpdateEnvironmentRequest::default()
        };
        let is_something = request.autoscaling_settings.is_some()
            || request.promotion_settings.is_some()
            || request.request_backpressure_settings.is_some()
            || request.cors_settings.is_some();
        Ok(is_something.then_some(request))
    }

    fn autoscaling(&self) -> Option<AutoscalingUpdate> {
        let update = AutoscalingUpdate {
            min_replica: self.min_replica,
            max_replica: self.max_replica,
            autoscaling_window: self.autoscaling_window,
            scale_down_delay: self.scale_down_delay,
            concurrency_target: self.concurrency_target,
            target_utilization_percentage: self.target_utilization,
            max_scale_down_rate: self.max_scale_down_rate,
            target_in_flight_tokens: None,
        };
        (update != AutoscalingUpdate::default()).then_some(update)
    }

    fn promotion(&self) -> Option<PromotionSettingsUpdate> {
        let switch = |on: bool, off: bool| (on || off).then_some(on);
        let sticky = match self.no_sticky_header {
            true => Some(String::new()),
            false => self.sticky_header.clone(),
        };
        let update = PromotionSettingsUpdate {
            redeploy_on_promotion: switch(self.redeploy, self.no_redeploy),
            ramp_up_while_promoting: switch(self.ramp_up, self.no_ramp_up),
            ramp_up_duration_seconds: self.ramp_up_duration,
            promotion_cleanup_strategy: self.cleanup.map(|strategy| match strategy {
                Cleanup::Keep => CleanupStrategy::Keep,
                Cleanup::ScaleToZero => CleanupStrategy::ScaleToZero,
                Cleanup::Deactivate => CleanupStrategy::Deactivate,
            }),
            sticky_header: sticky.map(Some),
            analysis: self.analysis.update(),
            shadow_percent: self.shadow_percent.map(Some),
            ..PromotionSettingsUpdate::default()
        };
        (update != PromotionSettingsUpdate::default()).then_some(update)
    }

    fn backpressure(&self) -> Option<BackpressureUpdate> {
        let policy = match self.on_full? {
            OnFull::Queue => BackpressurePolicy::QueueOnFull,
            OnFull::Reject => BackpressurePolicy::RejectOnFull,
        };
        Some(BackpressureUpdate {
            policy: Some(policy),
        })
    }

    fn cors(&self) -> anyhow::Result<Option<CorsUpdate>> {
        if self.allow_origins.is_empty() && !self.no_allow_origin {
            return Ok(None);
        }
        let origins = self.allow_origins.iter().map(|text| text.parse());
        Ok(Some(CorsUpdate {
            allowed_origins: Some(origins.collect::<Result<_, _>>()?),
        }))
    }
}

/// Parses a duration in whole seconds: `20s`, `10m`.
fn seconds(text: &str) -> Result<u32, String> {
    let wanted = || format!("wanted {DURATION_WANTED}, in whole seconds");
    let millis = parse_duration_ms(text).ok_or_else(wanted)?;
    let whole = Duration::from_millis(millis);
    match u32::try_from(whole.as_secs()) {
        Ok(seconds) if whole.subsec_nanos() == 0 => Ok(seconds),
        _ => Err(wanted()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use serde_json::{Value, json};

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        settings: Settings,
    }

    fn body(line: &str) -> Value {
        let words = std::iter::once("x").chain(line.split_whitespace());
        let settings = Line::try_parse_from(words).unwrap().settings;
        serde_json::to_value(settings.update().unwrap()).unwrap()
    }

    #[test]
    fn only_what_is_set_is_sent() {
        assert_eq!(body(""), Value::Null);
        assert_eq!(
            body(
                "--min-replica 1 --ramp-up --ramp-up-duration 20s --cleanup deactivate --on-full reject"
            ),
            json!({
                "autoscaling_settings": { "min_replica": 1 },
                "promotion_settings": {
                    "ramp_up_while_promoting": true,
                    "ramp_up_duration_seconds": 20,
                    "promotion_cleanup_strategy": "DEACTIVATE",
                },
                "request_backpressure_settings": { "policy": "REJECT_ON_FULL" },
            })
        );
        assert_eq!(
            body("--no-ramp-up --no-redeploy --no-sticky-header"),
            json!({ "promotion_settings": {
                "ramp_up_while_promoting": false, "redeploy_on_promotion": false, "sticky_header": "",
            } })
        );
        assert_eq!(
            body("--max-error-rate 0.05 --min-requests 20"),
            json!({ "promotion_settings": { "analysis": { "max_error_rate": 0.05, "min_requests": 20 } } })
        );
        assert_eq!(
            body("--allow-origin https://a.example --allow-origin https://b.example"),
            json!({ "cors_settings": { "allowed_origins": ["https://a.example", "https://b.example"] } })
        );
        assert_eq!(
            body("--no-allow-origin"),
            json!({ "cors_settings": { "allowed_origins": [] } })
        );
        assert_eq!(
            body("--no-analysis --shadow-percent 0"),
            json!({ "promotion_settings": { "analysis": null, "shadow_percent": 0 } })
        );
    }

    #[test]
    fn every_option_is_a_setting_that_the_server_knows() {
        let all = body(
            "--min-replica 0 --max-replica 2 --autoscaling-window 1m --scale-down-delay 15m --concurrency-target 3 \
             --target-utilization 70 --max-scale-down-rate 50 --on-full queue --ramp-up --ramp-up-duration 1h \
             --redeploy --cleanup keep --sticky-header x-client --shadow-percent 10 --max-error-rate 0.1 \
             --max-p95-latency-ratio 2 --min-requests 50",
        );
        let autoscaling = serde_json::from_value(all["autoscaling_settings"].clone()).unwrap();
        let settings = samovar_types::settings::AutoscalingSettings::default();
        assert!(settings.updated(&autoscaling).is_ok());
        let promotion = serde_json::from_value(all["promotion_settings"].clone()).unwrap();
        let settings = samovar_types::promotion_settings::PromotionSettings::default();
        assert!(settings.updated(&promotion).is_ok());
        let policy = all["request_backpressure_settings"]["policy"].clone();
        assert!(serde_json::from_value::<BackpressurePolicy>(policy).is_ok());
    }

    #[test]
    fn times_are_whole_seconds() {
        assert_eq!(seconds("20s"), Ok(20));
        assert_eq!(seconds("2000ms"), Ok(2));
        for bad in ["20", "1500ms", "s", "-1s", "100000000h"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
