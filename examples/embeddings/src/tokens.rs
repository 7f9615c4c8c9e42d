//! From text to the numbers of word pieces that the model knows.

use openai_shapes::Refusal;
use samovar_sdk::Error;
use tokenizers::{Tokenizer, TruncationParams};

/// Tokens of a sentence that count, the two marks around it among them; what follows is not read.
///
/// It is what the model's own `sentence_bert_config.json` says.
pub const MAX_TOKENS: usize = 256;

const START: i64 = 101;
const END: i64 = 102;

/// The model's word pieces.
pub struct Tokens {
    tokenizer: Tokenizer,
}

impl Tokens {
    /// Reads a `tokenizer.json`.
    pub fn load(path: &str) -> Result<Self, Error> {
        let failed = |error: tokenizers::Error| Error::internal(format!("{path}: {error}"));
        let mut tokenizer = Tokenizer::from_file(path).map_err(failed)?;
        let truncation = TruncationParams {
            max_length: MAX_TOKENS,
            ..TruncationParams::default()
        };
        tokenizer
            .with_truncation(Some(truncation))
            .map_err(failed)?
            .with_padding(None);
        Ok(Self { tokenizer })
    }

    /// The tokens of a text, with the marks around it.
    pub fn of_text(&self, text: String) -> Result<Vec<i64>, Refusal> {
        let encoding = self.tokenizer.encode_fast(text, true);
        let encoding = encoding
            .map_err(|error| Error::internal(format!("the text could not be split: {error}")))?;
        Ok(encoding.get_ids().iter().map(|&id| id.into()).collect())
    }

    /// Tokens that the caller made, with the marks around them.
    pub fn of_ids(&self, ids: &[u32]) -> Result<Vec<i64>, Refusal> {
        let known = self.tokenizer.get_vocab_size(true);
        if let Some(unknown) = ids.iter().find(|&&id| id as usize >= known) {
            return Err(Refusal::invalid(
                "input",
                format!(
                    "token {unknown} is unknown: this model's tokens are 0 to {}",
                    known - 1
                ),
            ));
        }
        let inner = ids.iter().take(MAX_TOKENS - 2).map(|&id| id.into());
        Ok([START].into_iter().chain(inner).chain([END]).collect())
    }
}
