//! The hello guest beside `wasmtime serve` with the same guest.

use anyhow::Result;

use super::load::load;
use super::servers::{self, Server};
use super::table::{Row, median};
use super::{Bench, ROUNDS, bundles, say};

const CONNECTIONS: u32 = 32;

struct Kind {
    name: &'static str,
    measure: &'static str,
    options: &'static [&'static str],
    reuse_count: u32,
    least: f64,
}

/// Replicas and instances that stay.
pub fn warm(bench: &Bench) -> Result<Vec<Row>> {
    measure(
        bench,
        &Kind {
            name: "warm",
            measure: "hello, warm",
            options: &[],
            reuse_count: 100_000,
            least: 1.0,
        },
    )
}

/// An instance for each request.
pub fn instance(bench: &Bench) -> Result<Vec<Row>> {
    measure(
        bench,
        &Kind {
            name: "instance",
            measure: "hello, a new instance for each request",
            options: &["--max-requests-per-replica", "1"],
            reuse_count: 1,
            least: 1.1,
        },
    )
}

/// Requests per second of both servers, in alternation, so that a noisy minute hits both.
fn measure(bench: &Bench, kind: &Kind) -> Result<Vec<Row>> {
    say(kind.measure);
    let wasmtime = servers::find_wasmtime()?;
    let bundle = bundles::hello(&bench.folder, kind.name, "max_replica = 64")?;
    let node = Server::samovar(&bench.folder, &format!("{}-data", kind.name), kind.options)?;
    node.push(&bundle, "hello")?;
    let other = Server::wasmtime(&wasmtime, &bundle.join("hello.wasm"), kind.reuse_count)?;
    let ours = format!("{}/models/hello/production/predict", node.url);
    let theirs = format!("{}/", other.url);
    load(&ours, None, CONNECTIONS, 1)?;
    load(&theirs, None, CONNECTIONS, 1)?;
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        a.push(load(&ours, None, CONNECTIONS, bench.seconds)?.per_second);
        b.push(load(&theirs, None, CONNECTIONS, bench.seconds)?.per_second);
        say(&format!(
            "  round {round}: samovar {:.0}/s, wasmtime {:.0}/s",
            a[round - 1],
            b[round - 1]
        ));
    }
    // Of each round's own: rounds differ by what else the machine does, the two runs of one round hardly.
    let ratio = median(a.iter().zip(&b).map(|(a, b)| a / b).collect());
    Ok(vec![Row {
        measure: kind.measure.to_owned(),
        samovar: format!("{:.0}/s", median(a)),
        beside: format!("wasmtime serve: {:.0}/s", median(b)),
        result: format!("{ratio:.2} ×"),
        floor: format!("≥ {:.1} ×", kind.least),
        held: Some(ratio >= kind.least),
    }])
}
