//! A graph of one input `x`, as near as a guest can be: its bytes in after a line that says what they are, the bytes of
//! its first output out.
//!
//! The body begins with 64 bytes of text, as `f16:1x3x224x224` filled up with spaces.

use std::io::Read;

use samovar_sdk::graph::Inputs;
use samovar_sdk::tensor::{ElementType, RawTensor};
use samovar_sdk::{Error, Graph, Model, Request, Response};

const HEAD: usize = 64;

struct Raw {
    graph: Graph,
}

#[samovar_sdk::model]
impl Model for Raw {
    fn load() -> Result<Self, Error> {
        Ok(Self {
            graph: Graph::load("default")?,
        })
    }

    fn predict(&mut self, mut request: Request) -> Result<Response, Error> {
        let length = request.header("content-length");
        let length: Option<usize> = length.and_then(|length| length.parse().ok());
        let body = request.body();
        let mut head = [0; HEAD];
        let bad = |error: std::io::Error| Error::bad_request(error.to_string());
        body.read_exact(&mut head).map_err(bad)?;
        let mut bytes = Vec::with_capacity(length.unwrap_or(0).saturating_sub(HEAD));
        body.read_to_end(&mut bytes).map_err(bad)?;
        let (element_type, dimensions) =
            spec(&head).ok_or_else(|| Error::bad_request("wanted a head as f16:1x3x224x224"))?;
        let input = RawTensor::new(dimensions, element_type, bytes)?;
        let outputs = self.graph.run(Inputs::new().with("x", &input))?;
        let name = outputs.names().next().unwrap_or_default().to_owned();
        let output = outputs.raw(&name)?.into_bytes();
        Ok(Response::new("application/octet-stream", output))
    }
}

fn spec(head: &[u8]) -> Option<(ElementType, Vec<u32>)> {
    let (ty, shape) = std::str::from_utf8(head).ok()?.trim().split_once(':')?;
    let ty = match ty {
        "f16" => ElementType::F16,
        "f32" => ElementType::F32,
        "i64" => ElementType::I64,
        _ => return None,
    };
    let sizes = shape.split('x').map(|size| size.parse().ok());
    Some((ty, sizes.collect::<Option<_>>()?))
}
