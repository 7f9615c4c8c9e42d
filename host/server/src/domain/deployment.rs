//! A deployment: one bundle, running or able to run, and where it stands.

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;
use samovar_types::bundle::Bundle;
use samovar_types::deployment::DeploymentStatus;
use samovar_types::digest::Digest;
use samovar_types::id::{DeploymentId, ModelId};
use samovar_types::settings::{AutoscalingSettings, BackpressurePolicy, InvalidSetting};
use serde::{Deserialize, Serialize};

use super::promotion::Promote;

/// Deployments that one model may have at a time.
pub const MAX_DEPLOYMENTS: usize = 10_000;
/// Labels of one deployment.
pub const MAX_LABELS: usize = 64;
/// Longest key and longest value of a label.
pub const MAX_LABEL_BYTES: usize = 256;

/// One bundle, running or able to run. As the store holds it: fields may be added, so what is unknown is passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// Its id.
    pub id: DeploymentId,
    /// Its model.
    pub model_id: ModelId,
    /// Its name, for people.
    pub name: String,
    /// When it was pushed.
    pub created_at: Timestamp,
    /// Whether its bundle may change.
    #[serde(default)]
    pub kind: DeploymentKind,
    /// Where it stands.
    pub status: DeploymentStatus,
    /// Why it stands there, when something went wrong.
    #[serde(default)]
    pub status_reason: Option<String>,
    /// What runs.
    pub bundle: Bundle,
    /// The bundle's digest.
    pub bundle_digest: Digest,
    /// How many replicas it keeps, once that differs from what its manifest says.
    #[serde(default)]
    pub autoscaling: Option<AutoscalingSettings>,
    /// What happens to requests that find every replica busy.
    #[serde(default)]
    pub backpressure: BackpressurePolicy,
    /// The environment that it goes to as soon as it is built.
    #[serde(default)]
    pub promote_to: Option<String>,
    /// What becomes then of the one that is there.
    #[serde(default)]
    pub promote_how: Promote,
    /// Whether the node ended while it was built, and its build was begun once more.
    #[serde(default)]
    pub build_cut_off: bool,
    /// What its pusher noted.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

impl Deployment {
    /// How many replicas it keeps.
    pub fn autoscaling(&self) -> AutoscalingSettings {
        let settings = self.autoscaling.as_ref();
        let settings = settings.unwrap_or(&self.bundle.autoscaling).clone();
        match self.kind {
            DeploymentKind::Published => settings,
            DeploymentKind::Development => settings.for_development(),
        }
    }
}

/// Whether a deployment's bundle may change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeploymentKind {
    /// It stays as it was pushed.
    #[default]
    Published,
    /// The one of its model that changes with every reload.
    Development,
}

/// The name of the next deployment without a chosen one: `deployment-1`, `deployment-2`, …, never one that is taken.
pub fn next_name<'a>(made_before: u32, taken: impl IntoIterator<Item = &'a str>) -> String {
    let taken: HashSet<&str> = taken.into_iter().collect();
    let mut number = u64::from(made_before);
    // Ends after one more step than there are names.
    loop {
        number += 1;
        let name = format!("deployment-{number}");
        if !taken.contains(&*name) {
            return name;
        }
    }
}

/// Refuses labels beyond the limits.
pub fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), InvalidSetting> {
    if labels.len() > MAX_LABELS {
        let wanted = format!("at most {MAX_LABELS}");
        return Err(InvalidSetting::new("labels", labels.len(), wanted));
    }
    for (key, value) in labels {
        let well =
            !key.is_empty() && key.len() <= MAX_LABEL_BYTES && value.len() <= MAX_LABEL_BYTES;
        if !well {
            let shown: String = key.chars().take(80).collect();
            let wanted =
                format!("a key of 1 to {MAX_LABEL_BYTES} bytes and a value of at most as many");
            let found = format_args!("{} and {} bytes", key.len(), value.len());
            return Err(InvalidSetting::new(
                format!("labels.{shown:?}"),
                found,
                wanted,
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_count_on_and_pass_over_what_is_taken() {
        assert_eq!(next_name(0, []), "deployment-1");
        assert_eq!(next_name(1, ["deployment-1"]), "deployment-2");
        assert_eq!(
            next_name(1, ["deployment-2", "mine", "deployment-3"]),
            "deployment-4"
        );
        // The number of a deleted deployment is not given again.
        assert_eq!(next_name(3, ["deployment-1"]), "deployment-4");
        assert_eq!(next_name(u32::MAX, []), "deployment-4294967296");
    }

    #[test]
    fn labels_are_bounded() {
        let labels = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        assert_eq!(check_labels(&labels("team", "vision")), Ok(()));
        assert!(check_labels(&labels("", "x")).is_err());
        assert!(check_labels(&labels("x", &"x".repeat(257))).is_err());
        let many = (0..65).map(|n| (n.to_string(), String::new())).collect();
        assert!(
            check_labels(&many)
                .unwrap_err()
                .to_string()
                .starts_with("labels: found 65")
        );
    }
}
