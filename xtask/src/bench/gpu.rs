//! Models on a GPU, where there is one.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use half::f16;

use super::bare::{Device, Peers};
use super::bundles::Around;
use super::http::Connection;
use super::load::{Body, load};
use super::servers::Server;
use super::table::{Row, median};
use super::{Bench, ROUNDS, decode, models, say};
use crate::python;

/// What of the bare loop must be left.
const LEAST: f64 = 0.9;
/// What joined batches must bring over none.
const JOINED: f64 = 5.0;
const BATCHES: [u64; 3] = [1, 8, 32];
/// As many as keep a card busy while the next inputs travel.
const CLIENTS: u32 = 4;
const MANY_CLIENTS: u32 = 64;
/// Names an ONNX Runtime, which must have been built for CUDA here.
const LIBRARY: &str = "ORT_DYLIB_PATH";

/// A model with one input `x`, whose rows vary.
struct Subject {
    name: &'static str,
    file: &'static str,
    element: Element,
    /// Sizes of a row.
    row: &'static [u64],
}

enum Element {
    F16,
    /// Numbers of words below 8,192.
    I64,
}

const SUBJECTS: [Subject; 2] = [
    Subject {
        name: "ResNet-50",
        file: "resnet.onnx",
        element: Element::F16,
        row: &[3, 224, 224],
    },
    Subject {
        name: "transformer",
        file: "transformer.onnx",
        element: Element::I64,
        row: &[128],
    },
];

/// Says what was not measured, and why.
pub fn rows(bench: &Bench) -> Result<Vec<Row>> {
    say("models on a GPU");
    let peers = match std::env::var(LIBRARY) {
        Ok(library) => Peers::with_library(library),
        Err(_) => Peers::find()?,
    };
    let options = ["--onnxruntime", peers.library.as_str()];
    let node = Server::samovar(&bench.folder, "gpu-data", &options)?;
    let told = node.cli(&["backends"])?;
    if let Some(reason) = told["devices_reason"].as_str() {
        let mut row = Row::fact("ResNet-50 and a small transformer on a GPU", "");
        row.result = format!("not measured: {reason}");
        return Ok(vec![row]);
    }
    let folder = write_models(bench)?;
    let mut rows = Vec::new();
    for subject in &SUBJECTS {
        let model = folder.join(subject.file);
        serve(bench, &node, subject, &model, Device::Gpu, "")?;
        serve(bench, &node, subject, &model, Device::Cpu, "")?;
        rows.push(agreement(&node, subject)?);
        for batch in BATCHES {
            rows.push(beside_bare(bench, &peers, &node, subject, &model, batch)?);
        }
        rows.push(joined(bench, &node, subject, &model)?);
    }
    rows.push(decode::row(
        bench,
        &peers,
        std::slice::from_ref(&node),
        Device::Gpu,
    )?);
    Ok(rows)
}

/// Written by a script: real layers, random weights.
fn write_models(bench: &Bench) -> Result<PathBuf> {
    let python = python::having(&["onnx", "numpy"])?;
    let python = python.context("the models for a GPU are written by Python: install python3")?;
    let folder = bench.folder.join("gpu-models");
    let script = crate::repository().join("xtask/src/bench/gpu_models.py");
    let status = Command::new(python).arg(script).arg(&folder).status()?;
    ensure!(status.success(), "gpu_models.py ended with {status}");
    Ok(folder)
}

/// Pushes the guest that takes raw tensors around the model.
fn serve(
    bench: &Bench,
    node: &Server,
    subject: &Subject,
    model: &Path,
    device: Device,
    batch: &str,
) -> Result<()> {
    let name = subject.served(device, batch);
    let bundle = Around {
        guest: "raw",
        model,
        backend: "onnxruntime",
        graph: &format!("target = \"{}\"\n{batch}", device.name()),
        autoscaling: "max_replica = 64",
    };
    let told = node.push(&bundle.write(&bench.folder, &name)?, &name)?;
    let found = &told["deployment"]["graphs"][0]["device"];
    let wanted = match device {
        Device::Cpu => "cpu",
        Device::Gpu => "cuda:",
    };
    let is_there = found.as_str().is_some_and(|on| on.starts_with(wanted));
    ensure!(is_there, "{name} runs on {found}, not on {wanted}");
    Ok(())
}

/// The card and the CPU answer the same, but for rounding.
fn agreement(node: &Server, subject: &Subject) -> Result<Row> {
    let body = subject.body(2);
    let ask = |device| -> Result<Vec<f32>> {
        let path = format!("/models/{}/production/predict", subject.served(device, ""));
        let mut connection = Connection::open(&node.url)?;
        let answer = connection.send("POST", &path, "application/octet-stream", &body)?;
        let halves = answer.body.chunks_exact(2);
        Ok(halves
            .map(|two| f16::from_le_bytes([two[0], two[1]]).to_f32())
            .collect())
    };
    let (card, cpu) = (ask(Device::Gpu)?, ask(Device::Cpu)?);
    ensure!(
        card.len() == cpu.len() && !card.is_empty(),
        "{} answers {} numbers on the card, {} on the CPU",
        subject.name,
        card.len(),
        cpu.len()
    );
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum()
    };
    let cosine = dot(&card, &cpu) / (dot(&card, &card) * dot(&cpu, &cpu)).sqrt();
    let mut row = Row::fact(
        format!("{}, fp16, answers of card and CPU", subject.name),
        "",
    );
    row.result = format!("cosine {cosine:.5}");
    row.floor = "≥ 0.999".to_owned();
    row.held = Some(cosine >= 0.999);
    Ok(row)
}

