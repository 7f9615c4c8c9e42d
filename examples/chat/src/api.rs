//! OpenAI's shapes: what `/v1/chat/completions` takes and gives.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{SystemTime, UNIX_EPOCH};

use openai_shapes::Refusal;
use samovar_sdk::{Error, Response};
use serde_json::{Map, Value, json};

use crate::sampling::Sampling;

/// The name that clients ask for.
pub const NAME: &str = "by-heart";
/// Stop sequences of one request, as OpenAI has it.
const MAX_STOPS: usize = 4;

/// The entry of `/v1/models`.
pub fn model() -> Value {
    json!({ "id": NAME, "object": "model", "created": 1_767_225_600, "owned_by": "samovar" })
}

/// A request for an answer.
#[derive(Debug)]
pub struct Asked {
    pub messages: Vec<Message>,
    pub sampling: Sampling,
    pub seed: Option<u64>,
    /// The most tokens of the answer; as many as fit where it is not said.
    pub max_tokens: Option<usize>,
    /// What the answer ends before.
    pub stops: Vec<String>,
    pub form: Form,
}

/// How the answer comes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Form {
    /// In one piece.
    Whole,
    /// Token by token.
    Streamed,
    /// Token by token, and what it took at the end.
    StreamedWithUsage,
}

/// One message of a conversation.
#[derive(Debug, PartialEq)]
pub struct Message {
    pub role: Role,
    pub text: String,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Role {
    System,
    User,
    Assistant,
}

/// Tokens that an answer took.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
}

impl Asked {
    /// Reads a request's body.
    pub fn read(body: &[u8]) -> Result<Self, Refusal> {
        let body: Map<String, Value> = serde_json::from_slice(body).map_err(|error| {
            Refusal::invalid(None, format!("the body is no JSON object: {error}"))
        })?;
        let body = Given(&body);
        match body.get("model") {
            Some(Value::String(name)) if name == NAME => {}
            Some(Value::String(name)) => return Err(Refusal::model(name, NAME)),
            _ => {
                return Err(Refusal::invalid(
                    "model",
                    format!("`model` is missing: {NAME:?} is served here"),
                ));
            }
        }
        body.only("n", &json!(1))?;
        body.only("logprobs", &json!(false))?;
        body.only("tools", &json!([]))?;
        body.only("response_format", &json!({ "type": "text" }))?;
        body.only("frequency_penalty", &json!(0))?;
        body.only("presence_penalty", &json!(0))?;
        let usage = body
            .get("stream_options")
            .is_some_and(|options| options["include_usage"] == true);
        Ok(Self {
            messages: messages(body.get("messages"))?,
            sampling: Sampling {
                temperature: body.number("temperature", 2.0)?,
                top_p: body.number("top_p", 1.0)?,
            },
            // Any whole number is one; of a negative one all bits count.
            seed: match body.get("seed") {
                None => None,
                Some(seed) => {
                    let seed = seed
                        .as_u64()
                        .or_else(|| seed.as_i64().map(i64::cast_unsigned));
                    Some(seed.ok_or_else(|| Refusal::invalid("seed", "`seed` is a whole number"))?)
                }
            },
            max_tokens: match body.count("max_completion_tokens")? {
                None => body.count("max_tokens")?,
                found => found,
            },
            stops: stops(body.get("stop"))?,
            form: match body.get("stream") {
                Some(Value::Bool(true)) if usage => Form::StreamedWithUsage,
                Some(Value::Bool(true)) => Form::Streamed,
                None | Some(Value::Bool(false)) => Form::Whole,
                Some(_) => return Err(Refusal::invalid("stream", "`stream` is true or false")),
            },
        })
    }
}

/// The fields of a request; null is as good as none.
struct Given<'a>(&'a Map<String, Value>);

