//! Which deployments have to do with an engine, and what is measured of all engines.

use std::sync::Arc;

use samovar_runtime::GraphLabel;
use samovar_types::bundle::Isolation;
use samovar_types::engine::ConcernedDeployment;

use super::{EngineMode, Serving};
use crate::domain::deployment::Deployment;
use crate::telemetry::engine_metrics::{MeasuredEngine, MeasuredEngines};

/// Deployments that one event names.
const MAX_CONCERNED: usize = 32;

impl Serving {
    /// The deployment of this id, and those that have one of these graphs.
    pub fn concerned(
        &self,
        owner: Option<&str>,
        graphs: &[Arc<GraphLabel>],
    ) -> Vec<ConcernedDeployment> {
        let is_concerned = |one: &Deployment| {
            owner == Some(one.id.as_str()) || graphs.iter().any(|graph| self.loads(one, graph))
        };
        let table = self.table();
        let models = table.models();
        let deployments = models.flat_map(|model| model.view.deployments.values());
        deployments
            .filter(|one| is_concerned(one))
            .take(MAX_CONCERNED)
            .map(|one| ConcernedDeployment {
                model_id: one.model_id,
                deployment_id: one.id,
            })
            .collect()
    }

    /// Whether a deployment has this graph loaded in the engines that the label names.
    fn loads(&self, deployment: &Deployment, graph: &GraphLabel) -> bool {
        if let Some(owner) = &graph.deployment {
            return *owner == deployment.id.as_str();
        }
        let shares = deployment.bundle.isolation == Isolation::Shared
            && self.parts.limits.engines != EngineMode::PerDeployment;
        let mut graphs = deployment.bundle.graphs.values();
        shares && graphs.any(|one| one.whole_digest().to_string() == graph.digest)
    }

    /// What is measured of the engines; nothing when graphs run in the node's own process.
    pub fn measured_engines(&self) -> Option<MeasuredEngines> {
        let totals = self.parts.runtime.engine_totals()?;
        let engines = self.parts.runtime.engines().into_iter();
        let measured = engines.map(|engine| MeasuredEngine {
            backend: engine.backend,
            is_suspect: engine.is_suspect,
            owner: engine.deployment.and_then(|id| self.names_of(&id)),
            resident_bytes: engine.resident_bytes.unwrap_or_default(),
        });
        Some(MeasuredEngines {
            engines: measured.collect(),
            totals,
        })
    }

    /// The names of a deployment's model and of the deployment, as other metrics have them.
    fn names_of(&self, deployment: &str) -> Option<(String, String)> {
        let id = deployment.parse().ok()?;
        self.table().models().find_map(|model| {
            let deployment = model.view.deployments.get(&id)?;
            Some((model.view.model.name.clone(), deployment.name.clone()))
        })
    }
}
