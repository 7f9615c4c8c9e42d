//! `samovar key`: the API keys of a server.

use clap::{Subcommand, ValueEnum};
use jiff::Timestamp;
use reqwest::Method;
use samovar_client::text::printable;
use samovar_client::{ANSWER_TIMEOUT, Client};
use samovar_types::api_key::KeyType;
use serde_json::{Value, json};

use crate::confirm::Consent;
use crate::identifier;
use crate::output::{self, Format, cell, since};

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// List all keys, without their secret parts
    List,
    /// Make a key and print it, once, on standard output
    Create {
        /// What it is for
        #[arg(long = "type", value_enum, ignore_case = true, value_name = "TYPE")]
        key_type: Type,
        /// What to call it
        #[arg(long)]
        name: Option<String>,
        /// Limit it to this model, by name or id; may be given more than once
        #[arg(long = "model", value_name = "MODEL", value_parser = identifier)]
        models: Vec<String>,
    },
    /// Delete a key; it is refused from then on
    Delete {
        /// Its public part, before the dot
        #[arg(value_parser = identifier)]
        prefix: String,
        #[command(flatten)]
        consent: Consent,
    },
}

/// What a key is for.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Type {
    /// Everything, for one person
    #[value(alias = "PERSONAL")]
    Personal,
    /// Everything
    #[value(alias = "WORKSPACE_MANAGE_ALL")]
    ManageAll,
    /// Making and deleting keys
    #[value(alias = "WORKSPACE_MANAGE_API_KEYS")]
    ManageApiKeys,
    /// Calling models
    #[value(alias = "WORKSPACE_INVOKE")]
    Invoke,
    /// Reading metrics
    #[value(alias = "WORKSPACE_EXPORT_METRICS")]
    ExportMetrics,
}

impl From<Type> for KeyType {
    fn from(key_type: Type) -> Self {
        match key_type {
            Type::Personal => Self::Personal,
            Type::ManageAll => Self::WorkspaceManageAll,
            Type::ManageApiKeys => Self::WorkspaceManageApiKeys,
            Type::Invoke => Self::WorkspaceInvoke,
            Type::ExportMetrics => Self::WorkspaceExportMetrics,
        }
    }
}

/// Does it.
pub async fn run(client: &Client, action: Action, format: Format) -> anyhow::Result<()> {
    match action {
        Action::List => {
            let answer = client.get("/v1/api_keys").await?;
            match format {
                Format::Json => output::document(&answer),
                Format::Text => output::table(
                    &["PREFIX", "TYPE", "NAME", "MODELS", "CREATED"],
                    rows(&answer, Timestamp::now()),
                    "no keys: make one with `samovar key create --type invoke`",
                ),
            }
        }
        Action::Create {
            key_type,
            name,
            models,
        } => {
            let body = json!({
                "type": KeyType::from(key_type),
                "name": name,
                "model_ids": (!models.is_empty()).then_some(models),
            });
            let request = client.request(Method::POST, "/v1/api_keys")?;
            let answer = client
                .json(request.json(&body).timeout(ANSWER_TIMEOUT))
                .await?;
            match format {
                Format::Json => output::document(&answer),
                Format::Text => {
                    let prefix = cell(&answer["prefix"]);
                    output::note(&format!("made the key {prefix}; it is shown this once:\n"));
                    output::line(&printable(answer["api_key"].as_str().unwrap_or_default()))
                }
            }
        }
        Action::Delete { prefix, consent } => {
            consent.ask(&format!("delete the API key {prefix}"))?;
            let answer = client.delete(&format!("/v1/api_keys/{prefix}")).await?;
            match format {
                Format::Json => output::document(&answer),
                Format::Text => output::line(&format!("deleted the API key {prefix}")),
            }
        }
    }
}

fn rows(answer: &Value, now: Timestamp) -> Vec<Vec<String>> {
    let keys = answer["keys"].as_array().into_iter().flatten();
    keys.map(|key| {
        let models = key["model_ids"].as_array().into_iter().flatten();
        let models: Vec<String> = models.map(cell).collect();
        vec![
            cell(&key["prefix"]),
            cell(&key["type"]),
            cell(&key["name"]),
            if models.is_empty() {
                "all".into()
            } else {
                models.join(" ")
            },
            since(&key["created_at"], now),
        ]
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_row() {
        let key = json!({
            "prefix": "abcd1234", "type": "WORKSPACE_INVOKE", "name": null, "model_ids": ["m1", "m2"],
            "created_at": "2026-01-01T00:00:00Z",
        });
        let now = "2026-01-01T00:03:00Z".parse().unwrap();
        assert_eq!(
            rows(&json!({"keys": [key]}), now),
            [["abcd1234", "WORKSPACE_INVOKE", "-", "m1 m2", "3 min ago"]]
        );
    }

    #[test]
    fn types_are_known_by_the_names_of_the_api_too() {
        for (text, wanted) in [
            ("invoke", KeyType::WorkspaceInvoke),
            ("WORKSPACE_MANAGE_ALL", KeyType::WorkspaceManageAll),
            ("manage-api-keys", KeyType::WorkspaceManageApiKeys),
        ] {
            let found = Type::from_str(text, true).unwrap();
            assert_eq!(KeyType::from(found), wanted);
        }
    }
}
