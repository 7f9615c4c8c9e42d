//! Reads a model field by field before anything of it is decoded.
//!
//! Refuses what the schema does not know, bounds nesting and memory, finds everything that the model references outside
//! itself, and leaves a skeleton: the model without weights and documentation, which is all that is decoded.

use super::outside::{Found, Reference};
use super::schema::tables::{self, NODE_PROTO, TENSOR_PROTO};
use super::schema::{Field, Kind, Message};
use super::wire::{self, nested};

/// How deep messages may lie within each other: about twenty graphs within graphs.
const MAX_NESTING: usize = 64;
/// The memory that a decoded model may take, its weights not counted. A field of two bytes can take 200.
pub const MAX_DECODED_BYTES: u64 = 256 << 20;
/// What the allocator and growing lists add to each element.
const ELEMENT_BYTES: u64 = 32;

/// What a scan found.
#[derive(Debug)]
pub struct Scan {
    /// The message without weights and documentation.
    pub skeleton: Vec<u8>,
    /// Memory that the decoded skeleton takes, at most.
    pub decoded_bytes: u64,
    /// Memory that what is left out takes for who decodes it, at most, beyond a weight that lies in the file as it is used.
    pub unpacked_bytes: u64,
    /// What it references outside itself, in the order of the file.
    pub references: Vec<Reference>,
}

/// Scans a message of this type, which may take `max_bytes` when it is decoded.
///
/// # Errors
/// Names the message and what is wrong with it.
pub fn scan(message: &'static Message, bytes: &[u8], max_bytes: u64) -> Result<Scan, String> {
    let mut scanner = Scanner {
        decoded_bytes: 0,
        unpacked_bytes: 0,
        max_bytes,
        counts: [0; tables::COUNT],
        references: Vec::new(),
    };
    let mut skeleton = Vec::new();
    scanner.message(message, bytes, &mut skeleton, 0)?;
    Ok(Scan {
        skeleton,
        decoded_bytes: scanner.decoded_bytes,
        unpacked_bytes: scanner.unpacked_bytes,
        references: scanner.references,
    })
}

/// Whether a message of this type could begin like this.
pub fn begins(message: &'static Message, bytes: &[u8]) -> bool {
    let first = wire::field(bytes).map(|(raw, _)| raw);
    first.is_some_and(|raw| {
        let field = message.field(raw.tag);
        field.is_some_and(|(_, field)| fits(field, raw.wire_type()))
    })
}

/// Whether a field is left out of the skeleton: weights, which stay where they are, and what only people read.
fn is_left_out(message: &Message, field: &Field) -> bool {
    match field.name {
        "doc_string" => true,
        "metadata_props" => !message.is(&tables::MODEL_PROTO),
        name => message.is(&TENSOR_PROTO) && name.ends_with("_data") && name != "external_data",
    }
}

struct Scanner {
    decoded_bytes: u64,
    unpacked_bytes: u64,
    max_bytes: u64,
    /// How many there are of each message.
    counts: [u64; tables::COUNT],
    references: Vec<Reference>,
}

impl Scanner {
    fn message(
        &mut self,
        message: &'static Message,
        bytes: &[u8],
        skeleton: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), String> {
        let name = message.name;
        if depth >= MAX_NESTING {
            return Err(format!(
                "{name} is nested {depth} messages deep; the limit is {MAX_NESTING}"
            ));
        }
        self.counts[message.number] += 1;
        self.count(message.size as u64 + ELEMENT_BYTES)?;
        let mut found = Found::default();
        let mut seen = 0u64;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (raw, after) = wire::field(rest).ok_or_else(|| {
                let at = bytes.len() - rest.len();
                format!("{name} is damaged or truncated at its byte {at}")
            })?;
            rest = after;
            let Some((place, field)) = message.field(raw.tag) else {
                return Err(format!(
                    "{name} has field {}, which the ONNX standard does not define (IR version 14)",
                    raw.tag
                ));
            };
            if !fits(field, raw.wire_type()) {
                return Err(format!(
                    "field `{}` of {name} has wire type {}, which does not match the field's type",
                    field.name,
                    raw.wire_type()
                ));
            }
            let bit = 1u64 << place;
            if !field.repeated && seen & bit != 0 {
                return Err(format!("field `{}` of {name} occurs twice", field.name));
            }
            seen |= bit;
            if is_left_out(message, field) {
                match field.kind {
                    Kind::Message(inner) => self.left_out(inner, raw.payload, depth + 1)?,
                    kind if field.repeated => self.unpacked_bytes += unpacked(kind, raw.payload),
                    _ => {}
                }
                continue;
            }
            match field.kind {
                Kind::Message(inner) => nested(skeleton, &raw, |bytes, skeleton| {
                    self.message(inner, bytes, skeleton, depth + 1)
                })?,
                kind => {
                    self.count(held(kind, raw.payload))?;
                    skeleton.extend_from_slice(raw.whole);
                }
            }
            found.note(message, &raw);
        }
        if message.is(&TENSOR_PROTO) || message.is(&NODE_PROTO) {
            self.references.extend(found.reference(message));
        }
        Ok(())
    }

    /// Checks a message that nothing is decoded of.
    fn left_out(
        &mut self,
        message: &'static Message,
        bytes: &[u8],
        depth: usize,
    ) -> Result<(), String> {
        let before = self.decoded_bytes;
        self.message(message, bytes, &mut Vec::new(), depth)?;
        self.unpacked_bytes += self.decoded_bytes - before;
        self.decoded_bytes = before;
        Ok(())
    }

    fn count(&mut self, bytes: u64) -> Result<(), String> {
        self.decoded_bytes += bytes;
        if self.decoded_bytes <= self.max_bytes {
            return Ok(());
        }
        let counts = self.counts.iter().zip(tables::ALL);
        let most = counts.max_by_key(|(count, _)| **count);
        let (count, name) = most.map_or((0, ""), |(count, message)| (*count, message.name));
        Err(format!(
            "decoding it without its weights takes more than {} bytes of memory; most of them are for {count} {name}",
            self.max_bytes
        ))
    }
}

/// Whether a field may be written so.
fn fits(field: &Field, wire_type: u8) -> bool {
    match (field.kind, wire_type) {
        (Kind::Varint, 0) | (Kind::Fixed64, 1) | (Kind::Fixed32, 5) => true,
        (Kind::Varint | Kind::Fixed64 | Kind::Fixed32, 2) => field.repeated,
        (Kind::Bytes | Kind::Text | Kind::Message(_), 2) => true,
        _ => false,
    }
}

/// Memory that a decoded field takes.
fn held(kind: Kind, payload: &[u8]) -> u64 {
    let bytes = payload.len() as u64;
    match kind {
        // Each number of a packed list may be one byte and becomes eight.
        Kind::Varint => 8 * bytes.max(1),
        _ => bytes + ELEMENT_BYTES,
    }
}

/// Memory that elements of a tensor take which are not written as they are used: each number may be one byte, and a text none.
fn unpacked(kind: Kind, payload: &[u8]) -> u64 {
    /// The string and its place in a list.
    const TEXT_BYTES: u64 = 48;
    match kind {
        Kind::Bytes | Kind::Text => payload.len() as u64 + TEXT_BYTES,
        kind => held(kind, payload),
    }
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
