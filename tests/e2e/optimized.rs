//! Models in the form that their backend loads quickest lie beside the node's data: made at the push, used by later loads, made again when
//! they are damaged, gone with their model.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use samovar_tests::python::onnxruntime;
use samovar_tests::{Server, eventually, repository};
use serde_json::Value;

/// The kept forms of a node's models for one backend.
fn kept(server: &Server, backend: &str, ending: &str) -> Vec<PathBuf> {
    let root = server.folder().join("data/optimized").join(backend);
    let folders = std::fs::read_dir(root).into_iter().flatten().flatten();
    folders
        .flat_map(|folder| std::fs::read_dir(folder.path()).into_iter().flatten())
        .flatten()
        .map(|file| file.path())
        .filter(|path| path.extension().is_some_and(|found| found == ending))
        .collect()
}

async fn ask(server: &Server) -> Result<Value> {
    let url = server.at("/models/magika/production/predict");
    let body = std::fs::read(repository().join("tests/e2e/optimized.rs"))?;
    let answer = server.client().post(url).body(body).send().await?;
    Ok(answer.error_for_status()?.json().await?)
}

fn damage(path: &Path) -> Result<()> {
    let mut bytes = std::fs::read(path)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::remove_file(path)?;
    Ok(std::fs::write(path, bytes)?)
}

#[tokio::test]
async fn what_onnxruntime_optimized_is_kept_checked_and_cleaned_up() -> Result<()> {
    let Some(library) = onnxruntime()? else {
        return Ok(());
    };
    let server = Server::start_with(&["--onnxruntime", &library])?;
    is_kept_checked_and_cleaned_up(server, "onnxruntime", "ort").await
}

#[tokio::test]
async fn what_was_adapted_to_rten_is_kept_checked_and_cleaned_up() -> Result<()> {
    is_kept_checked_and_cleaned_up(Server::start()?, "rten", "onnx").await
}

async fn is_kept_checked_and_cleaned_up(server: Server, backend: &str, ending: &str) -> Result<()> {
    let kept = |server: &Server| kept(server, backend, ending);
    let folder = server.bundle(
        "magika",
        "magika",
        &format!("[graphs.default]\nfile = \"model.onnx\"\nbackend = \"{backend}\"\n"),
    )?;
    let model = repository().join("examples/magika/model.onnx");
    std::fs::copy(model, folder.join("model.onnx"))?;
    let pushed = server.cli_json(&["push", folder.to_str().context("path")?])?;
    assert_eq!(pushed["deployment"]["graphs"][0]["backend"], backend);
    let wanted = ask(&server).await?;
    let made = kept(&server);
    assert_eq!(made.len(), 1, "{made:?}");
    let when = std::fs::metadata(&made[0])?.modified()?;

    // The next load takes it as it is.
    let server = server.restart()?;
    assert_eq!(ask(&server).await?, wanted);
    assert_eq!(kept(&server), made);
    assert_eq!(std::fs::metadata(&made[0])?.modified()?, when);

    // A damaged one is noticed, and made again.
    damage(&made[0])?;
    let server = server.restart()?;
    assert_eq!(ask(&server).await?, wanted);
    assert!(server.log().iter().any(|line| line.contains("damaged")));
    let server = server.restart()?;
    assert_eq!(ask(&server).await?, wanted);
    assert!(!server.log().iter().any(|line| line.contains("damaged")));

    server.cli_json(&["model", "delete", "magika", "--yes"])?;
    eventually("it is gone with its model", async || {
        kept(&server).is_empty()
    })
    .await
}
