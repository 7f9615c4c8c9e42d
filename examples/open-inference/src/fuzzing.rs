//! The interface for fuzz targets. It is not part of the component.

use samovar_sdk::tensor::RawTensor;
use samovar_sdk::testing::{self, Outputs};
use samovar_sdk::{Error, Request};

use crate::datatype::Datatype;
use crate::infer::{HEADER_LENGTH, infer};
use crate::metadata::{Port, Served};

/// A response: its bytes, and how many of them are JSON if tensors follow.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The body.
    pub body: Vec<u8>,
    /// The length of the JSON, from the response's header.
    pub header_length: Option<String>,
}

/// A graph that returns its inputs: one input and one output of any shape for each datatype, both named after it. The output of an input
/// that is missing has no elements.
pub struct Same(Served);

impl Default for Same {
    fn default() -> Self {
        let graph = testing::graph("same", |inputs| {
            let mut outputs = Outputs::new();
            for datatype in Datatype::ALL {
                let empty = RawTensor::new([0], datatype.element_type(), Vec::new());
                let tensor = inputs.raw(datatype.name()).or(empty)?;
                outputs = outputs.with(datatype.name(), &tensor);
            }
            Ok(outputs)
        });
        let ports = Datatype::ALL.map(|datatype| Port::new(datatype.name(), datatype, None));
        Self(Served::new(graph, ports.to_vec(), ports.to_vec()))
    }
}

impl Same {
    /// Serves a request with this body.
    ///
    /// # Errors
    /// The error to send to the caller.
    pub fn infer(&self, body: Vec<u8>, header_length: Option<&str>) -> Result<Answer, Error> {
        let mut request = Request::new("POST", "/v2/models/same/infer", body);
        if let Some(length) = header_length {
            request = request.with_header(HEADER_LENGTH, length);
        }
        let answer = infer(&self.0, request)?;
        let told = answer
            .headers()
            .iter()
            .find(|(name, _)| name == HEADER_LENGTH);
        let header_length = told.map(|(_, value)| value.clone());
        let body = answer.into_bytes()?;
        Ok(Answer {
            body,
            header_length,
        })
    }
}
