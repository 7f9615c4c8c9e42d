//! A small model beside deployments that do their worst: how much longer its requests take.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use serde_json::json;

use super::bundles::Around;
use super::http::Connection;
use super::load::{Body, Load, load};
use super::servers::Server;
use super::table::Row;
use super::{Bench, models, say, tiny};

/// Clients of the neighbour.
const CLIENTS: u32 = 4;
/// A neighbour's p99 may be so many times its idle one, besides a run of the other.
const MOST: f64 = 2.0;
/// Rows of one request to the slow model.
const SLOW_ROWS: usize = 64;

/// The neighbour's p99 alone, and beside each kind of hostile deployment.
pub fn rows(bench: &Bench) -> Result<Vec<Row>> {
    say("a neighbour of deployments that do their worst");
    let options = ["--max-replicas", "64", "--webhook-allow", "loopback"];
    let node = Server::samovar(&bench.folder, "fairness-data", &options)?;
    let model = models::write(&bench.folder.join("fairness-tiny"), &models::tiny())?;
    let around = |model| Around {
        guest: "tiny",
        model,
        backend: "rten",
        graph: "",
        autoscaling: "max_replica = 64",
    };
    let bundle = around(&model).write(&bench.folder, "neighbour")?;
    node.push(&bundle, "neighbour")?;
    let model = models::write(&bench.folder.join("fairness-slow"), &models::slow())?;
    node.push(&around(&model).write(&bench.folder, "slow")?, "slow")?;
    node.push(&hostile(bench)?, "hostile")?;

    let body = tiny::body(&bench.folder)?;
    let neighbour = || -> Result<Load> {
        let url = format!("{}/models/neighbour/production/predict", node.url);
        load(&url, Some(&body), CLIENTS, bench.seconds)
    };
    neighbour()?;
    let idle = neighbour()?;
    let slow = vec![[5.1, 3.5, 1.4, 0.2]; SLOW_ROWS];
    let slow = json!({ "features": slow }).to_string();
    let alone = Body::new(&bench.folder, "slow", "application/json", slow.as_bytes())?;
    let url = format!("{}/models/slow/production/predict", node.url);
    let run_ms = load(&url, Some(&alone), 1, bench.seconds)?.p50_ms;
    let mut first = Row::fact(
        format!("a small model alone, {CLIENTS} clients"),
        format!("p50 {:.2} ms, p99 {:.2} ms", idle.p50_ms, idle.p99_ms),
    );
    first.result = format!("a run of the slow model: {run_ms:.0} ms");
    let mut rows = vec![first];

    let silent = TcpListener::bind("127.0.0.1:0")?;
    let webhook = format!("http://{}/", silent.local_addr()?);
    let submission = json!({ "model_input": 1 }).to_string();
    let told = json!({ "model_input": 1, "webhook_endpoint": webhook }).to_string();
    let hostile = "/models/hostile/production";
    let async_predict = format!("{hostile}/async_predict");
    for (name, hogs, path, body, longest_ms) in [
        (
            "10 clients of a slow model",
            10,
            "/models/slow/production/predict".into(),
            slow,
            run_ms,
        ),
        (
            "a flood of log lines",
            2,
            format!("{hostile}/flood?1000"),
            String::new(),
            0.0,
        ),
        (
            "64 requests that sleep",
            64,
            format!("{hostile}/sleep?1000"),
            String::new(),
            0.0,
        ),
        (
            "a flood of async requests",
            4,
            async_predict.clone(),
            submission,
            0.0,
        ),
        (
            "a flood of webhooks that nobody takes",
            4,
            async_predict,
            told,
            0.0,
        ),
    ] {
        let hogs = Hogs::start(&node.url, hogs, &path, &body);
        let found = neighbour();
        drop(hogs);
        let found = found.with_context(|| format!("beside {name}"))?;
        let most = MOST * idle.p99_ms + longest_ms;
        rows.push(Row {
            measure: format!("the same beside {name}"),
            samovar: format!("p50 {:.2} ms, p99 {:.2} ms", found.p50_ms, found.p99_ms),
            beside: String::new(),
            result: format!("{:.1} × its idle p99", found.p99_ms / idle.p99_ms),
            floor: format!("≤ {most:.1} ms"),
            held: Some(found.p99_ms <= most),
        });
    }
    Ok(rows)
}

/// The guest that does what no model should, with as many replicas as it can get.
fn hostile(bench: &Bench) -> Result<PathBuf> {
    let bundle = bench.folder.join("hostile");
    std::fs::create_dir_all(&bundle)?;
    let component = crate::repository().join("target/guests/components/hostile.wasm");
    std::fs::copy(&component, bundle.join("guest.wasm"))
        .with_context(|| format!("no guest {}", component.display()))?;
    std::fs::write(
        bundle.join("samovar.toml"),
        "name = \"hostile\"\ncomponent = \"guest.wasm\"\n\n[autoscaling]\nmax_replica = 64\n",
    )?;
    Ok(bundle)
}

/// Clients that ask again and again until they are dropped.
struct Hogs {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Hogs {
    fn start(url: &str, count: usize, path: &str, body: &str) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let hog = |_| {
            let (stop, url, path) = (stop.clone(), url.to_owned(), path.to_owned());
            let body = body.as_bytes().to_vec();
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // What is refused is asked for again.
                    let Ok(mut connection) = Connection::open(&url) else {
                        continue;
                    };
                    let mut ask = || connection.send("POST", &path, "application/json", &body);
                    while !stop.load(Ordering::Relaxed) && ask().is_ok() {}
                }
            })
        };
        let threads = (0..count).map(hog).collect();
        Self { stop, threads }
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