fn beside_bare(
    bench: &Bench,
    peers: &Peers,
    node: &Server,
    subject: &Subject,
    model: &Path,
    batch: u64,
) -> Result<Row> {
    let measure = format!("{}, fp16, batch {batch}, on the GPU", subject.name);
    say(&measure);
    let body = request(bench, subject, batch)?;
    let name = subject.served(Device::Gpu, "");
    let url = format!("{}/models/{name}/production/predict", node.url);
    load(&url, Some(&body), CLIENTS, 1)?;
    let ours = || {
        let ours = load(&url, Some(&body), CLIENTS, bench.seconds)?;
        Ok(ours.per_second * batch as f64)
    };
    let bare = || peers.on_card(model, &subject.spec(batch), bench.seconds);
    alternated(measure, ours, ("bare, bound", bare), LEAST)
}

fn joined(bench: &Bench, node: &Server, subject: &Subject, model: &Path) -> Result<Row> {
    let batch = "batch = { max_size = 32, max_delay_ms = 2 }";
    serve(bench, node, subject, model, Device::Gpu, batch)?;
    let measure = format!(
        "{}, fp16, joined batches, {MANY_CLIENTS} clients",
        subject.name
    );
    say(&measure);
    let body = request(bench, subject, 1)?;
    let url = |batch| {
        let name = subject.served(Device::Gpu, batch);
        format!("{}/models/{name}/production/predict", node.url)
    };
    let urls = [url(batch), url("")];
    for url in &urls {
        load(url, Some(&body), MANY_CLIENTS, 1)?;
    }
    let rate = |url: &str| {
        let found = load(url, Some(&body), MANY_CLIENTS, bench.seconds)?;
        Ok(found.per_second)
    };
    let ours = || rate(&urls[0]);
    alternated(measure, ours, ("one by one", || rate(&urls[1])), JOINED)
}

/// Rows per second of both in alternation, and the median of the ratios, which must be `least`.
fn alternated(
    measure: String,
    ours: impl Fn() -> Result<f64>,
    (name, other): (&str, impl Fn() -> Result<f64>),
    least: f64,
) -> Result<Row> {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        a.push(ours()?);
        b.push(other()?);
        let (ours, other) = (a[round - 1], b[round - 1]);
        say(&format!(
            "  round {round}: samovar {ours:.0} rows/s, {name} {other:.0} rows/s"
        ));
    }
    let ratio = median(a.iter().zip(&b).map(|(a, b)| a / b).collect());
    Ok(Row {
        measure,
        samovar: format!("{:.0} rows/s", median(a)),
        beside: format!("{name}: {:.0} rows/s", median(b)),
        result: format!("{ratio:.2} ×"),
        floor: format!("≥ {least} ×"),
        held: Some(ratio >= least),
    })
}

fn request(bench: &Bench, subject: &Subject, batch: u64) -> Result<Body> {
    let name = format!("{}-{batch}", subject.file);
    Body::new(
        &bench.folder,
        &name,
        "application/octet-stream",
        &subject.body(batch),
    )
}

impl Subject {
    /// The model's name on the node.
    fn served(&self, device: Device, batch: &str) -> String {
        let stem = self.file.trim_end_matches(".onnx");
        let joined = if batch.is_empty() { "" } else { "-joined" };
        format!("{stem}-{}{joined}", device.name())
    }

    /// As `f16:8x3x224x224`.
    fn spec(&self, batch: u64) -> String {
        let ty = match self.element {
            Element::F16 => "f16",
            Element::I64 => "i64",
        };
        let sizes: Vec<String> = self.row.iter().map(u64::to_string).collect();
        format!("{ty}:{batch}x{}", sizes.join("x"))
    }

    /// What the guest `raw` takes.
    fn body(&self, batch: u64) -> Vec<u8> {
        let mut body = format!("{:<64}", self.spec(batch)).into_bytes();
        let count = batch * self.row.iter().product::<u64>();
        for float in models::floats(count).chunks_exact(4) {
            match self.element {
                Element::F16 => {
                    let number = f32::from_le_bytes([float[0], float[1], float[2], float[3]]);
                    body.extend(f16::from_f32(number).to_le_bytes());
                }
                Element::I64 => {
                    let number = u64::from(float[1]) << 5 | u64::from(float[2] & 31);
                    body.extend(number.to_le_bytes());
                }
            }
        }
        body
    }
}
