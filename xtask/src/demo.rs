//! `cargo xtask demo`: from nothing to a served model with real answers, in one command.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{guests, process};

/// What the demo sends, and the label that the right answer has.
const FILES: [(&str, &str); 3] = [
    ("xtask/src/demo.rs", "rust"),
    ("ARCHITECTURE.md", "markdown"),
    ("Cargo.toml", "toml"),
];

/// Whether the node goes on serving.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// Until Ctrl-C.
    Serve,
    /// Not at all; the exit code says whether the answers were right.
    Stop,
}

/// Builds what it needs, serves `examples/magika` and asks it about three files.
pub fn run(addr: &str, after: After) -> Result<()> {
    let repository = crate::repository();
    guests::build_magika()?;
    say("building samovar (the first time takes minutes)");
    process::run(
        process::cargo()
            .args(["build", "--release", "--package", "samovar"])
            .current_dir(repository),
    )?;
    let binary = repository.join("target/release/samovar");

    let data = repository.join("target/demo");
    std::fs::create_dir_all(&data)?;
    let mut node = Node::start(&binary, addr, &data)?;
    say(&format!(
        "serving at {} with its data in {}",
        node.url,
        data.display()
    ));

    say("pushing examples/magika");
    let status = node
        .cli(&binary)?
        .arg("push")
        .arg("--no-build")
        .arg(repository.join("examples/magika"))
        .status()?;
    ensure!(status.success(), "the push failed");

    say("asking what three files are");
    let mut wrong = 0;
    for (file, label) in FILES {
        let begun = Instant::now();
        let answer = node.predict(&binary, &repository.join(file))?;
        let took = begun.elapsed();
        let found = answer["label"].as_str().unwrap_or("nothing");
        let score = answer["score"].as_f64().unwrap_or_default();
        println!(
            "  {file:<22} {found:<12} score {score:.3}  {:>7.1} ms",
            took.as_secs_f64() * 1e3
        );
        if found != label {
            eprintln!("  wrong: wanted {label}");
            wrong += 1;
        }
    }
    ensure!(wrong == 0, "{wrong} of {} answers were wrong", FILES.len());
    if after == After::Stop {
        return node.stop();
    }
    say("try it yourself:");
    println!(
        "  curl -H \"Authorization: Bearer {}\" --data-binary @README.md {}/models/magika/production/predict",
        node.key()?,
        node.url
    );
    say("serving until Ctrl-C");
    node.child.wait()?;
    Ok(())
}

fn say(text: &str) {
    eprintln!("==> {text}");
    let _ = std::io::stderr().flush();
}

struct Node {
    child: Child,
    url: String,
    config: PathBuf,
}

impl Node {
    fn start(binary: &Path, addr: &str, data: &Path) -> Result<Self> {
        let config = data.join("config.toml");
        let mut child = Command::new(binary)
            .args(["--json", "serve", "--addr", addr, "--data"])
            .arg(data.join("data"))
            .env("SAMOVAR_CONFIG", &config)
            .stdout(Stdio::piped())
            .spawn()
            .context("the node does not start")?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("no output")?;
        let mut stdout = BufReader::new(stdout);
        stdout.read_line(&mut line)?;
        if line.is_empty() {
            bail!(
                "the node ended with {}; is {addr} taken? Try --addr 127.0.0.1:0",
                child.wait()?
            );
        }
        std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
        let ready: Value = serde_json::from_str(&line)?;
        let url = ready["url"].as_str().context("no url")?.to_owned();
        Ok(Self { child, url, config })
    }

    fn cli(&self, binary: &Path) -> Result<Command> {
        let mut command = Command::new(binary);
        // The key by itself: that of an earlier demo is kept under the address that it had then.
        command
            .env("SAMOVAR_URL", &self.url)
            .env("SAMOVAR_CONFIG", &self.config)
            .env("SAMOVAR_API_KEY", self.key()?);
        Ok(command)
    }

    fn predict(&self, binary: &Path, file: &Path) -> Result<Value> {
        let output = self
            .cli(binary)?
            .args(["predict", "magika", "-f"])
            .arg(file)
            .stderr(Stdio::inherit())
            .output()?;
        ensure!(
            output.status.success(),
            "predict failed for {}",
            file.display()
        );
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    fn key(&self) -> Result<String> {
        let mut text = String::new();
        std::fs::File::open(&self.config)?.read_to_string(&mut text)?;
        let key = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("api_key")?.split('"').nth(1));
        Ok(key.context("no key in the config")?.to_owned())
    }

    fn stop(mut self) -> Result<()> {
        let pid = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status()?;
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(10) {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "the node ended with {status}");
                say("done");
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("the node did not stop within 10 s of SIGTERM")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
