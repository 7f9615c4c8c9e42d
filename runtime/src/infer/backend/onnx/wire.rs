//! The ONNX format field by field: a copy of a model with some nodes or file names changed, and all else byte for byte.

/// A field as it lies in its message.
pub(crate) struct Field<'a> {
    pub tag: u64,
    /// With its key.
    pub whole: &'a [u8],
    /// Of a length-delimited field its content, else nothing.
    pub payload: &'a [u8],
}

/// The fields of a message, up to the first that is broken.
pub(crate) fn fields(mut rest: &[u8]) -> impl Iterator<Item = Field<'_>> {
    std::iter::from_fn(move || {
        let (field, after) = field(rest)?;
        rest = after;
        Some(field)
    })
}

fn field(bytes: &[u8]) -> Option<(Field<'_>, &[u8])> {
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
pub(crate) fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (at, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[at + 1..]));
        }
    }
    None
}

/// Appends a length-delimited field.
pub(crate) fn put(out: &mut Vec<u8>, tag: u64, payload: &[u8]) {
    put_varint(out, tag << 3 | 2);
    put_varint(out, payload.len() as u64);
    out.extend_from_slice(payload);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// What is changed on the way.
pub(crate) trait Edit {
    /// A graph begins, the outermost first.
    fn enter(&mut self, _graph: &[u8]) {}

    /// It ends.
    fn leave(&mut self) {}

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
pub(crate) fn edited(model: &[u8], edit: &mut dyn Edit) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(model.len() + 4096);
    for field in fields(model) {
        match field.tag {
            7 => nested(&mut out, &field, |bytes, out| graph(bytes, out, edit))?,
            25 => nested(&mut out, &field, |bytes, out| function(bytes, out, edit))?,
            _ => out.extend_from_slice(field.whole),
        }
    }
    Ok(out)
}

type Done = Result<(), String>;

/// Bytes that a length takes which is not known yet: a number of any size below 2^35 may be written in five.
const LENGTH_BYTES: usize = 5;

fn nested(
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

fn graph(bytes: &[u8], out: &mut Vec<u8>, edit: &mut dyn Edit) -> Done {
    edit.enter(bytes);
    for field in fields(bytes) {
        match field.tag {
            1 => node(&field, out, edit)?,
            5 if has_file(field.payload) => {
                nested(out, &field, |bytes, out| tensor(bytes, out, edit))?;
            }
            15 => nested(out, &field, |bytes, out| sparse(bytes, out, edit))?,
            _ => out.extend_from_slice(field.whole),
        }
    }
    edit.leave();
    Ok(())
}

fn function(bytes: &[u8], out: &mut Vec<u8>, edit: &mut dyn Edit) -> Done {
    for field in fields(bytes) {
        match field.tag {
            7 => nested(out, &field, |bytes, out| attributes(bytes, out, edit))?,
            _ => out.extend_from_slice(field.whole),
        }
    }
    Ok(())
}

fn node(field: &Field<'_>, out: &mut Vec<u8>, edit: &mut dyn Edit) -> Done {
    match edit.node(field.payload)? {
        Some(nodes) => {
            for bytes in nodes {
                let node = Field {
                    payload: &bytes,
                    ..*field
                };
                nested(out, &node, |bytes, out| attributes(bytes, out, edit))?;
            }
            Ok(())
        }
        None => nested(out, field, |bytes, out| attributes(bytes, out, edit)),
    }
}

fn attributes(node: &[u8], out: &mut Vec<u8>, edit: &mut dyn Edit) -> Done {
    for field in fields(node) {
        match field.tag {
            5 => nested(out, &field, |bytes, out| attribute(bytes, out, edit))?,
            _ => out.extend_from_slice(field.whole),
        }
    }
    Ok(())
}

fn attribute(bytes: &[u8], out: &mut Vec<u8>, edit: &mut dyn Edit) -> Done {
    for field in fields(bytes) {
        match field.tag {
            5 | 10 => nested(out, &field, |bytes, out| tensor(bytes, out, edit))?,
            6 | 11 => nested(out, &field, |bytes, out| graph(bytes, out, edit))?,
            22 | 23 => nested(out, &field, |bytes, out| sparse(bytes, out, edit))?,
            _ => out.extend_from_slice(field.whole),
        }
    }
    Ok(())
}

fn sparse(bytes: &[u8], out: &mut Vec<u8>, edit: &mut dyn Edit) -> Done {
    for field in fields(bytes) {
        match field.tag {
            1 | 2 => nested(out, &field, |bytes, out| tensor(bytes, out, edit))?,
            _ => out.extend_from_slice(field.whole),
        }
    }
    Ok(())
}

fn has_file(tensor: &[u8]) -> bool {
    fields(tensor).any(|field| field.tag == 13)
}

fn tensor(bytes: &[u8], out: &mut Vec<u8>, edit: &mut dyn Edit) -> Done {
    for field in fields(bytes) {
        match field.tag {
            13 => nested(out, &field, |bytes, out| entry(bytes, out, edit))?,
            _ => out.extend_from_slice(field.whole),
        }
    }
    Ok(())
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
pub(crate) fn wide_numbers(tensor: &[u8], of: Wide) -> impl Iterator<Item = f64> + '_ {
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
pub(crate) enum Wide {
    I64,
    F64,
}

/// Numbers that lie one after the other.
pub(crate) fn of_bytes(bytes: &[u8], of: Wide) -> impl Iterator<Item = f64> + '_ {
    let (chunks, _) = bytes.as_chunks::<8>();
    chunks.iter().map(move |chunk| match of {
        Wide::I64 => i64::from_le_bytes(*chunk) as f64,
        Wide::F64 => f64::from_le_bytes(*chunk),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
