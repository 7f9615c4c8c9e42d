//! Reads rows of async requests.

use bytes::Bytes;
use jiff::Timestamp;
use samovar_types::async_request::{AsyncStatus, WebhookStatus};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, Sqlite};

use crate::StoreError;
use crate::async_requests::{
    AsyncRequest, AsyncResult, Claim, Notice, NoticeQueue, Place, Prediction, WebhookAttempts,
};
use crate::sqlite::errors::unavailable;

pub fn prediction(row: &SqliteRow) -> Result<Prediction, StoreError> {
    let losses: i64 = column(row, "losses")?;
    Ok(Prediction {
        claim: claim(row)?,
        place: place(row)?,
        input: Bytes::from(column::<Vec<u8>>(row, "input")?),
        errors: json(row, "errors")?,
        retry: json(row, "retry")?,
        losses: u32::try_from(losses).unwrap_or(u32::MAX),
    })
}

pub fn notice(row: &SqliteRow) -> Result<Notice, StoreError> {
    Ok(Notice {
        claim: claim(row)?,
        endpoint: column(row, "webhook_endpoint")?,
        request: request(row)?,
        result: result(row, &column(row, "result_status")?)?,
    })
}

pub fn notice_queue(row: &SqliteRow) -> Result<NoticeQueue, StoreError> {
    Ok(NoticeQueue {
        deployment_id: parsed(row, "deployment_id", |text| text.parse().ok())?,
        receiver: column(row, "webhook_host")?,
    })
}

pub fn claim(row: &SqliteRow) -> Result<Claim, StoreError> {
    Ok(Claim {
        id: parsed(row, "id", |text| text.parse().ok())?,
        token: number(column(row, "token")?),
    })
}

pub fn place(row: &SqliteRow) -> Result<Place, StoreError> {
    Ok(Place {
        model_id: parsed(row, "model_id", |text| text.parse().ok())?,
        deployment_id: parsed(row, "deployment_id", |text| text.parse().ok())?,
    })
}

pub fn request(row: &SqliteRow) -> Result<AsyncRequest, StoreError> {
    let place = place(row)?;
    let time = |name| {
        Timestamp::from_millisecond(column(row, name)?).map_err(|error| unreadable(name, &error))
    };
    let webhook_status = parsed(row, "webhook_status", WebhookStatus::named)?;
    let attempts: i64 = column(row, "webhook_attempts")?;
    let webhook = WebhookAttempts {
        attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
        last_error: column(row, "webhook_error")?,
    };
    Ok(AsyncRequest {
        id: parsed(row, "id", |text| text.parse().ok())?,
        model_id: place.model_id,
        deployment_id: place.deployment_id,
        status: parsed(row, "status", AsyncStatus::named)?,
        webhook_status,
        webhook: (webhook_status != WebhookStatus::NoWebhookProvided).then_some(webhook),
        created_at: time("created_at_ms")?,
        status_at: time("status_at_ms")?,
        errors: json(row, "errors")?,
    })
}

pub fn result(row: &SqliteRow, status: &Option<i64>) -> Result<Option<AsyncResult>, StoreError> {
    let Some(status) = status else {
        return Ok(None);
    };
    Ok(Some(AsyncResult {
        status: u16::try_from(*status).map_err(|error| unreadable("result_status", &error))?,
        content_type: column(row, "result_type")?,
        body: Bytes::from(column::<Vec<u8>>(row, "result_body")?),
    }))
}

pub fn column<'r, T>(row: &'r SqliteRow, name: &str) -> Result<T, StoreError>
where
    T: sqlx::Decode<'r, Sqlite> + sqlx::Type<Sqlite>,
{
    row.try_get(name).map_err(unavailable)
}

pub fn parsed<T>(
    row: &SqliteRow,
    name: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, StoreError> {
    let found: String = column(row, name)?;
    parse(&found).ok_or_else(|| unreadable(name, &format_args!("{found:?}")))
}

pub fn json<T: serde::de::DeserializeOwned>(row: &SqliteRow, name: &str) -> Result<T, StoreError> {
    let found: String = column(row, name)?;
    serde_json::from_str(&found).map_err(|error| unreadable(name, &error))
}

pub fn text(value: &impl serde::Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Invalid(error.to_string()))
}

pub fn unreadable(name: &str, why: &dyn std::fmt::Display) -> StoreError {
    StoreError::Unavailable(format!("a request's {name} cannot be read: {why}"))
}

pub fn number(signed: i64) -> u64 {
    signed.try_into().unwrap_or_default()
}
