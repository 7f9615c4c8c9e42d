//! Settings of promotions: defaults, ranges, and valid combinations.

use std::fmt::Display;

use serde::{Deserialize, Deserializer, Serialize};

use crate::settings::InvalidSetting;

/// Longest name of a sticky header, in characters.
pub const MAX_HEADER_BYTES: usize = 128;
/// Largest `min_requests` of an analysis.
pub const MAX_MIN_REQUESTS: u32 = 1_000_000;
/// Largest `max_p95_latency_ratio` of an analysis.
pub const MAX_LATENCY_RATIO: f64 = 1000.0;

/// Settings of an environment's promotions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct PromotionSettings {
    /// Create a new deployment of the same bundle for each promotion, even if the promoted one could be used.
    pub redeploy_on_promotion: bool,
    /// Move traffic in ten even stages instead of all at once.
    pub ramp_up_while_promoting: bool,
    /// Duration of all stages together, in seconds.
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 86_400))]
    pub ramp_up_duration_seconds: u32,
    /// Always false: not needed, because replicas start in well under a millisecond.
    pub rolling_deploy: bool,
    /// What to do with the previous deployment.
    pub promotion_cleanup_strategy: CleanupStrategy,
    /// Request header whose value decides which deployment serves a client, so that each client stays on one deployment.
    pub sticky_header: Option<String>,
    /// Limits for the candidate in each stage; if it exceeds one, all traffic goes back. Null disables the analysis.
    pub analysis: Option<AnalysisSettings>,
    /// Percentage of the current deployment's requests that are copied to the candidate while traffic moves. The candidate's responses to
    /// copies are discarded.
    #[cfg_attr(feature = "openapi", schema(maximum = 100))]
    pub shadow_percent: u32,
}

impl Default for PromotionSettings {
    fn default() -> Self {
        Self {
            redeploy_on_promotion: false,
            ramp_up_while_promoting: false,
            ramp_up_duration_seconds: 600,
            rolling_deploy: false,
            promotion_cleanup_strategy: CleanupStrategy::ScaleToZero,
            sticky_header: None,
            analysis: None,
            shadow_percent: 0,
        }
    }
}

/// What to do with a deployment that a promotion replaced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CleanupStrategy {
    /// Keep its replicas.
    Keep,
    /// Set its `min_replica` to 0.
    #[default]
    ScaleToZero,
    /// Deactivate it.
    Deactivate,
}

/// Limits for a candidate in each stage.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct AnalysisSettings {
    /// Largest share of its requests that may fail, 0 to 1; null does not limit errors.
    #[cfg_attr(feature = "openapi", schema(minimum = 0, maximum = 1))]
    pub max_error_rate: Option<f64>,
    /// Largest ratio of its p95 latency to the current deployment's, 1 to 1000; null does not limit latency.
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1000))]
    pub max_p95_latency_ratio: Option<f64>,
    /// Number of requests that each deployment must have answered in a stage before it is judged.
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1_000_000))]
    pub min_requests: u32,
}

impl Default for AnalysisSettings {
    fn default() -> Self {
        Self {
            max_error_rate: None,
            max_p95_latency_ratio: None,
            min_requests: 100,
        }
    }
}

/// New [`AnalysisSettings`], which replace all previous ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct AnalysisUpdate {
    /// If left out or null, errors are not limited.
    #[cfg_attr(feature = "openapi", schema(minimum = 0, maximum = 1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_error_rate: Option<f64>,
    /// If left out or null, latency is not limited.
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_p95_latency_ratio: Option<f64>,
    /// If left out or null, 100.
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1_000_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_requests: Option<u32>,
}

/// Changes of [`PromotionSettings`]. Fields that are left out or null do not change, except that null removes `sticky_header`,
/// `analysis` and `shadow_percent`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct PromotionSettingsUpdate {
    /// Create a new deployment of the same bundle for each promotion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redeploy_on_promotion: Option<bool>,
    /// Move traffic in ten even stages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ramp_up_while_promoting: Option<bool>,
    /// Duration of all stages together, in seconds.
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 86_400))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ramp_up_duration_seconds: Option<u32>,
    /// Accepted for compatibility; must not be true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rolling_deploy: Option<bool>,
    /// Accepted for compatibility; must be null.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rolling_deploy_config: Option<serde_json::Value>,
    /// What to do with the previous deployment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub promotion_cleanup_strategy: Option<CleanupStrategy>,
    /// Null or `""` removes the header.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, max_length = 128, pattern = "^[A-Za-z0-9_-]*$"))]
    pub sticky_header: Option<Option<String>>,
    /// Null disables the analysis. Requires `ramp_up_while_promoting`.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<AnalysisUpdate>))]
    pub analysis: Option<Option<AnalysisUpdate>>,
    /// Null is 0. A value above 0 requires `ramp_up_while_promoting`.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u32>, maximum = 100))]
    pub shadow_percent: Option<Option<u32>>,
}

