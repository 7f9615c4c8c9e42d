//! What it costs to run graphs in an engine of their own: a tiny model on two nodes, in alternation.

use anyhow::Result;

use super::bare::Peers;
use super::load::{Body, Load, load};
use super::servers::Server;
use super::table::{Row, median};
use super::{Bench, ROUNDS, say, tiny};

const MANY: u32 = 16;
const LEAST_RATIO: f64 = 0.75;
const MOST_MORE_US: f64 = 25.0;

/// Requests per second of many clients, and the median latency of one.
pub fn rows(bench: &Bench) -> Result<Vec<Row>> {
    say("a tiny model in the node and in an engine");
    let peers = Peers::find()?;
    let node = |mode| tiny::node_with(bench, &peers, &format!("modes-{mode}-data"), Some(mode));
    let nodes = [node("in-process")?, node("shared")?];
    let body = tiny::body(&bench.folder)?;
    for node in &nodes {
        run(node, &body, MANY, 1)?;
    }
    let many = alternate(&nodes, &body, MANY, bench.seconds)?;
    let one = alternate(&nodes, &body, 1, bench.seconds)?;
    let ratios = many
        .iter()
        .map(|[inside, outside]| outside.per_second / inside.per_second);
    let ratio = median(ratios.collect());
    let more = one
        .iter()
        .map(|[inside, outside]| (outside.p50_ms - inside.p50_ms) * 1000.0);
    let more = median(more.collect());
    let middle = |loads: &[[Load; 2]], mode: usize, of: fn(&Load) -> f64| {
        median(loads.iter().map(|both| of(&both[mode])).collect())
    };
    let rate = |mode| format!("{:.0}/s", middle(&many, mode, |load| load.per_second));
    let p50 = |mode| format!("{:.0} us", middle(&one, mode, |load| load.p50_ms * 1000.0));
    Ok(vec![
        Row {
            measure: format!("tiny model in an engine, {MANY} clients"),
            samovar: rate(1),
            beside: format!("in the node: {}", rate(0)),
            result: format!("{ratio:.2} ×"),
            floor: format!("≥ {LEAST_RATIO} ×"),
            held: Some(ratio >= LEAST_RATIO),
        },
        Row {
            measure: "the same, p50 of one client".into(),
            samovar: p50(1),
            beside: format!("in the node: {}", p50(0)),
            result: format!("{more:+.0} us"),
            floor: format!("≤ {MOST_MORE_US:+.0} us"),
            held: Some(more <= MOST_MORE_US),
        },
    ])
}

fn alternate(
    nodes: &[Server; 2],
    body: &Body,
    clients: u32,
    seconds: u64,
) -> Result<Vec<[Load; 2]>> {
    let mut loads = Vec::new();
    for round in 1..=ROUNDS {
        let both = [
            run(&nodes[0], body, clients, seconds)?,
            run(&nodes[1], body, clients, seconds)?,
        ];
        say(&format!(
            "  round {round}, {clients} clients: in the node {:.0}/s, in an engine {:.0}/s",
            both[0].per_second, both[1].per_second
        ));
        loads.push(both);
    }
    Ok(loads)
}

fn run(node: &Server, body: &Body, clients: u32, seconds: u64) -> Result<Load> {
    let url = format!("{}/models/tiny/production/predict", node.url);
    load(&url, Some(body), clients, seconds)
}
