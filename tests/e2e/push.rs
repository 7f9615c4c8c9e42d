//! A push is whole or nothing, and says what is wrong.

use anyhow::Result;
use samovar_tests::{Server, eventually, guest};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

fn failed_push(server: &Server, folder: &std::path::Path) -> Result<String> {
    let output = server.cli(&["push", folder.to_str().unwrap()])?;
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    Ok(String::from_utf8(output.stderr)?)
}

#[tokio::test]
async fn a_component_is_refused_by_the_name_of_its_import() -> Result<()> {
    let server = Server::start()?;
    let folder = server.bundle("foreign", "foreign", "")?;
    let error = failed_push(&server, &folder)?;
    assert!(error.contains("wasi:keyvalue/"), "{error}");
    // It is listed with its reason, and its address says so too.
    let list: Value = server.cli_json(&["deployment", "list", "foreign"])?;
    let deployment = &list["deployments"][0];
    assert_eq!(deployment["status"], "BUILD_FAILED");
    let reason = deployment["status_reason"].as_str().unwrap();
    assert!(reason.contains("wasi:keyvalue/"), "{reason}");
    let url = server.at("/models/foreign/production/predict");
    let answer = server.client().get(url).send().await?;
    assert_eq!(answer.status(), 503);
    assert!(answer.text().await?.contains("wasi:keyvalue/"));
    Ok(())
}

