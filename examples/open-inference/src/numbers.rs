//! Converts between tensors and JSON: lists of numbers, flat or nested.
//!
//! Numbers are parsed from their text, so that nothing is rounded twice, an integer in any notation is exact or refused, and a number
//! outside its type's range never becomes infinite. JSON has no non-finite numbers, so these are the strings `"NaN"`, `"Infinity"` and
//! `"-Infinity"` in both directions.

use std::fmt;

use half::{bf16, f16};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::datatype::Datatype;
use crate::nesting::Nesting;

/// Number of characters of a wrong value in an error.
const QUOTED: usize = 40;

/// The bytes of the numbers in `text`, as many as `shape` needs. They are one flat list in row-major order, or lists nested as the shape
/// says.
///
/// # Errors
/// The position, what was found, and what was expected.
pub fn to_bytes(text: &RawValue, datatype: Datatype, shape: &[u32]) -> Result<Vec<u8>, String> {
    let elements: usize = shape.iter().map(|size| *size as usize).product();
    // A number and what separates it from the next one take two characters at least.
    let most = elements.min(text.get().len() / 2 + 1);
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(most.saturating_mul(datatype.size()))
        .map_err(|_| format!("no memory is left for {most} numbers: send them as bytes"))?;
    let mut nesting = Nesting::new(shape);
    // A raw value is valid JSON: what is left to tell apart are its tokens.
    let mut rest = text.get().as_bytes();
    while let Some(first) = rest.first() {
        let length = match first {
            b' ' | b'\t' | b'\r' | b'\n' | b',' => 1,
            b'[' => {
                nesting.open()?;
                1
            }
            b']' => {
                nesting.close()?;
                1
            }
            _ => {
                let token = token(rest);
                nesting.item()?;
                push(&mut bytes, token, datatype).map_err(|e| nesting.here(&e))?;
                token.len()
            }
        };
        rest = rest.get(length..).unwrap_or_default();
    }
    nesting.end()?;
    Ok(bytes)
}

/// The token at this position: a string with its quotes, a number or a word. For an object only its brace, because objects are refused.
fn token(text: &[u8]) -> &[u8] {
    let end = match text.first() {
        Some(b'"') => {
            let mut escaped = false;
            let quote = text.iter().skip(1).position(|byte| {
                let ends = *byte == b'"' && !escaped;
                escaped = *byte == b'\\' && !escaped;
                ends
            });
            quote.map(|at| at + 2)
        }
        Some(b'{') => Some(1),
        _ => text
            .iter()
            .position(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b',' | b']')),
    };
    &text[..end.unwrap_or(text.len())]
}

fn push(bytes: &mut Vec<u8>, token: &[u8], datatype: Datatype) -> Result<(), String> {
    let token = std::str::from_utf8(token).unwrap_or_default();
    let is_number = token.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    match datatype {
        Datatype::Bool => match (token, is_number) {
            ("true", _) => bytes.push(1),
            ("false", _) => bytes.push(0),
            (_, true) => match integer(token, datatype)? {
                bit @ (0 | 1) => bytes.push(u8::from(bit == 1)),
                _ => return Err(wrong(token, datatype)),
            },
            _ => return Err(wrong(token, datatype)),
        },
        _ if !is_number => match (datatype.is_float(), not_finite(token)) {
            (true, Some(value)) => float(bytes, value, datatype),
            _ => return Err(wrong(token, datatype)),
        },
        // Not by way of f64, which would round twice.
        Datatype::Fp32 => match token.parse::<f32>() {
            Ok(value) if value.is_finite() => bytes.extend_from_slice(&value.to_le_bytes()),
            _ => return Err(outside(token, datatype)),
        },
        _ if datatype.is_float() => {
            let value = token.parse::<f64>().unwrap_or(f64::INFINITY);
            let fits = match datatype {
                Datatype::Fp16 => f16::from_f64(value).is_finite(),
                Datatype::Bf16 => bf16::from_f64(value).is_finite(),
                _ => value.is_finite(),
            };
            if !fits {
                return Err(outside(token, datatype));
            }
            float(bytes, value, datatype);
        }
        _ => {
            let value = integer(token, datatype)?;
            let fits =
                match datatype {
                    Datatype::Uint8 => u8::try_from(value).map(|value| bytes.push(value)),
                    Datatype::Int8 => i8::try_from(value)
                        .map(|value| bytes.extend_from_slice(&value.to_le_bytes())),
                    Datatype::Int32 => i32::try_from(value)
                        .map(|value| bytes.extend_from_slice(&value.to_le_bytes())),
                    _ => i64::try_from(value)
                        .map(|value| bytes.extend_from_slice(&value.to_le_bytes())),
                };
            fits.map_err(|_| outside(token, datatype))?;
        }
    }
    Ok(())
}

fn float(bytes: &mut Vec<u8>, value: f64, datatype: Datatype) {
    match datatype {
        Datatype::Fp16 => bytes.extend_from_slice(&f16::from_f64(value).to_le_bytes()),
        Datatype::Bf16 => bytes.extend_from_slice(&bf16::from_f64(value).to_le_bytes()),
        Datatype::Fp32 => bytes.extend_from_slice(&(value as f32).to_le_bytes()),
        _ => bytes.extend_from_slice(&value.to_le_bytes()),
    }
}

