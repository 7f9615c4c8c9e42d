//! Tokens: bytes, and marks that say who speaks and where a message ends.
//!
//! A real decoder has its own instead: a `tokenizer.json` for the crate `tokenizers`, and a chat template.

use crate::api::{Message, Role};

const SYSTEM: i64 = 256;
const USER: i64 = 257;
const ASSISTANT: i64 = 258;
/// The end of a message.
pub const END: i64 = 259;

/// A conversation as the decoder reads it, up to where its answer begins.
pub fn prompt(messages: &[Message]) -> Vec<i64> {
    let mut tokens = Vec::new();
    for message in messages {
        tokens.push(match message.role {
            Role::System => SYSTEM,
            Role::User => USER,
            Role::Assistant => ASSISTANT,
        });
        tokens.extend(message.text.bytes().map(i64::from));
        tokens.push(END);
    }
    tokens.push(ASSISTANT);
    tokens
}

/// The byte that a token stands for; a mark stands for none.
pub fn byte(token: i64) -> Option<u8> {
    token.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_ends_where_the_answer_begins() {
        let message = |role, text: &str| Message {
            role,
            text: text.to_owned(),
        };
        let found = prompt(&[message(Role::System, "s"), message(Role::User, "hé")]);
        assert_eq!(found, [256, 115, 259, 257, 104, 0xc3, 0xa9, 259, 258]);
        assert_eq!((byte(104), byte(END)), (Some(104), None));
    }
}
