//! What `samovar push` tells: what was sent, what came of it, where that is called and what to do next.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use indicatif::HumanBytes;
use serde_json::{Value, json};

use super::client::Client;
use super::deployment::init_snapshot;
use super::output::{self, Format, cell};
use crate::bundle::{LocalBlob, LocalBundle};
use crate::client_config;
use crate::domain::environment::PRODUCTION;

/// A push that went well.
pub struct Report<'a> {
    /// What was pushed.
    pub local: &'a LocalBundle,
    /// What of it the server lacked.
    pub sent: &'a [&'a LocalBlob],
    /// What it was for.
    pub target: Target<'a>,
    /// Time that the server took.
    pub took: Duration,
}

/// What a push was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// A deployment, which goes to production if nothing is there.
    Deployment,
    /// This environment.
    Environment(&'a str),
    /// The development deployment.
    Development,
}

impl Report<'_> {
    /// Tells it.
    pub fn print(&self, client: &Client, mut answer: Value, format: Format) -> anyhow::Result<()> {
        let url = url(client.url(), &answer, self.target);
        let uploaded: BTreeSet<_> = self.sent.iter().map(|one| one.digest.to_string()).collect();
        if format == Format::Json {
            if let Some(fields) = answer.as_object_mut() {
                fields.insert("uploaded".into(), json!(uploaded));
                fields.insert("url".into(), json!(url));
            }
            return output::document(&answer);
        }
        let (new, old): (Vec<&LocalBlob>, Vec<&LocalBlob>) = self
            .local
            .blobs
            .iter()
            .partition(|blob| uploaded.contains(&blob.digest.to_string()));
        let deployment = &answer["deployment"];
        let (id, name) = (cell(&deployment["id"]), cell(&deployment["name"]));
        let mut lines = vec![
            ("uploaded", files(&new)),
            ("already there", files(&old)),
            ("model", cell(&answer["model"]["name"])),
            ("deployment", format!("{id} ({name})")),
            ("status", cell(&deployment["status"])),
            ("took", format!("{} ms", self.took.as_millis())),
            ("url", url.clone()),
        ];
        if let Some(line) = init_snapshot(deployment) {
            lines.push(("snapshot", line));
        }
        output::properties(&lines)?;
        output::line("\nnext:")?;
        for line in next(&answer, self.target) {
            output::line(&format!("  {line}"))?;
        }
        output::line(&match key(client) {
            Key::None => format!("  curl {url} -d '{{}}'"),
            Key::Environment => format!("  {}", curl(&url)),
            Key::File(file) => format!(
                "  {}\n  (SAMOVAR_API_KEY being the api_key of {})",
                curl(&url),
                file.display()
            ),
        })
    }
}

/// Commands that lead on.
fn next(answer: &Value, target: Target<'_>) -> Vec<String> {
    let model = cell(&answer["model"]["name"]);
    let deployment = &answer["deployment"];
    let id = cell(&deployment["id"]);
    if target == Target::Development {
        return vec![
            format!("samovar predict {model} --development -d '{{}}'"),
            format!("samovar deployment logs {model} development -f"),
            "samovar push --development    swaps its code".into(),
            format!(
                "samovar promote {model} development    publishes it and moves production there"
            ),
        ];
    }
    let mut lines = vec![
        format!("samovar predict {model} --deployment {id} -d '{{}}'"),
        format!("samovar deployment logs {model} {id} -f"),
    ];
    match target {
        Target::Environment(environment) if deployment["environment"] != environment => {
            lines.push(format!("samovar promotion show {model} {environment}"));
        }
        Target::Deployment if deployment["environment"].is_null() => {
            lines.push(format!(
                "samovar promote {model} {id}    moves production there"
            ));
        }
        _ => {}
    }
    lines
}

/// Where the user has the key that a call needs.
enum Key {
    None,
    Environment,
    File(PathBuf),
}

fn key(client: &Client) -> Key {
    if !client.has_key() {
        return Key::None;
    }
    match (std::env::var_os("SAMOVAR_API_KEY"), client_config::path()) {
        (None, Ok(file)) => Key::File(file),
        _ => Key::Environment,
    }
}

fn curl(url: &str) -> String {
    format!("curl {url} -H \"Authorization: Bearer $SAMOVAR_API_KEY\" -d '{{}}'")
}

fn files(blobs: &[&LocalBlob]) -> String {
    let size = HumanBytes(blobs.iter().map(|blob| blob.size).sum());
    match blobs.len() {
        0 => "nothing".into(),
        1 => format!("1 file, {size}"),
        count => format!("{count} files, {size}"),
    }
}

/// Where the deployment that was just made is called.
fn url(server: &str, answer: &Value, target: Target<'_>) -> String {
    let deployment = &answer["deployment"];
    let target = match target {
        _ if deployment["is_production"] == true => PRODUCTION.to_owned(),
        Target::Development => "development".to_owned(),
        Target::Environment(PRODUCTION) => PRODUCTION.to_owned(),
        Target::Environment(environment) => format!("environments/{environment}"),
        Target::Deployment => format!("deployment/{}", cell(&deployment["id"])),
    };
    let model = cell(&answer["model"]["name"]);
    format!("{server}/models/{model}/{target}/predict")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(is_production: bool) -> Value {
        json!({
            "model": { "name": "m" },
            "deployment": {
                "id": "dep12345", "is_production": is_production,
                "environment": is_production.then_some("production"),
            },
        })
    }

    #[test]
    fn the_address_is_the_deployments_own() {
        let told = |is_production, target| url("http://h", &answer(is_production), target);
        for (is_production, target, path) in [
            (true, Target::Deployment, "production"),
            (false, Target::Deployment, "deployment/dep12345"),
            (
                false,
                Target::Environment("staging"),
                "environments/staging",
            ),
            (false, Target::Environment("production"), "production"),
            (false, Target::Development, "development"),
        ] {
            let wanted = format!("http://h/models/m/{path}/predict");
            assert_eq!(told(is_production, target), wanted);
        }
    }

    #[test]
    fn what_comes_next_depends_on_what_it_was_for() {
        let told = |is_production, target| next(&answer(is_production), target).join("\n");
        assert!(told(false, Target::Deployment).contains("samovar promote m dep12345"));
        assert!(!told(true, Target::Deployment).contains("promot"));
        let waits = told(false, Target::Environment("staging"));
        assert!(
            waits.contains("samovar promotion show m staging"),
            "{waits}"
        );
        assert!(told(false, Target::Development).contains("samovar promote m development"));
    }
}
