//! `samovar init` makes projects that build, test and push as they are, in each of the languages.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use samovar_tests::{Server, binary, repository};
use serde_json::Value;

/// What a component of the SDK may weigh. One of `wasip2` alone, such as `examples/hello`, weighs 59,000.
const MAX_RUST_BYTES: u64 = 165_000;
const FLOWER: &str = "[6.4, 3.2, 4.5, 1.5]";

/// A project that was just made, in a folder of the server's.
struct Project<'s> {
    server: &'s Server,
    name: &'static str,
    made: Value,
}

impl<'s> Project<'s> {
    fn init(server: &'s Server, name: &'static str, template: &str) -> Result<Self> {
        let args = ["--json", "init", name, "--template", template];
        let output = samovar(server, server.folder(), &args)?;
        let made = serde_json::from_slice(&ran(&output, "samovar init")?)?;
        Ok(Self { server, name, made })
    }

    fn folder(&self) -> PathBuf {
        self.server.folder().join(self.name)
    }

    /// What `init` says to do next, as far as it is for a shell and not for samovar.
    fn test(&self) -> Result<()> {
        let steps = self.made["next"].as_array().context("no next steps")?;
        let commands: Vec<&str> = steps
            .iter()
            .filter_map(Value::as_str)
            .filter(|step| !step.starts_with("samovar ") && !step.starts_with("cd "))
            .collect();
        ensure!(!commands.is_empty(), "nothing tests it: {steps:?}");
        for command in commands {
            let mut shell = Command::new("sh");
            shell.args(["-c", command]).current_dir(self.folder());
            ran(&caching(&mut shell).output()?, command)?;
        }
        Ok(())
    }

    fn push(&self) -> Result<()> {
        let output = samovar(self.server, &self.folder(), &["push", "--wait"])?;
        ran(&output, "samovar push").map(drop)
    }

    fn predict(&self, args: &[&str]) -> Result<Output> {
        let all = [&["predict", self.name], args].concat();
        samovar(self.server, &self.folder(), &all)
    }

    /// The right answer to a right request, the model's own refusal of a wrong one.
    fn tells_irises_apart(&self) -> Result<()> {
        // Twice: a replica has to serve more than one request.
        for _ in 0..2 {
            let answer = ran(&self.predict(&["-d", FLOWER])?, "samovar predict")?;
            let answer: Value = serde_json::from_slice(&answer)?;
            assert_eq!(answer["species"], "versicolor");
            let probability = answer["probability"].as_f64().context("a number")?;
            assert!((probability - 0.8597).abs() < 1e-3, "{answer}");
        }
        let refused = self.predict(&["-d", "[6.4, 3.2]"])?;
        assert_eq!(refused.status.code(), Some(1));
        Ok(())
    }
}

fn samovar(server: &Server, folder: &Path, args: &[&str]) -> Result<Output> {
    let mut command = Command::new(binary());
    command
        .args(args)
        .current_dir(folder)
        .env("SAMOVAR_URL", &server.url)
        .env("SAMOVAR_API_KEY", server.key())
        .env("SAMOVAR_CONFIG", server.folder().join("config.toml"));
    Ok(caching(&mut command).output()?)
}

/// What package managers fetch is kept for the next run; and cargo's own variables are not for the cargo of the project.
fn caching(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG") || text == "CARGO_TARGET_DIR" || text == "RUSTFLAGS" {
            command.env_remove(&name);
        }
    }
    let cache = repository().join("target/cache");
    command
        .env("PIP_CACHE_DIR", cache.join("pip"))
        .env("npm_config_cache", cache.join("npm"))
        .env("npm_config_prefer_offline", "true")
        .env("npm_config_update_notifier", "false")
}

fn ran(output: &Output, what: &str) -> Result<Vec<u8>> {
    ensure!(
        output.status.success(),
        "{what} ended with {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output.stdout.clone())
}

fn is_here(program: &str, args: &[&str]) -> bool {
    let output = Command::new(program).args(args).output();
    let here = output.is_ok_and(|output| output.status.success());
    if !here {
        eprintln!("skipped: {program} {args:?} does not work here");
    }
    here
}

/// The target may be missing where guests are built with the standard library's source.
fn has_wasm_target() -> bool {
    let output = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", "wasm32-wasip2"])
        .output();
    let folder = output
        .map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
        .unwrap_or_default();
    let here = folder.is_dir();
    if !here {
        eprintln!("skipped: this Rust has no target wasm32-wasip2");
    }
    here
}

#[test]
fn rust() -> Result<()> {
    if !has_wasm_target() {
        return Ok(());
    }
    let server = Server::start()?;
    let project = Project::init(&server, "flowers-rs", "rust")?;
    project.test()?;
    project.push()?;
    let built = "target/wasm32-wasip2/release/model.wasm";
    let size = std::fs::metadata(project.folder().join(built))?.len();
    assert!(size < MAX_RUST_BYTES, "{size} bytes");
    project.tells_irises_apart()
}

#[test]
fn python() -> Result<()> {
    if !is_here("python3", &["-c", "import venv, ensurepip"]) {
        return Ok(());
    }
    let server = Server::start()?;
    let project = Project::init(&server, "flowers-py", "python")?;
    project.test()?;
    project.push()?;
    project.tells_irises_apart()
}

#[test]
fn javascript() -> Result<()> {
    if !is_here("npm", &["--version"]) {
        return Ok(());
    }
    let server = Server::start()?;
    let project = Project::init(&server, "flowers-js", "js")?;
    project.test()?;
    project.push()?;
    project.tells_irises_apart()
}

#[test]
fn what_is_there_is_left_alone() -> Result<()> {
    let server = Server::start()?;
    let folder = server.folder();
    std::fs::create_dir(folder.join("taken"))?;
    std::fs::write(folder.join("taken/notes.txt"), "mine")?;
    for (name, reason) in [
        ("taken", "not empty"),
        ("Flowers", "[a-z0-9-]"),
        ("../out", "[a-z0-9-]"),
        ("3d", "digit"),
    ] {
        let output = samovar(&server, folder, &["init", name])?;
        let error = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(2), "{name}: {error}");
        assert!(error.contains(reason), "{name}: {error}");
    }
    let left: Vec<_> = std::fs::read_dir(folder.join("taken"))?.collect();
    assert_eq!(left.len(), 1);
    let output = samovar(&server, folder, &["init", "bare", "--template", "onnx"])?;
    let words = String::from_utf8(ran(&output, "samovar init")?)?;
    assert!(words.contains("samovar push"), "{words}");
    Ok(())
}
