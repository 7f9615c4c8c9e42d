//! The ONNX format field by field: a copy of a model with some nodes or file names changed, and all else byte for byte.

use std::sync::LazyLock;

use super::outside::is_entry;
use super::schema::tables::{
    ALL, COUNT, FUNCTION_PROTO, GRAPH_PROTO, MODEL_PROTO, NODE_PROTO, TENSOR_PROTO,
    TRAINING_INFO_PROTO,
};
use super::schema::{self, Message};
use super::work;

/// A field as it lies in its message.
pub struct Field<'a> {
    pub tag: u64,
    /// With its key.
    pub whole: &'a [u8],
    /// Of a length-delimited field its content, else nothing.
    pub payload: &'a [u8],
}

impl Field<'_> {
    /// How it is written, as protobuf numbers it.
    pub fn wire_type(&self) -> u8 {
        self.whole.first().map_or(0, |byte| byte & 7)
    }
}

/// The fields of a message, up to the first that is broken.
pub fn fields(mut rest: &[u8]) -> impl Iterator<Item = Field<'_>> {
    std::iter::from_fn(move || {
        let (field, after) = field(rest)?;
        rest = after;
        Some(field)
    })
}

/// The field that begins here, and what follows; `None` when it is damaged or cut off.
pub fn field(bytes: &[u8]) -> Option<(Field<'_>, &[u8])> {
    work::step();
    let (key, rest) = varint(bytes)?;
    let (skipped, payload) = match key & 7 {
        0 => (rest.len() - varint(rest)?.1.len(), 0..0),
        1 => (8, 0..0),
        2 => {
            let (length, after) = varint(rest)?;
            let head = rest.len() - after.len();
            let end = head.checked_add(usize::try_from(length).ok()?)?;
            (end, head..end)
        }
        5 => (4, 0..0),
        _ => return None,
    };
    let payload = rest.get(payload)?;
    let after = rest.get(skipped..)?;
    let whole = &bytes[..bytes.len() - after.len()];
    let tag = key >> 3;
    let field = Field {
        tag,
        whole,
        payload,
    };
    Some((field, after))
}

/// The number that begins here, and what follows.
pub fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (at, byte) in bytes.iter().enumerate().take(10) {
        if at == 9 && *byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[at + 1..]));
        }
    }
    None
}

/// Appends a length-delimited field.
pub fn put(out: &mut Vec<u8>, tag: u64, payload: &[u8]) {
    put_varint(out, tag << 3 | 2);
    put_varint(out, payload.len() as u64);
    out.extend_from_slice(payload);
}

/// Appends a field that is a number.
#[cfg(test)]
pub fn put_number(out: &mut Vec<u8>, tag: u64, value: u64) {
    put_varint(out, tag << 3);
    put_varint(out, value);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Number of the field of a graph that lists its outputs.
pub const GRAPH_OUTPUT: u64 = 12;

/// What is changed on the way.
pub trait Edit {
    /// A graph begins, the outermost first.
    fn enter(&mut self, _graph: &[u8]) {}

    /// It ends. What is appended here are more fields of it.
    fn leave(&mut self, _graph: &mut Vec<u8>) {}

    /// What stands for this output of a graph, or nothing when it stays as it is.
    fn output(&mut self, _info: &[u8]) -> Result<Option<Vec<u8>>, String> {
        Ok(None)
    }

    /// What stands for this node: encoded nodes, or nothing when it stays as it is.
    fn node(&mut self, _node: &[u8]) -> Result<Option<Vec<Vec<u8>>>, String> {
        Ok(None)
    }

    /// What stands for the name of a file with weights.
    fn location(&mut self, location: &str) -> String {
        location.to_owned()
    }
}

/// A copy of a model.
///
/// # Errors
/// Those of the edit.
pub fn edited(model: &[u8], edit: &mut dyn Edit) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(model.len() + 4096);
    copy(&MODEL_PROTO, model, &mut out, edit)?;
    Ok(out)
}

