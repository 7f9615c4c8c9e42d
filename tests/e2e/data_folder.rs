//! What is in the data folder is its owner's alone, is noticed when it decays, and is not mistaken for a first start when
//! the database is gone.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use samovar_tests::onnx::{Value as Port, Weight, model_with};
use samovar_tests::{PATIENCE, Server, binary, eventually};
use serde_json::{Value, json};

use crate::open_inference::{F32, infer, node, push};

/// Every file and folder below, with what others may do to it.
fn modes(path: &Path, found: &mut Vec<(PathBuf, u32)>) -> Result<()> {
    let meta = std::fs::symlink_metadata(path)?;
    found.push((path.to_owned(), meta.permissions().mode() & 0o777));
    if meta.is_dir() {
        for entry in std::fs::read_dir(path)? {
            modes(&entry?.path(), found)?;
        }
    }
    Ok(())
}

fn assert_private(folder: &Path) -> Result<usize> {
    let mut found = Vec::new();
    modes(folder, &mut found)?;
    let open: Vec<_> = found.iter().filter(|(_, mode)| mode & 0o077 != 0).collect();
    assert!(open.is_empty(), "others can use {open:?}");
    Ok(found.len())
}

#[tokio::test]
async fn nobody_else_can_read_what_a_node_keeps() -> Result<()> {
    let server = Server::start_with_open_umask()?;
    let data = server.folder().join("data");
    server.set_secret("token", "hidden")?;
    // A file that a replica sees, lines in the log, artifacts, blobs, usage.
    let folder = server.bundle("echo", "echo", "files = [\"a.txt\"]\n")?;
    std::fs::write(folder.join("a.txt"), "a")?;
    server.cli_json(&["push", folder.to_str().context("path")?])?;
    push(&server, "scaled", &scaled(2.0))?;
    let url = server.at("/models/echo/production/predict");
    server.client().post(url).body("x").send().await?;
    for name in ["state.db", "state.db-wal", "secrets.key", "usage.spool"] {
        assert!(data.join(name).exists(), "{name}");
    }
    assert!(assert_private(&data)? > 15);
    assert_private(&server.folder().join("config.toml"))?;

    // As an earlier version left it.
    for name in ["state.db", "lock", "usage.spool"] {
        std::fs::set_permissions(data.join(name), Permissions::from_mode(0o644))?;
    }
    std::fs::set_permissions(&data, Permissions::from_mode(0o755))?;
    let server = server.restart()?;
    assert_private(&data)?;
    let log = server.log().join("\n");
    assert!(
        log.contains("others could use files of the data folder"),
        "{log}"
    );
    Ok(())
}

/// `y = x * factor` for two numbers.
fn scaled(factor: f32) -> Vec<u8> {
    let dims = &[Some(2)];
    let port = |name| Port {
        name,
        ty: F32,
        dims,
    };
    let data = [factor.to_le_bytes(), factor.to_le_bytes()].concat();
    let weight = Weight {
        name: "w",
        ty: F32,
        dims: &[2],
        data: &data,
    };
    let multiply = [node("Mul", &["x", "w"], "y")];
    model_with(14, &multiply, &[weight], &[port("x")], &[port("y")])
}

async fn twice(server: &Server) -> Result<(u16, Value)> {
    let x = json!({ "name": "x", "shape": [2], "datatype": "FP32", "data": [1.0, 2.0] });
    infer(server, "twice", &json!({ "inputs": [x] })).await
}

fn blob(server: &Server, digest: &str) -> PathBuf {
    let blobs = server.folder().join("data/blobs");
    blobs.join(&digest[..2]).join(digest)
}

/// Flips the lowest bit of the weights' last byte but two, which makes another number of it.
fn flip_a_bit(path: &Path) -> Result<()> {
    let mut bytes = std::fs::read(path)?;
    let weight = 2.0_f32.to_le_bytes();
    let place = bytes
        .windows(4)
        .position(|window| window == weight)
        .context("no weight")?;
    bytes[place + 2] ^= 1;
    Ok(std::fs::write(path, bytes)?)
}

