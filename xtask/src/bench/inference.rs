//! Saturated models beside their backends alone: a loop on as many threads as there are cores.

use std::path::PathBuf;

use anyhow::Result;

use super::bare::{Backend, Peers, cores};
use super::bundles::{Around, variant};
use super::load::{Body, load};
use super::servers::Server;
use super::table::{Row, median};
use super::{Bench, ROUNDS, models, say};

/// What of the bare loop must be left.
const LEAST: f64 = 0.95;
/// What joined batches must bring over the bare loop without them, where the backend alone gains as much.
const JOINED: f64 = 1.3;
const BATCH: u32 = 8;

/// A model under test: how a request reaches it, and what the bare loop runs.
struct Subject {
    name: &'static str,
    model: PathBuf,
    /// An input of the bare loop.
    input: String,
    body: Body,
}

/// Magika, on both backends, with and without joined batches.
pub fn magika(bench: &Bench) -> Result<Vec<Row>> {
    let readme = std::fs::read(crate::repository().join("examples/magika/README.md"))?;
    let subject = Subject {
        name: "magika",
        model: models::magika(),
        input: "i32:1x2048".to_owned(),
        body: Body::new(&bench.folder, "magika", "application/octet-stream", &readme)?,
    };
    let mut rows = beside_backends(bench, &subject)?;
    rows.extend(joined(bench, &subject)?);
    Ok(rows)
}

/// PP-OCR's recogniser, on both backends.
pub fn recogniser(bench: &Bench) -> Result<Vec<Row>> {
    let pixels = models::floats(3 * 48 * 320);
    let subject = Subject {
        name: "ocr-rec",
        model: models::recogniser(),
        input: "f32:1x3x48x320".to_owned(),
        body: Body::new(&bench.folder, "line", "application/octet-stream", &pixels)?,
    };
    beside_backends(bench, &subject)
}

fn beside_backends(bench: &Bench, subject: &Subject) -> Result<Vec<Row>> {
    let peers = Peers::find()?;
    let mut rows = Vec::new();
    for backend in Backend::ALL {
        say(&format!("{} beside {} alone", subject.name, backend.name()));
        let node = match serve(bench, &peers, subject, backend, "") {
            Ok(node) => node,
            Err(error) if error.to_string().contains("graph_refused") => {
                let measure = format!("{}, {}", subject.name, backend.name());
                let mut row = Row::fact(measure, "");
                row.result = "the node refuses this model on this backend".to_owned();
                say(&format!("  {error:#}"));
                rows.push(row);
                continue;
            }
            Err(error) => return Err(error),
        };
        let found = rounds(bench, &peers, subject, backend, &node, clients())?;
        rows.push(Row {
            measure: format!("{}, {}", subject.name, backend.name()),
            samovar: format!("{:.1}/s", found.ours),
            beside: format!("bare: {:.1}/s", found.bare),
            result: format!(
                "{:.2} ×; processor time of a run {:.2} ms, bare {:.2} ms",
                found.ratio, found.our_processor_ms, found.bare_processor_ms
            ),
            floor: format!("≥ {LEAST} ×"),
            held: Some(found.ratio.min(found.processor_ratio()) >= LEAST),
        });
    }
    Ok(rows)
}

fn joined(bench: &Bench, subject: &Subject) -> Result<Vec<Row>> {
    let peers = Peers::find()?;
    let mut rows = Vec::new();
    for backend in Backend::ALL {
        let measure = format!("{}, {}, joined batches", subject.name, backend.name());
        say(&measure);
        let mut gains = Vec::new();
        for _ in 0..ROUNDS {
            let run = |batch| {
                let input = &subject.input;
                peers.run(&subject.model, backend, input, batch, bench.seconds)
            };
            let (one, many) = (run(1)?, run(BATCH)?);
            gains.push(many.rows_per_second / one.rows_per_second);
        }
        let gain = median(gains);
        if gain < JOINED {
            let mut row = Row::fact(measure, "");
            row.result = format!("backend gains {gain:.2} × from batches of {BATCH}: no threshold");
            rows.push(row);
            continue;
        }
        let graph = format!("batch = {{ max_size = {BATCH}, max_delay_ms = 2 }}");
        let node = serve(bench, &peers, subject, backend, &graph)?;
        let found = rounds(bench, &peers, subject, backend, &node, BATCH * 8)?;
        rows.push(Row {
            measure,
            samovar: format!("{:.1}/s", found.ours),
            beside: format!("bare, one by one: {:.1}/s", found.bare),
            result: format!("{:.2} ×, of {gain:.2} that the backend gains", found.ratio),
            floor: format!("≥ {JOINED} ×"),
            held: Some(found.ratio >= JOINED),
        });
    }
    Ok(rows)
}

