//! `samovar status`: shows the server's state.

use std::time::Duration;

use samovar_client::Client;
use samovar_client::text::printable;
use samovar_types::api::status::StatusResponse;

use crate::output::{self, Format, or_dash};

pub async fn run(client: &Client, format: Format) -> anyhow::Result<()> {
    let answer = client.status().await?;
    match format {
        Format::Json => output::document(&answer),
        Format::Text => {
            let mut lines = vec![("url", client.url().to_owned())];
            lines.extend(properties(&answer));
            output::properties(&lines)
        }
    }
}

/// All plain fields, and the names of backends, devices and the like.
fn properties(status: &StatusResponse) -> Vec<(&'static str, String)> {
    let uptime = Duration::from_secs(status.uptime_ms / 1000);
    let unreadable = status.unreadable_documents.iter();
    vec![
        ("version", printable(&status.version)),
        ("uptime", humantime::format_duration(uptime).to_string()),
        ("models", status.models.to_string()),
        ("deployments", status.deployments.to_string()),
        ("active_replicas", status.active_replicas.to_string()),
        (
            "loaded_graphs",
            names(status.loaded_graphs.iter().map(|one| &one.name)),
        ),
        ("engines", names(status.engines.iter().map(|one| &one.name))),
        ("confined_by", names(&status.confined_by)),
        ("allocator", printable(&status.allocator)),
        (
            "backends",
            names(status.backends.iter().map(|one| &one.name)),
        ),
        (
            "unreadable_documents",
            names(unreadable.map(|one| &one.key)),
        ),
        ("open_files_limit", or_dash(status.open_files_limit)),
    ]
}

fn names<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| printable(name)).collect();
    match names.is_empty() {
        true => "-".into(),
        false => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_plain_fact_is_a_line() {
        let backend = |name: &str| json!({ "name": name, "version": null, "path": null, "targets": [], "available": true, "reason": null });
        let status = json!({
            "version": "0.1.0", "uptime_ms": 61_999, "models": 2, "deployments": 3, "active_replicas": 1,
            "loaded_graphs": [], "graph_memory": { "limit_bytes": 1, "used_bytes": 0 }, "engines": [],
            "confined_by": ["seccomp"], "allocator": "pooling",
            "backends": [backend("rten"), backend("onnxruntime")],
            "unreadable_documents": [{ "key": "models/x", "reason": "?" }],
            "connections": { "open": 1, "max": 2 }, "open_files_limit": null,
        });
        let lines = properties(&serde_json::from_value(status).unwrap());
        for (name, value) in [
            ("backends", "rten, onnxruntime"),
            ("loaded_graphs", "-"),
            ("models", "2"),
            ("uptime", "1m 1s"),
            ("version", "0.1.0"),
            ("unreadable_documents", "models/x"),
        ] {
            assert!(lines.contains(&(name, value.to_owned())), "{lines:?}");
        }
    }
}
