//! The example `vad` finds the speech that the Python package finds, and tells of it while the audio comes in.

use std::process::Command;

use anyhow::Result;
use samovar_tests::{Server, repository};
use serde_json::Value;

#[test]
fn it_agrees_with_the_python_package_while_audio_streams_in() -> Result<()> {
    let Some(python) = std::env::var_os("SAMOVAR_TEST_PYTHON") else {
        eprintln!(
            "skipped: SAMOVAR_TEST_PYTHON names no Python with onnxruntime and espeakng-loader"
        );
        return Ok(());
    };
    let server = Server::start()?;
    let example = repository().join("examples/vad");
    server.cli_json(&["push", "--no-build", example.to_str().unwrap()])?;
    let output = Command::new(python)
        .arg(repository().join("tests/e2e/vad_client.py"))
        .args([server.at("/models/vad/production"), server.key()])
        .output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}\n{:?}", server.log());
    let seen: Value = serde_json::from_slice(&output.stdout)?;
    assert!(
        seen["segments"]["conversation"].as_u64() >= Some(2),
        "{seen}"
    );
    Ok(())
}
