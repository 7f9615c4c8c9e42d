//! Random inputs of a given type and shape: zeros would be faster than anything that is ever sent.

use std::str::FromStr;

use anyhow::{Context, Result, bail};
use half::f16;

/// The type of an input's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    F16,
    F32,
    I32,
    I64,
}

/// An input's type and shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    pub element: Element,
    pub shape: Vec<usize>,
}

/// Elements of an input.
#[derive(Debug, Clone)]
pub enum Values {
    F16(Vec<f16>),
    F32(Vec<f32>),
    I32(Vec<i32>),
    I64(Vec<i64>),
}

impl FromStr for Spec {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (element, shape) = text
            .split_once(':')
            .with_context(|| format!("found {text:?}, wanted TYPE:SHAPE as in f32:1x3x48x320"))?;
        let element = match element {
            "f16" => Element::F16,
            "f32" => Element::F32,
            "i32" => Element::I32,
            "i64" => Element::I64,
            other => bail!("found the type {other:?}, wanted f16, f32, i32 or i64"),
        };
        let sizes = shape.split('x').map(|size| {
            size.parse()
                .with_context(|| format!("found the size {size:?} in {text:?}, wanted a number"))
        });
        Ok(Self {
            element,
            shape: sizes.collect::<Result<_>>()?,
        })
    }
}

impl Spec {
    /// The same with another first dimension.
    pub fn with_batch(mut self, size: usize) -> Self {
        if let Some(first) = self.shape.first_mut() {
            *first = size;
        }
        self
    }

    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Floats from -1 to 1, integers from 0 to 255.
    pub fn random(&self, seed: u64) -> Values {
        let count = self.shape.iter().product();
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        match self.element {
            Element::F16 => {
                let values = (0..count).map(|_| f16::from_f32(random.unit()));
                Values::F16(values.collect())
            }
            Element::F32 => Values::F32((0..count).map(|_| random.unit()).collect()),
            Element::I32 => Values::I32((0..count).map(|_| i32::from(random.byte())).collect()),
            Element::I64 => Values::I64((0..count).map(|_| i64::from(random.byte())).collect()),
        }
    }
}

/// Xorshift.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[4]
    }

    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_is_read() {
        let spec: Spec = "i32:1x2048".parse().unwrap();
        assert_eq!((spec.element, spec.rows()), (Element::I32, 1));
        assert_eq!(spec.with_batch(8).shape, [8, 2048]);
        for wrong in ["f32", "f8:1", "f32:1x", "f32:axb"] {
            assert!(wrong.parse::<Spec>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn inputs_are_random_and_in_range() {
        let spec: Spec = "f32:4x100".parse().unwrap();
        let Values::F32(values) = spec.random(7) else {
            panic!("another type")
        };
        assert_eq!(values.len(), 400);
        assert!(values.iter().all(|value| (-1.0..=1.0).contains(value)));
        assert!(values.iter().any(|value| *value < -0.5) && values.iter().any(|v| *v > 0.5));
    }
}
