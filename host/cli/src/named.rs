//! Looks up a deployment by id, by name, `production` or `development`.

use anyhow::bail;
use samovar_client::Client;
use samovar_types::api::deployments::DeploymentResponse;
use samovar_types::id::DeploymentId;
use samovar_types::names::{DEVELOPMENT, MAX_NAME_BYTES, PRODUCTION};

use crate::failure::UsageError;

/// Parses the name or id of a deployment.
pub fn deployment_name(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if (1..=MAX_NAME_BYTES).contains(&text.len()) && text.bytes().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("wanted an id, a name of at most 63 characters of [A-Za-z0-9._-], `production` or `development`".into())
    }
}

/// Looks up a deployment of a model.
pub async fn deployment(
    client: &Client,
    model: &str,
    text: &str,
) -> anyhow::Result<DeploymentResponse> {
    if matches!(text, PRODUCTION | DEVELOPMENT) {
        return Ok(client.deployment(model, text).await?.into_inner());
    }
    if text.parse::<DeploymentId>().is_ok() {
        match client.deployment(model, text).await {
            // A name may look like an id.
            Err(error) if error.is_not_found() => {}
            answer => return Ok(answer?.into_inner()),
        }
    }
    let answer = client.deployments(model).await?.into_inner();
    choose(answer.deployments, model, text)
}

fn choose(
    deployments: Vec<DeploymentResponse>,
    model: &str,
    name: &str,
) -> anyhow::Result<DeploymentResponse> {
    let mut found: Vec<_> = deployments
        .into_iter()
        .filter(|one| one.name == name)
        .collect();
    match (found.pop(), found.is_empty()) {
        (Some(one), true) => Ok(one),
        (None, _) => bail!(
            "model {model} has no deployment {name:?}: `samovar deployment list {model}` lists its deployments"
        ),
        (Some(last), false) => {
            found.push(last);
            let ids: Vec<String> = found.iter().map(|one| one.id.to_string()).collect();
            Err(UsageError {
                problem: format!(
                    "{} deployments of model {model} are called {name:?}: {}",
                    ids.len(),
                    ids.join(", ")
                ),
                hint: Some("the same command with one of these ids".into()),
            }
            .into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::deployment::example;

    #[test]
    fn a_name_has_to_mean_one() {
        let named = |id: &str, name: &str| DeploymentResponse {
            name: name.into(),
            ..example(id, "ACTIVE")
        };
        let answer = || {
            vec![
                named("aaaaaaaa", "v1.0"),
                named("bbbbbbbb", "twice"),
                named("cccccccc", "twice"),
            ]
        };
        let chosen = choose(answer(), "m", "v1.0").unwrap();
        assert_eq!(chosen.id.as_str(), "aaaaaaaa");
        let error = choose(answer(), "m", "twice").unwrap_err().to_string();
        assert!(error.contains("bbbbbbbb, cccccccc"), "{error}");
        let error = choose(answer(), "m", "none").unwrap_err().to_string();
        assert!(error.contains("samovar deployment list m"), "{error}");
    }

    #[test]
    fn names_may_have_dots_and_nothing_that_leads_elsewhere() {
        assert!(deployment_name("v1.0_a-B").is_ok());
        for bad in ["", "a/b", "a b", "a?b", &"x".repeat(64)] {
            assert!(deployment_name(bad).is_err(), "{bad}");
        }
        // A path is only ever made of the two words and of ids.
        assert!("..".parse::<DeploymentId>().is_err());
    }
}
