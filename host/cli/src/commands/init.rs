//! `samovar init`: creates a project with a model that builds, tests and pushes without changes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::ValueEnum;
use samovar_types::names;
use serde_json::json;

use crate::failure::UsageError;
use crate::output::{self, Format};

mod sdk;
mod templates;

use templates::File;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Name of the model, and of the folder to create for it
    #[arg(value_parser = name)]
    name: String,
    /// Kind of project
    #[arg(long, value_enum, default_value = "rust")]
    template: Template,
    /// Source of samovar-sdk, instead of a copy in the project: a folder, or the address of a git repository (Rust only)
    #[arg(long, value_name = "PATH|URL")]
    sdk: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Template {
    /// A component in Rust, with samovar-sdk
    Rust,
    /// A component in Python, with componentize-py
    Python,
    /// A component in JavaScript, with componentize-js
    Js,
    /// An ONNX model without code, served by the Open Inference Protocol
    Onnx,
}

impl Template {
    fn files(self) -> impl Iterator<Item = &'static File> {
        let (own, wit): (_, &[File]) = match self {
            Self::Rust => (templates::RUST, &[]),
            Self::Python => (templates::PYTHON, templates::WIT),
            Self::Js => (templates::JS, templates::WIT),
            Self::Onnx => (templates::ONNX, &[]),
        };
        own.iter().chain(templates::GRAPH).chain(wit)
    }

    /// The command that runs the project's tests.
    fn test(self) -> Option<&'static str> {
        match self {
            Self::Rust => Some("cargo test"),
            Self::Python => Some("python3 -m unittest"),
            Self::Js => Some("npm test"),
            Self::Onnx => None,
        }
    }

    /// An example request, as arguments of `samovar predict`.
    fn request(self) -> &'static str {
        match self {
            Self::Rust | Self::Python | Self::Js => "-d '[6.4, 3.2, 4.5, 1.5]'",
            Self::Onnx => {
                r#"--path /v2/models/default/infer -d '{"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 4], "data": [6.4, 3.2, 4.5, 1.5]}]}'"#
            }
        }
    }
}

fn name(text: &str) -> Result<String, String> {
    match names::check_name(text) {
        Ok(()) => Ok(text.to_owned()),
        Err(wanted) => Err(format!("wanted {wanted}")),
    }
}

pub fn run(arguments: Arguments, format: Format) -> anyhow::Result<()> {
    let Arguments {
        name,
        template,
        sdk,
    } = arguments;
    let dependency = match template {
        Template::Rust => rust_dependency(&name, sdk.as_deref())?,
        _ if sdk.is_some() => {
            return Err(UsageError {
                problem: "--sdk is for --template rust: no other template uses it".into(),
                hint: Some(format!("`samovar init {name}` without --sdk")),
            }
            .into());
        }
        _ => String::new(),
    };
    let folder = PathBuf::from(&name);
    claim(&folder)?;
    for file in template.files() {
        write(&folder, file.path, &file.named(&name, &dependency))?;
    }
    let copies_sdk = template == Template::Rust && sdk.is_none();
    let sources = if copies_sdk { sdk::SOURCES } else { &[] };
    for file in sources {
        write(&folder, file.path, file.bytes)?;
    }
    let files = template.files().chain(sources);
    let paths: Vec<&str> = files.map(|file| file.path).collect();
    let steps = next(&name, template);
    match format {
        Format::Json => output::document(&json!({
            "name": name,
            "template": template.to_possible_value().map(|value| value.get_name().to_owned()),
            "folder": folder,
            "files": paths,
            "next": steps,
        })),
        Format::Text => {
            let mut shown: Vec<&str> = template.files().map(|file| file.path).collect();
            if copies_sdk {
                shown.push("the SDK in vendor/");
            }
            output::line(&format!("created {name}/ with {}", shown.join(", ")))?;
            output::line("\nnext:")?;
            steps
                .iter()
                .try_for_each(|step| output::line(&format!("  {step}")))
        }
    }
}