type Done = Result<(), String>;

/// Bytes that a length takes which is not known yet: a number of any size below 2^35 may be written in five.
const LENGTH_BYTES: usize = 5;

/// Appends a field whose content is written by `write` from the content that it had.
pub(super) fn nested(
    out: &mut Vec<u8>,
    field: &Field<'_>,
    write: impl FnOnce(&[u8], &mut Vec<u8>) -> Done,
) -> Done {
    put_varint(out, field.tag << 3 | 2);
    let begin = out.len();
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    write(field.payload, out)?;
    let mut length = out.len() - begin - LENGTH_BYTES;
    for (at, place) in out[begin..begin + LENGTH_BYTES].iter_mut().enumerate() {
        let more = if at + 1 < LENGTH_BYTES { 0x80 } else { 0 };
        *place = (length & 0x7f) as u8 | more;
        length >>= 7;
    }
    Ok(())
}

/// Copies a message and all that lies in it, as the schema says what that is.
fn copy(message: &Message, bytes: &[u8], out: &mut Vec<u8>, edit: &mut dyn Edit) -> Done {
    let is_graph = message.is(&GRAPH_PROTO);
    if is_graph {
        edit.enter(bytes);
    }
    for field in fields(bytes) {
        match message.inner(field.tag) {
            Some(inner) if is_graph && inner.is(&NODE_PROTO) => node(&field, out, edit)?,
            Some(_) if is_graph && field.tag == GRAPH_OUTPUT => match edit.output(field.payload)? {
                Some(info) => put(out, field.tag, &info),
                None => out.extend_from_slice(field.whole),
            },
            Some(_) if is_entry(message, field.tag) => {
                nested(out, &field, |bytes, out| entry(bytes, out, edit))?;
            }
            Some(inner) if inner.is(&FUNCTION_PROTO) || inner.is(&TRAINING_INFO_PROTO) => {
                let mut edit = LocationsOnly(edit);
                nested(out, &field, |bytes, out| copy(inner, bytes, out, &mut edit))?;
            }
            Some(inner) if is_touched(inner, field.payload) => {
                nested(out, &field, |bytes, out| copy(inner, bytes, out, edit))?;
            }
            _ => out.extend_from_slice(field.whole),
        }
    }
    if is_graph {
        edit.leave(out);
    }
    Ok(())
}

/// Whether an edit can change anything in a message: a tensor with entries, or what may hold a tensor.
fn is_touched(message: &Message, bytes: &[u8]) -> bool {
    static HOLDERS: LazyLock<[bool; COUNT]> = LazyLock::new(|| {
        let mut holders = [false; COUNT];
        holders[TENSOR_PROTO.number] = true;
        // As many rounds as there are messages reach the last of them.
        for message in ALL.iter().cycle().take(COUNT * COUNT) {
            let inner = |field: &schema::Field| message.inner(field.number);
            let mut inner = message.fields.iter().filter_map(inner);
            holders[message.number] |= inner.any(|inner| holders[inner.number]);
        }
        holders
    });
    if message.is(&TENSOR_PROTO) {
        return fields(bytes).any(|field| is_entry(message, field.tag));
    }
    HOLDERS[message.number]
}

/// Edits the names of files, and no nodes: what is not part of the graph that runs is not adapted.
struct LocationsOnly<'a>(&'a mut dyn Edit);

impl Edit for LocationsOnly<'_> {
    fn location(&mut self, location: &str) -> String {
        self.0.location(location)
    }
}

fn node(field: &Field<'_>, out: &mut Vec<u8>, edit: &mut dyn Edit) -> Done {
    match edit.node(field.payload)? {
        Some(nodes) => {
            for bytes in nodes {
                let node = Field {
                    payload: &bytes,
                    ..*field
                };
                nested(out, &node, |bytes, out| copy(&NODE_PROTO, bytes, out, edit))?;
            }
            Ok(())
        }
        None => nested(out, field, |bytes, out| copy(&NODE_PROTO, bytes, out, edit)),
    }
}

