//! `samovar audit`: who changed what.

use std::time::Duration;

use jiff::Timestamp;
use samovar_client::text::printable;
use samovar_client::{Client, Received};
use samovar_types::api::audit::{AuditActor, AuditEntryResponse, AuditQuery};
use serde_json::{Value, json};

use crate::identifier;
use crate::output::{self, Format, cell};

/// Entries of one page, the server's own bound.
const PAGE: usize = 200;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Show only changes of the model with this name or id, which may be deleted
    #[arg(long, value_parser = identifier)]
    model: Option<String>,
    /// Show only changes within this time, such as `24h` or `7d`; the server keeps 90 days
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    since: Option<Duration>,
    /// Show only changes by the key with this prefix, by `system`, or by `anyone`
    #[arg(long, value_parser = identifier)]
    actor: Option<String>,
    /// Show only changes of this type, such as `MODEL_DEPLOYED`; may be repeated
    #[arg(long = "type", value_name = "TYPE", value_parser = identifier)]
    event_types: Vec<String>,
    /// Number of entries to show, newest first
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

/// Prints the newest entries first.
pub async fn run(client: &Client, arguments: Arguments, format: Format) -> anyhow::Result<()> {
    let limit = usize::try_from(arguments.limit).unwrap_or(usize::MAX);
    let mut entries: Vec<Received<AuditEntryResponse>> = Vec::new();
    let mut cursor: Option<String> = None;
    let more = loop {
        let wanted = (limit - entries.len()).min(PAGE);
        let query = query(&arguments, wanted, cursor, Timestamp::now());
        let page = client.audit_log(&query).await?;
        entries.extend(page.items("items", |page| &page.items));
        cursor = page.into_inner().pagination.cursor;
        if cursor.is_none() || entries.len() >= limit {
            break cursor.is_some();
        }
    };
    match format {
        Format::Json => output::document(&json!({ "items": entries })),
        Format::Text => {
            output::table(
                &[
                    "TIME",
                    "WHO",
                    "WHAT",
                    "MODEL",
                    "DEPLOYMENT",
                    "ENVIRONMENT",
                    "DETAIL",
                ],
                entries.iter().map(|entry| row(entry)).collect(),
                "no changes",
            )?;
            if more {
                output::note("there are more: use a larger --limit\n");
            }
            Ok(())
        }
    }
}

fn query(
    arguments: &Arguments,
    limit: usize,
    cursor: Option<String>,
    now: Timestamp,
) -> AuditQuery {
    let start = arguments.since.map(|since| {
        let since = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        now.as_millisecond().saturating_sub(since).max(0)
    });
    AuditQuery {
        cursor,
        limit: Some(limit),
        event_types: arguments.event_types.clone(),
        user_ids: arguments.actor.iter().cloned().collect(),
        model: arguments.model.clone(),
        start_epoch_millis: start,
        ..AuditQuery::default()
    }
}

/// An entry as a row.
pub fn row(entry: &AuditEntryResponse) -> Vec<String> {
    let data = &entry.event_data;
    let fact = |name: &str| data.get(name).map_or_else(|| "-".into(), cell);
    vec![
        // To the second: ids order what is closer.
        entry.created.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        who(&entry.actor),
        printable(&entry.event_type),
        fact("model_name"),
        fact("deployment_name"),
        fact("environment_name"),
        detail(data),
    ]
}

fn who(actor: &AuditActor) -> String {
    match (&actor.api_key_prefix, &actor.api_key_name) {
        (Some(prefix), Some(name)) => format!("{} ({})", printable(prefix), printable(name)),
        (Some(prefix), None) => printable(prefix),
        (None, _) if actor.actor_type == "BASETEN_SYSTEM" => "system".into(),
        (None, _) => "anyone".into(),
    }
}

/// The details of a change, which differ between types of events.
fn detail(data: &Value) -> String {
    let fact = |name: &str| data.get(name).filter(|value| !value.is_null());
    if let Some(Value::Object(before)) = fact("previous_settings") {
        let now = |name: &str| data.get(name).unwrap_or(&Value::Null);
        let changed = before.iter().filter(|(name, value)| now(name) != *value);
        let changed =
            changed.map(|(name, value)| format!("{name} {} → {}", cell(value), cell(now(name))));
        return changed.collect::<Vec<_>>().join(", ");
    }
    let before = ["previous_name", "previous_policy"];
    if let Some(before) = before.into_iter().find_map(fact) {
        return format!("was {}", cell(before));
    }
    let facts = [
        "action",
        "error_message",
        "status",
        "replica_id",
        "secret_name",
        "prefix",
        "webhook_signing_secret_id",
        "bundle_digest",
    ];
    facts
        .into_iter()
        .find_map(fact)
        .map_or_else(String::new, cell)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_row() {
        let entry = serde_json::from_value(json!({
            "id": "x", "source": "API", "client_name": null, "client_version": null, "client_session_id": null,
            "created": "2026-11-24T13:14:15.161718Z",
            "event_type": "ENVIRONMENT_UPDATED",
            "actor": { "type": "API_KEY", "api_key_prefix": "abcd1234", "api_key_name": "ci\u{1b}", "email": null },
            "event_data": {
                "model_name": "m", "environment_name": "staging", "max_replica": 3, "min_replica": 0,
                "previous_settings": { "max_replica": 1, "min_replica": 0 },
            },
        }))
        .unwrap();
        assert_eq!(
            row(&entry),
            [
                "2026-11-24 13:14:15",
                "abcd1234 (ci\\u{1b})",
                "ENVIRONMENT_UPDATED",
                "m",
                "-",
                "staging",
                "max_replica 1 → 3",
            ]
        );
        let actor = |actor_type: &str| AuditActor {
            actor_type: actor_type.into(),
            email: None,
            api_key_prefix: None,
            api_key_name: None,
        };
        assert_eq!(who(&actor("BASETEN_SYSTEM")), "system");
        assert_eq!(who(&actor("ANYONE")), "anyone");
        let renamed = json!({ "previous_name": "old" });
        assert_eq!(detail(&renamed), "was old");
        assert_eq!(detail(&json!({ "action": "PAUSE" })), "PAUSE");
        assert_eq!(detail(&Value::Null), "");
    }

    #[test]
    fn what_is_asked_becomes_a_query() {
        let arguments = Arguments {
            model: Some("m".into()),
            since: Some(Duration::from_secs(10)),
            actor: Some("system".into()),
            event_types: vec!["A".into(), "B".into()],
            limit: 7,
        };
        let now = Timestamp::from_second(60).unwrap();
        let pairs = query(&arguments, 7, Some("D.x/y".into()), now).pairs();
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(
            pairs.join("&"),
            "limit=7&cursor=D.x/y&event_types=A&event_types=B&user_ids=system&model=m&start_epoch_millis=50000"
        );
    }
}
