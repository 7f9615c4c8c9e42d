//! States of deployments.

use serde::{Deserialize, Serialize};

/// State of a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DeploymentStatus {
    /// The component is being checked and compiled.
    Building,
    /// The first replica is being started.
    Deploying,
    /// No replica could be started.
    DeployFailed,
    /// The graphs are being loaded.
    LoadingModel,
    /// The deployment serves requests.
    Active,
    /// Starts of replicas have failed repeatedly.
    Unhealthy,
    /// The component was refused or does not compile.
    BuildFailed,
    /// The build was stopped.
    BuildStopped,
    /// The deployment is being deactivated.
    Deactivating,
    /// The deployment was deactivated.
    Inactive,
    /// The deployment failed for another reason.
    Failed,
    /// The bundle is being replaced.
    Updating,
    /// There is no replica; the next request starts one.
    ScaledToZero,
    /// The first replica is being started for a request.
    WakingUp,
}

impl DeploymentStatus {
    /// All states.
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

    /// Whether the deployment has never served and will not without a retry.
    pub fn has_failed(self) -> bool {
        matches!(
            self,
            Self::BuildFailed | Self::BuildStopped | Self::DeployFailed | Self::Failed
        )
    }

    /// Whether the deployment was built, so that it can serve or start a replica.
    pub fn serves(self) -> bool {
        !self.is_off()
            && !self.has_failed()
            && !matches!(self, Self::Building | Self::Deploying | Self::LoadingModel)
    }

    /// Whether the deployment is deactivated, so that requests get 404.
    pub fn is_off(self) -> bool {
        matches!(self, Self::Deactivating | Self::Inactive)
    }

    /// Whether a node has to resume the build when it starts, because a crash interrupted it.
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
