//! Settings of deployments: defaults and ranges.

use std::fmt::Display;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

/// A setting outside its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: found {found}, wanted {wanted}")]
pub struct InvalidSetting {
    /// Name of the setting, with dots, from the top of the bundle.
    pub field: String,
    /// The given value.
    pub found: String,
    /// The allowed values.
    pub wanted: String,
}

impl InvalidSetting {
    /// An error with the given value and the allowed ones.
    pub fn new(field: impl Into<String>, found: impl Display, wanted: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            found: found.to_string(),
            wanted: wanted.into(),
        }
    }

    fn check<T: PartialOrd + Display>(
        field: &str,
        found: T,
        range: RangeInclusive<T>,
    ) -> Result<(), Self> {
        if range.contains(&found) {
            return Ok(());
        }
        let wanted = format!("{} to {}", range.start(), range.end());
        Err(Self::new(field, found, wanted))
    }
}

/// Autoscaling settings of a deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct AutoscalingSettings {
    /// Number of replicas to keep without traffic.
    pub min_replica: u32,
    /// Maximum number of replicas.
    pub max_replica: u32,
    /// Time over which traffic is averaged, in seconds.
    pub autoscaling_window: u32,
    /// Time that traffic has to stay low before replicas are removed, in seconds.
    pub scale_down_delay: u32,
    /// Intended number of concurrent requests per replica.
    pub concurrency_target: u32,
    /// Intended utilization of replicas, as a percentage of `concurrency_target`.
    pub target_utilization_percentage: u32,
    /// Percentage of the excess replicas that are removed at one time.
    pub max_scale_down_rate: u32,
}

impl Default for AutoscalingSettings {
    fn default() -> Self {
        Self {
            min_replica: 0,
            max_replica: 10,
            autoscaling_window: 60,
            scale_down_delay: 900,
            concurrency_target: 1,
            target_utilization_percentage: 70,
            max_scale_down_rate: 50,
        }
    }
}

impl AutoscalingSettings {
    /// Largest `max_replica`.
    pub const MAX_REPLICAS: u32 = 10_000;

    /// The names of all settings.
    pub const NAMES: [&str; 7] = [
        "min_replica",
        "max_replica",
        "autoscaling_window",
        "scale_down_delay",
        "concurrency_target",
        "target_utilization_percentage",
        "max_scale_down_rate",
    ];

    /// The setting of that name.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut u32> {
        Some(match name {
            "min_replica" => &mut self.min_replica,
            "max_replica" => &mut self.max_replica,
            "autoscaling_window" => &mut self.autoscaling_window,
            "scale_down_delay" => &mut self.scale_down_delay,
            "concurrency_target" => &mut self.concurrency_target,
            "target_utilization_percentage" => &mut self.target_utilization_percentage,
            "max_scale_down_rate" => &mut self.max_scale_down_rate,
            _ => return None,
        })
    }

    /// Checks all ranges.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        let check = |field: &str, found: u32, range: RangeInclusive<u32>| {
            InvalidSetting::check(&format!("autoscaling.{field}"), found, range)
        };
        check("max_replica", self.max_replica, 1..=Self::MAX_REPLICAS)?;
        if self.min_replica > self.max_replica {
            return Err(InvalidSetting::new(
                "autoscaling.min_replica",
                self.min_replica,
                format!("0 to max_replica, which is {}", self.max_replica),
            ));
        }
        check("autoscaling_window", self.autoscaling_window, 10..=3600)?;
        check("scale_down_delay", self.scale_down_delay, 0..=3600)?;
        check("concurrency_target", self.concurrency_target, 1..=100_000)?;
        check(
            "target_utilization_percentage",
            self.target_utilization_percentage,
            1..=100,
        )?;
        check("max_scale_down_rate", self.max_scale_down_rate, 1..=50)
    }
}

/// Changes of [`AutoscalingSettings`]; fields that are left out or null do not change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct AutoscalingUpdate {
    /// Number of replicas to keep without traffic.
    #[cfg_attr(feature = "openapi", schema(maximum = 10_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_replica: Option<u32>,
    /// Maximum number of replicas.
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 10_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_replica: Option<u32>,
    /// Time over which traffic is averaged, in seconds.
    #[cfg_attr(feature = "openapi", schema(minimum = 10, maximum = 3600))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoscaling_window: Option<u32>,
    /// Time that traffic has to stay low before replicas are removed, in seconds.
    #[cfg_attr(feature = "openapi", schema(maximum = 3600))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_down_delay: Option<u32>,
    /// Intended number of concurrent requests per replica.
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 100_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency_target: Option<u32>,
    /// Intended utilization of replicas, as a percentage of `concurrency_target`.
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 100))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_utilization_percentage: Option<u32>,
    /// Percentage of the excess replicas that are removed at one time.
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 50))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_scale_down_rate: Option<u32>,
    /// Accepted for compatibility; must be null.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_in_flight_tokens: Option<u32>,
}

impl AutoscalingSettings {
    /// The settings after a change, if all values are in range.
    pub fn updated(&self, update: &AutoscalingUpdate) -> Result<Self, InvalidSetting> {
        if let Some(found) = update.target_in_flight_tokens {
            let wanted = "null: requests are counted, not tokens";
            return Err(InvalidSetting::new(
                "autoscaling.target_in_flight_tokens",
                found,
                wanted,
            ));
        }
        let new = Self {
            min_replica: update.min_replica.unwrap_or(self.min_replica),
            max_replica: update.max_replica.unwrap_or(self.max_replica),
            autoscaling_window: update.autoscaling_window.unwrap_or(self.autoscaling_window),
            scale_down_delay: update.scale_down_delay.unwrap_or(self.scale_down_delay),
            concurrency_target: update.concurrency_target.unwrap_or(self.concurrency_target),
            target_utilization_percentage: update
                .target_utilization_percentage
                .unwrap_or(self.target_utilization_percentage),
            max_scale_down_rate: update
                .max_scale_down_rate
                .unwrap_or(self.max_scale_down_rate),
        };
        new.validate()?;
        Ok(new)
    }

