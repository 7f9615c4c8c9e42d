//! Strict reading of requests: unknown fields are errors, unlike in stored documents.

use serde::de::{Deserialize, Deserializer, Error};

/// Reads a field of a request with [`Strict`].
///
/// # Errors
/// The field that is unknown or has an invalid value.
pub fn deserialize<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Strict::deserialize(deserializer).map(|strict| strict.0)
}

/// A value without unknown fields at any depth. The error names the path of the first unknown field.
///
/// The same types are stored, where they ignore unknown fields: a field that a newer release added must not stop an older node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strict<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Strict<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut unknown = None;
        let value = serde_ignored::deserialize(deserializer, |path| {
            // An option on the way to it shows as a `?`.
            unknown.get_or_insert_with(|| path.to_string().replace("?.", ""));
        })?;
        match unknown {
            None => Ok(Self(value)),
            Some(path) => {
                let shown: String = path.chars().take(200).collect();
                Err(D::Error::custom(format_args!("unknown field `{shown}`")))
            }
        }
    }
}
