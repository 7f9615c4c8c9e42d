//! Numbers of JSON, nested or flat, to a tensor's bytes and back.

use std::fmt;

use half::{bf16, f16};
use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::datatype::Datatype;

/// The bytes of the numbers in `text`, row-major; arrays in arrays are taken flat. At most `max` of them.
pub fn to_bytes(text: &RawValue, datatype: Datatype, max: usize) -> Result<Vec<u8>, String> {
    // A number and what parts it from the next one take two characters at least.
    let most = max.min(text.get().len() / 2 + 1);
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(most.saturating_mul(datatype.size()))
        .map_err(|_| format!("no memory is left for {most} numbers: send them as bytes"))?;
    let numbers = Numbers {
        datatype,
        max_bytes: max.saturating_mul(datatype.size()),
        bytes: &mut bytes,
    };
    let mut deserializer = serde_json::Deserializer::from_str(text.get());
    numbers
        .deserialize(&mut deserializer)
        .map_err(|e| e.to_string())?;
    Ok(bytes)
}

struct Numbers<'a> {
    datatype: Datatype,
    max_bytes: usize,
    bytes: &'a mut Vec<u8>,
}

impl Numbers<'_> {
    fn push<E: serde::de::Error>(&mut self, bytes: &[u8]) -> Result<(), E> {
        if self.bytes.len() + bytes.len() > self.max_bytes {
            let wanted = self.max_bytes / self.datatype.size();
            return Err(E::custom(format!(
                "there are more numbers than the {wanted} of its shape"
            )));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn wrong<E: serde::de::Error>(&self, found: &dyn fmt::Display) -> E {
        E::custom(format!("{found} is no {}", self.datatype.name()))
    }

    fn integer<E: serde::de::Error>(&mut self, value: i128) -> Result<(), E> {
        let wrong = |_| self.wrong(&value);
        match self.datatype {
            Datatype::Bool => match value {
                0 | 1 => self.push(&[value as u8]),
                _ => Err(self.wrong(&value)),
            },
            Datatype::Uint8 => {
                let byte = u8::try_from(value).map_err(wrong)?;
                self.push(&[byte])
            }
            Datatype::Int8 => {
                let byte = i8::try_from(value).map_err(wrong)?;
                self.push(&byte.to_le_bytes())
            }
            Datatype::Int32 => {
                let number = i32::try_from(value).map_err(wrong)?;
                self.push(&number.to_le_bytes())
            }
            Datatype::Int64 => {
                let number = i64::try_from(value).map_err(wrong)?;
                self.push(&number.to_le_bytes())
            }
            _ => self.float(value as f64),
        }
    }

    fn float<E: serde::de::Error>(&mut self, value: f64) -> Result<(), E> {
        match self.datatype {
            Datatype::Fp64 => self.push(&value.to_le_bytes()),
            Datatype::Fp32 => self.push(&(value as f32).to_le_bytes()),
            Datatype::Fp16 => self.push(&f16::from_f64(value).to_le_bytes()),
            Datatype::Bf16 => self.push(&bf16::from_f64(value).to_le_bytes()),
            // `1.0` is a whole number to whoever wrote it.
            _ if value.fract() == 0.0 && value.abs() < 9.0e15 => self.integer(value as i128),
            _ => Err(self.wrong(&value)),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Numbers<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Numbers<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "numbers of {}, or arrays of them", self.datatype.name())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        loop {
            let inner = Numbers {
                datatype: self.datatype,
                max_bytes: self.max_bytes,
                bytes: &mut *self.bytes,
            };
            if items.next_element_seed(inner)?.is_none() {
                return Ok(());
            }
        }
    }

    fn visit_bool<E: serde::de::Error>(mut self, value: bool) -> Result<(), E> {
        match self.datatype {
            Datatype::Bool => self.push(&[u8::from(value)]),
            _ => Err(E::custom(format!("{value} is no {}", self.datatype.name()))),
        }
    }

    fn visit_u64<E: serde::de::Error>(mut self, value: u64) -> Result<(), E> {
        self.integer(value.into())
    }

    fn visit_i64<E: serde::de::Error>(mut self, value: i64) -> Result<(), E> {
        self.integer(value.into())
    }

    fn visit_f64<E: serde::de::Error>(mut self, value: f64) -> Result<(), E> {
        self.float(value)
    }
}

/// The numbers as a JSON array. JSON knows no NaN and no infinity: they become null.
pub fn to_json(bytes: &[u8], datatype: Datatype) -> Result<Box<RawValue>, serde_json::Error> {
    fn all<const N: usize, T: serde::Serialize>(
        bytes: &[u8],
        read: impl Fn([u8; N]) -> T,
    ) -> Result<Box<RawValue>, serde_json::Error> {
        // `chunks_exact` gives arrays of that length only.
        let (chunks, _) = bytes.as_chunks::<N>();
        let numbers: Vec<T> = chunks.iter().map(|chunk| read(*chunk)).collect();
        serde_json::value::to_raw_value(&numbers)
    }
    match datatype {
        Datatype::Bool => all(bytes, |[byte]: [u8; 1]| byte != 0),
        Datatype::Uint8 => all(bytes, |[byte]: [u8; 1]| byte),
        Datatype::Int8 => all(bytes, i8::from_le_bytes),
        Datatype::Int32 => all(bytes, i32::from_le_bytes),
        Datatype::Int64 => all(bytes, i64::from_le_bytes),
        Datatype::Fp16 => all(bytes, |two| f16::from_le_bytes(two).to_f32()),
        Datatype::Bf16 => all(bytes, |two| bf16::from_le_bytes(two).to_f32()),
        Datatype::Fp32 => all(bytes, f32::from_le_bytes),
        Datatype::Fp64 => all(bytes, f64::from_le_bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str, datatype: Datatype, max: usize) -> Result<Vec<u8>, String> {
        to_bytes(serde_json::from_str(text).unwrap(), datatype, max)
    }

    #[test]
    fn nested_and_flat_numbers_are_the_same() {
        let flat = bytes("[1, 2.5, -3e2, 4]", Datatype::Fp32, 4).unwrap();
        assert_eq!(
            bytes("[[1, 2.5], [-3e2, 4]]", Datatype::Fp32, 4).unwrap(),
            flat
        );
        let json = to_json(&flat, Datatype::Fp32).unwrap();
        assert_eq!(json.get(), "[1.0,2.5,-300.0,4.0]");
    }

    #[test]
    fn every_type_goes_both_ways() {
        for (datatype, text) in [
            (Datatype::Bool, "[true,false]"),
            (Datatype::Uint8, "[0,255]"),
            (Datatype::Int8, "[-128,127]"),
            (Datatype::Int32, "[-2147483648,2147483647]"),
            (
                Datatype::Int64,
                "[-9223372036854775808,9223372036854775807]",
            ),
            (Datatype::Fp16, "[0.5,-65504.0]"),
            (Datatype::Bf16, "[0.5,-2.0]"),
            (Datatype::Fp32, "[0.1,-2.0]"),
            (Datatype::Fp64, "[0.1,-2.0]"),
        ] {
            let there = bytes(text, datatype, 2).unwrap();
            assert_eq!(to_json(&there, datatype).unwrap().get(), text);
        }
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let error = |text, datatype| bytes(text, datatype, 2).unwrap_err();
        assert!(error("[256]", Datatype::Uint8).contains("256 is no UINT8"));
        assert!(error("[1.5]", Datatype::Int64).contains("1.5 is no INT64"));
        assert!(error("[\"a\"]", Datatype::Fp32).contains("numbers of FP32"));
        assert!(error("[1,2,3]", Datatype::Fp32).contains("more numbers than the 2"));
        assert!(error("[true]", Datatype::Fp32).contains("true is no FP32"));
    }
}
