//! Types of API keys, and the rules for new ones.

use serde::{Deserialize, Serialize};

use crate::settings::InvalidSetting;

/// Longest name of a key.
pub const MAX_NAME_CHARS: usize = 100;
/// Maximum number of models that one key can be limited to.
pub const MAX_KEY_MODELS: usize = 100;

/// What an API key allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum KeyType {
    /// Everything, for a person.
    Personal,
    /// Everything.
    WorkspaceManageAll,
    /// Reading metrics.
    WorkspaceExportMetrics,
    /// Calling models.
    WorkspaceInvoke,
    /// Creating and deleting keys.
    WorkspaceManageApiKeys,
}

impl KeyType {
    /// Whether keys of this type may do everything.
    pub fn is_admin(self) -> bool {
        matches!(self, Self::Personal | Self::WorkspaceManageAll)
    }

    /// Whether keys of this type may create and delete keys of the other type. Only a key that may do everything can create another one.
    pub fn may_manage(self, other: Self) -> bool {
        match self {
            Self::Personal | Self::WorkspaceManageAll => true,
            Self::WorkspaceManageApiKeys => !other.is_admin(),
            Self::WorkspaceExportMetrics | Self::WorkspaceInvoke => false,
        }
    }
}

/// Checks the name, type and models of a new key.
///
/// # Errors
/// The field, what was found and what is allowed.
pub fn check_new(
    key_type: KeyType,
    name: Option<&str>,
    model_ids: &[String],
) -> Result<(), InvalidSetting> {
    use KeyType::{WorkspaceExportMetrics, WorkspaceInvoke};
    let well = |name: &str| {
        let count = name.chars().count();
        !name.trim().is_empty() && count <= MAX_NAME_CHARS && !name.contains(char::is_control)
    };
    if let Some(name) = name.filter(|name| !well(name)) {
        let shown: String = name.escape_debug().take(80).collect();
        let wanted = "1 to 100 characters, no control characters";
        return Err(InvalidSetting::new("name", shown, wanted));
    }
    if !model_ids.is_empty() && !matches!(key_type, WorkspaceExportMetrics | WorkspaceInvoke) {
        let wanted = "none: only keys to invoke or to export metrics can be limited to models";
        return Err(InvalidSetting::new("model_ids", "some", wanted));
    }
    if model_ids.len() > MAX_KEY_MODELS {
        let wanted = format!("at most {MAX_KEY_MODELS}");
        return Err(InvalidSetting::new("model_ids", model_ids.len(), wanted));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_gives_more_than_they_have() {
        use KeyType::*;
        for admin in [Personal, WorkspaceManageAll] {
            assert!(admin.may_manage(Personal));
            assert!(!WorkspaceManageApiKeys.may_manage(admin));
        }
        for other in [
            WorkspaceInvoke,
            WorkspaceExportMetrics,
            WorkspaceManageApiKeys,
        ] {
            assert!(WorkspaceManageApiKeys.may_manage(other));
            assert!(!WorkspaceInvoke.may_manage(other));
        }
    }

    #[test]
    fn a_new_key_keeps_the_rules() {
        let models = |count| vec!["m".to_owned(); count];
        assert!(check_new(KeyType::WorkspaceInvoke, Some("CI"), &models(100)).is_ok());
        assert!(check_new(KeyType::WorkspaceInvoke, None, &models(101)).is_err());
        assert!(check_new(KeyType::Personal, Some("é x"), &[]).is_ok());
        assert!(check_new(KeyType::Personal, None, &models(1)).is_err());
        for name in ["", " ", "a\nb", &"x".repeat(101)] {
            assert!(
                check_new(KeyType::Personal, Some(name), &[]).is_err(),
                "{name:?}"
            );
        }
    }
}
