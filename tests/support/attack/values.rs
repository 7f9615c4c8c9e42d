//! Tensors that callers send, and elements that models do not expect.

use serde_json::{Value, json};

use super::dice::Dice;

/// A tensor of a request. Its elements need not fit its shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub name: String,
    /// As the protocol names it.
    pub datatype: String,
    pub shape: Vec<i64>,
    /// Row-major, little-endian.
    pub data: Vec<u8>,
}

/// The protocol's types and the bytes of an element.
pub const TYPES: [(&str, usize); 9] = [
    ("FP32", 4),
    ("INT64", 8),
    ("INT32", 4),
    ("FP64", 8),
    ("FP16", 2),
    ("BF16", 2),
    ("UINT8", 1),
    ("INT8", 1),
    ("BOOL", 1),
];

/// Bytes of an element of this type.
pub fn size_of(datatype: &str) -> usize {
    let found = TYPES.iter().find(|(name, _)| *name == datatype);
    found.map_or(1, |(_, size)| *size)
}

/// What elements of a tensor are made of.
#[derive(Clone, Copy, Debug)]
pub enum Fill {
    /// One number for all.
    Same(f64),
    /// Any of the numbers below for each.
    Mixed,
    /// Any bytes.
    Bytes,
    /// Those that were there, again and again.
    Again,
}

/// What no model expects: the ends of the types, and what is beyond sizes of memory.
pub const NUMBERS: [f64; 18] = [
    0.0,
    1.0,
    -1.0,
    2.0,
    -0.0,
    7.0,
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
    1e38,
    -1e38,
    1e-40,
    2_147_483_647.0,
    -2_147_483_648.0,
    1e10,
    4_611_686_018_427_387_904.0,
    9.3e18,
    -9.3e18,
];

/// The bytes of so many elements.
pub fn fill(dice: &mut Dice, datatype: &str, count: usize, fill: Fill, before: &[u8]) -> Vec<u8> {
    let bytes = count * size_of(datatype);
    match fill {
        Fill::Same(number) => element(datatype, number).repeat(count),
        Fill::Mixed => (0..count)
            .flat_map(|_| element(datatype, *dice.choose(&NUMBERS)))
            .collect(),
        Fill::Bytes => (0..bytes).map(|_| dice.below(256) as u8).collect(),
        Fill::Again if before.is_empty() => vec![0; bytes],
        Fill::Again => before.iter().copied().cycle().take(bytes).collect(),
    }
}

/// A number as an element, as near as the type can come to it.
fn element(datatype: &str, number: f64) -> Vec<u8> {
    match datatype {
        "FP32" => (number as f32).to_le_bytes().to_vec(),
        "FP64" => number.to_le_bytes().to_vec(),
        "INT64" => (number as i64).to_le_bytes().to_vec(),
        "INT32" => (number as i32).to_le_bytes().to_vec(),
        "BF16" => (number as f32).to_le_bytes()[2..].to_vec(),
        "FP16" => half(number).to_le_bytes().to_vec(),
        "INT8" => (number as i8).to_le_bytes().to_vec(),
        "BOOL" => vec![u8::from(number != 0.0)],
        _ => vec![number as u8],
    }
}

/// Cut instead of rounded: which number it is does not matter here.
fn half(number: f64) -> u16 {
    let bits = (number as f32).to_bits();
    let sign = (bits >> 16 & 0x8000) as u16;
    let exponent = (bits >> 23 & 0xff) as i32 - 112;
    match exponent {
        _ if number.is_nan() => 0x7e00,
        31.. => sign | 0x7c00,
        1..=30 => sign | (exponent as u16) << 10 | (bits >> 13 & 0x3ff) as u16,
        _ => sign,
    }
}

/// The elements as JSON has them.
pub fn to_json(datatype: &str, data: &[u8]) -> Vec<Value> {
    let number = |value: f64| match value {
        value if value.is_finite() => json!(value),
        value if value.is_nan() => json!("NaN"),
        value if value > 0.0 => json!("Infinity"),
        _ => json!("-Infinity"),
    };
    let f32_of = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().unwrap_or_default());
    let chunks = data.chunks_exact(size_of(datatype));
    let values = chunks.map(|bytes| match datatype {
        "FP32" => number(f32_of(bytes).into()),
        "FP64" => number(f64::from_le_bytes(bytes.try_into().unwrap_or_default())),
        "BF16" => number(f32_of(&[0, 0, bytes[0], bytes[1]]).into()),
        "FP16" => number(half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f64()),
        "INT64" => json!(i64::from_le_bytes(bytes.try_into().unwrap_or_default())),
        "INT32" => json!(i32::from_le_bytes(bytes.try_into().unwrap_or_default())),
        "INT8" => json!(i8::from_le_bytes([bytes[0]])),
        "BOOL" => json!(bytes[0] != 0),
        _ => json!(bytes[0]),
    });
    values.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_the_same_as_bytes_and_in_json() {
        for (datatype, size) in TYPES {
            let data = fill(&mut Dice::of(1), datatype, 5, Fill::Same(1.0), &[]);
            assert_eq!(data.len(), 5 * size, "{datatype}");
            let one = to_json(datatype, &data)[4].clone();
            let is_one = one == json!(true) || one.as_f64() == Some(1.0);
            assert!(is_one, "{datatype}: {one}");
        }
        let infinite = fill(&mut Dice::of(1), "FP16", 1, Fill::Same(-1e38), &[]);
        assert_eq!(to_json("FP16", &infinite), [json!("-Infinity")]);
    }
}
