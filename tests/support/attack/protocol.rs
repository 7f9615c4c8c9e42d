//! Requests of the Open Inference Protocol: tensors in JSON, or as bytes behind it.

use serde_json::{Value, json};

use super::http::{Answer, Client, Lost};
use super::values::{Tensor, to_json};

const HEADER_LENGTH: &str = "inference-header-content-length";

/// How tensors are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Json,
    Binary,
}

/// A request as it is sent, so that it can be kept and sent again.
#[derive(Clone, Debug)]
pub struct Request {
    pub path: String,
    /// Bytes of JSON before the tensors, if these are bytes.
    pub header_length: Option<usize>,
    pub body: Vec<u8>,
}

impl Request {
    /// To a graph of a model.
    pub fn new(model: &str, graph: &str, tensors: &[Tensor], form: Form) -> Self {
        let path = format!("/models/{model}/production/sync/v2/models/{graph}/infer");
        let described = |tensor: &Tensor| json!({ "name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape });
        let inputs = tensors.iter().map(|tensor| {
            let mut input = described(tensor);
            match form {
                Form::Json => input["data"] = Value::Array(to_json(&tensor.datatype, &tensor.data)),
                Form::Binary => {
                    input["parameters"] = json!({ "binary_data_size": tensor.data.len() });
                }
            }
            input
        });
        let header = json!({ "inputs": inputs.collect::<Vec<_>>() }).to_string();
        let mut body = header.into_bytes();
        let header_length = (form == Form::Binary).then_some(body.len());
        if form == Form::Binary {
            tensors.iter().for_each(|tensor| body.extend(&tensor.data));
        }
        Self {
            path,
            header_length,
            body,
        }
    }

    /// Sends it.
    ///
    /// # Errors
    /// When there is no whole answer.
    pub fn send(&self, client: &mut Client) -> Result<Answer, Lost> {
        match self.header_length {
            None => {
                let headers = [("content-type", "application/json")];
                client.send("POST", &self.path, &headers, &self.body)
            }
            Some(length) => {
                let length = length.to_string();
                let headers = [
                    ("content-type", "application/octet-stream"),
                    (HEADER_LENGTH, length.as_str()),
                ];
                client.send("POST", &self.path, &headers, &self.body)
            }
        }
    }

    /// How it is sent again by hand.
    pub fn by_hand(&self, url: &str, file: &str) -> String {
        let header = self.header_length.map_or_else(String::new, |length| {
            format!("-H '{HEADER_LENGTH}: {length}' -H 'content-type: application/octet-stream' ")
        });
        format!("curl {header}--data-binary @{file} {url}{}", self.path)
    }
}