impl Given<'_> {
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// A field that may be there, but changes nothing here.
    fn only(&self, name: &'static str, wanted: &Value) -> Result<(), Refusal> {
        let same = |found: &Value| {
            found == wanted || (found.is_number() && found.as_f64() == wanted.as_f64())
        };
        match self.get(name) {
            Some(found) if !same(found) => Err(Refusal::invalid(
                name,
                format!("`{name}` is {found}; this model has {wanted} alone"),
            )),
            _ => Ok(()),
        }
    }

    /// A number from 0 to `most`; 1 if it is not said.
    fn number(&self, name: &'static str, most: f64) -> Result<f32, Refusal> {
        match self.get(name).map(|value| (value, value.as_f64())) {
            None => Ok(1.0),
            Some((_, Some(number))) if (0.0..=most).contains(&number) => Ok(number as f32),
            Some((value, _)) => Err(Refusal::invalid(
                name,
                format!("`{name}` is {value}, wanted a number from 0 to {most}"),
            )),
        }
    }

    fn count(&self, name: &'static str) -> Result<Option<usize>, Refusal> {
        match self.get(name).map(|value| (value, value.as_u64())) {
            None => Ok(None),
            Some((_, Some(count @ 1..))) => Ok(Some(usize::try_from(count).unwrap_or(usize::MAX))),
            Some((value, _)) => Err(Refusal::invalid(
                name,
                format!("`{name}` is {value}, wanted a whole number over 0"),
            )),
        }
    }
}

fn messages(value: Option<&Value>) -> Result<Vec<Message>, Refusal> {
    let wrong = |what: String| Refusal::invalid("messages", what);
    let Some(list) = value
        .and_then(Value::as_array)
        .filter(|list| !list.is_empty())
    else {
        return Err(wrong("`messages` is missing or empty".to_owned()));
    };
    let message = |(at, message): (usize, &Value)| {
        let role = match message["role"].as_str() {
            Some("system" | "developer") => Role::System,
            Some("user") => Role::User,
            Some("assistant") => Role::Assistant,
            _ => {
                return Err(wrong(format!(
                    "messages[{at}].role is {}, wanted \"system\", \"developer\", \"user\" or \"assistant\"",
                    message["role"]
                )));
            }
        };
        let text = content(&message["content"]);
        let text = text.ok_or_else(|| {
            wrong(format!(
                "messages[{at}].content is no text and no list of texts"
            ))
        })?;
        Ok(Message { role, text })
    };
    list.iter().enumerate().map(message).collect()
}

/// A text, or parts that are all text.
fn content(value: &Value) -> Option<String> {
    let part = |part: &Value| {
        (part["type"] == "text")
            .then(|| part["text"].as_str().map(str::to_owned))
            .flatten()
    };
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => parts.iter().map(part).collect(),
        _ => None,
    }
}

fn stops(value: Option<&Value>) -> Result<Vec<String>, Refusal> {
    let text = |value: &Value| {
        value
            .as_str()
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    };
    let stops: Option<Vec<String>> = match value {
        None => Some(Vec::new()),
        Some(Value::Array(list)) if list.len() <= MAX_STOPS => list.iter().map(text).collect(),
        Some(value) => text(value).map(|stop| vec![stop]),
    };
    stops.ok_or_else(|| {
        Refusal::invalid(
            "stop",
            format!("`stop` is a text or a list of {MAX_STOPS} at most, none of them empty"),
        )
    })
}

/// What all parts of one answer bear.
#[derive(Debug)]
pub struct Label {
    id: String,
    created: u64,
}

