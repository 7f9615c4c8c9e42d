//! The example `embeddings` gives OpenAI's client the vectors that the model gives in numpy.

use anyhow::{Context, Result};
use samovar_tests::python::Python;
use samovar_tests::{Server, repository};

#[test]
fn the_openai_client_gets_the_vectors_of_the_model_in_numpy() -> Result<()> {
    let Some(python) = Python::with("openai and tokenizers") else {
        return Ok(());
    };
    let server = Server::start()?;
    let example = repository().join("examples/embeddings");
    server.cli_json(&["push", "--no-build", example.to_str().unwrap()])?;
    let args = [
        server.at("/models/embeddings/production"),
        server.key(),
        repository().display().to_string(),
    ];
    let seen = python
        .json("embeddings_client.py", &args)
        .with_context(|| format!("{:?}", server.log()))?;
    assert!(seen["sentences"].as_u64() >= Some(50), "{seen}");
    Ok(())
}
