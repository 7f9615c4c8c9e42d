//! A decode loop whose state goes from one inference into the next, beside the same loop with ONNX Runtime alone.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::bare::Peers;
use super::bundles::Around;
use super::http::Connection;
use super::servers::Server;
use super::table::{Row, median};
use super::{Bench, ROUNDS, models, say};

/// 50 MB of floats.
const ELEMENTS: usize = 12_500_000;
const STEPS: usize = 40;
/// What a step may take of the bare loop's.
const MOST: f64 = 1.1;

/// Milliseconds of a step, in alternation.
pub fn rows(bench: &Bench) -> Result<Vec<Row>> {
    say("a decode loop with a state of 50 MB");
    let peers = Peers::find()?;
    let model = models::write(
        &bench.folder.join("decode"),
        &models::decoder(ELEMENTS as u64),
    )?;
    let bundle = Around {
        guest: "decode",
        model: &model,
        backend: "onnxruntime",
        graph: "",
        autoscaling: "min_replica = 1",
    };
    let options = ["--onnxruntime", peers.library.as_str()];
    let node = Server::samovar(&bench.folder, "decode-data", &options)?;
    node.push(&bundle.write(&bench.folder, "decode")?, "decode")?;
    let mut connection = Connection::open(&node.url)?;
    let asked = json!({"elements": ELEMENTS, "steps": STEPS}).to_string();
    let mut ours = || -> Result<f64> {
        let path = "/models/decode/production/predict";
        let answer = connection.json("POST", path, asked.as_bytes())?;
        let steps = answer["step_us"].as_array().context("no steps")?;
        Ok(median(steps.iter().filter_map(Value::as_f64).collect()) / 1e3)
    };
    ours()?;
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        a.push(ours()?);
        b.push(peers.step_ms(&model, ELEMENTS, STEPS)?);
        say(&format!(
            "  round {round}: samovar {:.2} ms, bare {:.2} ms",
            a[round - 1],
            b[round - 1]
        ));
    }
    let ratio = median(a.iter().zip(&b).map(|(a, b)| a / b).collect());
    Ok(vec![Row {
        measure: "decode loop, 50 MB of state, a step".to_owned(),
        samovar: format!("{:.2} ms", median(a)),
        beside: format!("bare: {:.2} ms", median(b)),
        result: format!("{ratio:.2} ×"),
        floor: format!("≤ {MOST} ×"),
        held: Some(ratio <= MOST),
    }])
}
