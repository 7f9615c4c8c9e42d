//! A tiny model with JSON in and out, beside LitServe with the same model: what a server itself costs.

use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use super::bare::Peers;
use super::bundles::Around;
use super::http::Connection;
use super::load::{Body, load};
use super::servers::Server;
use super::table::{Row, median};
use super::{Bench, ROUNDS, models, say};

const CONNECTIONS: u32 = 16;
const LEAST: f64 = 15.0;
const P50_MS: f64 = 1.0;
const REQUEST: &str = r#"{"features":[[5.1,3.5,1.4,0.2]]}"#;

/// What is sent to the tiny model.
pub fn body(folder: &Path) -> Result<Body> {
    Body::new(folder, "tiny", "application/json", REQUEST.as_bytes())
}

/// A node that serves the tiny model as `tiny`.
pub fn node(bench: &Bench, peers: &Peers, data: &str) -> Result<Server> {
    node_with(bench, peers, data, None)
}

/// The same with graphs where `--engines` says.
pub fn node_with(
    bench: &Bench,
    peers: &Peers,
    data: &str,
    engines: Option<&str>,
) -> Result<Server> {
    let model = models::write(&bench.folder.join("tiny"), &models::tiny())?;
    let bundle = Around {
        guest: "tiny",
        model: &model,
        backend: "onnxruntime",
        graph: "",
        autoscaling: "max_replica = 64",
    };
    let mut options = vec!["--onnxruntime", peers.library.as_str()];
    options.extend(engines.iter().flat_map(|mode| ["--engines", mode]));
    let node = Server::samovar(&bench.folder, data, &options)?;
    node.push(&bundle.write(&bench.folder, "tiny")?, "tiny")?;
    Ok(node)
}

/// Requests per second of both, in alternation, and the median latency.
pub fn rows(bench: &Bench) -> Result<Vec<Row>> {
    say("a tiny model beside LitServe");
    let peers = Peers::find()?;
    let node = node(bench, &peers, "tiny-data")?;
    let other = Server::litserve(&peers.python, &bench.folder.join("tiny/model.onnx"))?;
    let body = body(&bench.folder)?;
    let paths = ["/models/tiny/production/predict", "/predict"];
    same_answer([&node, &other], paths)?;
    let ours = format!("{}{}", node.url, paths[0]);
    let theirs = format!("{}{}", other.url, paths[1]);
    load(&ours, Some(&body), CONNECTIONS, 1)?;
    load(&theirs, Some(&body), CONNECTIONS, 1)?;
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        a.push(load(&ours, Some(&body), CONNECTIONS, bench.seconds)?);
        b.push(load(&theirs, Some(&body), CONNECTIONS, bench.seconds)?);
        say(&format!(
            "  round {round}: samovar {:.0}/s, LitServe {:.0}/s",
            a[round - 1].per_second,
            b[round - 1].per_second
        ));
    }
    let ratios = a.iter().zip(&b).map(|(a, b)| a.per_second / b.per_second);
    let ratio = median(ratios.collect());
    let p50 = |loads: &[super::load::Load]| median(loads.iter().map(|one| one.p50_ms).collect());
    let rate =
        |loads: &[super::load::Load]| median(loads.iter().map(|one| one.per_second).collect());
    Ok(vec![
        Row {
            measure: format!("tiny model, JSON in and out, {CONNECTIONS} clients"),
            samovar: format!("{:.0}/s", rate(&a)),
            beside: format!("LitServe: {:.0}/s", rate(&b)),
            result: format!("{ratio:.1} ×"),
            floor: format!("≥ {LEAST:.0} ×"),
            held: Some(ratio >= LEAST),
        },
        Row {
            measure: format!("the same, p50 at {CONNECTIONS} clients"),
            samovar: format!("{:.2} ms", p50(&a)),
            beside: format!("LitServe: {:.2} ms", p50(&b)),
            result: String::new(),
            floor: format!("< {P50_MS} ms"),
            held: Some(p50(&a) < P50_MS),
        },
    ])
}

/// Whoever is fast because it answers something else is found out.
fn same_answer(servers: [&Server; 2], paths: [&str; 2]) -> Result<()> {
    let mut found: Vec<Vec<f64>> = Vec::new();
    for (server, path) in servers.into_iter().zip(paths) {
        let answer = Connection::open(&server.url)?.json("POST", path, REQUEST.as_bytes())?;
        let row = answer["probabilities"][0].as_array().cloned();
        let row = row.unwrap_or_default();
        found.push(row.iter().filter_map(Value::as_f64).collect());
    }
    let near = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-5;
    anyhow::ensure!(
        found[0].len() == 3 && found[1].len() == 3 && found[0].iter().zip(&found[1]).all(near),
        "the two servers answer differently: {found:?}"
    );
    Ok(())
}
