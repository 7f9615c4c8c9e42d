//! Webhooks against a receiver that listens.

use std::sync::Mutex;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use samovar_store::StoreError;
use samovar_store::async_requests::{AsyncRequest, Claim};
use samovar_types::async_request::{AsyncErrorCode, AsyncRequestId, AsyncStatus, WebhookStatus};
use serde_json::{Value, json};

use super::*;

/// Answers with these statuses in turn, and keeps what it got.
#[derive(Default)]
struct Receiver {
    statuses: Mutex<Vec<u16>>,
    got: Mutex<Vec<(HeaderMap, Bytes)>>,
}

async fn receive(State(receiver): State<Arc<Receiver>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    receiver.got.lock().unwrap().push((head.headers, body));
    let status = receiver.statuses.lock().unwrap().remove(0);
    let location = [("location", "/elsewhere")];
    (StatusCode::from_u16(status).unwrap(), location).into_response()
}

/// These, at any time.
struct Live(&'static [&'static str]);

#[async_trait]
impl SigningSecrets for Live {
    async fn live(&self, _: Timestamp) -> Result<Vec<SecretString>, RegistryError> {
        Ok(self.0.iter().map(|text| (*text).into()).collect())
    }
}

/// Secrets of a store that is away.
struct Away;

#[async_trait]
impl SigningSecrets for Away {
    async fn live(&self, _: Timestamp) -> Result<Vec<SecretString>, RegistryError> {
        Err(StoreError::Unavailable("as in a test".into()).into())
    }
}

fn notice(endpoint: String, body: &'static [u8]) -> Notice {
    let id: AsyncRequestId = "ab".repeat(16).parse().unwrap();
    Notice {
        claim: Claim {
            id: id.clone(),
            token: 1,
        },
        endpoint,
        request: AsyncRequest {
            id,
            model_id: "model000".parse().unwrap(),
            deployment_id: "deploy00".parse().unwrap(),
            status: AsyncStatus::Succeeded,
            webhook_status: WebhookStatus::Pending,
            webhook: None,
            created_at: Timestamp::UNIX_EPOCH,
            status_at: Timestamp::UNIX_EPOCH,
            errors: vec![AsyncError::new(AsyncErrorCode::ModelPredictError, "once")],
        },
        result: Some(AsyncResult {
            status: 200,
            content_type: None,
            body: Bytes::from_static(body),
        }),
    }
}

fn courier(allowed: &[&str], secrets: impl SigningSecrets) -> Courier {
    let allowed = allowed.iter().map(|text| text.parse().unwrap()).collect();
    Courier::new(Arc::new(secrets), Arc::new(WebhookAddresses::new(allowed))).unwrap()
}