fn next(name: &str, template: Template) -> Vec<String> {
    let mut steps = vec![format!("cd {name}")];
    steps.extend(template.test().map(str::to_owned));
    steps.push("samovar push --wait".into());
    steps.push(format!("samovar predict {name} {}", template.request()));
    steps
}

/// The line of Cargo.toml with the SDK: the project's own copy, unless the user names another place.
fn rust_dependency(name: &str, given: Option<&str>) -> anyhow::Result<String> {
    if name.starts_with(|first: char| first.is_ascii_digit()) {
        return Err(UsageError {
            problem: format!(
                "{name:?} begins with a digit, but the name of a Cargo package must begin with a letter"
            ),
            hint: Some(format!("`samovar init model-{name}`")),
        }
        .into());
    }
    let (key, value) = match given {
        Some(url) if url.contains("://") || url.starts_with("git@") => ("git", url.to_owned()),
        Some(path) => ("path", sdk_at(Path::new(path)).ok_or_else(|| UsageError {
            problem: format!("--sdk {path}: found no samovar-sdk there, wanted the folder `sdk` of Samovar's repository"),
            hint: None,
        })?),
        None => ("path", format!("{}/{}", sdk::FOLDER, sdk::CRATE)),
    };
    Ok(format!(
        "samovar-sdk = {{ {key} = {} }}",
        toml::Value::String(value)
    ))
}

/// The absolute path of the folder, if it holds the SDK.
fn sdk_at(folder: &Path) -> Option<String> {
    let folder = fs::canonicalize(folder).ok()?;
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).ok()?;
    manifest
        .contains("name = \"samovar-sdk\"")
        .then(|| folder.to_str().map(str::to_owned))?
}

/// Creates the folder, or uses an empty one.
fn claim(folder: &Path) -> anyhow::Result<()> {
    let what = folder.display();
    match fs::create_dir(folder) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error).with_context(|| format!("creating the folder {what}")),
    }
    let mut entries = fs::read_dir(folder)
        .with_context(|| format!("{what}: wanted an empty folder or a new one"))?;
    match entries.next() {
        None => Ok(()),
        Some(_) => Err(UsageError {
            problem: format!(
                "{what}: found a folder that is not empty, wanted an empty one or a new one"
            ),
            hint: Some("another name, or run the command in another folder".into()),
        }
        .into()),
    }
}

fn write(folder: &Path, path: &str, bytes: &[u8]) -> anyhow::Result<()> {
    let place = folder.join(path);
    let folders = place.parent().map_or(Ok(()), fs::create_dir_all);
    folders
        .and_then(|()| fs::write(&place, bytes))
        .with_context(|| format!("writing {}", place.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sdk_is_in_the_project_or_where_the_user_says() {
        let line = rust_dependency("iris", None).unwrap();
        assert_eq!(line, "samovar-sdk = { path = \"vendor/samovar/sdk\" }");
        let line = rust_dependency("iris", Some("https://h/samovar.git")).unwrap();
        assert_eq!(line, "samovar-sdk = { git = \"https://h/samovar.git\" }");
        for (name, given) in [("3d", None), ("iris", Some("/nowhere"))] {
            let error = rust_dependency(name, given).unwrap_err();
            assert!(error.is::<UsageError>(), "{error}");
        }
    }

    #[test]
    fn only_an_empty_folder_is_taken() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("iris");
        claim(&folder).unwrap();
        claim(&folder).unwrap();
        fs::write(folder.join("x"), "").unwrap();
        assert!(claim(&folder).unwrap_err().is::<UsageError>());
        assert!(claim(&folder.join("x")).is_err());
        assert!(claim(&folder.join("no/such")).is_err());
    }

    #[test]
    fn each_template_says_what_to_do_next() {
        for template in Template::value_variants() {
            let steps = next("iris", *template);
            assert_eq!(steps[0], "cd iris");
            assert!(steps.iter().any(|step| step.starts_with("samovar push")));
        }
    }
}
