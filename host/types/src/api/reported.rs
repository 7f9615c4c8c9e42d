//! Values in responses that a newer server may extend, such as enums.

use serde::{Deserialize, Serialize};

/// A value in a response: a value that this release knows, or an unknown one from a newer server.
///
/// Responses use this for every enum, so that a client can read the rest of the response and show the unknown value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Reported<T, U = String> {
    /// A value of this release.
    Known(T),
    /// A value that this release does not know.
    Unknown(U),
}

impl<T, U> Reported<T, U> {
    /// The value, if this release knows it.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Unknown(_) => None,
        }
    }
}

impl<T, U> From<T> for Reported<T, U> {
    fn from(value: T) -> Self {
        Self::Known(value)
    }
}

impl<T: PartialEq, U> PartialEq<T> for Reported<T, U> {
    fn eq(&self, value: &T) -> bool {
        self.known() == Some(value)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::deployment::DeploymentStatus;

    #[test]
    fn a_word_of_a_newer_server_is_kept() {
        for (word, known) in [
            ("ACTIVE", Some(DeploymentStatus::Active)),
            ("HIBERNATING", None),
        ] {
            let read: Reported<DeploymentStatus> = serde_json::from_value(json!(word)).unwrap();
            assert_eq!(read.known().copied(), known);
            assert_eq!(read == DeploymentStatus::Active, known.is_some());
            assert_eq!(serde_json::to_value(&read).unwrap(), word);
        }
        // What is no word at all is no status of any release.
        assert!(serde_json::from_value::<Reported<DeploymentStatus>>(json!(1)).is_err());
    }
}
