//! Models on a GPU, where there is one.

use anyhow::Result;
use serde_json::Value;

use super::bare::Peers;
use super::servers::Server;
use super::table::Row;
use super::{Bench, say};

/// Says what was not measured, and why.
pub fn rows(bench: &Bench) -> Result<Vec<Row>> {
    say("models on a GPU");
    let peers = Peers::find()?;
    let options = ["--onnxruntime", peers.library.as_str()];
    let node = Server::samovar(&bench.folder, "gpu-data", &options)?;
    let told = node.cli(&["backends"])?;
    let has_gpu = told["backends"].as_array().is_some_and(|backends| {
        backends.iter().any(|backend| {
            let targets = backend["targets"].as_array();
            targets.is_some_and(|targets| targets.contains(&Value::from("gpu")))
        })
    });
    let found = if has_gpu {
        "there is a GPU, and nothing here measures it yet"
    } else {
        "no GPU here"
    };
    let mut row = Row::fact("ResNet-50 and a small transformer on a GPU", "");
    row.result = found.to_owned();
    Ok(vec![row])
}
