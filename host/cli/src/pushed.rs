//! The output of `samovar push`: what was uploaded, the outcome, the URL and the next steps.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use indicatif::HumanBytes;
use samovar_bundle::collect::{LocalBlob, LocalBundle};
use samovar_client::text::printable;
use samovar_client::{Client, Received, Target as Called, config};
use samovar_types::api::deployments::DeploymentResponse;
use samovar_types::api::models::{ModelResponse, PushResponse};
use samovar_types::digest::Digest;
use serde::Serialize;

use crate::commands::deployment::init_snapshot;
use crate::output::{self, Format, quoted, word};

/// A successful push.
pub struct Report<'a> {
    pub local: &'a LocalBundle,
    /// The blobs that the server lacked.
    pub sent: &'a [&'a LocalBlob],
    /// The target of the push.
    pub target: Target<'a>,
    /// Time that the server needed.
    pub took: Duration,
}

/// What a push made, as the server showed it last.
#[derive(Serialize)]
pub struct Made {
    /// Its model.
    pub model: Received<ModelResponse>,
    /// The deployment.
    pub deployment: Received<DeploymentResponse>,
}

impl From<&Received<PushResponse>> for Made {
    fn from(answer: &Received<PushResponse>) -> Self {
        Self {
            model: answer.part("model", |answer| &answer.model),
            deployment: answer.part("deployment", |answer| &answer.deployment),
        }
    }
}

/// The JSON output of a push.
#[derive(Serialize)]
struct Pushed<'a> {
    #[serde(flatten)]
    made: &'a Made,
    uploaded: &'a BTreeSet<Digest>,
    url: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    open_inference_url: Option<String>,
}

/// The target of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// A deployment, which goes to production if production has none.
    Deployment,
    Environment(&'a str),
    Development,
}

impl Report<'_> {
    pub fn print(&self, client: &Client, made: &Made, format: Format) -> anyhow::Result<()> {
        let base = base(client, made, self.target);
        let call = Call::of(self.local, &base);
        let uploaded: BTreeSet<Digest> = self.sent.iter().map(|one| one.digest).collect();
        let open_inference_url = self.local.open_inference.as_ref();
        let open_inference_url = open_inference_url.map(|_| format!("{base}/sync"));
        if format == Format::Json {
            return output::document(&Pushed {
                made,
                uploaded: &uploaded,
                url: &call.url,
                open_inference_url,
            });
        }
        let (new, old): (Vec<&LocalBlob>, Vec<&LocalBlob>) = self
            .local
            .blobs
            .iter()
            .partition(|blob| uploaded.contains(&blob.digest));
        let deployment = &made.deployment;
        let mut lines = vec![
            ("uploaded", files(&new)),
            ("already on server", files(&old)),
            ("model", printable(&made.model.name)),
            (
                "deployment",
                format!("{} ({})", deployment.id, printable(&deployment.name)),
            ),
            ("status", word(&deployment.status)),
            ("took", format!("{} ms", self.took.as_millis())),
            ("url", call.url.clone()),
        ];
        if let Some(url) = open_inference_url {
            lines.push(("open inference", url));
        }
        if let Some(line) = init_snapshot(deployment) {
            lines.push(("snapshot", line));
        }
        output::properties(&lines)?;
        output::line("\nnext:")?;
        for line in next(made, self.target, &call) {
            output::line(&format!("  {line}"))?;
        }
        let key = key(client);
        output::line(&format!("  {}", call.curl(&key)))?;
        if let Key::File(file) = key {
            let file = file.display();
            output::line(&format!("  (SAMOVAR_API_KEY is the api_key in {file})"))?;
        }
        if matches!(call.body, Body::Unknown) {
            output::line(
                "  (FILE holds a request body; with `example` in the manifest, a complete call is shown here)",
            )?;
        }
        Ok(())
    }
}

