//! The component that `samovar` holds, to serve graphs that come without one.
//!
//! It is committed as it was built, because `samovar` is to build with plain cargo, and components need a toolchain of their
//! own. Beside it stands which sources it is of, so that a test can tell when it has to be built again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use crate::toolchain::{self, Toolchain};

const PACKAGE: &str = "open-inference";
/// Where the packages of the repository that it is made of lie.
const FOLDERS: [&str; 3] = ["examples/open-inference", "sdk", "sdk/macros"];
/// What of these is compiled.
const PARTS: [&str; 3] = ["Cargo.toml", "src", "wit"];
const COMPONENT: &str = "host/bundle/assets/open-inference.wasm";
const DIGESTS: &str = "host/bundle/assets/open-inference.sha256";

/// Builds it, and notes what it is of.
pub fn build() -> Result<()> {
    let toolchain = toolchain::find()?;
    let folder = crate::repository().join("target/built-in");
    let status = toolchain
        .build_to_keep(&folder)?
        .args(["--package", PACKAGE])
        .current_dir(crate::repository().join("examples"))
        // It travels with every `samovar`: names of functions would be a third of it.
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols")
        .status()?;
    ensure!(status.success(), "building {PACKAGE} failed ({status})");
    let built = Toolchain::output_in(&folder).join(PACKAGE.replace('-', "_"));
    let component = std::fs::read(built.with_extension("wasm"))?;
    for path in [crate::repository().to_owned(), toolchain::cargo_home()?] {
        let text = path.display().to_string();
        let mut windows = component.windows(text.len());
        ensure!(
            !windows.any(|bytes| bytes == text.as_bytes()),
            "{PACKAGE} holds the path {text} of this machine"
        );
    }
    std::fs::create_dir_all(crate::repository().join("host/bundle/assets"))?;
    std::fs::write(crate::repository().join(COMPONENT), &component)?;
    let digests = digests(&component)?;
    std::fs::write(crate::repository().join(DIGESTS), digests)?;
    eprintln!("    {COMPONENT} {:.1} KiB", component.len() as f64 / 1024.0);
    Ok(())
}

/// The component's digest and that of its sources.
fn digests(component: &[u8]) -> Result<String> {
    let component = hex::encode(Sha256::digest(component));
    Ok(format!("component {component}\nsources {}\n", sources()?))
}

/// A digest of all that the component is made of: its packages of the repository, how they are compiled, and the crates
/// they use.
fn sources() -> Result<String> {
    let mut hasher = Sha256::new();
    let mut add = |name: &str, bytes: &[u8]| {
        hasher.update(format!("{name} {}\n", bytes.len()));
        hasher.update(bytes);
    };
    for folder in FOLDERS {
        for part in PARTS {
            let mut files = BTreeSet::new();
            collect(&crate::repository().join(folder).join(part), &mut files)?;
            for file in files {
                let name = file.strip_prefix(crate::repository())?;
                add(&name.to_string_lossy(), &std::fs::read(&file)?);
            }
        }
    }
    let profile = table("examples/Cargo.toml")?.remove("profile");
    let profile = profile.context("examples/Cargo.toml has no profile")?;
    add("profile", profile.to_string().as_bytes());
    for package in crates(&table("examples/Cargo.lock")?, PACKAGE)? {
        add("crate", package.as_bytes());
    }
    Ok(hex::encode(hasher.finalize()))
}

fn collect(path: &Path, files: &mut BTreeSet<PathBuf>) -> Result<()> {
    if path.is_file() {
        files.insert(path.to_owned());
    } else if path.is_dir() {
        for entry in std::fs::read_dir(path)? {
            collect(&entry?.path(), files)?;
        }
    }
    Ok(())
}

fn table(file: &str) -> Result<toml::Table> {
    let text = std::fs::read_to_string(crate::repository().join(file))?;
    text.parse().with_context(|| file.to_owned())
}

/// The crates that a package is compiled with, each by name, version and checksum.
fn crates(lock: &toml::Table, package: &str) -> Result<BTreeSet<String>> {
    let packages = lock.get("package").and_then(toml::Value::as_array);
    let packages = packages.context("the lock file lists no packages")?;
    let text = |package: &toml::Value, key: &str| -> String {
        let value = package.get(key).and_then(toml::Value::as_str);
        value.unwrap_or_default().to_owned()
    };
    let (mut found, mut open) = (BTreeSet::new(), vec![package.to_owned()]);
    while let Some(wanted) = open.pop() {
        // A name, with its version where there are several.
        let mut words = wanted.split(' ');
        let (name, version) = (words.next().unwrap_or_default(), words.next());
        let is_wanted = |one: &&toml::Value| {
            text(one, "name") == name
                && version.is_none_or(|version| text(one, "version") == version)
        };
        let Some(one) = packages.iter().find(is_wanted) else {
            bail!("the lock file has no package {wanted}");
        };
        let line = ["name", "version", "checksum"].map(|key| text(one, key));
        if found.insert(line.join(" ")) {
            let needs = one.get("dependencies").and_then(toml::Value::as_array);
            let needs = needs.into_iter().flatten().filter_map(toml::Value::as_str);
            open.extend(needs.map(str::to_owned));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_component_is_of_the_sources_as_they_are() {
        let component = std::fs::read(crate::repository().join(COMPONENT)).unwrap();
        let noted = std::fs::read_to_string(crate::repository().join(DIGESTS)).unwrap();
        assert_eq!(
            noted,
            digests(&component).unwrap(),
            "{COMPONENT} is not of its sources: run `cargo xtask built-in` and commit what it makes"
        );
    }

    #[test]
    fn only_crates_that_are_used_count() {
        let lock = "
            package = [
                { name = 'a', version = '1', dependencies = ['b 2', 'c'] },
                { name = 'b', version = '1', checksum = 'x' },
                { name = 'b', version = '2', checksum = 'y', dependencies = ['c'] },
                { name = 'c', version = '3', dependencies = ['a'] },
                { name = 'd', version = '4' },
            ]";
        let found = crates(&lock.parse().unwrap(), "a").unwrap();
        assert_eq!(Vec::from_iter(found), ["a 1 ", "b 2 y", "c 3 "]);
        let missing = "package = [{ name = 'a', dependencies = ['b'] }]";
        assert!(crates(&missing.parse().unwrap(), "a").is_err());
    }
}
