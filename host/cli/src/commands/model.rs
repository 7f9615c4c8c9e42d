//! `samovar model`: the models of a server.

use clap::Subcommand;
use jiff::Timestamp;
use samovar_bundle::open_inference;
use samovar_client::text::printable;
use samovar_client::{Client, Target};
use samovar_types::api::models::{ListModelsResponse, ModelResponse};
use samovar_types::bundle::Bundle;

use crate::confirm::Consent;
use crate::identifier;
use crate::output::{self, Format, or_dash, since};

#[derive(Debug, Subcommand)]
pub enum Action {
    /// List all models
    List,
    /// Show a model
    Show {
        /// The model's name or id
        #[arg(value_parser = identifier)]
        model: String,
    },
    /// Rename a model; its id and its addresses by id stay valid
    Rename {
        /// The model's name or id
        #[arg(value_parser = identifier)]
        model: String,
        /// The new name
        #[arg(value_parser = identifier)]
        name: String,
    },
    /// Delete a model and all its deployments
    Delete {
        /// The model's name or id
        #[arg(value_parser = identifier)]
        model: String,
        #[command(flatten)]
        consent: Consent,
    },
}

pub async fn run(client: &Client, action: Action, format: Format) -> anyhow::Result<()> {
    let now = Timestamp::now();
    match action {
        Action::List => {
            let answer = client.models().await?;
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
            let answer = client.model(&model).await?;
            match format {
                Format::Json => output::document(&answer),
                Format::Text => {
                    let bundle = production_bundle(client, &model, &answer).await;
                    output::properties(&properties(&answer, bundle.as_ref(), client, now))
                }
            }
        }
        Action::Rename { model, name } => {
            let answer = client.rename_model(&model, &name).await?;
            match format {
                Format::Json => output::document(&answer),
                Format::Text => output::line(&format!(
                    "renamed model {model} to {name}; its address is now {}/models/{name}, and still {}/models/{} by id",
                    client.url(),
                    client.url(),
                    answer.id
                )),
            }
        }
        Action::Delete { model, consent } => {
            consent.ask(&format!("delete model {model} and all its deployments"))?;
            let answer = client.delete_model(&model).await?;
            match format {
                Format::Json => output::document(&answer),
                Format::Text => output::line(&format!("deleted model {model}")),
            }
        }
    }
}

fn rows(answer: &ListModelsResponse, now: Timestamp) -> Vec<Vec<String>> {
    let row = |model: &ModelResponse| {
        vec![
            printable(&model.name),
            model.id.to_string(),
            model.deployments_count.to_string(),
            or_dash(model.production_deployment_id),
            since(model.created_at, now),
        ]
    };
    answer.models.iter().map(row).collect()
}

/// The deployment in production, if there is one and the key may see it.
async fn production_bundle(client: &Client, model: &str, answer: &ModelResponse) -> Option<Bundle> {
    let id = answer.production_deployment_id?;
    let shown = client.config(model, id.as_str()).await;
    shown.ok()?.into_inner().config?.known().cloned()
}

/// The URL of production, and an example request if one is known.
fn call(name: &str, bundle: Option<&Bundle>, client: &Client) -> Vec<(&'static str, String)> {
    let base = client.inference_url(name, Target::Production);
    if let Some(bundle) = bundle
        && bundle.files.contains_key(open_inference::DESCRIPTION)
    {
        // The built-in component has no other address.
        let model = format!("/v2/models/{}", printable(&bundle.name));
        return vec![
            ("url", format!("{base}/sync{model}/infer")),
            (
                "try",
                format!("samovar predict {name} --path {model} -X GET"),
            ),
        ];
    }
    let mut lines = vec![("url", format!("{base}/predict"))];
    if let Some(example) = bundle.and_then(|bundle| bundle.example.as_deref()) {
        let example = output::quoted(example);
        lines.push(("try", format!("samovar predict {name} -d {example}")));
    }
    lines
}

fn properties(
    model: &ModelResponse,
    bundle: Option<&Bundle>,
    client: &Client,
    now: Timestamp,
) -> Vec<(&'static str, String)> {
    let name = printable(&model.name);
    let mut lines = vec![
        ("name", name.clone()),
        ("id", model.id.to_string()),
        ("created", since(model.created_at, now)),
        ("deployments", model.deployments_count.to_string()),
        ("production", or_dash(model.production_deployment_id)),
        ("development", or_dash(model.development_deployment_id)),
    ];
    if model.production_deployment_id.is_some() {
        lines.extend(call(&name, bundle, client));
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_model_is_a_row_and_properties() {
        let model: ModelResponse = serde_json::from_value(json!({
            "id": "abcd1234", "created_at": "2026-01-01T00:00:00Z", "name": "magika", "deployments_count": 2,
            "production_deployment_id": "dep12345", "development_deployment_id": null,
            "instance_type_name": "cpu", "team_name": "default",
        }))
        .unwrap();
        let now = "2026-01-01T00:03:00Z".parse().unwrap();
        let models = vec![model.clone()];
        assert_eq!(
            rows(&ListModelsResponse { models }, now),
            [["magika", "abcd1234", "2", "dep12345", "3 min ago"]]
        );
        let client = Client::new("http://h", None).unwrap();
        let component = json!({ "digest": "0".repeat(64), "size": 1 });
        let bundle = |more: serde_json::Value| -> Bundle {
            let mut fields = json!({ "name": "magika", "component": component });
            let more = more.as_object().unwrap().clone();
            fields.as_object_mut().unwrap().extend(more);
            serde_json::from_value(fields).unwrap()
        };
        let lines = properties(&model, None, &client, now);
        assert!(lines.contains(&("development", "-".into())));
        let url = "http://h/models/magika/production/predict";
        assert!(lines.contains(&("url", url.into())));
        let lines = properties(
            &model,
            Some(&bundle(json!({ "example": "it's" }))),
            &client,
            now,
        );
        let call = r"samovar predict magika -d 'it'\''s'";
        assert!(lines.contains(&("try", call.into())), "{lines:?}");
        let files = json!({ "files": { open_inference::DESCRIPTION: component } });
        let lines = properties(&model, Some(&bundle(files)), &client, now);
        let base = "/v2/models/magika";
        let url = format!("http://h/models/magika/production/sync{base}/infer");
        assert!(lines.contains(&("url", url)), "{lines:?}");
        let call = format!("samovar predict magika --path {base} -X GET");
        assert!(lines.contains(&("try", call)), "{lines:?}");
    }
}
