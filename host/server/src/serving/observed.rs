//! What is seen of deployments on this node: which have replicas, how they are, what may be told of each.

use std::sync::Arc;
use std::time::Instant;

use samovar_runtime::{LastStart, Pool};
use samovar_types::deployment::DeploymentStatus;
use samovar_types::id::{DeploymentId, ModelId};
use samovar_types::settings::AutoscalingSettings;

use super::{Served, Serving};
use crate::domain::observed::Observed;
use crate::telemetry::metrics::Measured;

/// A deployment that has replicas, or should have.
pub struct Awake {
    /// Its id.
    pub deployment: DeploymentId,
    /// Its replicas.
    pub pool: Arc<Pool>,
    /// How many it keeps.
    pub settings: AutoscalingSettings,
}

impl Serving {
    /// The deployments that have replicas or should have. Those at zero cost a look at their counters.
    pub fn awake(&self) -> Vec<Awake> {
        let mut awake = Vec::new();
        for model in self.table().models() {
            for (id, served) in &model.deployments {
                let counts = served.pool.counts();
                let some = counts.idle + counts.busy + counts.waiting > 0;
                if !some && served.pool.settings().min_replica == 0 {
                    continue;
                }
                if let Some(deployment) = model.view.deployments.get(id) {
                    awake.push(Awake {
                        deployment: *id,
                        pool: served.pool.clone(),
                        settings: deployment.autoscaling(),
                    });
                }
            }
        }
        awake
    }

    /// A deployment as it is served now, whether it may be called or not.
    pub fn served(&self, model: ModelId, deployment: DeploymentId) -> Option<Arc<Served>> {
        let table = self.table();
        table.get(model)?.deployments.get(&deployment).cloned()
    }

    /// What is seen of a deployment.
    pub fn observed(&self, model: ModelId, deployment: DeploymentId) -> Observed {
        let build = self.builds.phase(deployment);
        let table = self.table();
        let found = table.get(model);
        let broken = found.and_then(|model| model.broken.get(&deployment).cloned());
        let Some(served) = found.and_then(|model| model.deployments.get(&deployment)) else {
            return Observed {
                build,
                broken,
                ..Observed::default()
            };
        };
        let presence = served.pool.readiness();
        let trouble = served.pool.unavailable().map(|trouble| trouble.reason);
        Observed {
            build,
            broken,
            ready: presence.ready,
            starting: presence.starting,
            // A start that fails because of it says so itself.
            trouble: trouble.or_else(|| self.damage(model, deployment)),
        }
    }

    /// What of a deployment's bundle was found damaged on disk: its replicas serve on, and no other starts.
    fn damage(&self, model: ModelId, deployment: DeploymentId) -> Option<String> {
        let table = self.table();
        let bundle = &table.get(model)?.view.deployments.get(&deployment)?.bundle;
        let blobs = &self.parts.blobs;
        let digest = blobs.first_damaged(bundle.blobs().into_keys())?;
        Some(format!(
            "blob {digest} of its bundle is damaged on disk or gone: replicas that are up serve on, and no other starts; push \
             the model again, which repairs it"
        ))
    }

    /// What was counted of each deployment that is served here.
    pub fn measured(&self) -> Vec<Measured> {
        let now = Instant::now();
        let table = self.table();
        let pools = table.models().flat_map(|model| {
            model.deployments.iter().filter_map(|(id, served)| {
                let deployment = model.view.deployments.get(id)?;
                let named = &model.view.model;
                let names = (named.id, named.name.clone(), deployment.name.clone());
                Some((names, &served.pool))
            })
        });
        let measured = pools.map(|((model_id, model, deployment), pool)| {
            let graphs = pool.graphs().iter();
            let graphs = graphs.map(|usage| (usage.name().to_owned(), usage.totals()));
            Measured {
                model_id,
                model,
                deployment,
                totals: pool.metrics().totals(now),
                counts: pool.counts(),
                graphs: graphs.collect(),
            }
        });
        measured.collect()
    }

    /// What the last start of a deployment's replicas showed on this node.
    pub fn seen(&self, model: ModelId, deployment: DeploymentId) -> LastStart {
        let served = self.served(model, deployment);
        served.map_or_else(LastStart::default, |served| served.pool.last_start())
    }

    /// The deployments that may run or are being built, each with its model and its stored status.
    pub fn lively(&self) -> Vec<(ModelId, DeploymentId, DeploymentStatus)> {
        let table = self.table();
        let all = table.models().flat_map(|served| {
            let deployments = served.view.deployments.values();
            deployments.map(|one| (one.model_id, one.id, one.status))
        });
        all.filter(|(.., status)| !status.is_off() && !status.has_failed())
            .collect()
    }

    /// The stored status of a deployment.
    pub fn status(&self, model: ModelId, deployment: DeploymentId) -> Option<DeploymentStatus> {
        let table = self.table();
        let view = &table.get(model)?.view;
        Some(view.deployments.get(&deployment)?.status)
    }
}