fn entry(bytes: &[u8], out: &mut Vec<u8>, edit: &mut dyn Edit) -> Done {
    let is_location = fields(bytes).any(|field| field.tag == 1 && field.payload == b"location");
    for field in fields(bytes) {
        match (field.tag, std::str::from_utf8(field.payload)) {
            (2, Ok(location)) if is_location => put(out, 2, edit.location(location).as_bytes()),
            _ => out.extend_from_slice(field.whole),
        }
    }
    Ok(())
}

/// The whole numbers of an i64 tensor or the fractions of an f64 one that lie within the file, as `f64`.
pub fn wide_numbers(tensor: &[u8], of: Wide) -> impl Iterator<Item = f64> + '_ {
    let (raw_tag, packed_tag) = match of {
        Wide::I64 => (9, 7),
        Wide::F64 => (9, 10),
    };
    fields(tensor).flat_map(move |field| -> Box<dyn Iterator<Item = f64> + '_> {
        if field.tag == raw_tag || field.tag == packed_tag && of == Wide::F64 {
            let alone = &field.whole[field.whole.len().saturating_sub(8)..];
            let bytes = if field.payload.is_empty() && field.tag != raw_tag {
                alone
            } else {
                field.payload
            };
            return Box::new(of_bytes(bytes, of));
        }
        if field.tag != packed_tag {
            return Box::new(std::iter::empty());
        }
        // Packed, or one alone.
        let mut rest = match field.payload {
            [] => varint(field.whole).map_or(&[][..], |(_, rest)| rest),
            packed => packed,
        };
        Box::new(std::iter::from_fn(move || {
            let (value, after) = varint(rest)?;
            rest = after;
            Some(value.cast_signed() as f64)
        }))
    })
}

/// Numbers of eight bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wide {
    I64,
    F64,
}

/// Numbers that lie one after the other.
pub fn of_bytes(bytes: &[u8], of: Wide) -> impl Iterator<Item = f64> + '_ {
    let (chunks, _) = bytes.as_chunks::<8>();
    chunks.iter().map(move |chunk| match of {
        Wide::I64 => i64::from_le_bytes(*chunk) as f64,
        Wide::F64 => f64::from_le_bytes(*chunk),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Nothing;
    impl Edit for Nothing {}

    proptest! {
        #[test]
        fn nothing_in_a_file_panics(bytes: Vec<u8>) {
            let _ = edited(&bytes, &mut Nothing);
            let _ = wide_numbers(&bytes, Wide::I64).count();
            let _ = wide_numbers(&bytes, Wide::F64).count();
        }
    }

    #[test]
    fn what_is_not_edited_stays() {
        let mut tensor = Vec::new();
        put(&mut tensor, 9, &[1; 300]);
        let mut graph = Vec::new();
        put(&mut graph, 5, &tensor);
        put(&mut graph, 2, b"name");
        let mut model = vec![8, 8];
        put(&mut model, 7, &graph);
        let copy = edited(&model, &mut Nothing).unwrap();
        let graph_of = |model: &[u8]| {
            let graph = fields(model).find(|field| field.tag == 7).unwrap();
            graph.payload.to_vec()
        };
        assert_eq!(graph_of(&copy), graph);
        assert_eq!(copy[..2], [8, 8]);
    }

    #[test]
    fn numbers_are_read_in_every_form() {
        let mut raw = Vec::new();
        put(&mut raw, 9, &(-3i64).to_le_bytes());
        let mut packed = Vec::new();
        put(&mut packed, 7, &[5, 6]);
        let single = [7 << 3, 9];
        let read = |bytes: &[u8]| wide_numbers(bytes, Wide::I64).collect::<Vec<_>>();
        assert_eq!(read(&raw), [-3.0]);
        assert_eq!(read(&packed), [5.0, 6.0]);
        assert_eq!(read(&single), [9.0]);
    }
}
