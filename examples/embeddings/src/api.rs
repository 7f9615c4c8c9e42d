//! OpenAI's shapes: what `/v1/embeddings` takes and gives.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use openai_shapes::Refusal;
use samovar_sdk::{Error, Response};
use serde_json::{Map, Value, json};

/// The name that clients ask for.
const NAME: &str = "all-MiniLM-L6-v2";
/// Numbers of an embedding.
const DIMENSIONS: u64 = 384;
/// The most texts of one request: OpenAI's own bound.
const MAX_INPUTS: usize = 2048;

/// The entry of `/v1/models`.
pub fn model() -> Value {
    json!({ "id": NAME, "object": "model", "created": 1_629_936_000, "owned_by": "sentence-transformers" })
}

/// A request to embed something.
#[derive(Debug)]
pub struct Asked {
    /// What to embed.
    pub inputs: Vec<Input>,
    /// How to write it.
    pub encoding: Encoding,
}

/// One thing to embed.
#[derive(Debug, PartialEq)]
pub enum Input {
    /// A text.
    Text(String),
    /// Tokens that the caller made of a text.
    Ids(Vec<u32>),
}

/// How embeddings are written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Encoding {
    /// As lists of numbers.
    Float,
    /// As the base64 of little-endian 32-bit floats, which is what the official client asks for.
    Base64,
}

impl Asked {
    /// Reads a request's body.
    pub fn read(body: &[u8]) -> Result<Self, Refusal> {
        let body: Map<String, Value> = serde_json::from_slice(body).map_err(|error| {
            Refusal::invalid(None, format!("the body is no JSON object: {error}"))
        })?;
        let given = |name| body.get(name).filter(|value| !value.is_null());
        match given("model") {
            Some(Value::String(name)) if name == NAME => {}
            Some(Value::String(name)) => return Err(Refusal::model(name, NAME)),
            _ => {
                return Err(Refusal::invalid(
                    "model",
                    format!("`model` is missing: {NAME:?} is served here"),
                ));
            }
        }
        if let Some(dimensions) =
            given("dimensions").filter(|found| found.as_u64() != Some(DIMENSIONS))
        {
            return Err(Refusal::invalid(
                "dimensions",
                format!(
                    "`dimensions` is {dimensions}, but this model has {DIMENSIONS} and none that may be left out"
                ),
            ));
        }
        let encoding = match given("encoding_format").map_or(Some("float"), Value::as_str) {
            Some("float") => Encoding::Float,
            Some("base64") => Encoding::Base64,
            _ => {
                return Err(Refusal::invalid(
                    "encoding_format",
                    "`encoding_format` is \"float\" or \"base64\"",
                ));
            }
        };
        let input =
            given("input").ok_or_else(|| Refusal::invalid("input", "`input` is missing"))?;
        Ok(Self {
            inputs: inputs(input)?,
            encoding,
        })
    }
}

/// A text, texts, tokens, or lists of tokens.
fn inputs(value: &Value) -> Result<Vec<Input>, Refusal> {
    let wrong = || {
        Refusal::invalid(
            "input",
            "`input` is a text, a list of texts, a list of tokens or a list of such lists",
        )
    };
    let parts = match value {
        Value::String(text) => return Ok(vec![Input::Text(text.clone())]),
        Value::Array(parts) => parts,
        _ => return Err(wrong()),
    };
    match parts.first() {
        None => Err(Refusal::invalid("input", "`input` is empty")),
        Some(Value::Number(_)) => Ok(vec![Input::Ids(ids(parts).ok_or_else(wrong)?)]),
        Some(_) if parts.len() > MAX_INPUTS => Err(Refusal::invalid(
            "input",
            format!(
                "`input` has {} parts, and {MAX_INPUTS} are the most",
                parts.len()
            ),
        )),
        Some(_) => parts
            .iter()
            .map(|part| match part {
                Value::String(text) => Ok(Input::Text(text.clone())),
                Value::Array(part) => ids(part).map(Input::Ids).ok_or_else(wrong),
                _ => Err(wrong()),
            })
            .collect(),
    }
}

fn ids(parts: &[Value]) -> Option<Vec<u32>> {
    let id = |part: &Value| part.as_u64().and_then(|id| id.try_into().ok());
    parts.iter().map(id).collect()
}

impl Encoding {
    /// The answer for embeddings that took so many tokens.
    pub fn answer(self, embeddings: &[Vec<f32>], tokens: usize) -> Result<Response, Error> {
        let data: Vec<Value> = embeddings
            .iter()
            .enumerate()
            .map(|(index, embedding)| json!({ "object": "embedding", "index": index, "embedding": self.write(embedding) }))
            .collect();
        Response::json(&json!({
            "object": "list",
            "data": data,
            "model": NAME,
            "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
        }))
    }

    fn write(self, embedding: &[f32]) -> Value {
        match self {
            Self::Float => json!(embedding),
            Self::Base64 => {
                let bytes: Vec<u8> = embedding.iter().flat_map(|x| x.to_le_bytes()).collect();
                Value::String(BASE64_STANDARD.encode(bytes))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: Value) -> Result<Asked, Refusal> {
        Asked::read(body.to_string().as_bytes())
    }

    #[test]
    fn every_form_of_input_is_read() {
        let inputs =
            |input: Value| read(json!({ "model": NAME, "input": input })).map(|asked| asked.inputs);
        let text = |text: &str| Input::Text(text.to_owned());
        assert_eq!(inputs(json!("a")).expect("a text"), [text("a")]);
        assert_eq!(
            inputs(json!(["a", ""])).expect("texts"),
            [text("a"), text("")]
        );
        assert_eq!(
            inputs(json!([1, 2])).expect("tokens"),
            [Input::Ids(vec![1, 2])]
        );
        assert_eq!(
            inputs(json!([[1], [2]])).expect("lists"),
            [Input::Ids(vec![1]), Input::Ids(vec![2])]
        );
        for wrong in [
            json!([]),
            json!({}),
            json!(1),
            json!([-1]),
            json!([1, "a"]),
            json!([[1], 2]),
            json!(vec!["a"; 2049]),
        ] {
            assert_eq!(inputs(wrong).expect_err("no input").param(), Some("input"));
        }
    }

    #[test]
    fn what_cannot_be_given_is_refused_by_name() {
        let param = |more: Value| {
            let mut body = json!({ "model": NAME, "input": "a" });
            body.as_object_mut()
                .expect("an object")
                .extend(more.as_object().expect("an object").clone());
            read(body).err().and_then(|refusal| refusal.param())
        };
        assert_eq!(
            param(json!({ "dimensions": 384, "user": "me", "encoding_format": "base64" })),
            None
        );
        assert_eq!(param(json!({ "dimensions": 256 })), Some("dimensions"));
        assert_eq!(
            param(json!({ "encoding_format": "hex" })),
            Some("encoding_format")
        );
        assert_eq!(param(json!({ "model": "gpt-4" })), Some("model"));
        assert_eq!(param(json!({ "input": null })), Some("input"));
        assert_eq!(Asked::read(b"[]").expect_err("no object").status(), 400);
    }

    #[test]
    fn base64_holds_little_endian_floats() {
        assert_eq!(Encoding::Base64.write(&[1.0, -2.0]), json!("AACAPwAAAMA="));
        assert_eq!(Encoding::Float.write(&[1.0, -2.0]), json!([1.0, -2.0]));
    }
}
