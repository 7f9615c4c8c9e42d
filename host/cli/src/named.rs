//! Which deployment is meant: by id, by name, `production` or `development`.

use anyhow::bail;
use samovar_client::{Client, ClientError};
use samovar_types::id::Id;
use samovar_types::names::MAX_NAME_BYTES;
use serde_json::Value;

use crate::failure::UsageError;
use crate::output::cell;

/// Takes what a deployment may be called.
pub fn deployment_name(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if (1..=MAX_NAME_BYTES).contains(&text.len()) && text.bytes().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("wanted an id, a name of at most 63 characters of [A-Za-z0-9._-], `production` or `development`".into())
    }
}

/// The deployment of a model that is meant, as the server shows it.
pub async fn deployment(client: &Client, model: &str, text: &str) -> anyhow::Result<Value> {
    let path = format!("/v1/models/{model}/deployments");
    if matches!(text, "production" | "development") {
        return client.get(&format!("{path}/{text}")).await;
    }
    if text.parse::<Id>().is_ok() {
        match client.get(&format!("{path}/{text}")).await {
            // A name may look like an id.
            Err(error) if is_missing(&error) => {}
            answer => return answer,
        }
    }
    let answer = client.get(&path).await?;
    choose(&answer, model, text)
}

fn is_missing(error: &anyhow::Error) -> bool {
    let refused = error.downcast_ref::<ClientError>();
    matches!(refused, Some(ClientError::Refused { status, .. }) if status.as_u16() == 404)
}

fn choose(answer: &Value, model: &str, name: &str) -> anyhow::Result<Value> {
    let deployments = answer["deployments"].as_array().into_iter().flatten();
    let found: Vec<&Value> = deployments.filter(|one| one["name"] == name).collect();
    match found[..] {
        [one] => Ok(one.clone()),
        [] => bail!(
            "model {model} has no deployment {name:?}: `samovar deployment list {model}` shows those that it has"
        ),
        _ => {
            let ids: Vec<String> = found.iter().map(|one| cell(&one["id"])).collect();
            Err(UsageError {
                problem: format!(
                    "{} deployments of model {model} are called {name:?}: {}",
                    ids.len(),
                    ids.join(", ")
                ),
                hint: Some("the same with one of these ids".into()),
            }
            .into())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_name_has_to_mean_one() {
        let answer = json!({ "deployments": [
            { "id": "aaaaaaaa", "name": "v1.0" },
            { "id": "bbbbbbbb", "name": "twice" },
            { "id": "cccccccc", "name": "twice" },
        ] });
        assert_eq!(choose(&answer, "m", "v1.0").unwrap()["id"], "aaaaaaaa");
        let error = choose(&answer, "m", "twice").unwrap_err().to_string();
        assert!(error.contains("bbbbbbbb, cccccccc"), "{error}");
        let error = choose(&answer, "m", "none").unwrap_err().to_string();
        assert!(error.contains("samovar deployment list m"), "{error}");
    }

    #[test]
    fn names_may_have_dots_and_nothing_that_leads_elsewhere() {
        assert!(deployment_name("v1.0_a-B").is_ok());
        for bad in ["", "a/b", "a b", "a?b", &"x".repeat(64)] {
            assert!(deployment_name(bad).is_err(), "{bad}");
        }
        // A path is only ever made of the two words and of ids.
        assert!("..".parse::<Id>().is_err());
    }
}
