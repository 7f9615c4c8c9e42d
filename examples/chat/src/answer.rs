//! One answer, token by token.

use std::rc::Rc;

use openai_shapes::Refusal;
use samovar_sdk::Error;

use crate::api::{Asked, Usage};
use crate::decoder::{Cache, Decoder};
use crate::sampling::{Dice, Sampling, pick};
use crate::text::Text;
use crate::tokens::{END, byte, prompt};

/// An answer that is being made.
pub struct Answer {
    decoder: Rc<Decoder>,
    /// `None` after an inference that failed.
    cache: Option<Cache>,
    logits: Vec<f32>,
    sampling: Sampling,
    dice: Dice,
    text: Text,
    prompt_tokens: usize,
    completion_tokens: usize,
    max_tokens: usize,
    end: Option<End>,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    /// The model had said all, or a stop sequence came.
    Stop,
    /// No more tokens were allowed, or fit.
    Length,
}

impl Answer {
    /// Reads the conversation.
    pub fn begin(decoder: Rc<Decoder>, asked: Asked) -> Result<Self, Refusal> {
        let prompt = prompt(&asked.messages);
        let Some(room) = decoder
            .context()
            .checked_sub(prompt.len())
            .filter(|&room| room > 0)
        else {
            let (tokens, context) = (prompt.len(), decoder.context());
            let text = format!(
                "the messages are {tokens} tokens, and {context} is the most for them and the answer"
            );
            return Err(Refusal::invalid("messages", text).with_code("context_length_exceeded"));
        };
        let (cache, logits) = decoder.read(decoder.start()?, &prompt)?;
        Ok(Self {
            decoder,
            cache: Some(cache),
            logits,
            sampling: asked.sampling,
            dice: Dice::new(asked.seed),
            text: Text::new(asked.stops),
            prompt_tokens: prompt.len(),
            completion_tokens: 0,
            max_tokens: asked.max_tokens.map_or(room, |most| most.min(room)),
            end: None,
        })
    }

    /// The next piece of its text.
    pub fn next(&mut self) -> Result<Option<String>, Error> {
        while self.end.is_none() {
            let token = pick(&self.logits, self.sampling, &mut self.dice) as i64;
            self.completion_tokens += 1;
            if token == END {
                self.end = Some(End::Stop);
                break;
            }
            let piece = byte(token).map_or_else(String::new, |byte| self.text.push(byte));
            if self.text.stopped() {
                self.end = Some(End::Stop);
            } else if self.completion_tokens >= self.max_tokens {
                self.end = Some(End::Length);
            } else {
                let cache = self.cache.take();
                let cache =
                    cache.ok_or_else(|| Error::internal("an inference before this one failed"))?;
                let (cache, logits) = self.decoder.read(cache, &[token])?;
                (self.cache, self.logits) = (Some(cache), logits);
            }
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
        Ok(Some(self.text.end()).filter(|rest| !rest.is_empty()))
    }

    /// Why it ended, as OpenAI's API says it.
    pub fn finish_reason(&self) -> &'static str {
        match self.end {
            Some(End::Length) => "length",
            _ => "stop",
        }
    }

    /// What it took.
    pub fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.completion_tokens,
        }
    }
}