#[tokio::test]
async fn what_is_no_component_is_refused() -> Result<()> {
    let server = Server::start()?;
    let folder = server.bundle("broken", "count", "")?;
    let good = std::fs::read(guest("count"))?;
    for (bytes, text) in [
        (b"not wasm".to_vec(), "not WebAssembly"),
        (b"\0asm\x01\0\0\0".to_vec(), "core WebAssembly module"),
        (b"\x7fELF native".to_vec(), "native code"),
        (good[..good.len() / 2].to_vec(), "does not compile"),
    ] {
        std::fs::write(folder.join("guest.wasm"), bytes)?;
        let error = failed_push(&server, &folder)?;
        assert!(error.contains(text), "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn a_graph_that_does_not_load_is_refused_by_its_name() -> Result<()> {
    let server = Server::start()?;
    let folder = server.bundle(
        "broken",
        "count",
        "[graphs.default]\nfile = \"model.onnx\"\n",
    )?;
    std::fs::write(folder.join("model.onnx"), b"not a model")?;
    let error = failed_push(&server, &folder)?;
    assert!(
        error.contains("graph `default`") && error.contains("ONNX"),
        "{error}"
    );
    Ok(())
}

#[tokio::test]
async fn an_init_that_fails_or_hangs_is_told() -> Result<()> {
    let server = Server::start()?;
    let folder = server.bundle(
        "init",
        "init",
        "[environment_variables]\nINIT_ERROR = \"no weights\"\n",
    )?;
    assert!(failed_push(&server, &folder)?.contains("`init` failed: no weights"));
    let folder = server.bundle(
        "init",
        "init",
        "[limits]\ntimeout = \"500ms\"\n[environment_variables]\nINIT_LOOP = \"1\"\n",
    )?;
    assert!(failed_push(&server, &folder)?.contains("`init` took longer"));
    server.push("init", "")?;
    let url = server.at("/models/init/production/predict");
    assert_eq!(server.client().get(url).send().await?.text().await?, "1");
    Ok(())
}

#[tokio::test]
async fn a_manifest_error_names_line_and_key() -> Result<()> {
    let server = Server::start()?;
    let folder = server.bundle("count", "count", "[limits]\nmemroy = \"1GiB\"\n")?;
    let error = failed_push(&server, &folder)?;
    assert!(
        error.contains("memroy") && error.contains("samovar.toml:4"),
        "{error}"
    );
    Ok(())
}

#[tokio::test]
async fn a_manifest_with_more_than_there_may_be_is_refused() -> Result<()> {
    let server = Server::start()?;
    let variables = |count: usize| {
        let lines = (0..count).map(|number| format!("V{number} = \"x\"\n"));
        format!("[environment_variables]\n{}", lines.collect::<String>())
    };
    server.push("count", &variables(256))?;
    let folder = server.bundle("count", "count", &variables(257))?;
    let error = failed_push(&server, &folder)?;
    assert!(
        error.contains("at most 256 environment variables"),
        "{error}"
    );
    Ok(())
}

#[tokio::test]
async fn only_what_changed_travels() -> Result<()> {
    let server = Server::start()?;
    let folder = server.bundle("hostile", "hostile", "files = [\"big.bin\"]\n")?;
    std::fs::write(folder.join("big.bin"), vec![7; 3 << 20])?;
    let path = folder.to_str().unwrap();
    let first = server.cli_json(&["push", path])?;
    assert_eq!(first["uploaded"].as_array().unwrap().len(), 2);
    assert_eq!(first["deployment"]["is_production"], true);
    std::fs::copy(guest("count"), folder.join("guest.wasm"))?;
    let second = server.cli_json(&["push", path])?;
    assert_eq!(second["uploaded"].as_array().unwrap().len(), 1);
    assert_eq!(second["deployment"]["name"], "deployment-2");
    assert_eq!(second["deployment"]["is_production"], false);
    Ok(())
}

#[tokio::test]
async fn a_blob_of_another_digest_is_not_kept() -> Result<()> {
    let server = Server::start()?;
    let client = server.client();
    let digest = hex::encode(Sha256::digest(b"the right bytes"));
    let url = server.at(&format!("/v1/blobs/{digest}"));
    assert_eq!(client.head(&url).send().await?.status(), 404);
    let wrong = client.put(&url).body("the wrong bytes").send().await?;
    assert_eq!(wrong.status(), 400);
    assert_eq!(wrong.json::<Value>().await?["error_code"], "wrong_digest");
    assert_eq!(client.head(&url).send().await?.status(), 404);
    assert_eq!(
        client
            .put(&url)
            .body("the right bytes")
            .send()
            .await?
            .status(),
        201
    );
    assert_eq!(
        client
            .put(&url)
            .body("the right bytes")
            .send()
            .await?
            .status(),
        200
    );
    assert_eq!(
        client.get(&url).send().await?.text().await?,
        "the right bytes"
    );
    assert_eq!(
        client
            .head(server.at("/v1/blobs/xyz"))
            .send()
            .await?
            .status(),
        400
    );
    Ok(())
}

#[tokio::test]
async fn blobs_that_are_missing_are_listed() -> Result<()> {
    let server = Server::start()?;
    let digest = "0".repeat(64);
    let answer = server
        .client()
        .post(server.at("/v1/models"))
        .json(&json!({ "bundle": { "name": "x", "component": { "digest": digest, "size": 1 } } }))
        .send()
        .await?;
    assert_eq!(answer.status(), 409);
    let body: Value = answer.json().await?;
    assert_eq!(body["error_code"], "missing_blobs");
    assert_eq!(body["detail"]["missing"], json!([digest]));
    Ok(())
}

#[tokio::test]
async fn wrong_json_is_refused_by_name() -> Result<()> {
    let server = Server::start()?;
    let post = async |body: &str| -> Result<(u16, String)> {
        let answer = server
            .client()
            .post(server.at("/v1/models"))
            .header("content-type", "application/json")
            .body(body.to_owned())
            .send()
            .await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    };
    let (status, text) = post("{\"bundel\":{}}").await?;
    assert_eq!(status, 400);
    assert!(text.contains("bundel"), "{text}");
    for body in ["", "[]", "{", "null", &"[".repeat(100_000)] {
        assert_eq!(post(body).await?.0, 400, "{}", &body[..body.len().min(20)]);
    }
    let (status, _) = post(&format!("\"{}\"", "x".repeat(2 << 20))).await?;
    assert!(status == 400 || status == 413);
    Ok(())
}

#[tokio::test]
async fn blobs_that_nobody_names_go_with_a_start_a_day_later() -> Result<()> {
    let mut server = Server::start()?;
    server.push("count", "")?;
    let folder = server.folder().join("data/blobs");
    let place = |digest: &str| folder.join(&digest[..2]).join(digest);
    let named = place(&hex::encode(Sha256::digest(std::fs::read(guest("count"))?)));
    let (old, young) = (b"cut off yesterday", b"cut off just now");
    let mut places = Vec::new();
    for bytes in [&old[..], &young[..]] {
        let digest = hex::encode(Sha256::digest(bytes));
        let url = server.at(&format!("/v1/blobs/{digest}"));
        let stored = server.client().put(url).body(bytes.to_vec()).send().await?;
        assert_eq!(stored.status(), 201);
        places.push(place(&digest));
    }
    server.kill()?;
    let day = std::time::Duration::from_secs(25 * 3600);
    for path in [&named, &places[0]] {
        let yesterday = std::time::SystemTime::now() - day;
        std::fs::File::open(path)?.set_modified(yesterday)?;
    }
    let server = server.restart()?;
    eventually("the old one goes", async || !places[0].exists()).await?;
    assert!(places[1].exists() && named.exists());
    let url = server.at("/models/count/production/predict");
    assert_eq!(server.client().get(url).send().await?.status(), 200);
    Ok(())
}
