//! The guests in Python and JavaScript: what the plain toolchains of these languages make, without anything of Samovar's.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result};

use crate::process::run;
use crate::python;

/// The sources, and the world that they are for.
const FOLDER: &str = "tests/guests/languages";
/// The packages of that world: those that `samovar init` gives to new projects.
const WIT: &str = "host/cli/templates/shared/wit/deps";

/// The templates of new projects say which releases of the tools are taken.
const PYTHON_TOOL: &str = "host/cli/templates/python/requirements.txt";
const JS_MANIFEST: &str = "host/cli/templates/js/package.json";
const JS_TOOL: &str = "@bytecodealliance/componentize-js";

/// Makes what is missing or out of date. Without a language or its registry all but its guest works.
pub fn place(components: &Path) {
    for (source, name, tool, make) in [
        (
            "hello.py",
            "python-hello",
            PYTHON_TOOL,
            python as fn(&Path, &Path) -> _,
        ),
        ("hello.js", "js-hello", JS_MANIFEST, javascript),
    ] {
        let component = components.join(format!("{name}.wasm"));
        if let Err(error) = place_one(source, tool, &component, make) {
            eprintln!("    {name} is missing, its tests are skipped: {error:#}");
        }
    }
}

fn place_one(
    source: &str,
    tool: &str,
    component: &Path,
    make: fn(&Path, &Path) -> Result<()>,
) -> Result<()> {
    let folder = crate::repository().join(FOLDER);
    let tool = crate::repository().join(tool);
    let inputs = [folder.join(source), folder.join("wit/world.wit"), tool];
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
        std::fs::copy(entry.path(), deps.join(entry.file_name()))?;
    }
    std::fs::copy(&inputs[0], work.join(source))?;
    make(&work, component)
}

fn python(work: &Path, component: &Path) -> Result<()> {
    // An environment of its own: the tool looks for packages beside itself.
    let tool = read(PYTHON_TOOL)?;
    let python = python::with("python-guests", &[tool.trim()])?.context("python3 is missing")?;
    let tool = python.with_file_name("componentize-py");
    run(Command::new(tool)
        .args(["--quiet", "-d", "wit", "-w", "hello"])
        .args(["componentize", "hello", "-o"])
        .arg(component)
        .current_dir(work))
}

fn javascript(work: &Path, component: &Path) -> Result<()> {
    let (manifest, modules) = (work.join("package.json"), work.join("node_modules"));
    let wanted = read(JS_MANIFEST)?;
    let is_there = modules.join(JS_TOOL).exists();
    if !is_there || !std::fs::read_to_string(&manifest).is_ok_and(|found| found == wanted) {
        eprintln!("==> npm install {JS_TOOL}");
        // What an install that fails leaves behind is not taken for one that went well.
        let _ = std::fs::remove_dir_all(&modules);
        std::fs::write(&manifest, &wanted)?;
        run(Command::new("npm")
            .args(["install", "--no-audit", "--no-fund", "--loglevel=error"])
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

fn read(path: &str) -> Result<String> {
    let path = crate::repository().join(path);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

fn is_newer(made: &Path, sources: &[PathBuf]) -> bool {
    let made = changed(made);
    made.is_some() && sources.iter().all(|source| changed(source) <= made)
}

fn changed(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).ok()?.modified().ok()
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
