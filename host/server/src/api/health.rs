//! Whether the process lives, and whether requests should be sent to it: `/healthz` and `/readyz`, which ask for no key.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use samovar_types::api::health::{NotReady, NotReadyCode, ReadinessResponse};

use crate::catalog::cache::Cache;
use samovar_store::DocStore;
use tokio_util::sync::CancellationToken;

/// How long the store may take to answer.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long its answer holds: anybody may ask, and must not keep the store busy.
const STORE_HOLDS: Duration = Duration::from_secs(1);

/// How long the node may hear nothing of the store, which says every two seconds how far it is.
const MAX_LAG: Duration = Duration::from_secs(10);

/// When the store was asked last, and why it did not answer, if so.
type Probe = (Instant, Option<String>);

/// Whether a node is ready for requests.
#[derive(Clone)]
pub struct Readiness {
    cache: Arc<Cache>,
    stop: CancellationToken,
    store: Arc<dyn DocStore>,
    /// When the store was asked last, and what it said.
    probed: Arc<tokio::sync::Mutex<Option<Probe>>>,
}

impl Readiness {
    /// Of the node that reads this store into this cache and stops with `stop`.
    pub fn new(cache: Arc<Cache>, stop: CancellationToken, store: Arc<dyn DocStore>) -> Self {
        Self {
            cache,
            stop,
            store,
            probed: Arc::default(),
        }
    }

    /// What keeps the node from being ready.
    pub async fn reasons(&self) -> Vec<NotReady> {
        let mut reasons = Vec::new();
        if self.stop.is_cancelled() {
            reasons.push(NotReady {
                code: NotReadyCode::Draining.into(),
                reason: "the node is stopping: running requests finish, new ones belong elsewhere"
                    .to_owned(),
            });
        }
        let failure = self.probe().await;
        reasons.extend(failure.map(|reason| NotReady {
            code: NotReadyCode::StoreUnavailable.into(),
            reason,
        }));
        reasons.extend(behind(self.cache.heard(), Instant::now()));
        reasons
    }

    async fn probe(&self) -> Option<String> {
        let mut probed = self.probed.lock().await;
        if let Some((at, answer)) = &*probed
            && at.elapsed() < STORE_HOLDS
        {
            return answer.clone();
        }
        let asked = self.store.check();
        let answer = match tokio::time::timeout(STORE_TIMEOUT, asked).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("the store did not answer within {STORE_TIMEOUT:?}")),
        };
        *probed = Some((Instant::now(), answer.clone()));
        answer
    }
}

/// Says so if the node does not know the newest state of the store: it was never read, or last heard of at `heard`, which is
/// too long ago.
fn behind(heard: Option<Instant>, now: Instant) -> Option<NotReady> {
    let Some(heard) = heard else {
        return Some(NotReady {
            code: NotReadyCode::Starting.into(),
            reason: "the models in the store have not been read yet".to_owned(),
        });
    };
    let silence = now.saturating_duration_since(heard);
    (silence > MAX_LAG).then(|| NotReady {
        code: NotReadyCode::Behind.into(),
        reason: format!(
            "the node has not read the changes of the store for {} s: newer ones have not taken effect here",
            silence.as_secs()
        ),
    })
}

/// The routes of the node's own health.
pub fn router(readiness: Readiness) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(move || ready(readiness.clone())))
}

async fn ready(readiness: Readiness) -> Response {
    let reasons = readiness.reasons().await;
    let status = match reasons.is_empty() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let answer = ReadinessResponse {
        ready: reasons.is_empty(),
        reasons,
    };
    (status, axum::Json(answer)).into_response()
}

#[cfg(test)]
mod tests {

    use super::*;
    use samovar_store::sqlite::SqliteStore;

    #[test]
    fn a_node_that_hears_nothing_of_its_store_is_behind() {
        let now = Instant::now();
        let code = |heard: Option<Instant>| {
            let reason = behind(heard, now)?;
            reason.code.known().copied()
        };
        assert_eq!(code(None), Some(NotReadyCode::Starting));
        assert_eq!(code(Some(now)), None);
        assert_eq!(code(now.checked_sub(MAX_LAG)), None);
        let long_ago = now.checked_sub(MAX_LAG + Duration::from_secs(1));
        assert_eq!(code(long_ago), Some(NotReadyCode::Behind));
    }

    #[tokio::test]
    async fn a_node_says_why_it_is_not_ready() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("state.db")).await;
        let store: Arc<dyn DocStore> = Arc::new(store.unwrap());
        let stop = CancellationToken::new();
        let cache = Arc::new(Cache::default());
        let readiness = Readiness::new(cache.clone(), stop.clone(), store.clone());
        let codes = async || -> Vec<Option<NotReadyCode>> {
            let reasons = readiness.reasons().await;
            reasons
                .iter()
                .map(|one| one.code.known().copied())
                .collect()
        };
        assert_eq!(codes().await, [Some(NotReadyCode::Starting)]);
        cache.set_observed(1);
        assert_eq!(codes().await, [None; 0]);
        stop.cancel();
        assert_eq!(codes().await, [Some(NotReadyCode::Draining)]);
        store.close().await;
        // Not asked again before its last answer is too old.
        assert_eq!(codes().await, [Some(NotReadyCode::Draining)]);
        tokio::time::sleep(STORE_HOLDS).await;
        let reasons = readiness.reasons().await;
        assert_eq!(reasons[1].code, NotReadyCode::StoreUnavailable);
        assert_eq!(
            reasons[1].reason,
            "the store is unavailable: the store was closed"
        );
    }
}
