//! What a node sees of a deployment, and what is shown of it because of that.

use samovar_types::deployment::DeploymentStatus;

/// How far a build has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuildPhase {
    /// Its component is checked and compiled.
    Compiling,
    /// Its graphs are loaded.
    Loading,
    /// Its first replica starts.
    Starting,
}

impl From<BuildPhase> for DeploymentStatus {
    fn from(phase: BuildPhase) -> Self {
        match phase {
            BuildPhase::Compiling => Self::Building,
            BuildPhase::Loading => Self::LoadingModel,
            BuildPhase::Starting => Self::Deploying,
        }
    }
}

/// What a node sees of a deployment. The store knows whether it may run, this whether it does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// How far its build has come, while one goes on.
    pub build: Option<BuildPhase>,
    /// Why it cannot be served although it was built, if that is so.
    pub broken: Option<String>,
    /// Replicas that can serve.
    pub ready: usize,
    /// Replicas that start.
    pub starting: usize,
    /// Why requests are kept from it, if they are.
    pub trouble: Option<String>,
}

/// The status that is shown.
pub fn shown_status(stored: DeploymentStatus, observed: &Observed) -> DeploymentStatus {
    use DeploymentStatus as S;
    match stored {
        S::Building | S::Deploying | S::LoadingModel => observed.build.map_or(stored, S::from),
        S::Active | S::ScaledToZero | S::WakingUp | S::Unhealthy => match observed {
            Observed {
                broken: Some(_), ..
            } => S::Failed,
            Observed {
                trouble: Some(_), ..
            } => S::Unhealthy,
            Observed { ready: 1.., .. } => S::Active,
            // The build is noted, and its first replica is on its way.
            Observed { build: Some(_), .. } => S::Deploying,
            Observed { starting: 1.., .. } => S::WakingUp,
            _ => S::ScaledToZero,
        },
        S::BuildFailed
        | S::BuildStopped
        | S::DeployFailed
        | S::Failed
        | S::Deactivating
        | S::Inactive
        | S::Updating => stored,
    }
}

/// The reason that is shown with it.
pub fn shown_reason(
    stored: DeploymentStatus,
    reason: Option<&str>,
    observed: &Observed,
) -> Option<String> {
    let seen = match shown_status(stored, observed) {
        DeploymentStatus::Failed => observed.broken.as_deref(),
        DeploymentStatus::Unhealthy => observed.trouble.as_deref(),
        _ => None,
    };
    seen.or(reason).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use DeploymentStatus as S;

    use super::*;

    #[test]
    fn what_is_built_shows_how_far_it_is() {
        let at = |phase| Observed {
            build: Some(phase),
            ..Observed::default()
        };
        let shown = |phase| shown_status(S::Building, &at(phase));
        assert_eq!(shown(BuildPhase::Compiling), S::Building);
        assert_eq!(shown(BuildPhase::Loading), S::LoadingModel);
        assert_eq!(shown(BuildPhase::Starting), S::Deploying);
        // Another node builds it, or this one is about to.
        assert_eq!(shown_status(S::Building, &Observed::default()), S::Building);
        // Noted as built: its first replica is still to come.
        assert_eq!(
            shown_status(S::Active, &at(BuildPhase::Starting)),
            S::Deploying
        );
    }

    #[test]
    fn what_is_built_shows_its_replicas() {
        let with = |ready, starting, trouble: Option<&str>| {
            let observed = Observed {
                ready,
                starting,
                trouble: trouble.map(str::to_owned),
                ..Observed::default()
            };
            shown_status(S::Active, &observed)
        };
        assert_eq!(with(0, 0, None), S::ScaledToZero);
        assert_eq!(with(0, 1, None), S::WakingUp);
        assert_eq!(with(1, 0, None), S::Active);
        assert_eq!(with(3, 2, None), S::Active);
        assert_eq!(with(0, 0, Some("it crashes")), S::Unhealthy);
        assert_eq!(with(2, 1, Some("it crashes")), S::Unhealthy);
    }

    #[test]
    fn a_status_that_is_an_end_is_shown_as_it_is_stored() {
        let lively = Observed {
            build: Some(BuildPhase::Loading),
            broken: Some("gone".into()),
            ready: 1,
            starting: 1,
            trouble: Some("it crashes".into()),
        };
        for status in [
            S::BuildFailed,
            S::BuildStopped,
            S::DeployFailed,
            S::Failed,
            S::Deactivating,
            S::Inactive,
            S::Updating,
        ] {
            assert_eq!(shown_status(status, &lively), status);
            let reason = shown_reason(status, Some("stored"), &Observed::default());
            assert_eq!(reason.as_deref(), Some("stored"));
        }
        assert_eq!(shown_status(S::Active, &lively), S::Failed);
        assert_eq!(
            shown_reason(S::Active, None, &lively).as_deref(),
            Some("gone")
        );
    }
}