    /// The settings of a development deployment: at most one replica, none without traffic.
    #[must_use]
    pub fn for_development(self) -> Self {
        Self {
            min_replica: 0,
            max_replica: 1,
            ..self
        }
    }
}

/// What to do with a request while every replica is busy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum BackpressurePolicy {
    /// The request waits for a replica.
    #[default]
    QueueOnFull,
    /// The request gets 429.
    RejectOnFull,
}

/// Limits of one replica and of one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct Limits {
    /// Memory of a replica, in bytes.
    pub memory_bytes: u64,
    /// Timeout of a request, in milliseconds.
    pub timeout_ms: u64,
    /// Largest request body, in bytes.
    pub body_bytes: u64,
    /// Number of requests after which a replica is replaced; null never replaces it. Use 1 for components whose instances can serve only
    /// one request, such as those with the `fetch` event of componentize-js.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_replica: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 256 << 20,
            timeout_ms: 60_000,
            body_bytes: 100 << 20,
            requests_per_replica: None,
        }
    }
}

impl Limits {
    /// Allowed values of `memory_bytes`.
    pub const MEMORY_BYTES: RangeInclusive<u64> = 1 << 20..=16 << 30;
    /// Allowed values of `timeout_ms`.
    pub const TIMEOUT_MS: RangeInclusive<u64> = 1..=3_600_000;
    /// Allowed values of `requests_per_replica`.
    pub const REQUESTS_PER_REPLICA: RangeInclusive<u32> = 1..=u32::MAX;
    /// Allowed values of `body_bytes`.
    pub const BODY_BYTES: RangeInclusive<u64> = 0..=64 << 30;

    /// Checks all ranges.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        InvalidSetting::check("limits.memory_bytes", self.memory_bytes, Self::MEMORY_BYTES)?;
        InvalidSetting::check("limits.timeout_ms", self.timeout_ms, Self::TIMEOUT_MS)?;
        InvalidSetting::check("limits.body_bytes", self.body_bytes, Self::BODY_BYTES)?;
        match self.requests_per_replica {
            Some(requests) => InvalidSetting::check(
                "limits.requests_per_replica",
                requests,
                Self::REQUESTS_PER_REPLICA,
            ),
            None => Ok(()),
        }
    }
}

/// How calls of several replicas are joined into one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Batch {
    /// Maximum number of rows of one run.
    pub max_size: u32,
    /// Longest wait for another call, in milliseconds.
    pub max_delay_ms: u32,
}

impl Batch {
    /// Allowed values of `max_size`.
    pub const SIZE: RangeInclusive<u32> = 1..=1024;
    /// Allowed values of `max_delay_ms`.
    pub const DELAY_MS: RangeInclusive<u32> = 0..=1000;

    /// Checks all ranges; `field` names the batch in errors.
    pub fn validate(&self, field: &str) -> Result<(), InvalidSetting> {
        InvalidSetting::check(&format!("{field}.max_size"), self.max_size, Self::SIZE)?;
        InvalidSetting::check(
            &format!("{field}.max_delay_ms"),
            self.max_delay_ms,
            Self::DELAY_MS,
        )
    }
}

/// Allowed numbers of threads of one run.
pub const GRAPH_THREADS: RangeInclusive<u32> = 1..=64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_in_range() {
        assert_eq!(AutoscalingSettings::default().validate(), Ok(()));
        assert_eq!(Limits::default().validate(), Ok(()));
    }

    #[test]
    fn every_name_has_its_setting() {
        let mut settings = AutoscalingSettings::default();
        for name in AutoscalingSettings::NAMES {
            *settings.get_mut(name).unwrap() = 7;
        }
        let value = serde_json::to_value(settings).unwrap();
        let fields = value.as_object().unwrap();
        assert_eq!(fields.len(), AutoscalingSettings::NAMES.len());
        assert!(fields.values().all(|value| value == 7));
    }

    #[test]
    fn an_error_names_field_found_and_wanted() {
        let settings = AutoscalingSettings {
            autoscaling_window: 9,
            ..Default::default()
        };
        assert_eq!(
            settings.validate().unwrap_err().to_string(),
            "autoscaling.autoscaling_window: found 9, wanted 10 to 3600"
        );
        let settings = AutoscalingSettings {
            min_replica: 11,
            ..Default::default()
        };
        assert_eq!(
            settings.validate().unwrap_err().to_string(),
            "autoscaling.min_replica: found 11, wanted 0 to max_replica, which is 10"
        );
    }

    #[test]
    fn what_is_left_out_has_its_default_and_what_a_newer_release_added_is_ignored() {
        let settings: AutoscalingSettings = serde_json::from_str(r#"{"max_replica":3}"#).unwrap();
        assert_eq!((settings.min_replica, settings.max_replica), (0, 3));
        let limits: Limits = serde_json::from_str(r#"{"timeout_ms":3,"newer":1}"#).unwrap();
        assert_eq!(limits.timeout_ms, 3);
    }
}
