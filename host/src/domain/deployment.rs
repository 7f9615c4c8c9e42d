//! A deployment: one bundle, running or able to run, and where it stands.

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::bundle::Bundle;
use super::digest::Digest;
use super::promotion::Promote;
use super::settings::{AutoscalingSettings, BackpressurePolicy, InvalidSetting};
use crate::ids::Id;

/// The name of every development deployment.
pub const DEVELOPMENT: &str = "development";
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
    pub id: Id,
    /// Its model.
    pub model_id: Id,
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

/// Where a deployment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DeploymentStatus {
    /// Its component is checked and compiled.
    Building,
    /// Its first replica is on its way.
    Deploying,
    /// No replica of it would start.
    DeployFailed,
    /// Its graphs are loaded.
    LoadingModel,
    /// It answers.
    Active,
    /// Its replicas fail.
    Unhealthy,
    /// Its component was refused or does not compile.
    BuildFailed,
    /// Its build was stopped.
    BuildStopped,
    /// It is being switched off.
    Deactivating,
    /// It is switched off.
    Inactive,
    /// It failed for another reason.
    Failed,
    /// Its bundle is being changed.
    Updating,
    /// It has no replica and starts one with the next request.
    ScaledToZero,
    /// Its first replica starts because of a request.
    WakingUp,
}

impl DeploymentStatus {
    /// Every status.
    pub const ALL: [Self; 14] = [
        Self::Building,
        Self::Deploying,
        Self::DeployFailed,
        Self::LoadingModel,
        Self::Active,
        Self::Unhealthy,
        Self::BuildFailed,
        Self::BuildStopped,
        Self::Deactivating,
        Self::Inactive,
        Self::Failed,
        Self::Updating,
        Self::ScaledToZero,
        Self::WakingUp,
    ];

    /// Whether it can never have answered and never will without a retry.
    pub fn has_failed(self) -> bool {
        matches!(
            self,
            Self::BuildFailed | Self::BuildStopped | Self::DeployFailed | Self::Failed
        )
    }

    /// Whether it has been built, so that it answers or starts a replica that does.
    pub fn serves(self) -> bool {
        !self.is_off()
            && !self.has_failed()
            && !matches!(self, Self::Building | Self::Deploying | Self::LoadingModel)
    }

    /// Whether it is switched off, so that its address is answered as if it did not exist.
    pub fn is_off(self) -> bool {
        matches!(self, Self::Deactivating | Self::Inactive)
    }

    /// Whether a node that starts has to take its build up again, because a crash cut it off.
    pub fn is_unfinished(self) -> bool {
        matches!(
            self,
            Self::Building | Self::Deploying | Self::LoadingModel | Self::Updating
        )
    }
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
    fn statuses_have_the_names_of_the_api() {
        let names: Vec<_> = DeploymentStatus::ALL
            .iter()
            .map(|status| serde_json::to_value(status).unwrap())
            .collect();
        assert_eq!(
            names,
            [
                "BUILDING",
                "DEPLOYING",
                "DEPLOY_FAILED",
                "LOADING_MODEL",
                "ACTIVE",
                "UNHEALTHY",
                "BUILD_FAILED",
                "BUILD_STOPPED",
                "DEACTIVATING",
                "INACTIVE",
                "FAILED",
                "UPDATING",
                "SCALED_TO_ZERO",
                "WAKING_UP",
            ]
        );
    }

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
