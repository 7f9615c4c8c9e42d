//! The ONNX standard's own tests, run by a guest on each backend: right, or refused with a reason, never silently wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use samovar_tests::Server;
use samovar_tests::python::{Python, onnxruntime};
use serde_json::{Value, json};

/// As the standard's own runner compares, with an absolute part that lets different summation orders pass.
const RELATIVE: f64 = 1e-3;
const ABSOLUTE: f64 = 1e-5;
/// Requests under way at once.
const AT_ONCE: usize = 8;

/// What came of one case.
enum Outcome {
    Right,
    Refused(String),
    Wrong(String),
}

struct Case {
    name: String,
    operators: String,
    request: String,
    expected: Vec<Value>,
}

/// The cases, made once; `None` where there is no Python.
fn cases() -> Result<Option<Arc<Vec<Case>>>> {
    static CASES: OnceLock<Option<Arc<Vec<Case>>>> = OnceLock::new();
    if let Some(cases) = CASES.get() {
        return Ok(cases.clone());
    }
    let Some(python) = Python::with("the package onnx") else {
        return Ok(None);
    };
    let text = python.run::<&str>("onnx_cases.py", &[])?;
    let cases: Vec<Case> = text
        .lines()
        .map(|line| {
            let case: Value = serde_json::from_str(line)?;
            let list = |value: &Value| value.as_array().cloned().context("a list");
            let operators = list(&case["operators"])?;
            let operators: Vec<_> = operators.iter().filter_map(Value::as_str).collect();
            Ok(Case {
                name: case["name"].as_str().context("a name")?.to_owned(),
                operators: operators.join(", "),
                request: case["request"].to_string(),
                expected: list(&case["expected"])?,
            })
        })
        .collect::<Result<_>>()?;
    ensure!(cases.len() > 1_500, "only {} cases", cases.len());
    Ok(CASES.get_or_init(|| Some(Arc::new(cases))).clone())
}

async fn run(server: &Server, client: &reqwest::Client, case: &Case) -> Result<Outcome> {
    let url = server.at("/models/tensors/production/predict");
    let answer = client.post(url).body(case.request.clone()).send().await?;
    let status = answer.status();
    let text = answer.text().await?;
    ensure!(status == 200, "{}: {status} {text}", case.name);
    let answer: Value = serde_json::from_str(&text)?;
    if let Some(failed) = answer.get("Err") {
        let reason = failed["data"].as_str().context("a reason")?;
        ensure!(reason.len() > 10, "{}: {failed}", case.name);
        return Ok(Outcome::Refused(reason.to_owned()));
    }
    let found = answer["Ok"].as_array().context("outputs")?;
    Ok(match difference(found, &case.expected) {
        None => Outcome::Right,
        Some(what) => Outcome::Wrong(what),
    })
}

/// The first difference between the outputs found and those expected.
fn difference(found: &[Value], expected: &[Value]) -> Option<String> {
    if found.len() != expected.len() {
        return Some(format!("{} outputs, not {}", found.len(), expected.len()));
    }
    found.iter().zip(expected).find_map(|(found, expected)| {
        let name = &expected["name"];
        for what in ["name", "ty", "dims"] {
            // wasi-nn says [1] where a graph says that there are no dimensions.
            let scalar = what == "dims" && expected[what] == json!([]) && found[what] == json!([1]);
            if found[what] != expected[what] && !scalar {
                let (found, expected) = (&found[what], &expected[what]);
                return Some(format!("{name}: {what} {found}, not {expected}"));
            }
        }
        let (found, wanted) = (numbers(expected, found)?, numbers(expected, expected)?);
        if found.len() != wanted.len() {
            let (found, wanted) = (found.len(), wanted.len());
            return Some(format!("{name}: {found} values, not {wanted}"));
        }
        let at = found.iter().zip(&wanted).position(|(f, w)| !near(*f, *w))?;
        Some(format!("{name}[{at}]: {}, not {}", found[at], wanted[at]))
    })
}

fn near(found: f64, wanted: f64) -> bool {
    found.is_nan() && wanted.is_nan()
        || found == wanted
        || (found - wanted).abs() <= ABSOLUTE + RELATIVE * wanted.abs()
}

