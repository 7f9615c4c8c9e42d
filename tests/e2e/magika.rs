//! The example `magika` says of files what Google's own package says.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use samovar_tests::python::Python;
use samovar_tests::{Server, repository};
use serde_json::Value;

#[tokio::test]
async fn it_agrees_with_the_python_package() -> Result<()> {
    let Some(python) = Python::with("the package magika") else {
        return Ok(());
    };
    let server = Server::start()?;
    server.cli_json(&[
        "push",
        "--no-build",
        repository().join("examples/magika").to_str().unwrap(),
    ])?;
    let folder = server.folder().join("files");
    std::fs::create_dir(&folder)?;
    let wanted = python.json("magika_oracle.py", &[folder.as_path(), repository()])?;
    let wanted = wanted.as_array().context("a list")?;

    let mut kinds = std::collections::BTreeSet::new();
    let mut wrong = Vec::new();
    for file in wanted {
        let path = PathBuf::from(file["path"].as_str().context("a path")?);
        let found = ask(&server, &path).await?;
        kinds.insert(file["label"].to_string());
        let score = |answer: &Value| answer["score"].as_f64().unwrap_or(-1.0);
        // Backends differ in the last digits, most where the model itself is in doubt.
        let same = found["label"] == file["label"]
            && found["mime_type"] == file["mime_type"]
            && (score(&found) - score(file)).abs() < 1e-2;
        if !same {
            wrong.push(format!("{}: found {found}, wanted {file}", path.display()));
        }
    }
    assert!(wanted.len() >= 200, "{} files", wanted.len());
    assert!(kinds.len() >= 20, "{} kinds: {kinds:?}", kinds.len());
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        wanted.len(),
        wrong.join("\n")
    );
    Ok(())
}

async fn ask(server: &Server, path: &Path) -> Result<Value> {
    let answer = server
        .client()
        .post(server.at("/models/magika/production/predict"))
        .body(std::fs::read(path)?)
        .send()
        .await?;
    anyhow::ensure!(
        answer.status() == 200,
        "{}: {}",
        path.display(),
        answer.text().await?
    );
    Ok(answer.json().await?)
}
