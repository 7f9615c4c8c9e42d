//! The example `vad` finds the speech that the Python package finds, and tells of it while the audio comes in.

use anyhow::{Context, Result};
use samovar_tests::python::Python;
use samovar_tests::{Server, repository};

#[test]
fn it_agrees_with_the_python_package_while_audio_streams_in() -> Result<()> {
    let Some(python) = Python::with("onnxruntime and espeakng-loader") else {
        return Ok(());
    };
    let server = Server::start()?;
    let example = repository().join("examples/vad");
    server.cli_json(&["push", "--no-build", example.to_str().unwrap()])?;
    let args = [server.at("/models/vad/production"), server.key()];
    let seen = python
        .json("vad_client.py", &args)
        .with_context(|| format!("{:?}", server.log()))?;
    assert!(
        seen["segments"]["conversation"].as_u64() >= Some(2),
        "{seen}"
    );
    Ok(())
}