/// Distinguishes null from a missing field.
fn given<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Some)
}

fn invalid(field: &str, found: impl Display, wanted: &str) -> InvalidSetting {
    InvalidSetting::new(format!("promotion_settings.{field}"), found, wanted)
}

impl PromotionSettings {
    /// The settings after a change, if all values are in range and fit together.
    pub fn updated(&self, update: &PromotionSettingsUpdate) -> Result<Self, InvalidSetting> {
        let mut new = self.clone();
        if let Some(value) = update.redeploy_on_promotion {
            new.redeploy_on_promotion = value;
        }
        if let Some(value) = update.ramp_up_while_promoting {
            new.ramp_up_while_promoting = value;
        }
        if let Some(value) = update.ramp_up_duration_seconds {
            if !(1..=86_400).contains(&value) {
                return Err(invalid("ramp_up_duration_seconds", value, "1 to 86400"));
            }
            new.ramp_up_duration_seconds = value;
        }
        if update.rolling_deploy == Some(true) || update.rolling_deploy_config.is_some() {
            let wanted =
                "false and no config: use ramp_up_while_promoting, which shifts traffic in stages";
            return Err(invalid("rolling_deploy", "true", wanted));
        }
        if let Some(value) = update.promotion_cleanup_strategy {
            new.promotion_cleanup_strategy = value;
        }
        if let Some(value) = &update.sticky_header {
            new.sticky_header = header(value.as_deref().unwrap_or_default())?;
        }
        if let Some(value) = update.analysis {
            new.analysis = value.map(AnalysisSettings::new).transpose()?;
        }
        if let Some(value) = update.shadow_percent {
            let percent = value.unwrap_or_default();
            if percent > 100 {
                return Err(invalid("shadow_percent", percent, "0 to 100"));
            }
            new.shadow_percent = percent;
        }
        new.go_together()
    }

    /// Without stages a promotion has no time to compare anything. The user must get an error instead of an analysis that never runs.
    fn go_together(self) -> Result<Self, InvalidSetting> {
        let needs = if self.analysis.is_some() {
            "analysis"
        } else if self.shadow_percent > 0 {
            "shadow_percent"
        } else {
            return Ok(self);
        };
        if self.ramp_up_while_promoting {
            return Ok(self);
        }
        let wanted = format!(
            "true, because {needs} is set, which works in stages; or {needs}: null in the same request"
        );
        Err(invalid("ramp_up_while_promoting", false, &wanted))
    }
}

impl AnalysisSettings {
    fn new(update: AnalysisUpdate) -> Result<Self, InvalidSetting> {
        let new = Self {
            max_error_rate: update.max_error_rate,
            max_p95_latency_ratio: update.max_p95_latency_ratio,
            min_requests: update.min_requests.unwrap_or(Self::default().min_requests),
        };
        match new.max_error_rate {
            Some(rate) if !(0.0..=1.0).contains(&rate) => {
                return Err(invalid("analysis.max_error_rate", rate, "0 to 1"));
            }
            _ => {}
        }
        match new.max_p95_latency_ratio {
            Some(ratio) if !(1.0..=MAX_LATENCY_RATIO).contains(&ratio) => {
                return Err(invalid(
                    "analysis.max_p95_latency_ratio",
                    ratio,
                    "1 to 1000",
                ));
            }
            _ => {}
        }
        if !(1..=MAX_MIN_REQUESTS).contains(&new.min_requests) {
            let found = new.min_requests;
            return Err(invalid("analysis.min_requests", found, "1 to 1000000"));
        }
        if new.max_error_rate.is_none() && new.max_p95_latency_ratio.is_none() {
            let wanted = "max_error_rate, max_p95_latency_ratio or both; null turns it off";
            return Err(invalid("analysis", "neither", wanted));
        }
        Ok(new)
    }
}

