//! Chat completions as OpenAI's API has them, streamed or whole, by a decoder whose cache stays on the host.

mod answer;
mod api;
mod decoder;
mod sampling;
mod text;
mod tokens;

use std::io::Write;
use std::rc::Rc;

use openai_shapes::Refusal;
use samovar_sdk::{Error, Model, Request, Response};
use serde_json::json;

use crate::answer::Answer;
use crate::api::{Asked, Form, Label};
use crate::decoder::Decoder;

struct Chat {
    decoder: Rc<Decoder>,
}

#[samovar_sdk::model]
impl Model for Chat {
    fn load() -> Result<Self, Error> {
        Ok(Self {
            decoder: Rc::new(Decoder::load("/model.json")?),
        })
    }

    fn predict(&self, mut request: Request) -> Result<Response, Error> {
        let body = request.bytes()?;
        Ok(self.answer(&body).unwrap_or_else(|refusal| refusal.into()))
    }

    fn handle(&self, request: Request) -> Result<Response, Error> {
        match (request.method(), request.path()) {
            ("POST", "/v1/chat/completions" | "/predict") => self.predict(request),
            ("GET", "/v1/models") => {
                Response::json(&json!({ "object": "list", "data": [api::model()] }))
            }
            ("GET", "/v1/models/by-heart") => Response::json(&api::model()),
            (_, "/v1/chat/completions" | "/predict") => Ok(Refusal::method("POST").into()),
            (_, "/v1/models") => Ok(Refusal::method("GET").into()),
            (_, path) => {
                Ok(Refusal::path(path, "POST /v1/chat/completions or GET /v1/models").into())
            }
        }
    }
}

impl Chat {
    fn answer(&self, body: &[u8]) -> Result<Response, Refusal> {
        let asked = Asked::read(body)?;
        let label = Label::new();
        let form = asked.form;
        // The prompt is read before the answer begins, so that what fails there has a status.
        let mut answer = Answer::begin(Rc::clone(&self.decoder), asked)?;
        if form == Form::Whole {
            let mut text = String::new();
            while let Some(piece) = answer.next()? {
                text.push_str(&piece);
            }
            return Ok(label.whole(&text, answer.finish_reason(), answer.usage())?);
        }
        let write = move |events: &mut samovar_sdk::http::BodyWriter<'_>| {
            // A client that hangs up is noticed here: the write fails, or the host stops the guest before.
            let mut send = |event: &serde_json::Value| -> Result<(), Error> {
                write!(events, "data: {event}\n\n")?;
                Ok(events.flush()?)
            };
            let with_usage = form == Form::StreamedWithUsage;
            send(&label.begun(with_usage))?;
            while let Some(piece) = answer.next()? {
                send(&label.piece(&piece, with_usage))?;
            }
            send(&label.finished(answer.finish_reason(), with_usage))?;
            if with_usage {
                send(&label.usage(answer.usage()))?;
            }
            write!(events, "data: [DONE]\n\n")?;
            Ok(())
        };
        Ok(Response::stream("text/event-stream", write).with_header("cache-control", "no-cache"))
    }
}
