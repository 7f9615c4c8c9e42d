//! `samovar model`: the models of a server.

use clap::Subcommand;
use jiff::Timestamp;
use reqwest::Method;
use samovar_bundle::open_inference;
use samovar_client::{ANSWER_TIMEOUT, Client};
use serde_json::{Value, json};

use crate::confirm::Consent;
use crate::identifier;
use crate::output::{self, Format, cell, since};

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// List all models
    List,
    /// Show a model
    Show {
        /// Its name or id
        #[arg(value_parser = identifier)]
        model: String,
    },
    /// Rename a model; its id and addresses by id stay
    Rename {
        /// Its name or id
        #[arg(value_parser = identifier)]
        model: String,
        /// Its new name
        #[arg(value_parser = identifier)]
        name: String,
    },
    /// Delete a model and all its deployments
    Delete {
        /// Its name or id
        #[arg(value_parser = identifier)]
        model: String,
        #[command(flatten)]
        consent: Consent,
    },
}

/// Does it.
pub async fn run(client: &Client, action: Action, format: Format) -> anyhow::Result<()> {
    let now = Timestamp::now();
    match action {
        Action::List => {
            let answer = client.get("/v1/models").await?;
            match format {
                Format::Json => output::document(&answer),
                Format::Text => output::table(
                    &["NAME", "ID", "DEPLOYMENTS", "PRODUCTION", "CREATED"],
                    rows(&answer, now),
                    "no models: push one with `samovar push`",
                ),
            }
        }
        Action::Show { model } => {
            let answer = client.get(&format!("/v1/models/{model}")).await?;
            match format {
                Format::Json => output::document(&answer),
                Format::Text => {
                    let bundle = production_bundle(client, &model, &answer).await;
                    output::properties(&properties(&answer, &bundle, client.url(), now))
                }
            }
        }
        Action::Rename { model, name } => {
            let path = format!("/v1/models/{model}");
            let body = json!({ "name": name });
            let request = client.request(Method::PATCH, &path)?.json(&body);
            let answer = client.json(request.timeout(ANSWER_TIMEOUT)).await?;
            match format {
                Format::Json => output::document(&answer),
                Format::Text => output::line(&format!(
                    "renamed the model {model} to {name}; its address is {}/models/{name} now, and by id as before {}/models/{}",
                    client.url(),
                    client.url(),
                    cell(&answer["id"])
                )),
            }
        }
        Action::Delete { model, consent } => {
            consent.ask(&format!("delete the model {model} and all its deployments"))?;
            let answer = client.delete(&format!("/v1/models/{model}")).await?;
            match format {
                Format::Json => output::document(&answer),
                Format::Text => output::line(&format!("deleted the model {model}")),
            }
        }
    }
}

fn rows(answer: &Value, now: Timestamp) -> Vec<Vec<String>> {
    let models = answer["models"].as_array().into_iter().flatten();
    models
        .map(|model| {
            vec![
                cell(&model["name"]),
                cell(&model["id"]),
                cell(&model["deployments_count"]),
                cell(&model["production_deployment_id"]),
                since(&model["created_at"], now),
            ]
        })
        .collect()
}

/// What production runs; nothing when there is none, or when it may not be seen.
async fn production_bundle(client: &Client, model: &str, answer: &Value) -> Value {
    let Some(id) = answer["production_deployment_id"].as_str() else {
        return Value::Null;
    };
    let path = format!("/v1/models/{model}/deployments/{id}/config");
    let mut answer = client.get(&path).await.unwrap_or_default();
    answer["config"].take()
}

/// Where production is called, and a request that it answers if one is known.
fn call(name: &str, bundle: &Value, url: &str) -> Vec<(&'static str, String)> {
    let base = format!("{url}/models/{name}/production");
    let served = cell(&bundle["name"]);
    if !bundle["files"][open_inference::DESCRIPTION].is_null() {
        // The built-in component has no other address.
        let model = format!("/v2/models/{served}");
        return vec![
            ("url", format!("{base}/sync{model}/infer")),
            (
                "try",
                format!("samovar predict {name} --path {model} -X GET"),
            ),
        ];
    }
    let mut lines = vec![("url", format!("{base}/predict"))];
    if let Some(example) = bundle["example"].as_str() {
        let example = output::quoted(example);
        lines.push(("try", format!("samovar predict {name} -d {example}")));
    }
    lines
}

fn properties(
    model: &Value,
    bundle: &Value,
    url: &str,
    now: Timestamp,
) -> Vec<(&'static str, String)> {
    let mut lines = vec![
        ("name", cell(&model["name"])),
        ("id", cell(&model["id"])),
        ("created", since(&model["created_at"], now)),
        ("deployments", cell(&model["deployments_count"])),
        ("production", cell(&model["production_deployment_id"])),
        ("development", cell(&model["development_deployment_id"])),
    ];
    if !model["production_deployment_id"].is_null() {
        let name = cell(&model["name"]);
        lines.extend(call(&name, bundle, url));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_a_row_and_properties() {
        let model = json!({
            "id": "abcd1234", "created_at": "2026-01-01T00:00:00Z", "name": "magika", "deployments_count": 2,
            "production_deployment_id": "dep12345", "development_deployment_id": null,
        });
        let now = "2026-01-01T00:03:00Z".parse().unwrap();
        assert_eq!(
            rows(&json!({"models": [model]}), now),
            [["magika", "abcd1234", "2", "dep12345", "3 min ago"]]
        );
        let shown = |bundle| properties(&model, &bundle, "http://h", now);
        let lines = shown(Value::Null);
        assert!(lines.contains(&("development", "-".into())));
        let url = "http://h/models/magika/production/predict";
        assert!(lines.contains(&("url", url.into())));
        let lines = shown(json!({ "name": "magika", "example": "it's" }));
        let call = r"samovar predict magika -d 'it'\''s'";
        assert!(lines.contains(&("try", call.into())), "{lines:?}");
        let file = json!({ open_inference::DESCRIPTION: { "digest": "0", "size": 1 } });
        let lines = shown(json!({ "name": "magika", "files": file }));
        let base = "/v2/models/magika";
        let url = format!("http://h/models/magika/production/sync{base}/infer");
        assert!(lines.contains(&("url", url)), "{lines:?}");
        let call = format!("samovar predict magika --path {base} -X GET");
        assert!(lines.contains(&("try", call)), "{lines:?}");
        assert!(rows(&json!([]), now).is_empty());
    }
}
