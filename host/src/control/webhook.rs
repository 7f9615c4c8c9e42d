//! Webhooks: the signed message that an async request is done, and its delivery.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hmac::{Hmac, Mac as _};
use jiff::Timestamp;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Client, StatusCode, Url};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use sha2::Sha256;

use crate::domain::async_request::{AsyncError, AsyncResult, WebhookStatus};
use crate::domain::async_submission::is_loopback;
use crate::registry::{RegistryError, WebhookSecrets};
use crate::state::async_requests::Notice;

/// Times that a webhook is sent.
pub const ATTEMPTS: u32 = 2;
/// The wait between them.
pub const DELAY: Duration = Duration::from_secs(2);
/// How long each may take.
pub const TIMEOUT: Duration = Duration::from_secs(10);
const REQUEST_IDS: [&str; 2] = ["x-samovar-request-id", "x-baseten-request-id"];
const SIGNATURES: [&str; 2] = ["x-samovar-signature", "x-baseten-signature"];

/// Where the secrets come from that webhooks are signed with.
#[async_trait]
pub trait SigningSecrets: Send + Sync + 'static {
    /// Those that receivers may still check with at that time: mostly one, two after a change. Without any, webhooks go
    /// unsigned.
    async fn live(&self, now: Timestamp) -> Result<Vec<SecretString>, RegistryError>;
}

#[async_trait]
impl SigningSecrets for WebhookSecrets {
    async fn live(&self, now: Timestamp) -> Result<Vec<SecretString>, RegistryError> {
        Self::live(self, now).await
    }
}

/// Delivers webhooks.
pub struct Courier {
    outward: Client,
    /// A proxy that the environment names has a loopback of its own.
    local: Client,
    secrets: Arc<dyn SigningSecrets>,
}

/// What one attempt came to.
enum Sent {
    Taken,
    Refused(String),
    /// Another attempt may go better.
    Lost(String),
}

#[derive(Serialize)]
struct Message<'a> {
    request_id: &'a str,
    model_id: &'a str,
    deployment_id: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    time: Timestamp,
    data: Option<Box<RawValue>>,
    errors: &'a [AsyncError],
}

impl Courier {
    /// One that signs with these secrets.
    ///
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub fn new(secrets: Arc<dyn SigningSecrets>) -> reqwest::Result<Self> {
        let builder = || {
            Client::builder()
                .user_agent(concat!("samovar/", env!("CARGO_PKG_VERSION")))
                // The address was checked; where it leads on to was not.
                .redirect(reqwest::redirect::Policy::none())
                .timeout(TIMEOUT)
        };
        Ok(Self {
            outward: builder().build()?,
            local: builder().no_proxy().build()?,
            secrets,
        })
    }

    /// Sends a webhook, again if that may help.
    pub async fn deliver(&self, notice: &Notice, now: Timestamp) -> WebhookStatus {
        let id = &notice.request.id;
        let body = match message(notice, now) {
            Ok(body) => Bytes::from(body),
            Err(error) => {
                tracing::error!(request = %id, %error, "its webhook cannot be written");
                return WebhookStatus::Failed;
            }
        };
        let secrets = match self.secrets.live(now).await {
            Ok(secrets) => secrets,
            Err(error) => {
                // Never unsigned only because the store is away: the receiver could not tell it from a forged one.
                tracing::error!(request = %id, %error, "its webhook cannot be signed");
                return WebhookStatus::Failed;
            }
        };
        let headers = headers(id.as_str(), &secrets, &body);
        for attempt in 1..=ATTEMPTS {
            match self.send(&notice.endpoint, &headers, &body).await {
                Sent::Taken => return WebhookStatus::Succeeded,
                Sent::Lost(reason) if attempt < ATTEMPTS => {
                    tracing::debug!(request = %id, reason, "its webhook is sent again");
                    tokio::time::sleep(DELAY).await;
                }
                Sent::Lost(reason) | Sent::Refused(reason) => {
                    tracing::warn!(request = %id, reason, "its webhook is not taken");
                    break;
                }
            }
        }
        WebhookStatus::Failed
    }

    async fn send(&self, endpoint: &str, headers: &HeaderMap, body: &Bytes) -> Sent {
        let url = match Url::parse(endpoint) {
            Ok(url) => url,
            Err(error) => return Sent::Refused(error.to_string()),
        };
        let client = if is_loopback(&url) {
            &self.local
        } else {
            &self.outward
        };
        let request = client.post(url).headers(headers.clone()).body(body.clone());
        match request.send().await {
            Ok(response) if response.status().is_success() => Sent::Taken,
            Ok(response) => {
                let reason = format!("the receiver answered {}", response.status());
                match response.status() {
                    StatusCode::INTERNAL_SERVER_ERROR
                    | StatusCode::BAD_GATEWAY
                    | StatusCode::SERVICE_UNAVAILABLE
                    | StatusCode::GATEWAY_TIMEOUT => Sent::Lost(reason),
                    _ => Sent::Refused(reason),
                }
            }
            // Without the address: its query may hold what the receiver keeps secret.
            Err(error) => Sent::Lost(error.without_url().to_string()),
        }
    }
}

fn headers(request_id: &str, secrets: &[SecretString], body: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let mut set = |names: [&'static str; 2], text: &str| {
        // Hex digits, commas and `=` are valid in a header.
        if let Ok(value) = HeaderValue::from_str(text) {
            for name in names {
                headers.insert(name, value.clone());
            }
        }
    };
    set(REQUEST_IDS, request_id);
    if let Some(signature) = signature(secrets, body) {
        set(SIGNATURES, &signature);
    }
    headers
}

/// What the receiver compares: `v1=` and HMAC-SHA256 of the body in hex, for each secret.
pub fn signature(secrets: &[SecretString], body: &[u8]) -> Option<String> {
    let signed = secrets.iter().filter_map(|secret| {
        // HMAC takes keys of any length.
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes()).ok()?;
        mac.update(body);
        Some(format!("v1={}", hex::encode(mac.finalize().into_bytes())))
    });
    let signed: Vec<String> = signed.collect();
    (!signed.is_empty()).then(|| signed.join(","))
}

fn message(notice: &Notice, now: Timestamp) -> serde_json::Result<Vec<u8>> {
    let request = &notice.request;
    serde_json::to_vec(&Message {
        request_id: request.id.as_str(),
        model_id: request.model_id.as_str(),
        deployment_id: request.deployment_id.as_str(),
        kind: "async_request_completed",
        time: now,
        data: match &notice.result {
            // What a model says beside an error is among the errors.
            Some(result) if (200..300).contains(&result.status) => data(result)?,
            _ => None,
        },
        errors: &request.errors,
    })
}

/// A model's answer as JSON: itself if it is that, or its text; nothing for other bytes, which the result has.
fn data(result: &AsyncResult) -> serde_json::Result<Option<Box<RawValue>>> {
    let Ok(text) = std::str::from_utf8(&result.body) else {
        return Ok(None);
    };
    match serde_json::from_str::<Box<RawValue>>(text) {
        Ok(json) => Ok(Some(json)),
        Err(_) => to_raw_value(text).map(Some),
    }
}

#[cfg(test)]
#[path = "webhook_tests.rs"]
mod tests;
