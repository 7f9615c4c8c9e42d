//! The specification of a deployment for the runtime: its component, graphs, files, secrets and limits.

use std::sync::Arc;
use std::time::Duration;

use samovar_runtime::{Capabilities, ComponentFile, DeploymentSpec, Limits, PoolSettings};
use samovar_types::bundle::{Bundle, Isolation};
use samovar_types::id::DeploymentId;
use samovar_types::settings::BackpressurePolicy;
use tokio::sync::watch;

use super::files::BundleFiles;
use super::layout::Layout;
use super::{EngineMode, ServeError, Served, Serving, graphs};
use crate::domain::deployment::Deployment;
use crate::domain::model::ModelView;

impl Serving {
    /// The deployment with the replica that its preflight started, or with none.
    pub(super) async fn serve(
        &self,
        view: &ModelView,
        deployment: &Deployment,
    ) -> Result<Arc<Served>, ServeError> {
        let id = deployment.id;
        let served = match self.preflights.of(id, deployment.bundle_digest) {
            Some(served) => served,
            None => {
                let (spec, files) = self.spec(view, deployment).await?;
                Arc::new(self.served_by(deployment, spec, files))
            }
        };
        let (pool, minimum) = (served.pool.clone(), served.pool.settings().min_replica);
        if minimum > 0 {
            tokio::spawn(async move {
                if let Err(error) = pool.prewarm(minimum).await {
                    tracing::error!(deployment = %id, %error, "its minimum of replicas does not start");
                }
            });
        }
        Ok(served)
    }

    pub(super) fn served_by(
        &self,
        deployment: &Deployment,
        spec: DeploymentSpec,
        files: Option<Arc<Layout>>,
    ) -> Served {
        Served {
            id: deployment.id,
            pool: self.parts.runtime.pool(spec),
            bundle_digest: deployment.bundle_digest,
            files,
            pin: Arc::new(self.parts.pins.pin_served(&deployment.bundle)),
            held: watch::Sender::default(),
        }
    }

    pub(super) async fn spec(
        &self,
        view: &ModelView,
        deployment: &Deployment,
    ) -> Result<(DeploymentSpec, Option<Arc<Layout>>), ServeError> {
        let (id, bundle) = (deployment.id, &deployment.bundle);
        let own_engine = match (self.parts.limits.engines, bundle.isolation) {
            (EngineMode::InProcess, Isolation::Deployment) => return Err(ServeError::NoIsolation),
            (EngineMode::PerDeployment, _) | (EngineMode::Shared, Isolation::Deployment) => {
                Some(id.to_string())
            }
            (EngineMode::Shared | EngineMode::InProcess, Isolation::Shared) => None,
        };
        // Of the model, because each push is a deployment of its own.
        let owner = samovar_runtime::Owner::named(view.model.id.as_str());
        let component = ComponentFile {
            digest: bundle.component.digest.to_string(),
            path: self.parts.blobs.local_path(bundle.component.digest).await?,
            owner,
        };
        let mut specs = Vec::with_capacity(bundle.graphs.len());
        for (name, graph) in &bundle.graphs {
            let mut spec = graphs::spec(owner, name, graph, &self.parts.blobs).await?;
            spec.own_engine.clone_from(&own_engine);
            specs.push(spec);
        }
        let mut environment: Vec<(String, String)> = bundle
            .environment_variables
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        environment.push(("SAMOVAR_MODEL".into(), view.model.name.clone()));
        environment.push(("SAMOVAR_DEPLOYMENT_ID".into(), id.to_string()));
        let files = self.lay_out(bundle, id).await?.map(Arc::new);
        let name = &view.model.name;
        let check = BundleFiles::new(name, bundle, self.parts.blobs.clone(), files.clone());
        let spec = DeploymentSpec {
            component,
            snapshot: bundle.snapshot.then(|| bundle.seen_by_init().to_string()),
            graphs: specs,
            own_engine,
            files: Some(Arc::new(check)),
            capabilities: Capabilities {
                environment,
                config: self.parts.secrets.config(&bundle.secrets).await?,
                files: files.as_ref().map(|layout| layout.folder().to_owned()),
                network_allow: bundle.network.allow.iter().cloned().collect(),
                load_graphs_from_bytes: bundle.load_graphs_from_bytes,
            },
            limits: Limits {
                memory_bytes: bundle.limits.memory_bytes,
                timeout: Duration::from_millis(bundle.limits.timeout_ms),
                body_bytes: bundle.limits.body_bytes,
            },
            settings: self.pool_settings(deployment),
            log: self.parts.logs.of(id.as_str()),
        };
        Ok((spec, files))
    }

    pub(super) fn pool_settings(&self, deployment: &Deployment) -> PoolSettings {
        let autoscaling = deployment.autoscaling();
        PoolSettings {
            min_replica: autoscaling.min_replica as usize,
            max_replica: autoscaling.max_replica as usize,
            max_queued_requests: match deployment.backpressure {
                BackpressurePolicy::QueueOnFull => self.parts.limits.max_queued_requests,
                BackpressurePolicy::RejectOnFull => 0,
            },
            max_requests_per_replica: [
                self.parts.limits.max_requests_per_replica,
                deployment.bundle.limits.requests_per_replica.map(u64::from),
            ]
            .into_iter()
            .flatten()
            .min(),
        }
    }

    /// Makes the folder that replicas see at `/`: links to the blobs, so that it costs no space.
    async fn lay_out(
        &self,
        bundle: &Bundle,
        id: DeploymentId,
    ) -> Result<Option<Layout>, ServeError> {
        if bundle.files.is_empty() {
            return Ok(None);
        }
        let mut files = Vec::with_capacity(bundle.files.len());
        for (path, blob) in &bundle.files {
            files.push((
                path.clone(),
                self.parts.blobs.local_path(blob.digest).await?,
            ));
        }
        let made = Layout::make(&self.parts.folder, id, files).await;
        made.map(Some)
            .map_err(|(path, source)| ServeError::Files { path, source })
    }
}
