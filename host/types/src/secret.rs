//! Rules for names and values of secrets.

use crate::names;
use crate::settings::InvalidSetting;

/// Longest value of a secret, in bytes.
pub const MAX_SECRET_BYTES: usize = 64 << 10;

/// Checks the name and the value of a secret.
///
/// # Errors
/// The field, what was found and what is allowed; never the value itself.
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
