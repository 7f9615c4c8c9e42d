//! Webhooks: the signed message that an async request is done, and one attempt to deliver it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hmac::{Hmac, Mac as _};
use jiff::Timestamp;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Client, StatusCode, Url};
use samovar_store::async_requests::{AsyncResult, Notice};
use samovar_types::async_request::AsyncError;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use sha2::Sha256;

use super::webhook_resolver::{CheckedResolver, proxy_hosts};
use crate::domain::webhook_address::{ForbiddenAddress, WebhookAddresses, is_loopback};
use crate::registry::{RegistryError, WebhookSecrets};

/// Times that a webhook is sent.
pub const ATTEMPTS: u32 = 2;
/// The wait between them.
pub const DELAY: Duration = Duration::from_secs(2);
/// How long the connection for it may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
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
    addresses: Arc<WebhookAddresses>,
}

/// What one attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// The receiver has it.
    Taken,
    /// Another attempt would go no better.
    Refused(String),
    /// The receiver is not there, or has trouble of its own: another attempt may go better.
    Unreachable(String),
    /// It was not sent: something here is wrong.
    NotSent(String),
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
    /// One that signs with these secrets and sends to these addresses alone.
    ///
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub fn new(
        secrets: Arc<dyn SigningSecrets>,
        addresses: Arc<WebhookAddresses>,
    ) -> reqwest::Result<Self> {
        let builder = |proxies| {
            Client::builder()
                .user_agent(concat!("samovar/", env!("CARGO_PKG_VERSION")))
                // The address was checked; where it leads on to was not.
                .redirect(reqwest::redirect::Policy::none())
                .dns_resolver(CheckedResolver::new(addresses.clone(), proxies))
                .connect_timeout(CONNECT_TIMEOUT)
                .timeout(TIMEOUT)
        };
        Ok(Self {
            outward: builder(proxy_hosts()).build()?,
            local: builder(Vec::new()).no_proxy().build()?,
            secrets,
            addresses,
        })
    }

    /// Sends a webhook once.
    pub async fn deliver(&self, notice: &Notice, now: Timestamp) -> Delivery {
        let body = match message(notice, now) {
            Ok(body) => Bytes::from(body),
            Err(error) => return Delivery::Refused(format!("it cannot be written: {error}")),
        };
        let secrets = match self.secrets.live(now).await {
            Ok(secrets) => secrets,
            // Never unsigned only because the store is away: the receiver could not tell it from a forged one.
            Err(error) => return Delivery::NotSent(format!("it cannot be signed: {error}")),
        };
        let headers = headers(notice.request.id.as_str(), &secrets, &body);
        self.send(&notice.endpoint, headers, body).await
    }

    async fn send(&self, endpoint: &str, headers: HeaderMap, body: Bytes) -> Delivery {
        // Again, because the server may have been started with other options since.
        if let Err(error) = self.addresses.check_endpoint(endpoint) {
            return Delivery::Refused(error.to_string());
        }
        let url = match Url::parse(endpoint) {
            Ok(url) => url,
            Err(error) => return Delivery::Refused(error.to_string()),
        };
        let client = if is_loopback(&url) {
            &self.local
        } else {
            &self.outward
        };
        let request = client.post(url).headers(headers).body(body);
        match request.send().await {
            Ok(response) if response.status().is_success() => Delivery::Taken,
            Ok(response) => {
                let reason = format!("the receiver answered {}", response.status());
                match response.status() {
                    StatusCode::INTERNAL_SERVER_ERROR
                    | StatusCode::BAD_GATEWAY
                    | StatusCode::SERVICE_UNAVAILABLE
                    | StatusCode::GATEWAY_TIMEOUT => Delivery::Unreachable(reason),
                    _ => Delivery::Refused(reason),
                }
            }
            Err(error) => {
                let reason = explain(&error);
                match forbidden(&error) {
                    true => Delivery::Refused(reason),
                    false => Delivery::Unreachable(reason),
                }
            }
        }
    }
}

/// An error with its causes, and without the address: its query may hold what the receiver keeps secret.
fn explain(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("the receiver did not answer within {TIMEOUT:?}");
    }
    let mut text = String::from("the request failed");
    let mut cause = std::error::Error::source(error);
    while let Some(one) = cause {
        text = format!("{text}: {one}");
        cause = one.source();
    }
    text
}

/// Whether a name leads to an address that no webhook may go to.
fn forbidden(error: &reqwest::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(one) = cause {
        if one.is::<ForbiddenAddress>() {
            return true;
        }
        cause = one.source();
    }
    false
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
