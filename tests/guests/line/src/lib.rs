//! A recogniser of text: an image of one line as a raw tensor in, the likeliest character of each step out.

use samovar_sdk::tensor::{ElementType, RawTensor};
use samovar_sdk::{Error, Graph, Model, Request, Response, argmax};
use serde::Serialize;

const HEIGHT: usize = 48;

struct Line {
    graph: Graph,
}

#[derive(Serialize)]
struct Answer {
    characters: Vec<usize>,
    score: f32,
}

#[samovar_sdk::model]
impl Model for Line {
    fn load() -> Result<Self, Error> {
        Ok(Self {
            graph: Graph::load("default")?,
        })
    }

    fn predict(&mut self, mut request: Request) -> Result<Response, Error> {
        let bytes = request.bytes()?;
        let width = bytes.len() / (size_of::<f32>() * 3 * HEIGHT);
        let input = RawTensor::new([1, 3, HEIGHT as u32, width as u32], ElementType::F32, bytes)?;
        let outputs = self.graph.compute(&[("x", input)])?;
        let output = outputs.first::<f32>()?;
        let classes = output.dimensions().last().map_or(1, |size| *size as usize);
        let best: Vec<(usize, f32)> = output
            .as_slice()
            .chunks(classes)
            .filter_map(argmax)
            .collect();
        Response::json(&Answer {
            score: best.iter().map(|one| one.1).sum::<f32>() / best.len().max(1) as f32,
            characters: best.into_iter().map(|one| one.0).collect(),
        })
    }
}