/// Enough that a core never waits for the next request.
pub fn clients() -> u32 {
    u32::try_from(cores() * 4).unwrap_or(u32::MAX)
}

fn serve(
    bench: &Bench,
    peers: &Peers,
    subject: &Subject,
    backend: Backend,
    graph: &str,
) -> Result<Server> {
    let name = format!("{}-{}", subject.name, backend.name());
    let autoscaling = "max_replica = 64";
    let bundle = if subject.name == "magika" {
        magika_bundle(bench, &name, backend, graph)?
    } else {
        Around {
            guest: "line",
            model: &subject.model,
            backend: backend.name(),
            graph,
            autoscaling,
        }
        .write(&bench.folder, &name)?
    };
    let data = format!("{name}-{}-data", graph.len());
    let options = ["--onnxruntime", peers.library.as_str()];
    let node = Server::samovar(&bench.folder, &data, &options)?;
    node.push(&bundle, subject.name)?;
    Ok(node)
}

/// `examples/magika` on this backend, with more lines about its graph.
pub fn magika_bundle(bench: &Bench, name: &str, backend: Backend, graph: &str) -> Result<PathBuf> {
    let example = crate::repository().join("examples/magika");
    let bundle = variant(&bench.folder, name, &example, "max_replica = 64")?;
    let manifest = bundle.join("samovar.toml");
    let text = std::fs::read_to_string(&manifest)?;
    let lines = format!(
        "[graphs.default]\nbackend = \"{}\"\n{graph}",
        backend.name()
    );
    std::fs::write(&manifest, text.replace("[graphs.default]", &lines))?;
    Ok(bundle)
}

/// Medians of all rounds.
struct Rounds {
    ours: f64,
    bare: f64,
    ratio: f64,
    our_processor_ms: f64,
    bare_processor_ms: f64,
}

impl Rounds {
    /// What the rates would be to each other on cores that do nothing else. On a busy machine the two get different
    /// shares of them, and a node may seem faster than the loop without it.
    fn processor_ratio(&self) -> f64 {
        self.bare_processor_ms / self.our_processor_ms
    }
}

fn rounds(
    bench: &Bench,
    peers: &Peers,
    subject: &Subject,
    backend: Backend,
    node: &Server,
    connections: u32,
) -> Result<Rounds> {
    let url = format!("{}/models/{}/production/predict", node.url, subject.name);
    load(&url, Some(&subject.body), connections, 1)?;
    let (mut a, mut b, mut processor) = (Vec::new(), Vec::new(), [Vec::new(), Vec::new()]);
    for round in 1..=ROUNDS {
        let before = node.processor_ms()?;
        let ours = load(&url, Some(&subject.body), connections, bench.seconds)?;
        processor[0].push((node.processor_ms()? - before) / ours.requests);
        a.push(ours.per_second);
        let bare = peers.run(&subject.model, backend, &subject.input, 1, bench.seconds)?;
        processor[1].push(bare.processor_ms);
        b.push(bare.rows_per_second);
        say(&format!(
            "  round {round}: samovar {:.1}/s, bare {:.1}/s",
            a[round - 1],
            b[round - 1]
        ));
    }
    let [ours, bare] = processor;
    Ok(Rounds {
        ratio: median(a.iter().zip(&b).map(|(a, b)| a / b).collect()),
        ours: median(a),
        bare: median(b),
        our_processor_ms: median(ours),
        bare_processor_ms: median(bare),
    })
}
