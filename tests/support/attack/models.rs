//! Models that are none, or do what no model should: pushed, and loaded from bytes by a guest.

use anyhow::Result;
use serde_json::{Value, json};

use super::Target;
use super::answers::{Outcome, is_bystander};
use super::corpus::Case;
use super::dice::Dice;
use super::http::Client;
use super::mutants::mutate;
use super::protocol::{Form, Request};
use super::push::{self, Push, Pushed};
use super::report::{Part, Report};
use super::values::Tensor;

/// The model of the guest that loads graphs from bytes.
const LOADER: &str = "attack-loader";
/// The largest model that is sent to that guest, as a list of numbers.
const MAX_LOADED_BYTES: usize = 64 << 10;

/// A model that is attacked with: changed by the script, or still to be changed here.
pub fn changed(dice: &mut Dice, case: &Case, other: &Case) -> Result<Vec<u8>> {
    let bytes = std::fs::read(&case.file)?;
    if case.is_mutant && dice.below(3) > 0 {
        return Ok(bytes);
    }
    Ok(mutate(dice, &bytes, &std::fs::read(&other.file)?))
}

/// Pushes a changed model, and runs it should it be taken.
pub fn push(
    report: &Report,
    target: &Target,
    client: &mut Client,
    model: &str,
    case: &Case,
    bytes: &[u8],
    backend: &'static str,
) {
    match push::graph(target, model, bytes, backend) {
        Err(error) => report.broken_model(case, backend, bytes, &format!("{error:#}")),
        Ok(Push::Refused(reason)) => report.refused(case, backend, bytes, &reason),
        Ok(Push::Served(pushed)) => {
            report.served();
            run(report, client, case, &pushed);
        }
    }
    if let Err(lost) = push::delete(client, model) {
        report.broken_model(case, backend, bytes, &format!("deleting it: {lost}"));
    }
}

fn run(report: &Report, client: &mut Client, case: &Case, pushed: &Pushed) {
    let empty = |tensor: &Tensor| Tensor {
        shape: vec![0; tensor.shape.len().max(1)],
        data: Vec::new(),
        ..tensor.clone()
    };
    let empty: Vec<_> = case.inputs.iter().map(empty).collect();
    for tensors in [&case.inputs, &empty] {
        let request = Request::new(&pushed.model, &pushed.graph, tensors, Form::Binary);
        let outcome = Outcome::of(request.send(client));
        report.run(Part::Models, case, pushed.backend, &request, &outcome);
    }
}

/// Pushes the guest that loads graphs from bytes.
///
/// # Errors
/// When it is refused.
pub fn push_loader(target: &Target, component: &[u8]) -> Result<()> {
    let manifest = format!(
        "name = \"{LOADER}\"\ncomponent = \"guest.wasm\"\nload_graphs_from_bytes = true\n\
         [limits]\ntimeout = \"{}\"\n",
        super::TIMEOUT
    );
    let files = [
        ("samovar.toml", manifest.as_bytes()),
        ("guest.wasm", component),
    ];
    match push::bundle(target, LOADER, &files)? {
        None => Ok(()),
        Some(reason) => anyhow::bail!("the guest that loads graphs is refused: {reason}"),
    }
}

/// Has the guest load a changed model and run it.
pub fn load(report: &Report, client: &mut Client, case: &Case, bytes: &[u8]) {
    if bytes.len() > MAX_LOADED_BYTES {
        return;
    }
    let inputs = case.inputs.iter().map(|tensor| {
        let ty = match tensor.datatype.as_str() {
            "FP32" => "f32",
            "FP64" => "f64",
            "FP16" => "f16",
            "BF16" => "bf16",
            "INT64" => "i64",
            "INT32" => "i32",
            _ => "u8",
        };
        json!({ "name": tensor.name, "ty": ty, "dims": tensor.shape, "data": tensor.data })
    });
    let asked = json!({ "bytes": bytes, "inputs": inputs.collect::<Vec<_>>() });
    let request = Request {
        path: format!("/models/{LOADER}/production/predict"),
        header_length: None,
        body: asked.to_string().into_bytes(),
    };
    let outcome = match request.send(client) {
        Ok(answer) if answer.status == 200 => match serde_json::from_slice::<Value>(&answer.body) {
            Ok(Value::Object(found)) if found.contains_key("Ok") => Outcome::Ran(Vec::new()),
            Ok(Value::Object(found)) if found.contains_key("Err") => {
                let why = found["Err"]["data"].as_str().unwrap_or_default();
                match why {
                    _ if is_bystander(why) => Outcome::Broken(why.to_owned()),
                    _ if why.contains("ended: it was killed") => {
                        Outcome::EndedEngine(why.to_owned())
                    }
                    _ => Outcome::Refused(why.to_owned()),
                }
            }
            _ => Outcome::Broken(answer.text()),
        },
        answer => Outcome::of(answer),
    };
    report.run(Part::Models, case, "by a guest", &request, &outcome);
}
