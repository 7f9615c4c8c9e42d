//! Rules for names: one for each kind of name, for manifests and for the API.

/// Name of the environment that every model has.
pub const PRODUCTION: &str = "production";
/// Name of every development deployment, and last part of its address.
pub const DEVELOPMENT: &str = "development";
/// Longest name of a model, a deployment, an environment or a graph, in characters.
pub const MAX_NAME_BYTES: usize = 63;
/// Longest name of an environment variable or a secret, in characters.
pub const MAX_VARIABLE_BYTES: usize = 128;
/// Longest path of a file in a bundle, in bytes.
pub const MAX_PATH_BYTES: usize = 512;

/// Error of a refused name: the rule for names of its kind.
pub type Wanted = &'static str;

/// Checks the name of a model, an environment or a graph: `[a-z0-9-]`.
pub fn check_name(name: &str) -> Result<(), Wanted> {
    let ends_well = !name.starts_with('-') && !name.ends_with('-');
    let plain = name
        .bytes()
        .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    if plain && ends_well && (1..=MAX_NAME_BYTES).contains(&name.len()) {
        Ok(())
    } else {
        Err("1 to 63 characters of [a-z0-9-], neither the first nor the last a `-`")
    }
}

/// Checks the name of a deployment: `[A-Za-z0-9._-]`, more than for others because it is for display only. Two names are reserved for
/// addresses.
pub fn check_deployment_name(name: &str) -> Result<(), Wanted> {
    let plain = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
    let taken = matches!(name, PRODUCTION | DEVELOPMENT);
    if plain && !taken && (1..=MAX_NAME_BYTES).contains(&name.len()) {
        Ok(())
    } else {
        Err("1 to 63 characters of [A-Za-z0-9._-], neither `production` nor `development`")
    }
}

/// Checks the name of an environment variable or a secret: `[A-Za-z_][A-Za-z0-9_]*`.
pub fn check_variable(name: &str) -> Result<(), Wanted> {
    let plain = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let starts_well = !name.starts_with(|first: char| first.is_ascii_digit());
    if plain && starts_well && (1..=MAX_VARIABLE_BYTES).contains(&name.len()) {
        Ok(())
    } else {
        Err("1 to 128 characters of [A-Za-z0-9_], the first not a digit")
    }
}

/// Checks the path of a file in a bundle: relative, with `/` between its parts, none of them `.` or `..`.
///
/// The rule is stricter than file systems are, so that a bundle means the same on each of them.
pub fn check_path(path: &str) -> Result<(), Wanted> {
    let plain = !path
        .chars()
        .any(|char| char.is_control() || matches!(char, '\\' | ':'));
    let parts_well = path
        .split('/')
        .all(|part| !matches!(part, "" | "." | "..") && part.len() <= 255);
    if plain && parts_well && path.len() <= MAX_PATH_BYTES {
        Ok(())
    } else {
        Err(
            "a relative path of at most 512 bytes, `/` between its parts, no `..`, no `\\`, no `:`, no control characters",
        )
    }
}

/// Checks a host that a component may call: `name:port`, `1.2.3.4:port` or `[::1]:port`.
pub fn check_host(host: &str) -> Result<(), Wanted> {
    const WANTED: Wanted = "HOST:PORT, such as \"api.example.com:443\"";
    let (name, port) = host.rsplit_once(':').ok_or(WANTED)?;
    let port_well = !port.starts_with(['+', '0']) && port.parse::<u16>().is_ok();
    let name_well = match name.strip_prefix('[').and_then(|v| v.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            name.len() <= 253
                && name.split('.').all(|label| {
                    (1..=63).contains(&label.len())
                        && !label.starts_with('-')
                        && !label.ends_with('-')
                        && label
                            .bytes()
                            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
                })
        }
    };
    if port_well && name_well {
        Ok(())
    } else {
        Err(WANTED)
    }
}

/// Makes a name of a model from a file name, by replacing characters; `None` if no character is allowed.
pub fn name_from(text: &str) -> Option<String> {
    let mut name = String::new();
    for char in text.chars().map(|char| char.to_ascii_lowercase()) {
        match char {
            'a'..='z' | '0'..='9' => name.push(char),
            _ if !name.is_empty() && !name.ends_with('-') => name.push('-'),
            _ => {}
        }
        if name.len() == MAX_NAME_BYTES {
            break;
        }
    }
    let name = name.trim_end_matches('-');
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names() {
        for good in ["magika", "a", "0", "a-b-c", &"x".repeat(63)] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", "-a", "a-", "Magika", "a_b", "a b", "é", &"x".repeat(64)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert_eq!(check_deployment_name("v1.2_Beta-3"), Ok(()));
        for bad in ["v1/2", "production", "development"] {
            assert!(check_deployment_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn variables() {
        for good in ["HF_TOKEN", "_x", "a1"] {
            assert_eq!(check_variable(good), Ok(()), "{good}");
        }
        for bad in ["", "1A", "A=B", "A-B", "A\0"] {
            assert!(check_variable(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths() {
        for good in ["labels.json", "a/b c/d.txt", "…/é", ".hidden"] {
            assert_eq!(check_path(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "/etc/passwd",
            "..",
            "a/../b",
            "a//b",
            "./a",
            "a/",
            "a\\b",
            "C:/a",
            "a\nb",
            "a\0",
        ] {
            assert!(check_path(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn hosts() {
        for good in [
            "api.example.com:443",
            "localhost:1",
            "10.0.0.1:80",
            "[::1]:65535",
        ] {
            assert_eq!(check_host(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "api.example.com",
            "a:0",
            "a:65536",
            ":443",
            "*.a:443",
            "http://a:443",
            "a b:1",
            "::1:80",
            "a:+1",
            "A:1",
        ] {
            assert!(check_host(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_name_made_from_any_text_is_allowed(text in ".{0,100}") {
            if let Some(name) = name_from(&text) {
                prop_assert_eq!(check_name(&name), Ok(()));
            }
        }

        #[test]
        fn an_allowed_path_stays_under_its_root(path in "[a./\\\\:]{0,12}") {
            if check_path(&path).is_ok() {
                let joined = std::path::Path::new("/root").join(&path);
                prop_assert!(joined.starts_with("/root"));
                prop_assert!(joined.components().all(|part| part != std::path::Component::ParentDir));
            }
        }
    }
}
