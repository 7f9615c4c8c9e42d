//! The guests in Python and JavaScript: what the plain toolchains of these languages make, without anything of Samovar's.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};

use crate::python;

/// The sources, and the world that they are for.
const FOLDER: &str = "tests/guests/languages";
/// The packages of that world; the template for Python has them anyway.
const WIT: &str = "host/templates/python/wit/deps";
/// Packages that have no part in it, but lie there.
const UNUSED: &str = "nn.wit";

const PYTHON_TOOL: &str = "componentize-py==0.25.1";
const JS_TOOL: &str = "@bytecodealliance/componentize-js";
const JS_TOOL_VERSION: &str = "0.23.0";

/// Makes what is missing or out of date. Without a language or its registry all but its guest works.
pub fn place(components: &Path) {
    for (source, name, make) in [
        ("hello.py", "python-hello", python as fn(&Path, &Path) -> _),
        ("hello.js", "js-hello", javascript),
    ] {
        let component = components.join(format!("{name}.wasm"));
        if let Err(error) = place_one(source, &component, make) {
            eprintln!("    {name} is missing, its tests are skipped: {error:#}");
        }
    }
}

fn place_one(source: &str, component: &Path, make: fn(&Path, &Path) -> Result<()>) -> Result<()> {
    let folder = crate::repository().join(FOLDER);
    let inputs = [folder.join(source), folder.join("wit/world.wit")];
    if is_newer(component, &inputs) {
        return Ok(());
    }
    eprintln!("==> {FOLDER}/{source}");
    let work = crate::repository().join("target/guests/languages");
    let deps = work.join("wit/deps");
    let _ = std::fs::remove_dir_all(work.join("wit"));
    std::fs::create_dir_all(&deps)?;
    std::fs::copy(&inputs[1], work.join("wit/world.wit"))?;
    for entry in std::fs::read_dir(crate::repository().join(WIT))? {
        let entry = entry?;
        if entry.file_name() != UNUSED {
            std::fs::copy(entry.path(), deps.join(entry.file_name()))?;
        }
    }
    std::fs::copy(&inputs[0], work.join(source))?;
    make(&work, component)
}

fn python(work: &Path, component: &Path) -> Result<()> {
    // An environment of its own: the tool looks for packages beside itself.
    let python = python::with("python-guests", &[PYTHON_TOOL])?.context("python3 is missing")?;
    let tool = python.with_file_name("componentize-py");
    run(Command::new(tool)
        .args(["--quiet", "-d", "wit", "-w", "hello"])
        .args(["componentize", "hello", "-o"])
        .arg(component)
        .current_dir(work))
}

fn javascript(work: &Path, component: &Path) -> Result<()> {
    if !has_js_tool(work) {
        eprintln!("==> npm install {JS_TOOL}");
        std::fs::write(
            work.join("package.json"),
            r#"{"private":true,"type":"module"}"#,
        )?;
        run(Command::new("npm")
            .args(["install", "--no-audit", "--no-fund", "--loglevel=error"])
            .arg(format!("{JS_TOOL}@{JS_TOOL_VERSION}"))
            .current_dir(work))?;
    }
    let script = "build.js";
    std::fs::write(
        work.join(script),
        format!(
            "import {{ componentize }} from \"{JS_TOOL}\";
import {{ writeFileSync }} from \"node:fs\";
const made = await componentize({{ sourcePath: \"hello.js\", witPath: \"wit\", worldName: \"hello\" }});
writeFileSync(process.argv[2], made.component);
"
        ),
    )?;
    run(Command::new("node")
        .arg(script)
        .arg(component)
        .current_dir(work))
}

fn has_js_tool(work: &Path) -> bool {
    let manifest = work.join("node_modules").join(JS_TOOL).join("package.json");
    std::fs::read_to_string(manifest)
        .is_ok_and(|text| text.contains(&format!("\"version\": \"{JS_TOOL_VERSION}\"")))
}

fn is_newer(made: &Path, sources: &[PathBuf]) -> bool {
    let made = changed(made);
    made.is_some() && sources.iter().all(|source| changed(source) <= made)
}

fn changed(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).ok()?.modified().ok()
}

fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{command:?} failed ({status})");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_as_new_as_its_sources_is_not_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str, second: u64| {
            let path = folder.path().join(name);
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(second);
            std::fs::File::create(&path)
                .unwrap()
                .set_modified(time)
                .unwrap();
            path
        };
        let sources = [at("a.py", 10), at("b.wit", 20)];
        assert!(!is_newer(&folder.path().join("none"), &sources));
        assert!(!is_newer(&at("old", 19), &sources));
        assert!(is_newer(&at("new", 20), &sources));
    }
}
