//! `samovar status`: how the server is.

use samovar_client::Client;
use serde_json::Value;

use crate::output::{self, Format, cell};

/// Prints it.
pub async fn run(client: &Client, format: Format) -> anyhow::Result<()> {
    let answer = client.get("/v1/status").await?;
    match format {
        Format::Json => output::document(&answer),
        Format::Text => {
            let mut lines = vec![("url", client.url().to_owned())];
            lines.extend(properties(&answer));
            output::properties(&lines)
        }
    }
}

fn properties(answer: &Value) -> Vec<(&str, String)> {
    let fields = answer.as_object().into_iter().flatten();
    fields
        .filter_map(|(name, value)| {
            if let (Some(name), Some(milliseconds)) = (name.strip_suffix("_ms"), value.as_u64()) {
                let whole = std::time::Duration::from_secs(milliseconds / 1000);
                return Some((name, humantime::format_duration(whole).to_string()));
            }
            let value = match value {
                Value::Object(_) => return None,
                Value::Array(values) if !values.is_empty() => values
                    .iter()
                    // A backend and the like: its name is enough here.
                    .map(|value| cell(value.get("name").unwrap_or(value)))
                    .collect::<Vec<_>>()
                    .join(", "),
                value => cell(value),
            };
            Some((name.as_str(), value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_plain_fact_is_a_line() {
        let answer = json!({
            "version": "0.1.0", "uptime_ms": 61_999, "models": 2,
            "backends": [{"name": "rten"}, "onnxruntime"], "loaded_graphs": [], "nested": {"a": 1},
        });
        let mut lines = properties(&answer);
        lines.sort();
        let wanted = [
            ("backends", "rten, onnxruntime".to_owned()),
            ("loaded_graphs", "-".to_owned()),
            ("models", "2".to_owned()),
            ("uptime", "1m 1s".to_owned()),
            ("version", "0.1.0".to_owned()),
        ];
        assert_eq!(lines, wanted);
    }
}
