//! What a client sends: read strictly, where what is stored passes over what it does not know.

use serde::de::{Deserialize, Deserializer, Error};

/// Reads a field of a request by [`Strict`].
///
/// # Errors
/// What does not fit, or is not known.
pub fn deserialize<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Strict::deserialize(deserializer).map(|strict| strict.0)
}

/// A value in which every field has to be known, at any depth. The first one that is not is refused by its path.
///
/// The same types are stored, and there a field that a newer release added must not stop an older node.
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