#[tokio::test]
async fn a_damaged_weight_is_named_and_repaired_by_the_next_push() -> Result<()> {
    use sha2::{Digest as _, Sha256};
    let server = Server::start()?;
    let bytes = scaled(2.0);
    let digest = hex::encode(Sha256::digest(&bytes));
    push(&server, "twice", &bytes)?;
    let (status, answer) = twice(&server).await?;
    assert_eq!(status, 200, "{answer}");
    let sound = answer["outputs"][0]["data"].clone();
    flip_a_bit(&blob(&server, &digest))?;

    let server = server.restart()?;
    let (status, answer) = twice(&server).await?;
    assert_eq!(status, 503, "{answer}");
    let error = answer["error"].as_str().context("no error")?;
    for part in [&*digest, "model `twice`", "damaged", "Push the model again"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let there = server.api().has_blob(digest.parse()?).await?;
    assert!(!there, "a push would send nothing");
    // Found by the node itself, too, with those that use it.
    eventually("the log names the blob", async || {
        let log = server.log();
        let named = |line: &&String| line.contains(&digest) && line.contains("twice");
        log.iter().any(|line| named(&line))
    })
    .await?;

    push(&server, "twice", &bytes)?;
    let (status, answer) = twice(&server).await?;
    assert_eq!((status, &answer["outputs"][0]["data"]), (200, &sound));
    Ok(())
}

#[tokio::test]
async fn a_deployment_whose_blob_is_found_damaged_is_unhealthy_until_it_is_pushed_again()
-> Result<()> {
    use sha2::{Digest as _, Sha256};
    let server = Server::start()?;
    let bytes = scaled(2.0);
    let digest = hex::encode(Sha256::digest(&bytes));
    push(&server, "twice", &bytes)?;
    flip_a_bit(&blob(&server, &digest))?;
    // Nobody calls it: the node looks by itself, shortly after its start.
    let server = server.restart()?;
    let shown = || server.cli_json(&["deployment", "show", "twice", "production"]);
    eventually("the deployment shows the damage", async || {
        shown().is_ok_and(|shown| shown["status"] == "UNHEALTHY")
    })
    .await?;
    let reason = shown()?["status_reason"].to_string();
    for part in [&*digest, "damaged", "push the model again"] {
        assert!(reason.contains(part), "{part}: {reason}");
    }
    let listed = server.cli(&["deployment", "list", "twice"])?;
    let listed = String::from_utf8(listed.stdout)?;
    assert!(listed.contains("UNHEALTHY"), "{listed}");

    push(&server, "twice", &bytes)?;
    assert_ne!(shown()?["status"], "UNHEALTHY");
    let (status, answer) = twice(&server).await?;
    assert_eq!(status, 200, "{answer}");
    Ok(())
}

#[tokio::test]
async fn a_file_of_a_bundle_that_was_repaired_is_seen_by_new_replicas() -> Result<()> {
    let server = Server::start()?;
    let folder = server.bundle("echo", "echo", "files = [\"a.txt\"]\n")?;
    std::fs::write(folder.join("a.txt"), "sound")?;
    let push = || server.cli_json(&["push", folder.to_str().unwrap()]);
    push()?;
    let link = || -> Result<Vec<String>> {
        let bundles = server.folder().join("data/bundles");
        let mut found = Vec::new();
        for bundle in std::fs::read_dir(bundles)? {
            found.extend(std::fs::read_to_string(bundle?.path().join("a.txt")));
        }
        Ok(found)
    };
    assert_eq!(link()?, ["sound"]);
    let digest = {
        use sha2::{Digest as _, Sha256};
        hex::encode(Sha256::digest(b"sound"))
    };
    std::fs::write(blob(&server, &digest), "spoilt")?;
    assert_eq!(link()?, ["spoilt"], "it is one file");
    push()?;
    // The new deployment's, and that of the old one with its next replica.
    assert!(link()?.contains(&"sound".to_owned()));
    Ok(())
}

#[tokio::test]
async fn a_lost_database_is_not_taken_for_a_first_start() -> Result<()> {
    let server = Server::start()?;
    server.push("echo", "")?;
    let config = server.folder().join("config.toml");
    let before = std::fs::read_to_string(&config)?;
    let folder = server.folder().to_owned();
    let data = folder.join("data");
    let kept = folder.join("kept.db");
    let mut server = server;
    server.terminate();
    server.wait()?;
    std::fs::rename(data.join("state.db"), &kept)?;
    let _ = std::fs::remove_file(data.join("state.db-wal"));
    let _ = std::fs::remove_file(data.join("state.db-shm"));
    let refused = || -> Result<()> {
        let output = std::process::Command::new(binary())
            .env("SAMOVAR_CONFIG", &config)
            .args(["serve", "--addr", "127.0.0.1:0", "--data"])
            .arg(&data)
            .output()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{text}");
        for part in ["state.db", "--new-store", data.to_str().unwrap()] {
            assert!(text.contains(part), "{part}: {text}");
        }
        Ok(())
    };
    refused()?;
    std::fs::write(data.join("state.db"), "")?;
    refused()?;
    assert_eq!(std::fs::read_to_string(&config)?, before, "the key is kept");

    std::fs::rename(&kept, data.join("state.db"))?;
    let server = server.restart()?;
    let url = server.at("/models/echo/production/predict");
    assert_eq!(
        server.client().post(url).body("x").send().await?.status(),
        200
    );

    // Asked for, it begins anew, and the earlier key is kept beside the new one.
    let mut server = server;
    server.terminate();
    server.wait()?;
    std::fs::remove_file(data.join("state.db"))?;
    let server = server.restart_with(&["--new-store"])?;
    assert_ne!(std::fs::read_to_string(&config)?, before);
    let earlier = std::fs::read_to_string(folder.join("config.toml.1"))?;
    assert_eq!(earlier, before);
    assert!(server.api().models().await?.models.is_empty());
    Ok(())
}

fn deployment(server: &Server, model: &str) -> Result<Value> {
    let list = server.cli_json(&["deployment", "list", model])?;
    Ok(list["deployments"][0].clone())
}

#[tokio::test]
async fn a_build_that_ends_the_node_twice_has_failed() -> Result<()> {
    let server = Server::start()?;
    server.push("echo", "")?;
    // Its `init` goes on until it is stopped, which stands for whatever ends a node in the middle of a build.
    let manifest = "[limits]\ntimeout = \"300s\"\n[environment_variables]\nINIT_LOOP = \"1\"\n";
    let folder = server.bundle("endless", "init", manifest)?;
    let starting = async |server: &Server| {
        eventually("it is being built", async || {
            deployment(server, "endless").is_ok_and(|one| one["status"] == "DEPLOYING")
        })
        .await
    };
    let mut push = server
        .command(&["push", folder.to_str().context("path")?])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()?;
    starting(&server).await?;
    let server = server.restart()?;
    push.wait()?;
    // Once more, alone.
    starting(&server).await?;
    let server = server.restart()?;
    eventually("the build failed", async || {
        deployment(&server, "endless").is_ok_and(|one| one["status"] == "BUILD_FAILED")
    })
    .await?;
    let reason = deployment(&server, "endless")?["status_reason"].to_string();
    assert!(reason.contains("ended twice"), "{reason}");
    let url = server.at("/models/echo/production/predict");
    assert_eq!(
        server.client().post(url).body("x").send().await?.status(),
        200
    );
    server.push("count", "")?;
    // Whoever knows better may try again.
    let id = deployment(&server, "endless")?["id"].clone();
    let (client, id) = (server.api(), id.as_str().context("id")?);
    let mut retrying = Box::pin(client.retry("endless", id, PATIENCE));
    tokio::select! {
        answer = &mut retrying => anyhow::bail!("answered: {answer:?}"),
        begun = starting(&server) => begun?,
    }
    Ok(())
}
