//! The configuration file, which holds the address of a server and a key for it.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

/// The address of a server and a key for it. The type has no `Debug`, so that no log or error can contain the key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientConfig {
    /// Address of the server.
    pub url: String,
    /// Key for the server; none for a server without keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<String>,
}

/// Path of the file, whether or not it exists.
pub fn path() -> anyhow::Result<PathBuf> {
    place(|name| std::env::var_os(name)).context(
        "no path for the configuration file: set SAMOVAR_CONFIG to a file's path, or HOME to a folder",
    )
}

fn place(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let path = |name| {
        variable(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(file) = path("SAMOVAR_CONFIG") {
        return Some(file);
    }
    // The XDG specification has relative paths ignored.
    let folder = path("XDG_CONFIG_HOME")
        .filter(|folder| folder.is_absolute())
        .or_else(|| path("HOME").map(|home| home.join(".config")))?;
    Some(folder.join("samovar/config.toml"))
}

/// Reads the file, if it exists.
pub fn load() -> anyhow::Result<Option<ClientConfig>> {
    // Without any place for the file there is no file.
    path().map_or(Ok(None), |file| load_from(&file))
}

fn load_from(file: &Path) -> anyhow::Result<Option<ClientConfig>> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| file.display().to_string()),
    };
    // The parser's own message would quote the line, and with it perhaps the key.
    toml::from_str(&text).map(Some).map_err(|error| {
        anyhow::anyhow!(
            "{}: {}: wanted the lines `url = \"…\"` and `api_key = \"…\"`; write a new file with `samovar login`",
            file.display(),
            error.message()
        )
    })
}

/// Writes the file, readable only by its owner, and returns its path.
pub fn save(url: &str, key: &str) -> anyhow::Result<PathBuf> {
    let file = path()?;
    save_to(&file, url, key).with_context(|| format!("writing {}", file.display()))?;
    Ok(file)
}

/// Writes the file like [`save`]. If the file has another key, it is kept under another name. Returns the path of the file, and of the
/// earlier one.
pub fn save_beside(url: &str, key: &str) -> anyhow::Result<(PathBuf, Option<PathBuf>)> {
    let file = path()?;
    let kept = keep_other(&file, key).with_context(|| {
        format!(
            "cannot keep a copy of {}, which has another key: move it away, or set SAMOVAR_CONFIG to another file",
            file.display()
        )
    })?;
    save_to(&file, url, key).with_context(|| format!("writing {}", file.display()))?;
    Ok((file, kept))
}

/// Maximum number of earlier files that are kept.
const MAX_KEPT: u32 = 1000;

fn keep_other(file: &Path, key: &str) -> io::Result<Option<PathBuf>> {
    match load_from(file) {
        Ok(None) => return Ok(None),
        Ok(Some(config)) if config.api_key.is_none() || config.api_key.as_deref() == Some(key) => {
            return Ok(None);
        }
        // One that cannot be read may still hold a key.
        Ok(Some(_)) | Err(_) => {}
    }
    let before = fs::read(file)?;
    for number in 1..=MAX_KEPT {
        let mut name = file.as_os_str().to_owned();
        name.push(format!(".{number}"));
        let mut options = fs::File::options();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        match options.open(&name) {
            Ok(mut kept) => {
                kept.write_all(&before)?;
                kept.sync_all()?;
                return Ok(Some(name.into()));
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other(format!(
        "there are already {MAX_KEPT} earlier files"
    )))
}

fn save_to(file: &Path, url: &str, key: &str) -> anyhow::Result<()> {
    let config = ClientConfig {
        url: url.to_owned(),
        api_key: (!key.is_empty()).then(|| key.to_owned()),
    };
    let text = toml::to_string(&config)?;
    let folder = match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        Some(_) => Path::new("."),
        None => bail!("found a root folder, wanted the path of a file"),
    };
    fs::create_dir_all(folder)?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(".config");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        builder.permissions(fs::Permissions::from_mode(0o600));
    }
    let mut written = builder.tempfile_in(folder)?;
    written.write_all(text.as_bytes())?;
    written.as_file().sync_all()?;
    written.persist(file)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_loaded_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("deep/config.toml");
        assert!(load_from(&file).unwrap().is_none());
        for key in ["first", "se\"cond"] {
            save_to(&file, "http://127.0.0.1:8080", key).unwrap();
            let config = load_from(&file).unwrap().unwrap();
            assert_eq!(config.url, "http://127.0.0.1:8080");
            assert_eq!(config.api_key.as_deref(), Some(key));
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        let left = fs::read_dir(file.parent().unwrap()).unwrap().count();
        assert_eq!(left, 1, "a temporary file was left");
    }

    #[test]
    fn an_open_file_becomes_private_when_saved() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        fs::write(&file, "url = 'x'").unwrap();
        save_to(&file, "http://h", "k").unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn a_key_of_another_server_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        assert_eq!(keep_other(&file, "a").unwrap(), None);
        for (key, kept) in [("a", None), ("b", Some(1)), ("b", None), ("c", Some(2))] {
            let kept = kept.map(|number| folder.path().join(format!("config.toml.{number}")));
            assert_eq!(keep_other(&file, key).unwrap(), kept);
            save_to(&file, "http://h", key).unwrap();
        }
        let key = |name: &str| {
            let config = load_from(&folder.path().join(name)).unwrap();
            config.unwrap().api_key.unwrap()
        };
        assert_eq!(
            ["config.toml.1", "config.toml.2", "config.toml"].map(key),
            ["a", "b", "c"]
        );
    }

    #[test]
    fn errors_do_not_show_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        fs::write(&file, "url = 'http://h'\napi_key = 'hidden").unwrap();
        let Err(error) = load_from(&file) else {
            panic!("a broken file was read")
        };
        let shown = format!("{error:?}");
        assert!(
            shown.contains("config.toml") && !shown.contains("hidden"),
            "{shown}"
        );
    }

    #[test]
    fn the_place_follows_the_variables() {
        let with = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect();
            place(move |name| {
                let found = pairs.iter().find(|(key, _)| key == name);
                found.map(|(_, value)| OsString::from(value))
            })
        };
        let all = [
            ("SAMOVAR_CONFIG", "c.toml"),
            ("XDG_CONFIG_HOME", "/x"),
            ("HOME", "/h"),
        ];
        assert_eq!(with(&all), Some("c.toml".into()));
        assert_eq!(with(&all[1..]), Some("/x/samovar/config.toml".into()));
        let home = Some("/h/.config/samovar/config.toml".into());
        assert_eq!(with(&all[2..]), home);
        assert_eq!(with(&[("XDG_CONFIG_HOME", "relative"), all[2]]), home);
        assert_eq!(with(&[]), None);
    }
}
