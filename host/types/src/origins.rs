//! Origins of web pages that may call models from a browser.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::settings::InvalidSetting;

/// Maximum number of origins of an environment, or of the server.
pub const MAX_ORIGINS: usize = 32;
/// Longest origin, in bytes.
const MAX_ORIGIN_BYTES: usize = 300;
/// Allows any page.
const ANY: &str = "*";

/// Origin of a web page as browsers send it, such as `https://app.example`, or `*` for any.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(feature = "openapi", schema(value_type = String, example = "https://app.example"))]
pub struct Origin(String);

/// Text that is not an origin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an origin: wanted `*`, or a scheme, a host and an optional port without a path, such as https://app.example"
)]
pub struct InvalidOrigin(String);

impl Origin {
    /// Whether it allows any page.
    pub fn is_any(&self) -> bool {
        self.0 == ANY
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Origin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        let is_scheme = |text: &str| {
            text.starts_with(|first: char| first.is_ascii_alphabetic())
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        };
        let is_host = |text: &str| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte))
        };
        let is_origin = text == ANY
            || text.split_once("://").is_some_and(|(scheme, host)| {
                text.len() <= MAX_ORIGIN_BYTES && is_scheme(scheme) && is_host(host)
            });
        match is_origin {
            // Browsers write both in lower case.
            true => Ok(Self(text.to_ascii_lowercase())),
            false => Err(InvalidOrigin(text.chars().take(80).collect())),
        }
    }
}

impl TryFrom<String> for Origin {
    type Error = InvalidOrigin;

    fn try_from(text: String) -> Result<Self, InvalidOrigin> {
        text.parse()
    }
}

impl From<Origin> for String {
    fn from(origin: Origin) -> Self {
        origin.0
    }
}

/// How to answer a page of some origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Any page may read the response.
    Any,
    /// The page may read the response, which varies with the origin.
    This,
}

/// Whether a page of this origin, as its browser sent it, may read responses.
pub fn allowed(origins: &[Origin], origin: &[u8]) -> Option<Allowed> {
    match origins.iter().any(Origin::is_any) {
        true => Some(Allowed::Any),
        false => origins
            .iter()
            .any(|one| one.0.as_bytes() == origin)
            .then_some(Allowed::This),
    }
}

/// Refuses more than [`MAX_ORIGINS`] origins.
///
/// # Errors
/// The number found, and the limit.
pub fn check(origins: &[Origin]) -> Result<(), InvalidSetting> {
    match origins.len() {
        0..=MAX_ORIGINS => Ok(()),
        found => Err(InvalidSetting::new(
            "cors_settings.allowed_origins",
            found,
            format!("at most {MAX_ORIGINS}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn origins_have_no_paths() {
        for good in [
            "*",
            "https://app.example",
            "http://localhost:3000",
            "http://[::1]:3000",
            "chrome-extension://abcdef",
        ] {
            assert_eq!(good.parse::<Origin>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "null",
            "app.example",
            "https://",
            "https://app.example/",
            "https://a b",
            "https://*.example",
            "https://user@app.example",
            "://x",
            "**",
        ] {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
    }

    #[test]
    fn origins_are_compared_whole() {
        let origins = ["HTTPS://App.example".parse().unwrap()];
        assert_eq!(
            allowed(&origins, b"https://app.example"),
            Some(Allowed::This)
        );
        for other in [
            "http://app.example",
            "https://app.example:8443",
            "https://app.example.evil.example",
            "null",
            "",
        ] {
            assert_eq!(allowed(&origins, other.as_bytes()), None, "{other}");
        }
        assert_eq!(allowed(&[], b"https://app.example"), None);
        assert_eq!(
            allowed(&["*".parse().unwrap()], b"null"),
            Some(Allowed::Any)
        );
    }

    proptest! {
        #[test]
        fn any_text_is_an_origin_or_refused(text in ".{0,40}") {
            if let Ok(origin) = text.parse::<Origin>() {
                let again: Origin = origin.to_string().parse().unwrap();
                prop_assert_eq!(again, origin);
            }
        }
    }
}
