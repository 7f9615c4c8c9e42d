//! What an API key is for, and the rules for a new one.

use serde::{Deserialize, Serialize};

use crate::settings::InvalidSetting;

/// Longest name of a key.
pub const MAX_NAME_CHARS: usize = 100;
/// Models that one key may be limited to.
pub const MAX_KEY_MODELS: usize = 100;

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum KeyType {
    /// Everything, for one person.
    Personal,
    /// Everything.
    WorkspaceManageAll,
    /// Reading metrics.
    WorkspaceExportMetrics,
    /// Calling models.
    WorkspaceInvoke,
    /// Making and removing keys.
    WorkspaceManageApiKeys,
}

impl KeyType {
    /// Whether it may do everything.
    pub fn is_admin(self) -> bool {
        matches!(self, Self::Personal | Self::WorkspaceManageAll)
    }

    /// Whether it may make and remove keys of the other type. Only who may do everything gives that to others.
    pub fn may_manage(self, other: Self) -> bool {
        match self {
            Self::Personal | Self::WorkspaceManageAll => true,
            Self::WorkspaceManageApiKeys => !other.is_admin(),
            Self::WorkspaceExportMetrics | Self::WorkspaceInvoke => false,
        }
    }
}

/// Refuses what no new key has.
///
/// # Errors
/// What is wrong with it.
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
