//! What `push` and `model show` tell people to type works as it stands, and a component is found where Cargo put it.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result};
use samovar_tests::{Server, binary, guest};

use crate::open_inference::{push, sum};

/// The first command of a text that begins so.
fn command(output: &Output, start: &str) -> Result<String> {
    let text = String::from_utf8(output.stdout.clone())?;
    let at = text
        .find(start)
        .with_context(|| format!("no {start}: {text}"))?;
    Ok(text[at..].lines().next().unwrap_or_default().to_owned())
}

/// Types it into a shell.
fn typed(server: &Server, line: &str) -> Result<Output> {
    let binary = binary();
    let folder = binary.parent().context("the binary lies in a folder")?;
    let path = std::env::var("PATH").unwrap_or_default();
    Ok(Command::new("sh")
        .args(["-c", line])
        .env("PATH", format!("{}:{path}", folder.display()))
        .env("SAMOVAR_URL", &server.url)
        .env("SAMOVAR_API_KEY", server.key())
        .env("SAMOVAR_CONFIG", server.folder().join("config.toml"))
        .stdin(Stdio::null())
        .output()?)
}

fn is_answered(server: &Server, shown: &Output) -> Result<()> {
    let line = command(shown, "samovar predict ")?;
    let answer = typed(server, &line)?;
    assert!(answer.status.success(), "{line}: {answer:?}");
    Ok(())
}

fn pushed(server: &Server, path: &Path) -> Result<Output> {
    server.cli(&["push", path.to_str().context("path")?])
}

#[tokio::test]
async fn calls_that_are_shown_are_answered() -> Result<()> {
    let server = Server::start()?;
    let folder = server.bundle("echo", "echo", "example = \"it's [1]\"\n")?;
    let output = pushed(&server, &folder)?;
    is_answered(&server, &output)?;
    is_answered(&server, &server.cli(&["model", "show", "echo"])?)?;

    push(&server, "my-sum", &sum())?;
    let output = pushed(&server, &server.folder().join("my-sum.onnx"))?;
    is_answered(&server, &output)?;
    let shown = server.cli(&["model", "show", "my-sum"])?;
    is_answered(&server, &shown)?;
    let url = command(&shown, &server.url)?;
    let answer = server.client().post(&url).body("{}").send().await?;
    // It is there, and says what it lacks.
    assert_eq!(answer.status(), 400, "{url}");
    Ok(())
}

#[tokio::test]
async fn a_component_is_found_where_cargo_was_told_to_put_it() -> Result<()> {
    let server = Server::start()?;
    let folder = server.bundle("moved", "echo", "")?;
    std::fs::remove_file(folder.join("guest.wasm"))?;
    let component = guest("echo");
    let component = component.to_str().context("path")?;
    let manifest = format!(
        "name = \"moved\"\ncomponent = \"target/wasm32-wasip2/release/model.wasm\"\nbuild = '''\n\
         mkdir -p \"$CARGO_TARGET_DIR/wasm32-wasip2/release\"\n\
         cp \"{component}\" \"$CARGO_TARGET_DIR/wasm32-wasip2/release/model.wasm\"\n'''\n"
    );
    std::fs::write(folder.join("samovar.toml"), manifest)?;
    let elsewhere = server.folder().join("elsewhere");
    let output = server
        .command(&["push", folder.to_str().context("path")?])
        .env("CARGO_TARGET_DIR", &elsewhere)
        .output()?;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let url = server.at("/models/moved/production/predict");
    assert_eq!(
        server.client().post(url).body("x").send().await?.status(),
        200
    );
    Ok(())
}