/// An example call, to show the user.
struct Call {
    url: String,
    /// Its path below the deployment's URL.
    path: String,
    body: Body,
}

/// The body of a call.
enum Body {
    /// An example of the model's author, or one made from the graph.
    Example(String),
    /// Only the model's author knows.
    Unknown,
    /// None: the call is a GET.
    None,
}

impl Call {
    fn of(local: &LocalBundle, base: &str) -> Self {
        let Some(served) = &local.open_inference else {
            return Self {
                url: format!("{base}/predict"),
                path: "/predict".into(),
                body: match &local.bundle.example {
                    Some(example) => Body::Example(example.clone()),
                    None => Body::Unknown,
                },
            };
        };
        let model = format!("/v2/models/{}", served.served_name());
        let infer = format!("{model}/infer");
        let example = served.example();
        Self {
            url: format!("{base}/sync{infer}"),
            path: if example.is_some() { infer } else { model },
            body: example.map_or(Body::None, Body::Example),
        }
    }

    /// The arguments of `samovar predict` after the model and the target.
    fn options(&self) -> String {
        let path = match self.path.as_str() {
            "/predict" => String::new(),
            path => format!("--path {path} "),
        };
        match &self.body {
            Body::Example(body) => format!("{path}-d {}", quoted(body)),
            Body::Unknown => format!("{path}-f FILE"),
            Body::None => format!("{path}-X GET"),
        }
    }

    fn curl(&self, key: &Key) -> String {
        let header = match key {
            Key::None => "",
            _ => " -H \"Authorization: Bearer $SAMOVAR_API_KEY\"",
        };
        match &self.body {
            Body::Example(body) => format!("curl {}{header} -d {}", self.url, quoted(body)),
            Body::Unknown => format!("curl {}{header} --data-binary @FILE", self.url),
            Body::None => {
                let url = self.url.trim_end_matches("/infer");
                format!("curl {url}{header}")
            }
        }
    }
}

/// Suggested next commands.
fn next(made: &Made, target: Target<'_>, call: &Call) -> Vec<String> {
    let options = call.options();
    let model = printable(&made.model.name);
    let deployment = &made.deployment;
    let id = deployment.id;
    if target == Target::Development {
        return vec![
            format!("samovar predict {model} --development {options}"),
            format!("samovar deployment logs {model} development -f"),
            "samovar push --development    replaces its bundle".into(),
            format!(
                "samovar promote {model} development    publishes it and promotes it to production"
            ),
        ];
    }
    let mut lines = vec![
        format!("samovar predict {model} --deployment {id} {options}"),
        format!("samovar deployment logs {model} {id} -f"),
    ];
    match target {
        Target::Environment(environment)
            if deployment.environment.as_deref() != Some(environment) =>
        {
            lines.push(format!("samovar promotion show {model} {environment}"));
        }
        Target::Deployment if deployment.environment.is_none() => {
            lines.push(format!(
                "samovar promote {model} {id}    promotes it to production"
            ));
        }
        _ => {}
    }
    lines
}

/// Where the user finds the key for a call.
enum Key {
    None,
    Environment,
    File(PathBuf),
}

fn key(client: &Client) -> Key {
    if !client.has_key() {
        return Key::None;
    }
    match (std::env::var_os("SAMOVAR_API_KEY"), config::path()) {
        (None, Ok(file)) => Key::File(file),
        _ => Key::Environment,
    }
}

fn files(blobs: &[&LocalBlob]) -> String {
    let size = HumanBytes(blobs.iter().map(|blob| blob.size).sum());
    match blobs.len() {
        0 => "nothing".into(),
        1 => format!("1 file, {size}"),
        count => format!("{count} files, {size}"),
    }
}

