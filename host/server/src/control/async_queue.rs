//! The queue of async requests as the rest of the node sees it: the store, and the bell that wakes the workers.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use samovar_store::StoreError;
use samovar_store::async_requests::{
    Acceptance, AsyncCounts, AsyncRequest, AsyncRequests, AsyncResult, Cancellation, Capacity,
    NewAsyncRequest, Place,
};
use samovar_types::async_request::AsyncRequestId;
use samovar_types::id::{DeploymentId, ModelId};
use tokio::sync::Notify;

use crate::domain::webhook_address::WebhookAddresses;

/// What a node takes: requests that wait or run, and bytes of inputs and results.
pub const CAPACITY: Capacity = Capacity {
    open: 50_000,
    bytes: 16 << 30,
};

/// The queue of async requests.
#[derive(Clone)]
pub struct AsyncQueue {
    store: Arc<dyn AsyncRequests>,
    webhooks: Arc<WebhookAddresses>,
    bell: Arc<Bell>,
}

#[derive(Default)]
struct Bell {
    ready: Mutex<BTreeSet<Place>>,
    predictions: Notify,
    notices: Notify,
}

impl AsyncQueue {
    /// The queue in a store, whose webhooks go to these addresses alone.
    pub fn new(store: Arc<dyn AsyncRequests>, webhooks: WebhookAddresses) -> Self {
        Self {
            store,
            webhooks: Arc::new(webhooks),
            bell: Arc::default(),
        }
    }

    /// Takes a request, unless there are too many, and wakes whoever works on it.
    pub async fn accept(&self, request: &NewAsyncRequest) -> Result<Acceptance, StoreError> {
        let acceptance = self.store.accept(request, CAPACITY).await?;
        if acceptance == Acceptance::Accepted {
            self.ring(Place {
                model_id: request.model_id,
                deployment_id: request.deployment_id,
            });
        }
        Ok(acceptance)
    }

    /// A request of a model.
    pub async fn get(
        &self,
        model: ModelId,
        id: &AsyncRequestId,
    ) -> Result<Option<AsyncRequest>, StoreError> {
        let found = self.store.get(id).await?;
        Ok(found.filter(|request| request.model_id == model))
    }

    /// What the model answered, if it did.
    pub async fn result(&self, id: &AsyncRequestId) -> Result<Option<AsyncResult>, StoreError> {
        self.store.result(id).await
    }

    /// How many requests of a deployment wait and run.
    pub async fn counts(&self, deployment: DeploymentId) -> Result<AsyncCounts, StoreError> {
        self.store.counts(deployment).await
    }

    /// Takes a request back that still waits.
    pub async fn cancel(&self, id: &AsyncRequestId) -> Result<Cancellation, StoreError> {
        self.store.cancel(id).await
    }

    /// Where webhooks may go.
    pub fn webhooks(&self) -> &Arc<WebhookAddresses> {
        &self.webhooks
    }

    pub(super) fn store(&self) -> &dyn AsyncRequests {
        &*self.store
    }

    /// A deployment has work.
    pub(super) fn ring(&self, place: Place) {
        self.ready().insert(place);
        self.bell.predictions.notify_one();
    }

    /// Waits for work, which may have come before.
    pub(super) async fn rung(&self) {
        self.bell.predictions.notified().await;
    }

    /// The deployments that have got work since this was asked last.
    pub(super) fn take_ready(&self) -> BTreeSet<Place> {
        std::mem::take(&mut *self.ready())
    }

    /// A webhook is due.
    pub(super) fn ring_notices(&self) {
        self.bell.notices.notify_one();
    }

    /// Waits for webhooks to send, which may have come before.
    pub(super) async fn notices_rung(&self) {
        self.bell.notices.notified().await;
    }

    fn ready(&self) -> std::sync::MutexGuard<'_, BTreeSet<Place>> {
        // An insertion is whole or not at all.
        self.bell
            .ready
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
