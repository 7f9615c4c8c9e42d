//! Resident memory: the node's own, of warm replicas, of what they share, and with many deployments at zero.

use std::time::Instant;

use anyhow::{Context, Result};
use samovar_types::api::models::PushRequest;
use samovar_types::bundle::{Blob, Bundle};
use samovar_types::settings::AutoscalingSettings;

use super::bare::{Backend, Peers};
use super::bundles::{Around, hello};
use super::http::Connection;
use super::load::load;
use super::servers::Server;
use super::table::Row;
use super::{Bench, models, say, tiny};

const REPLICAS: usize = 50;
const IDLE_DEPLOYMENTS: u32 = 1000;
const IDLE_MB: f64 = 200.0;
/// What a replica may take beside the graph that it shares and its own memory.
const REPLICA_KIB: u64 = 200;

/// The node's own, of a warm replica, and of deployments at zero.
pub fn rows(bench: &Bench) -> Result<Vec<Row>> {
    say(&format!("memory with {REPLICAS} warm replicas"));
    let folder = &bench.folder;
    let node = Server::samovar(folder, "replicas-data", &[])?;
    let mut api = Connection::open(&node.url)?;
    api.models()?;
    let begun = node.resident_kib()?;
    // One replica and its connections first, so that what many share is not counted as theirs.
    let scaling = [("one", 1), ("many", REPLICAS)];
    let mut resident = Vec::new();
    for (model, count) in scaling {
        let bounds = format!("min_replica = {count}\nmax_replica = {count}");
        node.push(&hello(folder, model, &bounds)?, model)?;
        node.wait_for_replicas(&mut api, model, count)?;
        let url = format!("{}/models/{model}/production/predict", node.url);
        load(&url, None, u32::try_from(REPLICAS)?, 2)?;
        resident.push(node.resident_kib()?);
    }
    drop(node);
    let each = resident[1].saturating_sub(resident[0]) / REPLICAS as u64;

    say(&format!(
        "memory with {IDLE_DEPLOYMENTS} deployments at zero"
    ));
    let node = Server::samovar(folder, "idle-data", &[])?;
    let mut api = Connection::open(&node.url)?;
    let bundle_folder = hello(
        folder,
        "idle",
        "autoscaling_window = 10\nscale_down_delay = 0",
    )?;
    let pushed = node.push(&bundle_folder, "hello")?;
    let digest = pushed["uploaded"][0].as_str().context("a component")?;
    let component = Blob {
        digest: digest.parse()?,
        size: std::fs::metadata(bundle_folder.join("hello.wasm"))?.len(),
    };
    let pushing = Instant::now();
    for index in 0..IDLE_DEPLOYMENTS {
        let bundle = Bundle {
            autoscaling: AutoscalingSettings {
                autoscaling_window: 10,
                scale_down_delay: 0,
                ..AutoscalingSettings::default()
            },
            ..Bundle::new(format!("hello-{index}"), component)
        };
        api.push(&PushRequest::new(bundle))?;
    }
    let push_ms = pushing.elapsed().as_secs_f64() * 1e3 / f64::from(IDLE_DEPLOYMENTS);
    for index in 0..IDLE_DEPLOYMENTS {
        node.wait_for_replicas(&mut api, &format!("hello-{index}"), 0)?;
    }
    let idle = mb(node.resident_kib()?);
    Ok(vec![
        Row::fact(
            "memory of a node that just started",
            format!("{:.0} MB", mb(begun)),
        ),
        Row::fact(
            format!("memory of a warm replica of hello, of {REPLICAS}"),
            format!("{each} KiB"),
        ),
        Row {
            measure: format!(
                "memory with {IDLE_DEPLOYMENTS} deployments at zero ({push_ms:.1} ms for each push)"
            ),
            samovar: format!("{idle:.0} MB"),
            beside: String::new(),
            result: format!("{idle:.0} MB"),
            floor: format!("< {IDLE_MB:.0} MB"),
            held: Some(idle < IDLE_MB),
        },
    ])
}

/// 50 warm replicas that share a graph of 100 MB, on both backends.
pub fn shared(bench: &Bench) -> Result<Vec<Row>> {
    let peers = Peers::find()?;
    let big = models::write(&bench.folder.join("shared"), &models::shared())?;
    let small = models::write(&bench.folder.join("small"), &models::tiny())?;
    let body = tiny::body(&bench.folder)?;
    let mut rows = Vec::new();
    for backend in Backend::ALL {
        let name = backend.name();
        say(&format!(
            "memory of {REPLICAS} replicas that share a graph, {name}"
        ));
        let node = Server::samovar(
            &bench.folder,
            &format!("shared-{name}-data"),
            &["--onnxruntime", &peers.library],
        )?;
        let mut api = Connection::open(&node.url)?;
        // The same with a tiny model first, so that the backend itself and the connections are not counted.
        let mut resident = Vec::new();
        let mut memory = 0;
        for (model, file, count) in [("small", &small, 1), ("shared", &big, REPLICAS)] {
            let bundle = Around {
                guest: "tiny",
                model: file,
                backend: name,
                graph: "",
                autoscaling: &format!("min_replica = {count}\nmax_replica = {count}"),
            };
            node.push(&bundle.write(&bench.folder, model)?, model)?;
            node.wait_for_replicas(&mut api, model, count)?;
            let url = format!("{}/models/{model}/production", node.url);
            load(
                &format!("{url}/predict"),
                Some(&body),
                u32::try_from(REPLICAS)?,
                3,
            )?;
            let path = format!("/models/{model}/production/sync/memory");
            let told = api.json("GET", &path, b"")?;
            memory = told.as_u64().context("the size of a memory")? / 1024;
            resident.push(node.resident_kib()?);
        }
        let graph = std::fs::metadata(&big)?.len() / 1024;
        let grown = resident[1].saturating_sub(resident[0]);
        let allowed = graph + REPLICAS as u64 * (memory + REPLICA_KIB);
        rows.push(Row {
            measure: format!(
                "memory of {REPLICAS} warm replicas that share a graph of {:.0} MB, {name}",
                mb(graph)
            ),
            samovar: format!("{:.0} MB", mb(grown)),
            beside: format!("{memory} KiB of memory in each guest"),
            result: format!(
                "{} KiB for each without the graph",
                grown.saturating_sub(graph) / REPLICAS as u64
            ),
            floor: format!("< {:.0} MB", mb(allowed)),
            held: Some(grown < allowed),
        });
    }
    Ok(rows)
}

fn mb(kib: u64) -> f64 {
    kib as f64 * 1024.0 / 1e6
}
