//! Ids of models, deployments and the like: 8 characters of `[0-9a-z]`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
const LENGTH: usize = 8;

/// An id of a model, a deployment and the like.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id([u8; LENGTH]);

impl Id {
    /// The smallest id.
    pub const FIRST: Self = Self([b'0'; LENGTH]);

    /// Number of different ids: 36^8.
    pub const COUNT: u64 = 36u64.pow(LENGTH as u32);

    /// The id at this position in the order of ids, modulo [`Self::COUNT`].
    pub fn from_number(number: u64) -> Self {
        let mut rest = number % Self::COUNT;
        let mut text = [b'0'; LENGTH];
        for character in text.iter_mut().rev() {
            // A remainder of 36 is a place in the alphabet.
            *character = ALPHABET[(rest % 36) as usize];
            rest /= 36;
        }
        Self(text)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        // Every constructor admits ASCII alone, so the fallback is never taken.
        std::str::from_utf8(&self.0).unwrap_or_default()
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

#[cfg(feature = "openapi")]
impl utoipa::PartialSchema for Id {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::Type::String)
            .pattern(Some("^[0-9a-z]{8}$"))
            .description(Some("An id: 8 characters of [0-9a-z]."))
            .into()
    }
}

#[cfg(feature = "openapi")]
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
    fn an_id_parses_as_itself_and_keeps_the_order_of_its_number() {
        let mut last = None;
        for number in (0..Id::COUNT).step_by(7_654_321_987) {
            let id = Id::from_number(number);
            assert_eq!(id.as_str().parse(), Ok(id));
            assert!(last < Some(id), "{id}");
            last = Some(id);
        }
        assert_eq!(Id::from_number(0), Id::FIRST);
        assert_eq!(Id::from_number(Id::COUNT - 1).as_str(), "zzzzzzzz");
        assert_eq!(Id::from_number(Id::COUNT + 35).as_str(), "0000000z");
    }

    #[test]
    fn other_text_is_refused() {
        for text in ["", "abc", "ABCDEFGH", "abcdefghi", "abcd-fgh", "abcdéfg"] {
            assert!(text.parse::<Id>().is_err(), "{text:?}");
        }
    }
}
