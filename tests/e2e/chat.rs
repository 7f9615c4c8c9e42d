//! The example `chat` tells OpenAI's client what the decoder says in numpy, token by token, and stops when nobody listens.

use std::process::Command;

use anyhow::Result;
use samovar_tests::{Server, repository};
use serde_json::Value;

#[test]
fn the_openai_client_is_told_what_the_decoder_says_in_numpy() -> Result<()> {
    let Some(python) = std::env::var_os("SAMOVAR_TEST_PYTHON") else {
        eprintln!("skipped: SAMOVAR_TEST_PYTHON names no Python with openai");
        return Ok(());
    };
    let server = Server::start()?;
    // With one replica, who comes after somebody that hung up finds out whether it is free.
    let example = repository().join("examples/chat");
    let folder = server.folder().join("chat");
    std::fs::create_dir(&folder)?;
    for name in ["chat.wasm", "model.onnx", "model.json"] {
        std::fs::copy(example.join(name), folder.join(name))?;
    }
    let manifest = std::fs::read_to_string(example.join("samovar.toml"))?;
    let one_replica = format!("{manifest}\n[autoscaling]\nmax_replica = 1\n");
    std::fs::write(folder.join("samovar.toml"), one_replica)?;
    server.cli_json(&["push", folder.to_str().unwrap()])?;
    let output = Command::new(python)
        .arg(repository().join("tests/e2e/chat_client.py"))
        .args([server.at("/models/chat/production"), server.key()])
        .arg(repository())
        .output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}\n{:?}", server.log());
    let seen: Value = serde_json::from_slice(&output.stdout)?;
    assert!(seen["conversations"].as_u64() >= Some(10), "{seen}");
    Ok(())
}
