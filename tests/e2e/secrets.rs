//! Secrets reach the guests that name them, and nobody else.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use samovar_client::StatusCode;
use samovar_tests::Server;
use samovar_types::api::secrets::SetSecretRequest;
use serde_json::{Value, json};

const NAMES_A: &str = "secrets = [\"A\"]\n";

async fn secret(server: &Server, name: &str) -> Result<(u16, String)> {
    let url = server.at(&format!("/models/routes/production/secret?name={name}"));
    let answer = server.client().get(url).send().await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

fn found(value: &str) -> (u16, String) {
    (200, value.to_owned())
}

#[tokio::test]
async fn a_guest_sees_only_the_secrets_that_it_names() -> Result<()> {
    let server = Server::start()?;
    server.set_secret("A", "the first\n")?;
    server.set_secret("B", "the second")?;
    server.push("routes", NAMES_A)?;
    assert_eq!(secret(&server, "A").await?, found("the first"));
    let (status, text) = secret(&server, "B").await?;
    assert_eq!(status, 500);
    assert!(text.contains("secret_missing"), "{text}");
    // Not even through the back door of the environment.
    server.push("echo", NAMES_A)?;
    let url = server.at("/models/echo/production/inspect");
    let seen = server.client().get(url).send().await?.text().await?;
    assert!(!seen.contains("the first"), "{seen}");
    Ok(())
}

#[tokio::test]
async fn a_push_that_names_a_missing_secret_is_refused_with_what_to_do() -> Result<()> {
    let server = Server::start()?;
    let folder = server.bundle("routes", "routes", "secrets = [\"A\", \"HF_TOKEN\"]\n")?;
    let path = folder.to_str().unwrap();
    server.set_secret("A", "x")?;
    let refused = server.cli(&["push", path])?;
    assert_eq!(refused.status.code(), Some(1));
    let error = String::from_utf8(refused.stderr)?;
    assert!(error.contains("`samovar secret set HF_TOKEN`"), "{error}");
    assert!(!error.contains("secret set A"), "{error}");
    let models = server.cli_json(&["model", "list"])?;
    assert_eq!(models["models"], json!([]));
    server.set_secret("HF_TOKEN", "y")?;
    server.cli_json(&["push", path])?;
    assert_eq!(secret(&server, "HF_TOKEN").await?, found("y"));
    Ok(())
}

#[tokio::test]
async fn a_changed_value_reaches_the_guests_and_no_request_fails() -> Result<()> {
    let server = Server::start()?;
    server.set_secret("A", "0")?;
    server.push(
        "routes",
        &format!("{NAMES_A}[autoscaling]\nmax_replica = 3\n"),
    )?;
    let client = server.client();
    let url = server.at("/models/routes/production/secret?name=A");
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (client, url, stop) = (client.clone(), url.clone(), stop.clone());
            tokio::spawn(async move {
                let (mut newest, mut count) = (0, 0u32);
                while !stop.load(Ordering::Relaxed) {
                    let answer = client.get(&url).send().await?;
                    let (status, text) = (answer.status(), answer.text().await?);
                    anyhow::ensure!(status == 200, "{status}: {text}");
                    let value: u32 = text.parse()?;
                    anyhow::ensure!(value >= newest, "{value} after {newest}");
                    (newest, count) = (value, count + 1);
                }
                anyhow::Ok((newest, count))
            })
        })
        .collect();
    let api = server.api();
    for value in 1..=20 {
        let request = SetSecretRequest {
            name: "A".into(),
            value: value.to_string(),
        };
        api.set_secret(&request).await?;
        // Whoever asks after the answer has the new value.
        let read = client.get(&url).send().await?.text().await?;
        assert_eq!(read, value.to_string());
    }
    stop.store(true, Ordering::Relaxed);
    for one in clients {
        let (newest, count) = one.await??;
        assert!(newest > 0 && count > 0, "{newest} {count}");
    }
    Ok(())
}

#[tokio::test]
async fn an_idle_replica_with_an_old_value_is_replaced_before_it_is_asked_for() -> Result<()> {
    let server = Server::start()?;
    server.set_secret("A", "old")?;
    server.push(
        "routes",
        &format!("{NAMES_A}[autoscaling]\nmax_replica = 1\n"),
    )?;
    let url = server.at("/models/routes/production/predict");
    let served = async || -> Result<(Value, bool)> {
        let answer = server.client().post(&url).json(&[1]).send().await?;
        let cold = answer.headers().contains_key("server-timing");
        Ok((answer.json::<Value>().await?["served"].clone(), cold))
    };
    assert_eq!(served().await?, (json!(1), false));
    // The same value changes nothing.
    server.set_secret("A", "old")?;
    assert_eq!(served().await?, (json!(2), false));
    // Another's value neither.
    server.set_secret("B", "new")?;
    assert_eq!(served().await?, (json!(3), false));
    server.set_secret("A", "new")?;
    assert_eq!(served().await?, (json!(1), false));
    assert_eq!(secret(&server, "A").await?, found("new"));
    Ok(())
}

