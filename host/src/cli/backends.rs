//! `samovar backends`: which inference backends the server has, and why others cannot be used.

use serde_json::Value;

use super::client::Client;
use super::output::{self, Format, cell};

/// Prints them.
pub async fn run(client: &Client, format: Format) -> anyhow::Result<()> {
    let answer = client.get("/v1/backends").await?;
    match format {
        Format::Json => output::document(&answer),
        Format::Text => output::table(
            &["BACKEND", "VERSION", "TARGETS", "AVAILABLE", "WHERE"],
            rows(&answer),
            "no backends",
        ),
    }
}

fn rows(answer: &Value) -> Vec<Vec<String>> {
    let backends = answer["backends"].as_array();
    let row = |backend: &Value| {
        let targets = backend["targets"].as_array().into_iter().flatten();
        let targets: Vec<_> = targets.map(cell).collect();
        let available = match backend["available"].as_bool() {
            Some(true) => "yes".into(),
            _ => format!("no: {}", cell(&backend["reason"])),
        };
        vec![
            cell(&backend["name"]),
            cell(&backend["version"]),
            targets.join(", "),
            available,
            cell(&backend["path"]),
        ]
    };
    backends.into_iter().flatten().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_backend_that_lacks_says_why() {
        let answer = json!({"backends": [
            {"name": "rten", "version": "0.27", "path": null, "targets": ["cpu"], "available": true, "reason": null},
            {"name": "onnxruntime", "version": null, "path": null, "targets": ["cpu", "gpu"], "available": false, "reason": "not found"},
        ]});
        assert_eq!(
            rows(&answer),
            [
                ["rten", "0.27", "cpu", "yes", "-"],
                ["onnxruntime", "-", "cpu, gpu", "no: not found", "-"],
            ]
        );
    }
}
