//! Secrets of the workspace: what is stored of one.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use samovar_types::id::Id;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Secrets of a server.
pub const MAX_SECRETS: usize = 1000;

/// A value that only the holder of the key can read, bound to the place where it is stored.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// Tells which key sealed it, without telling anything of the key.
    pub key_id: String,
    /// The nonce, then the ciphertext with its tag.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({} bytes, key {})", self.bytes.len(), self.key_id)
    }
}

/// A secret as it is stored. Fields may be added, so what is unknown is passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    /// Its id, as in the audit log: another when it is deleted and set again.
    pub id: Id,
    /// What manifests call it.
    pub name: String,
    /// When it was first set.
    pub created_at: Timestamp,
    /// Its value.
    pub sealed: Sealed,
}

fn to_base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&BASE64.encode(bytes))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    BASE64.decode(text).map_err(serde::de::Error::custom)
}
