//! Where a deployment stands.

use serde::{Deserialize, Serialize};

/// Where a deployment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
}
