//! `samovar key`: the API keys of a server.

use clap::{Subcommand, ValueEnum};
use jiff::Timestamp;
use samovar_client::Client;
use samovar_client::text::printable;
use samovar_types::api::api_keys::{ApiKeyResponse, CreateApiKeyRequest, ListApiKeysResponse};
use samovar_types::api_key::KeyType;

use crate::confirm::Consent;
use crate::identifier;
use crate::output::{self, Format, or_dash, since, word};

#[derive(Debug, Subcommand)]
pub enum Action {
    /// List all keys, without their secret parts
    List,
    /// Create a key and print it once to standard output
    Create {
        /// What the key allows
        #[arg(long = "type", value_enum, ignore_case = true, value_name = "TYPE")]
        key_type: Type,
        /// Name of the key, for lists
        #[arg(long)]
        name: Option<String>,
        /// Limit the key to the model with this name or id; may be repeated
        #[arg(long = "model", value_name = "MODEL", value_parser = identifier)]
        models: Vec<String>,
    },
    /// Delete a key; the server refuses it at once
    Delete {
        /// Public part of the key, before the dot
        #[arg(value_parser = identifier)]
        prefix: String,
        #[command(flatten)]
        consent: Consent,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Type {
    /// Everything, for one person
    #[value(alias = "PERSONAL")]
    Personal,
    /// Everything
    #[value(alias = "WORKSPACE_MANAGE_ALL")]
    ManageAll,
    /// Creating and deleting keys
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

pub async fn run(client: &Client, action: Action, format: Format) -> anyhow::Result<()> {
    match action {
        Action::List => {
            let answer = client.api_keys().await?;
            match format {
                Format::Json => output::document(&answer),
                Format::Text => output::table(
                    &["PREFIX", "TYPE", "NAME", "MODELS", "CREATED"],
                    rows(&answer, Timestamp::now()),
                    "no keys: create one with `samovar key create --type invoke`",
                ),
            }
        }
        Action::Create {
            key_type,
            name,
            models,
        } => {
            let request = CreateApiKeyRequest {
                name,
                model_ids: (!models.is_empty()).then_some(models),
                ..CreateApiKeyRequest::new(key_type.into())
            };
            let answer = client.create_api_key(&request).await?;
            match format {
                Format::Json => output::document(&answer),
                Format::Text => {
                    let prefix = printable(&answer.prefix);
                    output::note(&format!("created key {prefix}; it is shown only now:\n"));
                    output::line(&printable(&answer.api_key))
                }
            }
        }
        Action::Delete { prefix, consent } => {
            consent.ask(&format!("delete API key {prefix}"))?;
            let answer = client.delete_api_key(&prefix).await?;
            match format {
                Format::Json => output::document(&answer),
                Format::Text => output::line(&format!("deleted API key {prefix}")),
            }
        }
    }
}

fn rows(answer: &ListApiKeysResponse, now: Timestamp) -> Vec<Vec<String>> {
    let row = |key: &ApiKeyResponse| {
        let models = key.model_ids.as_ref().map(|ids| {
            let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
            ids.join(" ")
        });
        vec![
            printable(&key.prefix),
            word(&key.key_type),
            or_dash(key.name.as_ref()),
            models.unwrap_or_else(|| "all".into()),
            since(key.created_at, now),
        ]
    };
    answer.keys.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_row() {
        let key = ApiKeyResponse {
            prefix: "abcd1234".into(),
            name: None,
            key_type: KeyType::WorkspaceInvoke.into(),
            model_ids: Some(vec![
                "model001".parse().unwrap(),
                "model002".parse().unwrap(),
            ]),
            team_name: "default".into(),
            created_at: "2026-01-01T00:00:00Z".parse().unwrap(),
        };
        let now = "2026-01-01T00:03:00Z".parse().unwrap();
        assert_eq!(
            rows(&ListApiKeysResponse { keys: vec![key] }, now),
            [[
                "abcd1234",
                "WORKSPACE_INVOKE",
                "-",
                "model001 model002",
                "3 min ago"
            ]]
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