#[tokio::test]
async fn a_deleted_secret_is_gone_and_values_outlive_a_restart() -> Result<()> {
    let server = Server::start()?;
    server.set_secret("A", "x")?;
    server.set_secret("B", "y")?;
    server.push("routes", "secrets = [\"A\", \"B\"]\n")?;
    assert_eq!(secret(&server, "A").await?, found("x"));
    server.cli_json(&["secret", "delete", "A", "--yes"])?;
    assert_eq!(secret(&server, "A").await?.0, 500);
    let listed = server.cli_json(&["secret", "list"])?;
    let names: Vec<_> = listed["secrets"].as_array().unwrap().iter().collect();
    assert_eq!(names.len(), 1);
    assert_eq!(names[0]["name"], "B");
    let server = server.restart()?;
    assert_eq!(secret(&server, "B").await?, found("y"));
    assert_eq!(secret(&server, "A").await?.0, 500);
    server.set_secret("A", "z")?;
    assert_eq!(secret(&server, "A").await?, found("z"));
    Ok(())
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files(&path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

#[tokio::test]
async fn nothing_secret_is_in_files_in_the_log_or_in_an_answer() -> Result<()> {
    let value = "plain-value-7f3a91";
    let server = Server::start()?;
    let client = server.client();
    server.set_secret("A", value)?;
    server.push("routes", NAMES_A)?;
    assert_eq!(secret(&server, "A").await?, found(value));
    let webhook = server.api().rotate_webhook_secret().await?;
    let signing = webhook.secret.as_str();
    assert!(signing.starts_with("whsec_") && signing.len() == 50);
    let made = server.cli(&["key", "create", "--type", "invoke"])?;
    let key = String::from_utf8(made.stdout)?.trim().to_owned();
    let refused = client
        .post(server.at("/v1/secrets"))
        .json(&json!({ "name": "not-a-name", "value": value }))
        .send()
        .await?;
    assert_eq!(refused.status(), 400);
    let mut told = refused.text().await?;
    for path in [
        "/v1/secrets",
        "/v1/webhook_secrets",
        "/v1/api_keys",
        "/v1/models/routes",
        "/v1/models/routes/deployments",
        "/v1/models/routes/deployments/production/logs",
        "/v1/status",
    ] {
        let answer = client.get(server.at(path)).send().await?;
        assert_eq!(answer.status(), 200, "{path}");
        told += &answer.text().await?;
    }
    told += &server.log().join("\n");

    let data = server.folder().join("data");
    let key_file = std::fs::read_to_string(data.join("secrets.key"))?;
    let hidden = [value, signing, &key, key.split_once('.').unwrap().1];
    for secret in hidden.iter().chain([&key_file.trim()]) {
        assert!(!told.contains(secret), "{secret} in {told}");
    }
    let mut paths = Vec::new();
    files(&data, &mut paths)?;
    assert!(paths.iter().any(|path| path.ends_with("state.db")));
    for path in paths {
        let bytes = std::fs::read(&path)?;
        for secret in hidden {
            let there = bytes
                .windows(secret.len())
                .any(|part| part == secret.as_bytes());
            assert!(!there, "{secret} in {}", path.display());
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_key_file_that_is_open_wrong_or_gone_is_refused_by_its_name() -> Result<()> {
    let mut server = Server::start()?;
    server.set_secret("A", "x")?;
    server.kill()?;
    let data = server.folder().join("data");
    let key_file = data.join("secrets.key");
    let serve = |more: &[&str]| -> Result<String> {
        let data = data.to_str().unwrap();
        let args = ["serve", "--addr", "127.0.0.1:0", "--data", data];
        let output = server.cli(&[&args, more].concat())?;
        assert_eq!(output.status.code(), Some(1));
        let error = String::from_utf8(output.stderr)?;
        assert!(error.contains("secrets.key"), "{error}");
        Ok(error)
    };
    let mode = |mode| std::fs::set_permissions(&key_file, PermissionsExt::from_mode(mode));
    mode(0o644)?;
    let error = serve(&[])?;
    assert!(
        error.contains("644") && error.contains("chmod 600"),
        "{error}"
    );
    mode(0o600)?;
    let right = std::fs::read(&key_file)?;
    std::fs::write(&key_file, "too short")?;
    assert!(serve(&[])?.contains("64 hexadecimal digits"));
    std::fs::write(&key_file, "ab".repeat(32))?;
    let error = serve(&[])?;
    assert!(error.contains("sealed with another key"), "{error}");
    std::fs::remove_file(&key_file)?;
    assert!(serve(&[])?.contains("is not there"));
    assert!(!key_file.exists(), "a key was made that reads nothing");

    std::fs::write(&key_file, right)?;
    mode(0o600)?;
    let server = server.restart()?;
    let listed = server.cli_json(&["secret", "list"])?;
    assert_eq!(listed["secrets"].as_array().unwrap().len(), 1);
    Ok(())
}

#[tokio::test]
async fn the_key_can_lie_elsewhere_and_its_loss_can_be_survived() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let key_file = folder.path().join("key");
    let server = Server::start_with(&[
        "--secrets-key",
        key_file.to_str().unwrap(),
        "--discard-secrets",
    ])?;
    assert!(!server.folder().join("data/secrets.key").exists());
    assert_eq!(
        std::fs::metadata(&key_file)?.permissions().mode() & 0o777,
        0o600
    );
    server.set_secret("A", "x")?;
    server.push("routes", NAMES_A)?;
    let server = server.restart()?;
    assert_eq!(secret(&server, "A").await?, found("x"));
    std::fs::remove_file(&key_file)?;
    let server = server.restart()?;
    assert_eq!(secret(&server, "A").await?.0, 500);
    server.set_secret("A", "y")?;
    assert_eq!(secret(&server, "A").await?, found("y"));
    Ok(())
}

#[tokio::test]
async fn names_and_values_have_bounds_that_are_told() -> Result<()> {
    let server = Server::start()?;
    let client = server.client();
    let post = async |body: Value| -> Result<(u16, Value)> {
        let request = client.post(server.at("/v1/secrets")).json(&body);
        let answer = request.send().await?;
        Ok((answer.status().as_u16(), answer.json().await?))
    };
    let (status, made) = post(json!({ "name": "A", "value": "x".repeat(65536) })).await?;
    assert_eq!(status, 200);
    assert_eq!(made["name"], "A");
    assert!(made["created_at"].is_string() && made["value"].is_null());
    for body in [
        json!({ "name": "A", "value": "x".repeat(65537) }),
        json!({ "name": "A", "value": "" }),
        json!({ "name": "1A", "value": "x" }),
        json!({ "name": "A".repeat(129), "value": "x" }),
        json!({ "name": "A" }),
        json!({ "name": "A", "value": "x", "vlaue": "x" }),
        json!({ "name": "A", "value": 5 }),
        json!([]),
    ] {
        let (status, answer) = post(body).await?;
        assert_eq!(status, 400, "{answer}");
        assert_eq!(answer["error_code"], "client_error");
    }
    let api = server.api();
    for name in ["B", "../A", "\0", &"x".repeat(5000)] {
        let refused = api.delete_secret(name).await.err();
        let status = refused.and_then(|error| error.status());
        assert_eq!(status, Some(StatusCode::NOT_FOUND), "{name}");
    }
    let refused = server.cli(&["secret", "set", "A", "value"])?;
    assert_eq!(refused.status.code(), Some(2));
    let file = server.folder().join("value");
    std::fs::write(&file, "kept as it is\n")?;
    server.cli_json(&["secret", "set", "A", "--from-file", file.to_str().unwrap()])?;
    server.push("routes", NAMES_A)?;
    assert_eq!(secret(&server, "A").await?, found("kept as it is\n"));
    Ok(())
}

#[tokio::test]
async fn webhook_secrets_are_shown_once_and_overlap() -> Result<()> {
    let server = Server::start()?;
    let client = server.api();
    let first = client.rotate_webhook_secret().await?;
    let second = client.rotate_webhook_secret().await?;
    assert_ne!(first.secret, second.secret);
    let server = server.restart()?;
    let client = server.api();
    let listed = client.webhook_secrets().await?.into_inner().webhook_secrets;
    let ids: Vec<_> = listed.iter().map(|one| one.id).collect();
    assert_eq!(ids, [second.id, first.id]);
    assert!(listed[0].expires_at.is_none() && listed[1].expires_at.is_some());
    assert!(client.delete_webhook_secret(first.id).await?.deleted);
    let refused = client.delete_webhook_secret(first.id).await.err();
    assert!(refused.is_some_and(|error| error.is_not_found()));
    let url = server.at("/v1/webhook_secrets/x");
    assert_eq!(server.client().delete(url).send().await?.status(), 404);
    Ok(())
}
