//! Ids of models, deployments and the like: 8 characters of `[0-9a-z]`.
//!
//! Each kind of id is a type of its own, so that the id of a model is not taken for that of a deployment. All kinds are
//! parsed, serialized and described in the API's schema alike.
//!
//! ```compile_fail,E0308
//! use samovar_types::id::{DeploymentId, ModelId};
//!
//! let deployment: DeploymentId = "0a1b2c3d".parse().unwrap();
//! let model: ModelId = deployment;
//! ```

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
const LENGTH: usize = 8;

/// What ids are of: marker types without values.
pub mod kind {
    /// A model.
    pub enum Model {}
    /// A deployment of a model.
    pub enum Deployment {}
    /// A promotion of an environment to another deployment.
    pub enum Promotion {}
    /// The organization of a server.
    pub enum Organization {}
    /// A secret that models read.
    pub enum Secret {}
    /// A secret that webhooks are signed with.
    pub enum WebhookSecret {}
    /// An API key.
    pub enum ApiKey {}
    /// A node, which keeps its id for as long as its data folder is there.
    pub enum Node {}
}

/// Id of a model.
pub type ModelId = Id<kind::Model>;
/// Id of a deployment.
pub type DeploymentId = Id<kind::Deployment>;
/// Id of a promotion.
pub type PromotionId = Id<kind::Promotion>;
/// Id of the organization.
pub type OrganizationId = Id<kind::Organization>;
/// Id of the organization's one team, which is that of the organization.
pub type TeamId = OrganizationId;
/// Id of a secret that models read.
pub type SecretId = Id<kind::Secret>;
/// Id of a secret that webhooks are signed with.
pub type WebhookSecretId = Id<kind::WebhookSecret>;
/// Id of an API key: its public prefix.
pub type ApiKeyId = Id<kind::ApiKey>;
/// Id of a node.
pub type NodeId = Id<kind::Node>;

/// An id of one [`kind`].
pub struct Id<Kind> {
    text: [u8; LENGTH],
    kind: PhantomData<fn() -> Kind>,
}

impl<Kind> Id<Kind> {
    /// The smallest id.
    pub const FIRST: Self = Self::new([b'0'; LENGTH]);

    /// Number of different ids: 36^8.
    pub const COUNT: u64 = 36u64.pow(LENGTH as u32);

    const fn new(text: [u8; LENGTH]) -> Self {
        Self {
            text,
            kind: PhantomData,
        }
    }

    /// The id at this position in the order of ids, modulo [`Self::COUNT`].
    pub fn from_number(number: u64) -> Self {
        let mut rest = number % Self::COUNT;
        let mut text = [b'0'; LENGTH];
        for character in text.iter_mut().rev() {
            // A remainder of 36 is a place in the alphabet.
            *character = ALPHABET[(rest % 36) as usize];
            rest /= 36;
        }
        Self::new(text)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        // Every constructor admits ASCII alone, so the fallback is never taken.
        std::str::from_utf8(&self.text).unwrap_or_default()
    }
}

// Derives would ask the same of the kinds, which have no values.

impl<Kind> Clone for Id<Kind> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<Kind> Copy for Id<Kind> {}

impl<Kind> PartialEq for Id<Kind> {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl<Kind> Eq for Id<Kind> {}

impl<Kind> PartialOrd for Id<Kind> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<Kind> Ord for Id<Kind> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

impl<Kind> Hash for Id<Kind> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

/// Text that is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not an id: wanted 8 characters of [0-9a-z]")]
pub struct InvalidId {
    found: String,
}

impl<Kind> FromStr for Id<Kind> {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        match <[u8; LENGTH]>::try_from(text.as_bytes()) {
            Ok(bytes) if bytes.iter().all(|byte| ALPHABET.contains(byte)) => Ok(Self::new(bytes)),
            _ => Err(InvalidId {
                found: text.chars().take(64).collect(),
            }),
        }
    }
}

impl<Kind> fmt::Display for Id<Kind> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl<Kind> fmt::Debug for Id<Kind> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<Kind> Serialize for Id<Kind> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(feature = "openapi")]
impl<Kind> utoipa::PartialSchema for Id<Kind> {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::Type::String)
            .pattern(Some("^[0-9a-z]{8}$"))
            .description(Some("An id: 8 characters of [0-9a-z]."))
            .into()
    }
}

#[cfg(feature = "openapi")]
impl<Kind> utoipa::ToSchema for Id<Kind> {
    // One schema for all kinds: they are told apart here, not on the wire.
    fn name() -> std::borrow::Cow<'static, str> {
        "Id".into()
    }
}

impl<'de, Kind> Deserialize<'de> for Id<Kind> {
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
        for number in (0..ModelId::COUNT).step_by(7_654_321_987) {
            let id = ModelId::from_number(number);
            assert_eq!(id.as_str().parse(), Ok(id));
            assert!(last < Some(id), "{id}");
            last = Some(id);
        }
        assert_eq!(ModelId::from_number(0), ModelId::FIRST);
        assert_eq!(
            ModelId::from_number(ModelId::COUNT - 1).as_str(),
            "zzzzzzzz"
        );
        assert_eq!(
            ModelId::from_number(ModelId::COUNT + 35).as_str(),
            "0000000z"
        );
    }

    #[test]
    fn other_text_is_refused() {
        for text in ["", "abc", "ABCDEFGH", "abcdefghi", "abcd-fgh", "abcdéfg"] {
            assert!(text.parse::<ModelId>().is_err(), "{text:?}");
        }
    }
}
