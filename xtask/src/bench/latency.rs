//! How long requests take when one, some and many clients ask at once.

use anyhow::Result;

use super::bare::{Backend, Peers};
use super::load::{Body, load};
use super::servers::Server;
use super::table::Row;
use super::{Bench, inference, say, tiny};

const CLIENTS: [u32; 3] = [1, 16, 256];
/// A load counts what was answered in its time: with many who wait for seconds it must be long, or it counts the quick.
const MANY_SECONDS: u64 = 30;

/// The tiny model, and Magika.
pub fn rows(bench: &Bench) -> Result<Vec<Row>> {
    say("latencies");
    let peers = Peers::find()?;
    let node = tiny::node(bench, &peers, "latency-tiny-data")?;
    let body = tiny::body(&bench.folder)?;
    let mut rows = of(bench, &node, "tiny", &body)?;
    drop(node);

    let options = ["--onnxruntime", peers.library.as_str()];
    let node = Server::samovar(&bench.folder, "latency-magika-data", &options)?;
    let bundle = inference::magika_bundle(bench, "latency-magika", Backend::Onnxruntime, "")?;
    node.push(&bundle, "magika")?;
    let readme = std::fs::read(crate::repository().join("examples/magika/README.md"))?;
    let body = Body::new(&bench.folder, "magika", "application/octet-stream", &readme)?;
    rows.extend(of(bench, &node, "magika", &body)?);
    Ok(rows)
}

fn of(bench: &Bench, node: &Server, model: &str, body: &Body) -> Result<Vec<Row>> {
    let url = format!("{}/models/{model}/production/predict", node.url);
    load(&url, Some(body), CLIENTS[1], 1)?;
    let mut rows = Vec::new();
    for clients in CLIENTS {
        let seconds = if clients > 100 {
            bench.seconds.max(MANY_SECONDS)
        } else {
            bench.seconds
        };
        let found = load(&url, Some(body), clients, seconds)?;
        let plural = if clients == 1 { "" } else { "s" };
        let mut row = Row::fact(
            format!("{model}, {clients} client{plural}"),
            format!("{:.0}/s", found.per_second),
        );
        row.result = format!("p50 {:.2} ms, p99 {:.2} ms", found.p50_ms, found.p99_ms);
        rows.push(row);
    }
    Ok(rows)
}
