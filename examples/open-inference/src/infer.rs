//! Serves inference requests: reads the tensors and runs the graph. Binary tensors go from the body to the host without a copy.

use std::collections::BTreeSet;
use std::io::{self, Read as _};

use samovar_sdk::tensor::ElementType;
use samovar_sdk::{Error, Request, Response, TensorData};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::answer::answer;
use crate::datatype::Datatype;
use crate::metadata::{Port, Served};
use crate::numbers;

/// The header with the length of the JSON, which tensors may follow.
pub const HEADER_LENGTH: &str = "inference-header-content-length";
/// Maximum number of dimensions of a tensor.
const MAX_DIMENSIONS: usize = 64;

#[derive(Deserialize)]
struct InferRequest<'a> {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    parameters: Parameters,
    #[serde(borrow)]
    inputs: Vec<Input<'a>>,
    #[serde(default)]
    outputs: Option<Vec<Wanted>>,
}

#[derive(Default, Deserialize)]
struct Parameters {
    #[serde(default)]
    binary_data_size: Option<u64>,
    #[serde(default)]
    binary_data: Option<bool>,
    #[serde(default)]
    binary_data_output: Option<bool>,
    #[serde(default)]
    classification: Option<u64>,
}

#[derive(Deserialize)]
struct Input<'a> {
    name: String,
    shape: Vec<i64>,
    datatype: String,
    #[serde(default)]
    parameters: Parameters,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Wanted {
    name: String,
    #[serde(default)]
    parameters: Parameters,
}

/// A tensor of the request: its bytes are part of the body, or were converted from JSON.
struct Tensor<'a> {
    shape: Vec<u32>,
    datatype: Datatype,
    bytes: std::borrow::Cow<'a, [u8]>,
}

impl TensorData for Tensor<'_> {
    fn dimensions(&self) -> &[u32] {
        &self.shape
    }

    fn element_type(&self) -> ElementType {
        self.datatype.element_type()
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Serves `POST …/infer`.
pub fn infer(served: &Served, mut request: Request) -> Result<Response, Error> {
    if let Some(encoding) = request.header("content-encoding")
        && !encoding.eq_ignore_ascii_case("identity")
    {
        return Err(Error::new(
            415,
            "unsupported_encoding",
            format!("the body is encoded as {encoding:?}: send it without an encoding"),
        ));
    }
    let header_length = request.header(HEADER_LENGTH).map(str::to_owned);
    let body = body(&mut request)?;
    let (json, mut binary) = split(&body, header_length.as_deref())?;
    let asked: InferRequest<'_> = serde_json::from_slice(json).map_err(|e| {
        let hint = not_json(json, &e);
        invalid(format!("the body is not an inference request: {e}{hint}"))
    })?;

    let mut inputs = Vec::with_capacity(asked.inputs.len());
    for input in asked.inputs {
        let name = input.name.clone();
        inputs.push((name, tensor(served, input, &mut binary)?));
    }
    if !binary.is_empty() {
        return Err(invalid(format!(
            "{} bytes follow the last tensor: the inputs' `binary_data_size` do not add up to the body",
            binary.len()
        )));
    }
    let wanted = wanted(served, asked.outputs, asked.parameters.binary_data_output)?;
    let id = asked.id;

    let inputs: Vec<(&str, &Tensor<'_>)> = inputs
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor))
        .collect();
    let outputs = served.graph.compute(&inputs)?;
    // The host has its own copy now; the outputs may need the room.
    drop(body);
    answer(served, id, &wanted, outputs)
}

/// Reads the whole body into memory of the right size: a growing buffer would need twice the memory while it is moved.
fn body(request: &mut Request) -> Result<Vec<u8>, Error> {
    let length = request.header("content-length");
    let length: usize = length.and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut bytes = Vec::new();
    let reserved = bytes.try_reserve_exact(length).map_err(io::Error::from);
    let read = reserved.and_then(|()| request.body().read_to_end(&mut bytes));
    read.map_err(|error| match error.kind() {
        io::ErrorKind::OutOfMemory => Error::new(
            413,
            "too_large",
            "the body is more than the deployment's `limits.memory` has room for",
        ),
        _ => Error::bad_request(format!("the body broke off: {error}")),
    })?;
    Ok(bytes)
}

/// The JSON of the body, and the tensors that follow it.
fn split<'b>(body: &'b [u8], header_length: Option<&str>) -> Result<(&'b [u8], &'b [u8]), Error> {
    let Some(text) = header_length else {
        return Ok((body, &[]));
    };
    let length: u64 = text.parse().map_err(|_| {
        invalid(format!(
            "{HEADER_LENGTH} is {text:?}, wanted a number of bytes"
        ))
    })?;
    let at = usize::try_from(length).ok();
    at.and_then(|at| body.split_at_checked(at)).ok_or_else(|| {
        invalid(format!(
            "{HEADER_LENGTH} is {length}, but the body has {} bytes",
            body.len()
        ))
    })
}

