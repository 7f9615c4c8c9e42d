//! A small model as most are served: JSON in, rows of a tensor through the graph, JSON out.

use samovar_sdk::{Error, Graph, Model, Request, Response, TensorView, http};
use serde::{Deserialize, Serialize};

const FEATURES: usize = 4;

struct Tiny {
    graph: Graph,
}

#[derive(Deserialize)]
struct Asked {
    features: Vec<[f32; FEATURES]>,
}

#[derive(Serialize)]
struct Answer<'a> {
    probabilities: Vec<&'a [f32]>,
}

#[samovar_sdk::model]
impl Model for Tiny {
    fn load() -> Result<Self, Error> {
        Ok(Self {
            graph: Graph::load("default")?,
        })
    }

    fn predict(&mut self, mut request: Request) -> Result<Response, Error> {
        let asked: Asked = request.json()?;
        let rows = asked.features.as_flattened();
        let input = TensorView::new([asked.features.len() as u32, FEATURES as u32], rows)?;
        let outputs = self.graph.compute(&[("X", input)])?;
        let output = outputs.get::<f32>("probabilities")?;
        let classes = output.dimensions().last().map_or(1, |size| *size as usize);
        Response::json(&Answer {
            probabilities: output.as_slice().chunks(classes).collect(),
        })
    }

    /// `GET /memory` tells how large the replica's memory is.
    fn handle(&mut self, request: Request) -> Result<Response, Error> {
        if request.path() == "/memory" {
            let pages = core::arch::wasm32::memory_size::<0>();
            return Response::json(&(pages * 65536));
        }
        http::route(self, request)
    }
}
