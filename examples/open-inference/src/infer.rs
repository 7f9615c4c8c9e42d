//! One inference: tensors out of the request, through the graph, into the answer, as JSON or as they are.

use samovar_sdk::tensor::ElementType;
use samovar_sdk::{Error, Request, Response, TensorData};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::datatype::Datatype;
use crate::metadata::{Port, Served};
use crate::numbers;

/// Says where the JSON of a body ends and its tensors begin.
const HEADER_LENGTH: &str = "inference-header-content-length";
/// Dimensions of a tensor.
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
    binary_data_size: Option<usize>,
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
    shape: Vec<u32>,
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

#[derive(Serialize)]
struct InferResponse<'a> {
    model_name: &'a str,
    model_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    outputs: Vec<Output>,
}

#[derive(Serialize)]
struct Output {
    name: String,
    datatype: Datatype,
    shape: Vec<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<BinarySize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
}

#[derive(Serialize)]
struct BinarySize {
    binary_data_size: usize,
}

/// A tensor of the request: its bytes are those of the body, or were made from JSON.
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

/// Answers `POST …/infer`.
pub fn infer(served: &Served, mut request: Request) -> Result<Response, Error> {
    let header_length = request.header(HEADER_LENGTH).map(str::to_owned);
    let body = request.bytes()?;
    let (json, mut binary) = split(&body, header_length.as_deref())?;
    let asked: InferRequest<'_> = serde_json::from_slice(json)
        .map_err(|e| invalid(format!("the body is no inference request: {e}")))?;

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

    let inputs: Vec<(&str, &Tensor<'_>)> = inputs
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor))
        .collect();
    let outputs = served.graph.compute(&inputs)?;

    let mut tensors = Vec::new();
    let mut described = Vec::with_capacity(wanted.len());
    for (port, form) in wanted {
        let raw = outputs.raw(&port.name)?;
        let shape = raw.dimensions().to_vec();
        let (parameters, data) = match form {
            Form::Binary => {
                let bytes = raw.into_bytes();
                let binary_data_size = bytes.len();
                tensors.push(bytes);
                (Some(BinarySize { binary_data_size }), None)
            }
            Form::Json => {
                let data = numbers::to_json(raw.bytes(), port.datatype)
                    .map_err(|e| Error::internal(format!("output {:?}: {e}", port.name)))?;
                (None, Some(data))
            }
        };
        described.push(Output {
            name: port.name.clone(),
            datatype: port.datatype,
            shape,
            parameters,
            data,
        });
    }
    let response = InferResponse {
        model_name: served.name(),
        model_version: "1",
        id: asked.id,
        outputs: described,
    };
    render(&response, &tensors)
}

fn render(response: &InferResponse<'_>, tensors: &[Vec<u8>]) -> Result<Response, Error> {
    if tensors.is_empty() {
        return Response::json(response);
    }
    let mut body = serde_json::to_vec(response).map_err(|e| Error::internal(e.to_string()))?;
    let header_length = body.len();
    body.reserve_exact(tensors.iter().map(Vec::len).sum());
    for tensor in tensors {
        body.extend_from_slice(tensor);
    }
    Ok(Response::new("application/octet-stream", body)
        .with_header(HEADER_LENGTH, header_length.to_string()))
}

/// The JSON of the body, and the tensors that follow it.
fn split<'b>(body: &'b [u8], header_length: Option<&str>) -> Result<(&'b [u8], &'b [u8]), Error> {
    let Some(text) = header_length else {
        return Ok((body, &[]));
    };
    let length: usize = text.parse().map_err(|_| {
        invalid(format!(
            "{HEADER_LENGTH} is {text:?}, wanted a number of bytes"
        ))
    })?;
    body.split_at_checked(length).ok_or_else(|| {
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
            "its datatype is {:?}, the model wants {}",
            input.datatype,
            port.datatype.name()
        )));
    }
    if input.shape.len() > MAX_DIMENSIONS {
        return Err(wrong(format!("more than {MAX_DIMENSIONS} dimensions")));
    }
    let sizes = input.shape.iter().map(|size| *size as usize);
    let elements = sizes
        .fold(Some(1usize), |all, size| all?.checked_mul(size))
        .filter(|count| count.checked_mul(port.datatype.size()).is_some())
        .ok_or_else(|| wrong(format!("its shape {:?} is larger than memory", input.shape)))?;
    let size = elements * port.datatype.size();
    let bytes = match (input.parameters.binary_data_size, input.data) {
        (Some(_), Some(_)) => {
            return Err(wrong("it has both `data` and `binary_data_size`".into()));
        }
        (None, None) => return Err(wrong("it has neither `data` nor `binary_data_size`".into())),
        (Some(given), None) => {
            if given != size {
                return Err(wrong(format!(
                    "`binary_data_size` is {given}, its shape {:?} of {} takes {size}",
                    input.shape,
                    port.datatype.name()
                )));
            }
            let (own, rest) = binary.split_at_checked(size).ok_or_else(|| {
                wrong(format!(
                    "{size} bytes are announced, {} are there",
                    binary.len()
                ))
            })?;
            *binary = rest;
            own.into()
        }
        (None, Some(data)) => {
            let bytes = numbers::to_bytes(data, port.datatype, elements).map_err(wrong)?;
            if bytes.len() != size {
                return Err(wrong(format!(
                    "there are {} numbers, its shape {:?} takes {elements}",
                    bytes.len() / port.datatype.size(),
                    input.shape
                )));
            }
            bytes.into()
        }
    };
    Ok(Tensor {
        shape: input.shape,
        datatype: port.datatype,
        bytes,
    })
}

/// How an output is written.
#[derive(Clone, Copy)]
enum Form {
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
    asked
        .into_iter()
        .map(|wanted| {
            if wanted
                .parameters
                .classification
                .is_some_and(|count| count > 0)
            {
                return Err(invalid(format!(
                    "output {:?}: the classification extension is not served",
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

fn names(ports: &[Port]) -> String {
    let names: Vec<&str> = ports.iter().map(|port| port.name.as_str()).collect();
    names.join(", ")
}

fn invalid(text: String) -> Error {
    Error::new(400, "invalid_request", text)
}
