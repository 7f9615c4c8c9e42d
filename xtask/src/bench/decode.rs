//! A decode loop whose state goes from one inference into the next, beside the same loop with ONNX Runtime alone.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::bare::{Device, Peers};
use super::http::Connection;
use super::servers::Server;
use super::table::{Row, median};
use super::{Bench, ROUNDS, models, say};

/// 50 MB of floats.
const ELEMENTS: usize = 12_500_000;
/// Steps of the shorter and of the longer request. What each takes beside its steps is in both.
const STEPS: [usize; 2] = [5, 45];
/// Processes that are measured one after the other.
const NODES: usize = 3;
/// What a step may take of the bare loop's.
const MOST: f64 = 1.1;

/// Milliseconds of a step on the CPU.
pub fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let peers = Peers::find()?;
    let options = ["--onnxruntime", peers.library.as_str()];
    // A process keeps the memory that it was given for its states, and some is quicker than other. The bare loop gets its
    // own in each round.
    let nodes = (1..=NODES)
        .map(|number| Server::samovar(&bench.folder, &format!("decode-{number}-data"), &options))
        .collect::<Result<Vec<_>>>()?;
    Ok(vec![row(bench, &peers, &nodes, Device::Cpu)?])
}

/// Milliseconds of a step, on one node after the other and in alternation with the bare loop.
pub fn row(bench: &Bench, peers: &Peers, nodes: &[Server], device: Device) -> Result<Row> {
    let measure = match device {
        Device::Cpu => "decode loop, 50 MB of state, a step",
        Device::Gpu => "decode loop on the GPU, 50 MB of state, a step",
    };
    say(measure);
    let bundle = bundle(bench, device)?;
    let mut connections = Vec::new();
    for node in nodes {
        node.push(&bundle, "decode")?;
        connections.push(Connection::open(&node.url)?);
    }
    let ask = |connection: &mut Connection, steps: usize| -> Result<f64> {
        let asked = json!({"elements": ELEMENTS, "steps": steps}).to_string();
        let begun = Instant::now();
        let path = "/models/decode/production/predict";
        let answer = connection.json("POST", path, asked.as_bytes())?;
        let took = begun.elapsed().as_secs_f64() * 1e3;
        let tokens = answer["Ok"]["tokens"].as_array();
        let tokens = tokens.with_context(|| format!("no tokens in {answer}"))?;
        ensure!(tokens.len() == steps + 1, "{} tokens", tokens.len());
        Ok(took)
    };
    let ours = |connection: &mut Connection| -> Result<f64> {
        let few = ask(connection, STEPS[0])?;
        let many = ask(connection, STEPS[1])?;
        Ok((many - few) / (STEPS[1] - STEPS[0]) as f64)
    };
    for connection in &mut connections {
        ours(connection)?;
    }
    let model = bundle.join("step.onnx");
    let (mut a, mut b) = (Vec::new(), Vec::new());
    // Each is over in a quarter of a second, and says little alone.
    let count = connections.len();
    for round in 1..=3 * ROUNDS {
        a.push(ours(&mut connections[round % count])?);
        b.push(peers.step_ms(&model, ELEMENTS, STEPS, device)?);
        say(&format!(
            "  round {round}: samovar {:.3} ms, bare {:.3} ms",
            a[round - 1],
            b[round - 1]
        ));
    }
    let ratio = median(a.iter().zip(&b).map(|(a, b)| a / b).collect());
    Ok(Row {
        measure: measure.to_owned(),
        samovar: format!("{:.3} ms", median(a)),
        beside: format!("bare: {:.3} ms", median(b)),
        result: format!("{ratio:.2} ×"),
        floor: format!("≤ {MOST} ×"),
        held: Some(ratio <= MOST),
    })
}

/// The guest `decode` with its two graphs.
fn bundle(bench: &Bench, device: Device) -> Result<PathBuf> {
    let bundle = bench.folder.join("decode");
    std::fs::create_dir_all(&bundle)?;
    let component = crate::repository().join("target/guests/components/decode.wasm");
    std::fs::copy(component, bundle.join("guest.wasm"))?;
    let mut manifest = "name = \"decode\"\ncomponent = \"guest.wasm\"\n".to_owned();
    for (name, model) in [
        ("start", models::decoder_start()),
        ("step", models::decoder_step()),
    ] {
        std::fs::write(bundle.join(format!("{name}.onnx")), model)?;
        manifest.push_str(&format!(
            "[graphs.{name}]\nfile = \"{name}.onnx\"\nbackend = \"onnxruntime\"\ntarget = \"{}\"\n",
            device.name()
        ));
    }
    std::fs::write(bundle.join("samovar.toml"), manifest)?;
    Ok(bundle)
}
