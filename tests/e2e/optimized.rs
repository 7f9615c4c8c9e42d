//! Models as ONNX Runtime optimized them lie beside the node's data: made at the push, used by later loads, made again when
//! they are damaged, gone with their model.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use samovar_tests::python::onnxruntime;
use samovar_tests::{Server, eventually, repository};
use serde_json::Value;

/// The optimized models of a node.
fn kept(server: &Server) -> Vec<PathBuf> {
    let root = server.folder().join("data/optimized");
    let folders = std::fs::read_dir(root).into_iter().flatten().flatten();
    folders
        .flat_map(|folder| std::fs::read_dir(folder.path()).into_iter().flatten())
        .flatten()
        .map(|file| file.path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "ort"))
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
async fn the_optimized_form_of_a_model_is_kept_checked_and_cleaned_up() -> Result<()> {
    let Some(library) = onnxruntime()? else {
        return Ok(());
    };
    let server = Server::start_with(&["--onnxruntime", &library])?;
    let folder = server.bundle(
        "magika",
        "magika",
        "[graphs.default]\nfile = \"model.onnx\"\nbackend = \"onnxruntime\"\n",
    )?;
    let model = repository().join("examples/magika/model.onnx");
    std::fs::copy(model, folder.join("model.onnx"))?;
    let pushed = server.cli_json(&["push", folder.to_str().context("path")?])?;
    assert_eq!(pushed["deployment"]["graphs"][0]["backend"], "onnxruntime");
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
