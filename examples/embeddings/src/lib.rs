//! Sentence embeddings by all-MiniLM-L6-v2, asked for and answered as OpenAI's API has it.

mod api;
mod batches;
mod tokens;

use openai_shapes::Refusal;
use samovar_sdk::{Error, Graph, Model, Request, Response, TensorView};
use serde_json::json;

use crate::api::{Asked, Input};
use crate::batches::batches;
use crate::tokens::Tokens;

struct Embeddings {
    tokens: Tokens,
    graph: Graph,
}

#[samovar_sdk::model]
impl Model for Embeddings {
    fn load() -> Result<Self, Error> {
        Ok(Self {
            tokens: Tokens::load("/tokenizer.json")?,
            graph: Graph::load("default")?,
        })
    }

    fn predict(&self, mut request: Request) -> Result<Response, Error> {
        let body = request.bytes()?;
        Ok(self.answer(&body).unwrap_or_else(|refusal| refusal.into()))
    }

    // ANCHOR: routes
    fn handle(&self, request: Request) -> Result<Response, Error> {
        match (request.method(), request.path()) {
            ("POST", "/v1/embeddings" | "/predict") => self.predict(request),
            ("GET", "/v1/models") => {
                Response::json(&json!({ "object": "list", "data": [api::model()] }))
            }
            ("GET", "/v1/models/all-MiniLM-L6-v2") => Response::json(&api::model()),
            (_, "/v1/embeddings" | "/predict") => Ok(Refusal::method("POST").into()),
            (_, "/v1/models") => Ok(Refusal::method("GET").into()),
            (_, path) => Ok(Refusal::path(path, "POST /v1/embeddings or GET /v1/models").into()),
        }
    }
    // ANCHOR_END: routes
}

impl Embeddings {
    fn answer(&self, body: &[u8]) -> Result<Response, Refusal> {
        let asked = Asked::read(body)?;
        let inputs = asked.inputs.into_iter();
        let rows = inputs.map(|input| match input {
            Input::Text(text) => self.tokens.of_text(text),
            Input::Ids(ids) => self.tokens.of_ids(&ids),
        });
        let rows = rows.collect::<Result<Vec<_>, _>>()?;
        let embeddings = self.embed(&rows)?;
        Ok(asked
            .encoding
            .answer(&embeddings, rows.iter().map(Vec::len).sum())?)
    }

    /// The embeddings of sentences, in their order.
    fn embed(&self, rows: &[Vec<i64>]) -> Result<Vec<Vec<f32>>, Error> {
        let mut embeddings = vec![Vec::new(); rows.len()];
        for batch in batches(rows) {
            let size = [batch.rows.len() as u32, batch.width as u32];
            let ids = TensorView::new(size, &batch.ids)?;
            let mask = TensorView::new(size, &batch.mask)?;
            let outputs = self
                .graph
                .compute(&[("input_ids", ids), ("attention_mask", mask)])?;
            let found = outputs.get::<f32>("embedding")?;
            let width = found.dimensions().last().copied().unwrap_or(1) as usize;
            for (&row, embedding) in batch.rows.iter().zip(found.as_slice().chunks(width)) {
                embeddings[row] = embedding.to_vec();
            }
        }
        Ok(embeddings)
    }
}