impl Label {
    /// One that no other answer has.
    pub fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            id: format!(
                "chatcmpl-{:016x}",
                RandomState::new().build_hasher().finish()
            ),
            created: now.map_or(0, |now| now.as_secs()),
        }
    }

    /// The whole answer.
    pub fn whole(&self, text: &str, finish_reason: &str, usage: Usage) -> Result<Response, Error> {
        Response::json(&json!({
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": NAME,
            "choices": [{
                "index": 0,
                "message": { "role": "assistant", "content": text, "refusal": null },
                "logprobs": null,
                "finish_reason": finish_reason,
            }],
            "usage": usage.to_json(),
        }))
    }

    /// The first event of a streamed answer.
    pub fn begun(&self, with_usage: bool) -> Value {
        self.event(
            &json!({ "role": "assistant", "content": "" }),
            None,
            with_usage,
        )
    }

    /// A piece of the text.
    pub fn piece(&self, text: &str, with_usage: bool) -> Value {
        self.event(&json!({ "content": text }), None, with_usage)
    }

    /// After the last piece.
    pub fn finished(&self, reason: &str, with_usage: bool) -> Value {
        self.event(&json!({}), Some(reason), with_usage)
    }

    /// What it took, for those who asked.
    pub fn usage(&self, usage: Usage) -> Value {
        let mut event = self.chunk(json!([]));
        event["usage"] = usage.to_json();
        event
    }

    fn event(&self, delta: &Value, finish_reason: Option<&str>, with_usage: bool) -> Value {
        let mut event = self.chunk(json!([{
            "index": 0,
            "delta": delta,
            "logprobs": null,
            "finish_reason": finish_reason,
        }]));
        if with_usage {
            event["usage"] = Value::Null;
        }
        event
    }

    fn chunk(&self, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": NAME,
            "choices": choices,
        })
    }
}

impl Usage {
    fn to_json(self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(more: Value) -> Result<Asked, Refusal> {
        let mut body = json!({ "model": NAME, "messages": [{ "role": "user", "content": "hi" }] });
        let more = more.as_object().expect("an object").clone();
        body.as_object_mut().expect("an object").extend(more);
        Asked::read(body.to_string().as_bytes())
    }

    #[test]
    fn what_is_not_said_has_openais_defaults() {
        let asked =
            read(json!({ "temperature": null, "user": "me", "n": 1, "presence_penalty": 0.0 }))
                .expect("a request");
        assert_eq!(
            asked.sampling,
            Sampling {
                temperature: 1.0,
                top_p: 1.0
            }
        );
        assert_eq!(
            (asked.seed, asked.max_tokens, asked.form),
            (None, None, Form::Whole)
        );
        assert!(asked.stops.is_empty());
    }

    #[test]
    fn every_field_is_read() {
        let asked = read(json!({
            "messages": [
                { "role": "developer", "content": "be brief" },
                { "role": "user", "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }] },
            ],
            "temperature": 0, "top_p": 0.5, "seed": -1, "max_tokens": 9, "max_completion_tokens": 5,
            "stop": ["x", "y"], "stream": true, "stream_options": { "include_usage": true },
        }))
        .expect("a request");
        assert_eq!(
            asked.messages[1],
            Message {
                role: Role::User,
                text: "ab".to_owned()
            }
        );
        assert_eq!(asked.messages[0].role, Role::System);
        assert_eq!(
            asked.sampling,
            Sampling {
                temperature: 0.0,
                top_p: 0.5
            }
        );
        assert_eq!((asked.seed, asked.max_tokens), (Some(u64::MAX), Some(5)));
        assert_eq!(
            (asked.stops.len(), asked.form),
            (2, Form::StreamedWithUsage)
        );
    }

    #[test]
    fn what_cannot_be_given_is_refused_by_name() {
        for (param, value) in [
            ("model", json!("gpt-4")),
            ("messages", json!([])),
            ("messages", json!([{ "role": "tool", "content": "x" }])),
            (
                "messages",
                json!([{ "role": "user", "content": [{ "type": "image_url" }] }]),
            ),
            ("temperature", json!(2.1)),
            ("top_p", json!("high")),
            ("max_tokens", json!(0)),
            ("seed", json!(1.5)),
            ("stop", json!(["a", "b", "c", "d", "e"])),
            ("stop", json!("")),
            ("stream", json!("yes")),
            ("n", json!(2)),
            ("tools", json!([{ "type": "function" }])),
            ("response_format", json!({ "type": "json_object" })),
        ] {
            assert_eq!(
                read(json!({ param: value })).expect_err("refused").param(),
                Some(param)
            );
        }
    }
}
