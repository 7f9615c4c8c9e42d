//! The example `chat` tells OpenAI's client what the decoder says in numpy, token by token, and stops when nobody listens.

use anyhow::{Context, Result};
use samovar_tests::python::Python;
use samovar_tests::{Server, repository};

#[test]
fn the_openai_client_is_told_what_the_decoder_says_in_numpy() -> Result<()> {
    let Some(python) = Python::with("openai") else {
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
    let args = [
        server.at("/models/chat/production"),
        server.key(),
        repository().display().to_string(),
    ];
    let seen = python
        .json("chat_client.py", &args)
        .with_context(|| format!("{:?}", server.log()))?;
    assert!(seen["conversations"].as_u64() >= Some(10), "{seen}");
    Ok(())
}
