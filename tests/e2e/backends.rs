//! `samovar backends install` fetches ONNX Runtime into a data folder, and a node on it uses that one.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result};
use samovar_tests::python::Python;
use samovar_tests::{Server, binary};
use serde_json::Value;

/// The command, with pip kept to the packages in `index`, and the programs in `path` alone.
fn install(arguments: &[&str], data: &Path, index: &Path, path: &Path) -> Result<Output> {
    Ok(Command::new(binary())
        .args(["--json", "backends", "install"])
        .args(arguments)
        .arg("--data")
        .arg(data)
        .env("PATH", path)
        .env("PIP_NO_INDEX", "1")
        .env("PIP_FIND_LINKS", index)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .output()?)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn a_fetched_library_is_the_one_that_serves() -> Result<()> {
    let Some(python) = Python::with("the package onnxruntime") else {
        return Ok(());
    };
    let server = Server::start()?;
    let index = server.folder().join("index");
    std::fs::create_dir(&index)?;
    let version = python.run("make_wheel.py", &[&index])?.trim().to_owned();
    let data = server.folder().join("data");
    let programs = python.path().parent().context("a folder")?;

    let output = install(
        &["onnxruntime", "--version", "0.0.1"],
        &data,
        &index,
        programs,
    )?;
    assert!(!output.status.success());
    let missing = format!(
        "pip could not install onnxruntime==0.0.1: No matching distribution found for onnxruntime==0.0.1; available versions: {version}"
    );
    assert!(said(&output).contains(&missing), "{}", said(&output));

    let output = install(&["onnxruntime"], &data, &index, programs)?;
    assert!(output.status.success(), "{}", said(&output));
    let installed: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(installed["version"], version.as_str(), "{installed}");
    let path = installed["path"].as_str().context("a path")?;
    assert!(Path::new(path).is_file(), "{installed}");
    let kept = std::fs::read_dir(data.join("backends"))?.count();
    assert_eq!(kept, 1, "what was fetched but not wanted");

    let server = server.restart()?;
    let backends = server.cli_json(&["backends"])?;
    let listed = backends["backends"].as_array().context("a list")?;
    let found = listed.iter().find(|one| one["name"] == "onnxruntime");
    let found = found.context("no onnxruntime")?;
    // The environment goes before what was fetched.
    if std::env::var_os("ORT_DYLIB_PATH").is_none() {
        assert_eq!(found["path"], installed["path"], "{backends}");
        assert_eq!(found["available"], true, "{backends}");
    }
    Ok(())
}

/// What the server says when it has no ONNX Runtime, as its own user reads it.
fn reason(server: &Server) -> Result<String> {
    let backends = server.cli_json(&["backends"])?;
    let listed = backends["backends"].as_array().context("a list")?;
    let found = listed.iter().find(|one| one["name"] == "onnxruntime");
    let reason = found.context("no onnxruntime")?["reason"].as_str();
    reason.map(str::to_owned).with_context(|| {
        format!("this machine has an ONNX Runtime of its own, so that the test shows nothing: {backends}")
    })
}

#[tokio::test]
async fn the_hint_is_a_command_that_helps_the_server_that_gives_it() -> Result<()> {
    let Some(python) = Python::with("the package onnxruntime") else {
        return Ok(());
    };
    // A home folder of its own, where a client would install something for another server.
    let alone = "unset VIRTUAL_ENV ORT_DYLIB_PATH && export HOME=/nonexistent";
    let server = Server::start_under(alone, &[])?;
    let told = reason(&server)?;
    assert!(told.ends_with("then start the server again"), "{told}");
    let command = told.split('`').nth(1).context("no command")?;
    let folder = server.folder();
    let (programs, client, index) = (
        folder.join("programs"),
        folder.join("client"),
        folder.join("index"),
    );
    for made in [&programs, &client, &index] {
        std::fs::create_dir(made)?;
    }
    std::os::unix::fs::symlink(std::path::absolute(binary())?, programs.join("samovar"))?;
    python.run("make_wheel.py", &[&index])?;
    let of_python = python.path().parent().context("a folder")?.to_owned();
    let output = Command::new("/bin/sh")
        .args(["-c", command])
        .current_dir(&client)
        .env("PATH", std::env::join_paths([programs, of_python])?)
        .env("HOME", &client)
        .env("PIP_NO_INDEX", "1")
        .env("PIP_FIND_LINKS", &index)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .output()?;
    assert!(output.status.success(), "{command}: {}", said(&output));
    assert_eq!(std::fs::read_dir(&client)?.count(), 0, "beside the client");
    // As it says, it looks at its start and not before.
    assert_eq!(reason(&server)?, told);
    let server = server.restart()?;
    let backends = server.cli_json(&["backends"])?;
    let listed = backends["backends"].as_array().context("a list")?;
    let found = listed.iter().find(|one| one["name"] == "onnxruntime");
    let found = found.context("no onnxruntime")?;
    if std::env::var_os("ORT_DYLIB_PATH").is_none() {
        assert_eq!(found["available"], true, "{backends}");
        let path = Path::new(found["path"].as_str().context("a path")?);
        assert!(path.starts_with(server.folder()), "{backends}");
    }
    Ok(())
}

#[test]
fn what_is_missing_is_named() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (data, empty) = (folder.path().join("data"), folder.path().join("empty"));
    std::fs::create_dir(&empty)?;
    let output = install(&["onnxruntime"], &data, &empty, &empty)?;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("python3 cannot be run"),
        "{}",
        said(&output)
    );

    let python = empty.join("python3");
    std::fs::write(&python, "#!/bin/sh\nexit 1\n")?;
    std::fs::set_permissions(&python, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let output = install(&["onnxruntime"], &data, &empty, &empty)?;
    assert!(
        said(&output).contains("python3 has no pip"),
        "{}",
        said(&output)
    );

    let output = install(&["tensorflow"], &data, &empty, &empty)?;
    assert_eq!(output.status.code(), Some(2));
    assert!(
        said(&output).contains("onnxruntime-gpu"),
        "{}",
        said(&output)
    );
    Ok(())
}
