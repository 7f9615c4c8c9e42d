//! What a model references outside itself.
//!
//! The scan asks here for every tensor and node of a model, wherever it stands: graphs, graphs within graphs, functions
//! and their default attributes, training information. What this knows nothing of is not in the schema, and refused.

use super::schema::Message;
use super::schema::tables::{NODE_PROTO, TENSOR_PROTO};
use super::wire::{Field, fields, varint};

/// Something outside of a model that it wants to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// The elements of a tensor, in a file.
    Data {
        tensor: String,
        /// What the model says of the place: `location`, `offset`, `length`.
        entries: Vec<(String, String)>,
    },
    /// What an execution provider compiled before, in a file that a node names.
    Engine { node: String },
}

impl Reference {
    /// As it is called in errors.
    pub fn label(&self) -> String {
        match self {
            Self::Data { tensor, .. } => format!("weight `{tensor}` is stored in another file"),
            Self::Engine { node } => {
                format!("node `{node}` is an EPContext, which runs a compiled file")
            }
        }
    }
}

/// What was seen of a message so far.
#[derive(Default)]
pub(super) struct Found {
    name: String,
    operator: Vec<u8>,
    is_external: bool,
    entries: Vec<(String, String)>,
}

impl Found {
    /// Takes note of a field.
    pub fn note(&mut self, message: &Message, field: &Field<'_>) {
        let text = || String::from_utf8_lossy(field.payload).into_owned();
        if message.is(&TENSOR_PROTO) {
            match field.tag {
                8 => self.name = text(),
                EXTERNAL_DATA => self.entries.push(entry(field.payload)),
                14 => self.is_external = number(field) != 0,
                _ => {}
            }
        } else if message.is(&NODE_PROTO) {
            match field.tag {
                3 => self.name = text(),
                4 => self.operator = field.payload.to_vec(),
                _ => {}
            }
        }
    }

    /// What the message references, once all its fields were noted.
    pub fn reference(self, message: &Message) -> Option<Reference> {
        if message.is(&TENSOR_PROTO) && (self.is_external || !self.entries.is_empty()) {
            return Some(Reference::Data {
                tensor: self.name,
                entries: self.entries,
            });
        }
        (message.is(&NODE_PROTO) && self.operator == b"EPContext")
            .then_some(Reference::Engine { node: self.name })
    }
}

/// The field of a tensor that says where its elements lie.
const EXTERNAL_DATA: u64 = 13;

/// Whether this field of a message says where a tensor's elements lie.
pub(super) fn is_entry(message: &Message, number: u64) -> bool {
    message.is(&TENSOR_PROTO) && number == EXTERNAL_DATA
}

fn entry(bytes: &[u8]) -> (String, String) {
    let text = |tag: u64| {
        let field = fields(bytes).find(|field| field.tag == tag);
        field.map_or_else(String::new, |field| {
            String::from_utf8_lossy(field.payload).into_owned()
        })
    };
    (text(1), text(2))
}

fn number(field: &Field<'_>) -> u64 {
    let after_key = varint(field.whole).map_or(&[][..], |(_, rest)| rest);
    varint(after_key).map_or(0, |(value, _)| value)
}