/// The values of `tensor`, whose type `described` tells.
fn numbers(described: &Value, tensor: &Value) -> Option<Vec<f64>> {
    let bytes = tensor["data"].as_array()?;
    let bytes: Vec<u8> = bytes
        .iter()
        .map(|byte| u8::try_from(byte.as_u64().unwrap_or(0)).unwrap_or(0))
        .collect();
    fn each<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        let (chunks, _) = bytes.as_chunks::<N>();
        chunks.iter().map(|chunk| number(*chunk)).collect()
    }
    Some(match described["kind"].as_str()? {
        "float32" => each(&bytes, |b| f32::from_le_bytes(b).into()),
        "float64" => each(&bytes, f64::from_le_bytes),
        "float16" => each(&bytes, |b| half::f16::from_le_bytes(b).to_f64()),
        "bfloat16" => each(&bytes, |b| {
            f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16).into()
        }),
        "int8" => each(&bytes, |b| i8::from_le_bytes(b).into()),
        "uint8" | "bool" => each(&bytes, |[b]| b.into()),
        "int32" => each(&bytes, |b| i32::from_le_bytes(b).into()),
        "int64" => each(&bytes, |b| i64::from_le_bytes(b) as f64),
        _ => return None,
    })
}

/// Runs every case on a node whose graphs run on this backend; gives the names of those that were wrong.
async fn on(backend: &str) -> Result<Option<BTreeSet<String>>> {
    let Some(cases) = cases()? else {
        return Ok(None);
    };
    let library = onnxruntime()?.context("no Python")?;
    let mut arguments = vec!["--default-backend", backend];
    if backend == "onnxruntime" {
        arguments.extend(["--onnxruntime", &library]);
    }
    let server = Server::start_with(&arguments)?;
    server.push(
        "tensors",
        "load_graphs_from_bytes = true\n[limits]\nmemory = \"1GiB\"\n",
    )?;
    let client = server.client();
    let outcomes: Vec<Result<Outcome>> = futures::stream::iter(cases.iter())
        .map(|case| run(&server, &client, case))
        .buffered(AT_ONCE)
        .collect()
        .await;
    let mut refused: BTreeMap<&str, (usize, String)> = BTreeMap::new();
    let mut wrong = BTreeMap::new();
    let mut right = 0;
    for (case, outcome) in cases.iter().zip(outcomes) {
        match outcome? {
            Outcome::Right => right += 1,
            Outcome::Wrong(what) => drop(wrong.insert(case.name.clone(), what)),
            Outcome::Refused(why) => refused.entry(&case.operators).or_insert((0, why)).0 += 1,
        }
    }
    let mut table = format!(
        "{backend}: {right} right, {} refused, {} wrong\n",
        refused.values().map(|(count, _)| count).sum::<usize>(),
        wrong.len()
    );
    for (operators, (count, why)) in &refused {
        let _ = writeln!(table, "  refused {count} × {operators}: {why}");
    }
    for (name, what) in &wrong {
        let _ = writeln!(table, "  wrong {name}: {what}");
    }
    println!("{table}");
    Ok(Some(wrong.into_keys().collect()))
}

#[tokio::test(flavor = "multi_thread")]
async fn rten_is_never_silently_wrong() -> Result<()> {
    let wrong = on("rten").await?.unwrap_or_default();
    assert!(wrong.is_empty(), "{wrong:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn onnxruntime_differs_only_where_it_is_known_to() -> Result<()> {
    let wrong = on("onnxruntime").await?.unwrap_or_default();
    let unknown: Vec<_> = wrong
        .iter()
        .filter(|name| !KNOWN.contains(&name.as_str()))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    Ok(())
}

/// Where ONNX Runtime differs from the standard's tests; `docs/src/backends.md` says how.
const KNOWN: [&str; 20] = [
    "node/attention_4d_causal_fp16",
    "node/dft",
    "node/dft_axis",
    "node/dft_axis_opset19",
    "node/dft_inverse",
    "node/dft_inverse_opset19",
    "node/dft_irfft",
    "node/dft_irfft_opset19",
    "node/dft_opset19",
    "node/dft_rfft",
    "node/dft_rfft_opset19",
    "node/maxunpool_export_with_output_shape",
    "node/resize_downsample_scales_cubic_align_corners",
    "node/resize_downsample_scales_linear_align_corners",
    "node/stft",
    "node/stft_with_window",
    "node/training_dropout",
    "node/training_dropout_default",
    "node/training_dropout_default_mask",
    "node/training_dropout_mask",
];
