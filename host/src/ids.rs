//! The ids of models and deployments: 8 characters of `[0-9a-z]`.

use std::fmt;
use std::str::FromStr;

use rand::RngExt;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
const LENGTH: usize = 8;

/// An id of a model or a deployment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id([u8; LENGTH]);

impl Id {
    /// The smallest of all.
    pub const FIRST: Self = Self([b'0'; LENGTH]);

    /// A new id, from a generator that the operating system seeds.
    ///
    /// Ids are 2.8 * 10^12 in number: whoever stores one still asks that its key be absent.
    pub fn new() -> Self {
        let mut rng = rand::rng();
        Self(std::array::from_fn(|_| {
            ALPHABET[rng.random_range(0..ALPHABET.len())]
        }))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        // Every constructor admits ASCII alone, so the fallback is never taken.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl Default for Id {
    fn default() -> Self {
        Self::new()
    }
}

/// Text that is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not an id: wanted 8 characters of [0-9a-z]")]
pub struct InvalidId {
    found: String,
}

impl FromStr for Id {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        match <[u8; LENGTH]>::try_from(text.as_bytes()) {
            Ok(bytes) if bytes.iter().all(|byte| ALPHABET.contains(byte)) => Ok(Self(bytes)),
            _ => Err(InvalidId {
                found: text.chars().take(64).collect(),
            }),
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl utoipa::PartialSchema for Id {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::Type::String)
            .pattern(Some("^[0-9a-z]{8}$"))
            .description(Some("An id: 8 characters of [0-9a-z]."))
            .into()
    }
}

impl utoipa::ToSchema for Id {}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_id_parses_as_itself() {
        for _ in 0..1000 {
            let id = Id::new();
            assert_eq!(id.as_str().parse(), Ok(id));
        }
    }

    #[test]
    fn other_text_is_refused() {
        for text in ["", "abc", "ABCDEFGH", "abcdefghi", "abcd-fgh", "abcdéfg"] {
            assert!(text.parse::<Id>().is_err(), "{text:?}");
        }
    }
}
