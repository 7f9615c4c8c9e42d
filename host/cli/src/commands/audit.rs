//! `samovar audit`: who changed what.

use std::time::Duration;

use jiff::Timestamp;
use samovar_client::Client;
use samovar_client::text::printable;
use serde_json::{Value, json};

use crate::identifier;
use crate::output::{self, Format, cell};

/// Entries of one page, the server's own bound.
const PAGE: usize = 200;

/// What it is given.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only about the model of this name or id, also when it is deleted
    #[arg(long, value_parser = identifier)]
    model: Option<String>,
    /// Only the last so much time, as `24h` or `7d`; 90 days are kept
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    since: Option<Duration>,
    /// Only by this key's prefix, or by `system`, or by `anyone`
    #[arg(long, value_parser = identifier)]
    actor: Option<String>,
    /// Only of this type, as `MODEL_DEPLOYED`; may come more than once
    #[arg(long = "type", value_name = "TYPE", value_parser = identifier)]
    event_types: Vec<String>,
    /// The newest so many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

/// Prints it, the newest first.
pub async fn run(client: &Client, arguments: Arguments, format: Format) -> anyhow::Result<()> {
    let limit = usize::try_from(arguments.limit).unwrap_or(usize::MAX);
    let mut entries: Vec<Value> = Vec::new();
    let mut cursor: Option<String> = None;
    let more = loop {
        let wanted = (limit - entries.len()).min(PAGE);
        let path = address(&arguments, wanted, cursor.as_deref(), Timestamp::now())?;
        let mut answer = client.get(&path).await?;
        if let Value::Array(items) = answer["items"].take() {
            entries.extend(items);
        }
        cursor = answer["pagination"]["cursor"].as_str().map(str::to_owned);
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
                entries.iter().map(row).collect(),
                "nothing was changed",
            )?;
            if more {
                output::note("there are more: give a larger --limit\n");
            }
            Ok(())
        }
    }
}

fn address(
    arguments: &Arguments,
    limit: usize,
    cursor: Option<&str>,
    now: Timestamp,
) -> anyhow::Result<String> {
    // Only for its escapes; the client knows where the server is.
    let mut url = reqwest::Url::parse("http://server/v1/audit_logs")?;
    {
        let mut query = url.query_pairs_mut();
        query.append_pair("limit", &limit.to_string());
        let start = arguments.since.map(|since| {
            let since = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
            now.as_millisecond().saturating_sub(since).max(0)
        });
        if let Some(start) = start {
            query.append_pair("start_epoch_millis", &start.to_string());
        }
        let model = arguments.model.as_deref().map(|model| ("model", model));
        let actor = arguments.actor.as_deref().map(|actor| ("user_ids", actor));
        let types = arguments.event_types.iter();
        let types = types.map(|one| ("event_types", one.as_str()));
        for (name, value) in model.into_iter().chain(actor).chain(types) {
            query.append_pair(name, value);
        }
        if let Some(cursor) = cursor {
            query.append_pair("cursor", cursor);
        }
    }
    Ok(format!(
        "{}?{}",
        url.path(),
        url.query().unwrap_or_default()
    ))
}

/// An entry as a row.
pub fn row(entry: &Value) -> Vec<String> {
    let data = &entry["event_data"];
    vec![
        time(&entry["created"]),
        who(&entry["actor"]),
        cell(&entry["event_type"]),
        cell(&data["model_name"]),
        cell(&data["deployment_name"]),
        cell(&data["environment_name"]),
        detail(data),
    ]
}

/// To the second: ids order what is closer.
fn time(value: &Value) -> String {
    let time: Option<Timestamp> = value.as_str().and_then(|text| text.parse().ok());
    time.map_or_else(
        || cell(value),
        |time| time.strftime("%Y-%m-%d %H:%M:%S").to_string(),
    )
}

fn who(actor: &Value) -> String {
    match (&actor["api_key_prefix"], &actor["api_key_name"]) {
        (Value::String(_), Value::String(name)) => {
            format!("{} ({})", cell(&actor["api_key_prefix"]), printable(name))
        }
        (Value::String(_), _) => cell(&actor["api_key_prefix"]),
        _ if actor["type"] == "BASETEN_SYSTEM" => "system".into(),
        _ => "anyone".into(),
    }
}

/// What tells this change from others of its kind.
fn detail(data: &Value) -> String {
    if let Some(before) = data["previous_settings"].as_object() {
        let changed = before.iter().filter(|(name, value)| data[name] != **value);
        let changed =
            changed.map(|(name, value)| format!("{name} {} → {}", cell(value), cell(&data[name])));
        return changed.collect::<Vec<_>>().join(", ");
    }
    for name in ["previous_name", "previous_policy"] {
        if !data[name].is_null() {
            return format!("was {}", cell(&data[name]));
        }
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
    let fact = facts.into_iter().find(|name| !data[name].is_null());
    fact.map_or_else(String::new, |name| cell(&data[name]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_row() {
        let entry = json!({
            "created": "2026-11-24T13:14:15.161718Z",
            "event_type": "ENVIRONMENT_UPDATED",
            "actor": { "type": "API_KEY", "api_key_prefix": "abcd1234", "api_key_name": "ci\u{1b}" },
            "event_data": {
                "model_name": "m", "environment_name": "staging", "max_replica": 3, "min_replica": 0,
                "previous_settings": { "max_replica": 1, "min_replica": 0 },
            },
        });
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
        assert_eq!(who(&json!({ "type": "BASETEN_SYSTEM" })), "system");
        assert_eq!(who(&json!({ "type": "ANYONE" })), "anyone");
        let renamed = json!({ "previous_name": "old" });
        assert_eq!(detail(&renamed), "was old");
        assert_eq!(detail(&json!({ "action": "PAUSE" })), "PAUSE");
        assert_eq!(detail(&Value::Null), "");
    }

    #[test]
    fn what_is_asked_is_escaped() {
        let arguments = Arguments {
            model: Some("m".into()),
            since: Some(Duration::from_secs(10)),
            actor: Some("system".into()),
            event_types: vec!["A".into(), "B".into()],
            limit: 7,
        };
        let now = Timestamp::from_second(60).unwrap();
        assert_eq!(
            address(&arguments, 7, Some("D.x/y"), now).unwrap(),
            "/v1/audit_logs?limit=7&start_epoch_millis=50000&model=m&user_ids=system\
             &event_types=A&event_types=B&cursor=D.x%2Fy"
        );
    }
}
