//! The ONNX schema: structs for what is decoded, tables for code that walks a model without decoding it.
//!
//! Both are generated from the standard's own schema, see `schema/README.md`, so that no field of the format is
//! invisible to the checks.

#[allow(dead_code, clippy::all, reason = "generated, and all of it")]
pub mod messages;
#[allow(dead_code, reason = "generated, and all of it")]
pub mod tables;

/// A message of the format.
pub struct Message {
    /// Its place among all messages, below `tables::COUNT`.
    pub number: usize,
    /// As the standard calls it.
    pub name: &'static str,
    /// Bytes of its struct.
    pub size: usize,
    /// In the order of their numbers.
    pub fields: &'static [Field],
}

/// A field of a message.
pub struct Field {
    pub number: u64,
    pub name: &'static str,
    pub repeated: bool,
    pub kind: Kind,
}

/// How a field is written.
#[derive(Clone, Copy)]
pub enum Kind {
    Varint,
    Fixed32,
    Fixed64,
    Bytes,
    Text,
    /// Not in the ONNX format; never accepted.
    #[allow(dead_code, reason = "the generator knows it")]
    Group,
    Message(&'static Message),
}

const fn one(number: u64, name: &'static str, kind: Kind) -> Field {
    Field {
        number,
        name,
        repeated: false,
        kind,
    }
}

const fn many(number: u64, name: &'static str, kind: Kind) -> Field {
    Field {
        repeated: true,
        ..one(number, name, kind)
    }
}

impl Message {
    /// Whether it is this one.
    pub fn is(&self, other: &Self) -> bool {
        self.number == other.number
    }

    /// The place of the field with this number, and the field.
    pub fn field(&self, number: u64) -> Option<(usize, &'static Field)> {
        let place = self
            .fields
            .binary_search_by_key(&number, |field| field.number)
            .ok()?;
        Some((place, &self.fields[place]))
    }

    /// The message in the field with this number.
    pub fn inner(&self, number: u64) -> Option<&'static Self> {
        match self.field(number)?.1.kind {
            Kind::Message(inner) => Some(inner),
            _ => None,
        }
    }
}

#[cfg(test)]
#[path = "schema_tests.rs"]
mod tests;
