//! Magika, Google's file type detector: `POST /predict` with a file's bytes tells what they are.

mod content;
mod features;
mod verdict;

use samovar_sdk::{Error, Graph, Model, Request, Response, TensorView};

use crate::features::{Ends, FEATURES};
use crate::verdict::Verdict;

// ANCHOR: model
struct Magika {
    graph: Graph,
}

#[samovar_sdk::model]
impl Model for Magika {
    fn load() -> Result<Self, Error> {
        Ok(Self {
            graph: Graph::load("default")?,
        })
    }

    fn predict(&self, mut request: Request) -> Result<Response, Error> {
        let ends = Ends::read(request.body())
            .map_err(|error| Error::bad_request(format!("the file broke off: {error}")))?;
        let verdict = match ends.features() {
            None => Verdict::without_model(&ends),
            Some(features) => {
                let input = TensorView::new([1, FEATURES as u32], &features)?;
                let outputs = self.graph.compute(&[("bytes", input)])?;
                Verdict::from_scores(outputs.get::<f32>("target_label")?.as_slice())?
            }
        };
        Response::json(&verdict)
    }
}
// ANCHOR_END: model