fn header(name: &str) -> Result<Option<String>, InvalidSetting> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if name.len() > MAX_HEADER_BYTES || !name.bytes().all(token) {
        let shown: String = name.chars().take(80).collect();
        let wanted = "a header's name of at most 128 characters of [A-Za-z0-9_-]";
        return Err(invalid("sticky_header", format!("{shown:?}"), wanted));
    }
    Ok(Some(name.to_ascii_lowercase()).filter(|name| !name.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(settings: &PromotionSettings, text: &str) -> Result<PromotionSettings, String> {
        let update = serde_json::from_str(text).map_err(|e| e.to_string())?;
        settings.updated(&update).map_err(|e| e.to_string())
    }

    #[test]
    fn updates_leave_out_what_they_do_not_name_and_refuse_what_is_out_of_range() {
        let settings = update(
            &PromotionSettings::default(),
            r#"{"ramp_up_while_promoting":true,"ramp_up_duration_seconds":null,"rolling_deploy":false,
                "rolling_deploy_config":null,"sticky_header":"X-Client"}"#,
        )
        .unwrap();
        assert_eq!(settings.ramp_up_duration_seconds, 600);
        assert_eq!(settings.sticky_header.as_deref(), Some("x-client"));
        for (wrong, named) in [
            (r#"{"ramp_up_duration_seconds":0}"#, "1 to 86400"),
            (r#"{"rolling_deploy":true}"#, "ramp_up_while_promoting"),
            (r#"{"sticky_header":"a b"}"#, "sticky_header"),
            (r#"{"ramp":1}"#, "unknown field `ramp`"),
            (r#"{"shadow_percent":101}"#, "0 to 100"),
            (r#"{"shadow_percent":-1}"#, "-1"),
            (
                r#"{"analysis":{}}"#,
                "max_error_rate, max_p95_latency_ratio or both",
            ),
            (r#"{"analysis":{"max_error_rate":1.5}}"#, "0 to 1"),
            (r#"{"analysis":{"max_p95_latency_ratio":0.5}}"#, "1 to 1000"),
            (
                r#"{"analysis":{"max_error_rate":0,"min_requests":0}}"#,
                "1 to 1000000",
            ),
            (
                r#"{"analysis":{"max_errors":1}}"#,
                "unknown field `max_errors`",
            ),
        ] {
            let error = update(&settings, wrong).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn null_takes_away_what_is_ours_and_what_is_left_out_stays() {
        let set = update(
            &PromotionSettings::default(),
            r#"{"ramp_up_while_promoting":true,"sticky_header":"x-client","shadow_percent":20,
                "analysis":{"max_error_rate":0.05,"min_requests":7}}"#,
        )
        .unwrap();
        assert_eq!(set.analysis.unwrap().min_requests, 7);
        assert_eq!(update(&set, "{}").unwrap(), set);
        // As a whole: what a new one does not name has its default.
        let other = update(&set, r#"{"analysis":{"max_p95_latency_ratio":2}}"#).unwrap();
        let analysis = other.analysis.unwrap();
        assert_eq!(
            (analysis.max_error_rate, analysis.min_requests),
            (None, 100)
        );
        let bare = r#"{"sticky_header":null,"analysis":null,"shadow_percent":null}"#;
        let bare = update(&set, bare).unwrap();
        assert_eq!((bare.sticky_header, bare.analysis), (None, None));
        assert_eq!(bare.shadow_percent, 0);
    }

    #[test]
    fn what_looks_at_stages_is_refused_without_them() {
        let none = PromotionSettings::default();
        for (wrong, named) in [
            (r#"{"shadow_percent":1}"#, "shadow_percent"),
            (r#"{"analysis":{"max_error_rate":0.1}}"#, "analysis"),
        ] {
            let error = update(&none, wrong).unwrap_err();
            assert!(
                error.contains("ramp_up_while_promoting: found false"),
                "{error}"
            );
            assert!(error.contains(named), "{error}");
        }
        let staged = r#"{"ramp_up_while_promoting":true,"shadow_percent":1}"#;
        let staged = update(&none, staged).unwrap();
        assert!(update(&staged, r#"{"ramp_up_while_promoting":false}"#).is_err());
        let off = r#"{"ramp_up_while_promoting":false,"shadow_percent":null}"#;
        assert!(update(&staged, off).is_ok());
    }
}