fn tensor<'b>(
    served: &Served,
    input: Input<'_>,
    binary: &mut &'b [u8],
) -> Result<Tensor<'b>, Error> {
    let name = &input.name;
    let wrong = |what: String| invalid(format!("input {name:?}: {what}"));
    let port = served
        .inputs
        .iter()
        .find(|port| port.name == *name)
        .ok_or_else(|| {
            invalid(format!(
                "model {:?} has no input {name:?}; it has {}",
                served.name(),
                names(&served.inputs)
            ))
        })?;
    if input.datatype != port.datatype.name() {
        return Err(wrong(format!(
            "its datatype is {:?}, the model expects {}",
            input.datatype,
            port.datatype.name()
        )));
    }
    if input.shape.len() > MAX_DIMENSIONS {
        return Err(wrong(format!("more than {MAX_DIMENSIONS} dimensions")));
    }
    let sizes = input.shape.iter().map(|size| u32::try_from(*size));
    let shape: Vec<u32> = sizes.collect::<Result<_, _>>().map_err(|_| {
        wrong(format!(
            "its shape is {:?}, wanted sizes from 0 to {}",
            input.shape,
            u32::MAX
        ))
    })?;
    let elements = shape
        .iter()
        .try_fold(1usize, |all, size| all.checked_mul(*size as usize))
        .filter(|count| count.checked_mul(port.datatype.size()).is_some())
        .ok_or_else(|| wrong(format!("its shape {shape:?} is larger than memory")))?;
    let size = elements * port.datatype.size();
    let bytes = match (input.parameters.binary_data_size, input.data) {
        (Some(_), Some(_)) => {
            return Err(wrong("it has both `data` and `binary_data_size`".into()));
        }
        (None, None) => return Err(wrong("it has neither `data` nor `binary_data_size`".into())),
        (Some(given), None) => {
            if given != size as u64 {
                return Err(wrong(format!(
                    "`binary_data_size` is {given}, its shape {shape:?} of {} needs {size}",
                    port.datatype.name()
                )));
            }
            let (own, rest) = binary.split_at_checked(size).ok_or_else(|| {
                wrong(format!(
                    "the request announces {size} bytes, but {} follow",
                    binary.len()
                ))
            })?;
            *binary = rest;
            own.into()
        }
        (None, Some(data)) => {
            let bytes = numbers::to_bytes(data, port.datatype, &shape).map_err(wrong)?;
            bytes.into()
        }
    };
    Ok(Tensor {
        shape,
        datatype: port.datatype,
        bytes,
    })
}

/// Form of an output.
#[derive(Clone, Copy)]
pub enum Form {
    Json,
    Binary,
}

fn wanted(
    served: &Served,
    asked: Option<Vec<Wanted>>,
    all_binary: Option<bool>,
) -> Result<Vec<(&Port, Form)>, Error> {
    let form = |binary: Option<bool>| match binary.or(all_binary).unwrap_or(false) {
        true => Form::Binary,
        false => Form::Json,
    };
    let Some(asked) = asked.filter(|asked| !asked.is_empty()) else {
        return Ok(served
            .outputs
            .iter()
            .map(|port| (port, form(None)))
            .collect());
    };
    let mut seen = BTreeSet::new();
    asked
        .into_iter()
        .map(|wanted| {
            if !seen.insert(wanted.name.clone()) {
                return Err(invalid(format!(
                    "output {:?} is asked for twice",
                    wanted.name
                )));
            }
            if wanted
                .parameters
                .classification
                .is_some_and(|count| count > 0)
            {
                return Err(invalid(format!(
                    "output {:?}: the classification extension is not supported",
                    wanted.name
                )));
            }
            let port = served.outputs.iter().find(|port| port.name == wanted.name);
            let port = port.ok_or_else(|| {
                invalid(format!(
                    "model {:?} has no output {:?}; it has {}",
                    served.name(),
                    wanted.name,
                    names(&served.outputs)
                ))
            })?;
            Ok((port, form(wanted.parameters.binary_data)))
        })
        .collect()
}

/// A hint for a number that JSON does not have.
fn not_json(json: &[u8], error: &serde_json::Error) -> &'static str {
    let line = json.split(|byte| *byte == b'\n').nth(error.line() - 1);
    let before = error.column().saturating_sub(1);
    let found = line.and_then(|line| line.get(before..)).unwrap_or_default();
    let found = found.strip_prefix(b"-").unwrap_or(found);
    let is_word = [&b"NaN"[..], b"aN", b"Inf", b"nan", b"inf"];
    match is_word.iter().any(|word| found.starts_with(word)) {
        true => {
            ": JSON has no such number, write \"NaN\", \"Infinity\" or \"-Infinity\" with the quotes"
        }
        false => "",
    }
}

fn names(ports: &[Port]) -> String {
    let names: Vec<&str> = ports.iter().map(|port| port.name.as_str()).collect();
    names.join(", ")
}

fn invalid(text: String) -> Error {
    Error::new(400, "invalid_request", text)
}

#[cfg(test)]
#[path = "infer_tests.rs"]
mod tests;