/// What became of a webhook whose receiver answers so, sent twice, and what the receiver got.
async fn deliver(
    statuses: &[u16],
    secrets: impl SigningSecrets,
) -> (Vec<Delivery>, Vec<(HeaderMap, Bytes)>) {
    let receiver = Arc::new(Receiver::default());
    *receiver.statuses.lock().unwrap() = statuses.to_vec();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let router = Router::new().fallback(receive).with_state(receiver.clone());
    let serving = tokio::spawn(async move { axum::serve(listener, router).await });
    let courier = courier(&["loopback"], secrets);
    let notice = notice(url, br#"{"sum":1.50}"#);
    let mut told = Vec::new();
    for _ in statuses {
        told.push(courier.deliver(&notice, Timestamp::UNIX_EPOCH).await);
    }
    serving.abort();
    let got = std::mem::take(&mut *receiver.got.lock().unwrap());
    (told, got)
}

#[tokio::test]
async fn a_receiver_gets_what_it_can_check() {
    let (told, got) = deliver(&[204], Live(&["whsec_new", "whsec_old"])).await;
    assert_eq!(told, [Delivery::Taken]);
    let (headers, body) = &got[0];
    assert_eq!(headers["content-type"], "application/json");
    for name in REQUEST_IDS {
        assert_eq!(headers[name], "ab".repeat(16));
    }
    let signatures = headers["x-samovar-signature"].to_str().unwrap();
    assert_eq!(headers["x-baseten-signature"], signatures);
    let signatures: Vec<_> = signatures.split(',').collect();
    assert_eq!(signatures.len(), 2);
    for (signature, secret) in signatures.into_iter().zip(["whsec_new", "whsec_old"]) {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(body);
        let given = hex::decode(signature.strip_prefix("v1=").unwrap()).unwrap();
        mac.verify_slice(&given).unwrap();
    }
    assert!(body.windows(12).any(|part| part == br#"{"sum":1.50}"#));
    let message: Value = serde_json::from_slice(body).unwrap();
    assert_eq!(
        message,
        json!({
            "request_id": "ab".repeat(16), "model_id": "model000", "deployment_id": "deploy00",
            "type": "async_request_completed", "time": "1970-01-01T00:00:00Z", "data": {"sum": 1.5},
            "errors": [{"code": "MODEL_PREDICT_ERROR", "message": "once"}],
        })
    );
}

#[tokio::test]
async fn an_answer_says_whether_another_attempt_is_worth_it() {
    let (told, got) = deliver(&[503, 500, 504, 200], Live(&[])).await;
    for (told, status) in told.iter().zip(["503", "500", "504"]) {
        assert!(
            matches!(told, Delivery::Unreachable(reason) if reason.contains(status)),
            "{told:?}"
        );
    }
    assert_eq!(told[3], Delivery::Taken);
    assert_eq!(got[0].1, got[3].1);
    assert!(!got[0].0.contains_key("x-samovar-signature"));
    // A redirect is a refusal.
    let (told, got) = deliver(&[400, 404, 307, 302], Live(&[])).await;
    assert_eq!(got.len(), 4);
    for told in told {
        assert!(matches!(told, Delivery::Refused(_)), "{told:?}");
    }
}

#[tokio::test]
async fn nothing_is_sent_when_the_secrets_cannot_be_read() {
    let (told, got) = deliver(&[204], Away).await;
    assert!(
        matches!(&told[..], [Delivery::NotSent(reason)] if reason.contains("as in a test")),
        "{told:?}"
    );
    assert!(got.is_empty());
}

#[tokio::test]
async fn a_receiver_that_is_not_there_is_told_without_its_address() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook?secret=1", listener.local_addr().unwrap());
    drop(listener);
    let courier = courier(&["loopback"], Live(&[]));
    let notice = notice(url, b"1");
    match courier.deliver(&notice, Timestamp::UNIX_EPOCH).await {
        Delivery::Unreachable(reason) => {
            assert!(
                reason.contains("refused") && !reason.contains("secret"),
                "{reason}"
            );
        }
        told => panic!("{told:?}"),
    }
}

#[tokio::test]
async fn nothing_is_sent_to_this_machine_unless_that_is_allowed() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let courier = courier(&["private"], Live(&[]));
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
        let url = format!("https://{host}:{port}/");
        let notice = notice(url, b"1");
        match courier.deliver(&notice, Timestamp::UNIX_EPOCH).await {
            Delivery::Refused(reason) => assert!(reason.contains("--webhook-allow"), "{reason}"),
            told => panic!("{host}: {told:?}"),
        }
    }
    let reached = futures::FutureExt::now_or_never(listener.accept());
    assert!(reached.is_none());
}

#[test]
fn a_signature_is_the_standard_one() {
    // Test case 2 of RFC 4231.
    let signed = signature(&["Jefe".into()], b"what do ya want for nothing?");
    let wanted = "v1=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
    assert_eq!(signed.as_deref(), Some(wanted));
    assert_eq!(signature(&[], b"x"), None);
}

#[test]
fn data_is_json_or_text_or_nothing() {
    let data = |body| {
        let notice = notice(String::new(), body);
        let message = message(&notice, Timestamp::UNIX_EPOCH).unwrap();
        let message: Value = serde_json::from_slice(&message).unwrap();
        message["data"].clone()
    };
    assert_eq!(data(b"[1]"), json!([1]));
    assert_eq!(data(b"hello \"you\""), json!("hello \"you\""));
    assert_eq!(data(b""), json!(""));
    assert_eq!(data(b"\xff\xfe"), Value::Null);
}
