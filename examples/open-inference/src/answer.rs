//! Responses to inference requests: tensors as JSON, or as bytes after it. Only one tensor at a time is in the guest's memory.

use std::io::Write as _;

use samovar_sdk::graph::Outputs;
use samovar_sdk::{Error, HostTensor, Response, TensorData as _};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::datatype::Datatype;
use crate::infer::{Form, HEADER_LENGTH};
use crate::metadata::{Port, Served};
use crate::numbers;

/// A response up to this size is sent in one piece.
const ONE_PIECE_BYTES: usize = 64 << 10;

#[derive(Serialize)]
struct InferResponse<'a> {
    model_name: &'a str,
    model_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    outputs: Vec<Output<'a>>,
}

#[derive(Serialize)]
struct Output<'a> {
    name: &'a str,
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

/// A tensor that is sent as bytes.
struct Binary {
    tensor: HostTensor,
    size: usize,
}

/// Writes the requested outputs.
pub fn answer(
    served: &Served,
    id: Option<String>,
    wanted: &[(&Port, Form)],
    mut outputs: Outputs,
) -> Result<Response, Error> {
    let mut tensors = Vec::new();
    let mut described = Vec::with_capacity(wanted.len());
    for (port, form) in wanted {
        let tensor = outputs.take(&port.name)?;
        let mut shape = tensor.dimensions();
        // wasi-nn says [1] for a tensor without dimensions.
        if port.is_scalar() && shape == [1] {
            shape.clear();
        }
        let (parameters, data) = match form {
            Form::Binary => {
                let elements: usize = shape.iter().map(|size| *size as usize).product();
                let size = elements * tensor.element_type().size();
                tensors.push(Binary { tensor, size });
                let binary_data_size = size;
                (Some(BinarySize { binary_data_size }), None)
            }
            Form::Json => {
                let data = numbers::to_json(tensor.raw()?.bytes(), port.datatype)
                    .map_err(|e| Error::internal(format!("output {:?}: {e}", port.name)))?;
                (None, Some(data))
            }
        };
        described.push(Output {
            name: &port.name,
            datatype: port.datatype,
            shape,
            parameters,
            data,
        });
    }
    let response = InferResponse {
        model_name: served.name(),
        model_version: "1",
        id,
        outputs: described,
    };
    if tensors.is_empty() {
        return Response::json(&response);
    }
    let json = serde_json::to_vec(&response).map_err(|e| Error::internal(e.to_string()))?;
    with_tensors(json, tensors)
}

fn with_tensors(mut json: Vec<u8>, tensors: Vec<Binary>) -> Result<Response, Error> {
    const TYPE: &str = "application/octet-stream";
    let header_length = json.len().to_string();
    let length = json.len() + tensors.iter().map(|one| one.size).sum::<usize>();
    let response = if length <= ONE_PIECE_BYTES {
        for one in tensors {
            json.extend_from_slice(one.tensor.raw()?.bytes());
        }
        Response::new(TYPE, json)
    } else {
        Response::stream(TYPE, move |body| {
            body.write_all(&json)?;
            for one in tensors {
                body.write_all(one.tensor.raw()?.bytes())?;
            }
            Ok(())
        })
        .with_header("content-length", length.to_string())
    };
    Ok(response.with_header(HEADER_LENGTH, header_length))
}