/// The base URL of the new deployment.
fn base(client: &Client, made: &Made, target: Target<'_>) -> String {
    let id = made.deployment.id;
    let target = match target {
        _ if made.deployment.is_production => Called::Production,
        Target::Development => Called::Development,
        Target::Environment(environment) => Called::of_environment(environment),
        Target::Deployment => Called::Deployment(id.as_str()),
    };
    client.inference_url(&printable(&made.model.name), target)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use samovar_bundle::open_inference::Description;
    use samovar_onnx::port::{Port, PortType, Ports};
    use serde_json::json;

    use super::*;
    use crate::commands::deployment::example;

    fn made(is_production: bool) -> Made {
        let model = json!({
            "id": "abcd1234", "created_at": "2026-01-01T00:00:00Z", "name": "m", "deployments_count": 1,
            "production_deployment_id": null, "development_deployment_id": null,
            "instance_type_name": "cpu", "team_name": "default",
        });
        let deployment = DeploymentResponse {
            is_production,
            environment: is_production.then(|| "production".into()),
            ..example("dep12345", "ACTIVE")
        };
        Made {
            model: Received::read(model.to_string().as_bytes()).unwrap(),
            deployment: deployment.into(),
        }
    }

    #[test]
    fn the_address_is_the_deployments_own() {
        let client = Client::new("http://h", None).unwrap();
        let told = |is_production, target| base(&client, &made(is_production), target);
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
            let wanted = format!("http://h/models/m/{path}");
            assert_eq!(told(is_production, target), wanted);
        }
    }

    fn local(dims: Option<&[Option<u32>]>) -> LocalBundle {
        let port = |dims: &[Option<u32>]| Port {
            name: "it's".into(),
            ty: PortType::F32,
            dims: Some(dims.to_vec()),
            optional: false,
            labels: None,
        };
        let ports = |dims| Ports {
            inputs: vec![port(dims)],
            outputs: Vec::new(),
        };
        let graphs = |dims| BTreeMap::from([("default".to_owned(), ports(dims))]);
        LocalBundle {
            bundle: serde_json::from_value(json!({
                "name": "m", "component": { "digest": "0".repeat(64), "size": 1 },
            }))
            .unwrap(),
            blobs: Vec::new(),
            open_inference: dims.map(|dims| Description::new("m", graphs(dims))),
        }
    }

    #[test]
    fn a_call_is_shown_that_the_model_can_answer() {
        let base = "http://h/models/m/production";
        let call = Call::of(&local(None), base);
        assert_eq!(
            call.curl(&Key::None),
            format!("curl {base}/predict --data-binary @FILE")
        );
        assert_eq!(call.options(), "-f FILE");
        let mut with_example = local(None);
        with_example.bundle.example = Some("[1, 2]".into());
        let call = Call::of(&with_example, base);
        assert_eq!(
            call.curl(&Key::None),
            format!("curl {base}/predict -d '[1, 2]'")
        );
        assert_eq!(call.options(), "-d '[1, 2]'");
        let call = Call::of(&local(Some(&[None, Some(2)])), base);
        let body = r#"'{"inputs": [{"name": "it'\''s", "datatype": "FP32", "shape": [1, 2], "data": [0, 0]}]}'"#;
        assert_eq!(
            call.options(),
            format!("--path /v2/models/m/infer -d {body}")
        );
        assert!(call.curl(&Key::Environment).ends_with(&format!(
            "/sync/v2/models/m/infer -H \"Authorization: Bearer $SAMOVAR_API_KEY\" -d {body}"
        )));
        let call = Call::of(&local(Some(&[Some(1000)])), base);
        assert_eq!(call.options(), "--path /v2/models/m -X GET");
        assert_eq!(
            call.curl(&Key::None),
            format!("curl {base}/sync/v2/models/m")
        );
        assert_eq!(call.url, format!("{base}/sync/v2/models/m/infer"));
    }

    #[test]
    fn what_comes_next_depends_on_what_it_was_for() {
        let call = Call::of(&local(None), "http://h/models/m/production");
        let told = |is_production, target| next(&made(is_production), target, &call).join("\n");
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
