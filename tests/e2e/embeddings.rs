//! The example `embeddings` gives OpenAI's client the vectors that the model gives in numpy.

use std::process::Command;

use anyhow::Result;
use samovar_tests::{Server, repository};
use serde_json::Value;

#[test]
fn the_openai_client_gets_the_vectors_of_the_model_in_numpy() -> Result<()> {
    let Some(python) = std::env::var_os("SAMOVAR_TEST_PYTHON") else {
        eprintln!("skipped: SAMOVAR_TEST_PYTHON names no Python with openai and tokenizers");
        return Ok(());
    };
    let server = Server::start()?;
    let example = repository().join("examples/embeddings");
    server.cli_json(&["push", "--no-build", example.to_str().unwrap()])?;
    let output = Command::new(python)
        .arg(repository().join("tests/e2e/embeddings_client.py"))
        .args([server.at("/models/embeddings/production"), server.key()])
        .arg(repository())
        .output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}\n{:?}", server.log());
    let seen: Value = serde_json::from_slice(&output.stdout)?;
    assert!(seen["sentences"].as_u64() >= Some(50), "{seen}");
    Ok(())
}
