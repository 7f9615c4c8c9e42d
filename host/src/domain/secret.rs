//! Secrets of the workspace: what is stored of one, and the rules for names and values.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::names;
use super::settings::InvalidSetting;
use crate::ids::Id;

/// Longest value of a secret.
pub const MAX_SECRET_BYTES: usize = 64 << 10;
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

/// Refuses a name or a value that no secret has.
///
/// # Errors
/// What is wrong with it; never the value itself.
pub fn check(name: &str, value: &str) -> Result<(), InvalidSetting> {
    names::check_variable(name).map_err(|wanted| {
        let shown: String = name.chars().take(80).collect();
        InvalidSetting::new("name", format_args!("{shown:?}"), wanted)
    })?;
    if (1..=MAX_SECRET_BYTES).contains(&value.len()) {
        Ok(())
    } else {
        Err(InvalidSetting::new(
            "value",
            format_args!("{} bytes", value.len()),
            "1 to 65536 bytes",
        ))
    }
}

fn to_base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&BASE64.encode(bytes))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    BASE64.decode(text).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_have_bounds() {
        assert!(check("HF_TOKEN", "x").is_ok());
        assert!(check("HF_TOKEN", &"x".repeat(MAX_SECRET_BYTES)).is_ok());
        for (name, value) in [("1A", "x"), ("", "x"), ("A-B", "x"), ("A", "")] {
            assert!(check(name, value).is_err(), "{name:?} {value:?}");
        }
        let long = "hidden".repeat(MAX_SECRET_BYTES);
        let error = check("A", &long).unwrap_err().to_string();
        assert!(
            error.contains("65536") && !error.contains("hidden"),
            "{error}"
        );
    }
}
