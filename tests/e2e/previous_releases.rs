//! A server of this release starts on the data folder of each previous one, and has and serves what was there; see
//! `tests/data-folders/README.md`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use samovar_tests::{Server, eventually, repository};
use serde_json::{Value, json};

/// The releases' data folders, each with what is known of it.
fn releases() -> Result<Vec<(PathBuf, Value)>> {
    let mut releases = Vec::new();
    for entry in std::fs::read_dir(repository().join("tests/data-folders"))? {
        let folder = entry?.path();
        if folder.is_dir() {
            let about = std::fs::read(folder.join("about.json"))?;
            releases.push((folder, serde_json::from_slice(&about)?));
        }
    }
    assert!(!releases.is_empty(), "there is no data folder");
    Ok(releases)
}

fn start(folder: &Path, about: &Value) -> Result<Server> {
    let key = about["keys"]["admin"].as_str().context("no admin key")?;
    let args = ["--webhook-allow", "loopback"];
    Server::start_on_copy(folder, key, &args).with_context(|| format!("{}", folder.display()))
}

async fn ask(server: &Server, key: &str, path: &str, body: &str) -> Result<(u16, String)> {
    let request = reqwest::Client::builder().no_proxy().build()?;
    let request = request.post(server.at(path)).bearer_auth(key);
    let answer = request.body(body.to_owned()).send().await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

#[tokio::test]
async fn models_answer_and_read_their_secrets() -> Result<()> {
    for (folder, about) in releases()? {
        let server = start(&folder, &about)?;
        let caller = about["keys"]["caller"].as_str().context("no key")?;
        // Deployments are built from the blobs, which takes a moment.
        eventually("production answers", async || {
            let answer = ask(
                &server,
                caller,
                "/models/digits/production/predict",
                "[1, 2]",
            )
            .await;
            answer.is_ok_and(|(status, body)| status == 200 && body.contains("\"sum\":3.0"))
        })
        .await?;
        let path = "/models/digits/environments/staging/sync/secret?name=TOKEN";
        let (status, secret) = ask(&server, caller, path, "").await?;
        assert_eq!((status, secret.as_str()), (200, "the-value-of-TOKEN"));
        // The key is still limited to calls.
        let (status, _) = ask(&server, caller, "/v1/models", "{}").await?;
        assert_eq!(status, 403);
    }
    Ok(())
}

#[tokio::test]
async fn everything_is_listed_and_can_be_changed() -> Result<()> {
    for (folder, about) in releases()? {
        let server = start(&folder, &about)?;
        let models = server.cli_json(&["model", "list"])?;
        assert_eq!(models["models"][0]["name"], "digits", "{models}");
        let deployments = server.cli_json(&["deployment", "list", "digits"])?;
        assert_eq!(deployments["deployments"].as_array().map(Vec::len), Some(4));
        let keys = server.cli_json(&["key", "list"])?;
        assert_eq!(keys["keys"].as_array().map(Vec::len), Some(2), "{keys}");
        let secrets = server.cli_json(&["secret", "list"])?;
        assert_eq!(secrets["secrets"][0]["name"], "TOKEN", "{secrets}");
        let date = about["date"].as_str().context("no date")?;
        let usage = server.cli_json(&["usage", "--start", date, "--end", date])?;
        assert!(usage.to_string().contains("\"gone\""), "{usage}");

        // The canary is where it was halted, and goes on when it is told to.
        let promotion = server.cli_json(&["promotion", "show", "digits"])?;
        assert_eq!(promotion["in_progress_promotion"]["status"], "PAUSED");
        let candidate = promotion["candidate_deployment"]["id"].clone();
        server.cli_json(&["promotion", "force-roll-forward", "digits"])?;
        eventually("the canary is through", async || {
            let shown = server.cli_json(&["promotion", "show", "digits"]);
            shown.is_ok_and(|shown| shown["current_deployment"]["id"] == candidate)
        })
        .await?;
        server.set_secret("TOKEN", "another")?;
        server.cli_json(&[
            "environment",
            "update",
            "digits",
            "staging",
            "--max-replica",
            "3",
        ])?;
        let unreadable = server
            .log()
            .into_iter()
            .find(|line| line.contains("unreadable"));
        assert_eq!(unreadable, None);

        let model = json!({ "name": "numbers" });
        let renamed = server.client().patch(server.at("/v1/models/digits"));
        assert!(renamed.json(&model).send().await?.status().is_success());
    }
    Ok(())
}