fn not_finite(token: &str) -> Option<f64> {
    match token {
        "\"NaN\"" => Some(f64::NAN),
        "\"Infinity\"" => Some(f64::INFINITY),
        "\"-Infinity\"" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

/// The exact value of a whole number in any notation: `7`, `7.0`, `1e18`.
fn integer(token: &str, datatype: Datatype) -> Result<i128, String> {
    if let Ok(value) = token.parse::<i64>() {
        return Ok(value.into());
    }
    let unsigned = token.trim_start_matches('-');
    let (digits, exponent) = match unsigned.split_once(['e', 'E']) {
        // An exponent beyond i64 is that of 0 or of nothing that fits.
        Some((digits, exponent)) => (
            digits,
            exponent
                .parse::<i64>()
                .unwrap_or(match exponent.starts_with('-') {
                    true => i64::MIN / 2,
                    false => i64::MAX / 2,
                }),
        ),
        None => (unsigned, 0),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let fraction = fraction.trim_end_matches('0');
    let all = format!("{whole}{fraction}");
    let significant = all.trim_end_matches('0');
    if significant.is_empty() {
        return Ok(0);
    }
    let zeros = i64::try_from(all.len() - significant.len()).unwrap_or(i64::MAX);
    let places = i64::try_from(fraction.len()).unwrap_or(i64::MAX);
    let shift = exponent.saturating_add(zeros).saturating_sub(places);
    if shift < 0 {
        return Err(wrong(token, datatype));
    }
    let scale = u32::try_from(shift).ok();
    let value = scale
        .and_then(|scale| 10i128.checked_pow(scale))
        .and_then(|scale| significant.parse::<i128>().ok()?.checked_mul(scale))
        .ok_or_else(|| outside(token, datatype))?;
    Ok(if token.starts_with('-') {
        -value
    } else {
        value
    })
}

fn wrong(token: &str, datatype: Datatype) -> String {
    let shown = Shown(token);
    match datatype {
        Datatype::Bool => format!("found {shown}, wanted true, false, 0 or 1"),
        _ if datatype.is_float() => format!(
            "found {shown}, wanted a number of {}, \"NaN\", \"Infinity\" or \"-Infinity\"",
            datatype.name()
        ),
        _ => format!(
            "found {shown}, wanted a whole number of {}",
            datatype.name()
        ),
    }
}

fn outside(token: &str, datatype: Datatype) -> String {
    format!(
        "{} is outside the range of {}, {}",
        Shown(token),
        datatype.name(),
        datatype.range()
    )
}

/// A shortened token, for messages.
struct Shown<'a>(&'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(QUOTED) {
            _ if self.0.starts_with('{') => f.write_str("an object"),
            Some((end, _)) => write!(f, "{}…", &self.0[..end]),
            None => f.write_str(self.0),
        }
    }
}

/// Writes the elements as a flat JSON list.
///
/// # Errors
/// None for numbers.
pub fn to_json(bytes: &[u8], datatype: Datatype) -> Result<Box<RawValue>, serde_json::Error> {
    fn all<const N: usize, T: Serialize>(
        bytes: &[u8],
        read: impl Fn([u8; N]) -> T,
    ) -> Result<Box<RawValue>, serde_json::Error> {
        let (chunks, _) = bytes.as_chunks::<N>();
        serde_json::value::to_raw_value(&List(chunks, read))
    }
    match datatype {
        Datatype::Bool => all(bytes, |[byte]: [u8; 1]| byte != 0),
        Datatype::Uint8 => all(bytes, |[byte]: [u8; 1]| byte),
        Datatype::Int8 => all(bytes, i8::from_le_bytes),
        Datatype::Int32 => all(bytes, i32::from_le_bytes),
        Datatype::Int64 => all(bytes, i64::from_le_bytes),
        Datatype::Fp16 => all(bytes, |two| Single(f16::from_le_bytes(two).to_f32())),
        Datatype::Bf16 => all(bytes, |two| Single(bf16::from_le_bytes(two).to_f32())),
        Datatype::Fp32 => all(bytes, |four| Single(f32::from_le_bytes(four))),
        Datatype::Fp64 => all(bytes, |eight| Double(f64::from_le_bytes(eight))),
    }
}

/// Elements that are converted while they are written, without a second copy in memory.
struct List<'a, const N: usize, F>(&'a [[u8; N]], F);

impl<const N: usize, T: Serialize, F: Fn([u8; N]) -> T> Serialize for List<'_, N, F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|element| (self.1)(*element)))
    }
}

/// A float that JSON can express, as a number or as a string.
struct Single(f32);
struct Double(f64);

impl Serialize for Single {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.is_finite() {
            true => serializer.serialize_f32(self.0),
            false => serializer.serialize_str(word(self.0.into())),
        }
    }
}

impl Serialize for Double {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.is_finite() {
            true => serializer.serialize_f64(self.0),
            false => serializer.serialize_str(word(self.0)),
        }
    }
}

fn word(value: f64) -> &'static str {
    match value {
        _ if value.is_nan() => "NaN",
        _ if value > 0.0 => "Infinity",
        _ => "-Infinity",
    }
}

#[cfg(test)]
#[path = "numbers_tests.rs"]
mod tests;
