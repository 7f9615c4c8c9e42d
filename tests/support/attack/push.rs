//! Pushing a model as its author would, with the command line.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::http::{Client, Lost};
use super::{DEADLINE, TIMEOUT, Target};

/// A model that is served.
#[derive(Clone, Debug)]
pub struct Pushed {
    pub model: String,
    pub graph: String,
    pub backend: &'static str,
}

/// What came of a push.
pub enum Push {
    Served(Pushed),
    /// It was refused, with this reason.
    Refused(String),
}

/// Pushes a bundle of one graph, served by the built-in component.
///
/// # Errors
/// When there is no answer within the deadline, or one without a reason.
pub fn graph(target: &Target, model: &str, bytes: &[u8], backend: &'static str) -> Result<Push> {
    let manifest = format!(
        "name = \"{model}\"\n[limits]\ntimeout = \"{TIMEOUT}\"\n\
         [graphs.default]\nfile = \"model.onnx\"\nbackend = \"{backend}\"\n"
    );
    let files = [("samovar.toml", manifest.as_bytes()), ("model.onnx", bytes)];
    let refusal = bundle(target, model, &files)?;
    Ok(match refusal {
        Some(reason) => Push::Refused(reason),
        None => Push::Served(Pushed {
            model: model.to_owned(),
            graph: "default".to_owned(),
            backend,
        }),
    })
}

/// Pushes a bundle of these files; the reason if it is refused.
///
/// # Errors
/// When there is no answer within the deadline, or one without a reason.
pub fn bundle(target: &Target, model: &str, files: &[(&str, &[u8])]) -> Result<Option<String>> {
    let folder = target.folder.join("bundles").join(model);
    std::fs::create_dir_all(&folder)?;
    for (name, bytes) in files {
        std::fs::write(folder.join(name), bytes)?;
    }
    let refusal = push(target, &folder);
    let _ = std::fs::remove_dir_all(&folder);
    refusal
}

fn push(target: &Target, folder: &PathBuf) -> Result<Option<String>> {
    let mut child = Command::new(&target.program)
        .args(["--json", "push", "--no-build"])
        .arg(folder)
        .env("SAMOVAR_URL", &target.url)
        .env("SAMOVAR_API_KEY", &target.key)
        .env("SAMOVAR_CONFIG", target.folder.join("config.toml"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("the command line does not start")?;
    let mut stderr = child.stderr.take().context("no stderr")?;
    let reader = std::thread::spawn(move || {
        let mut said = Vec::new();
        std::io::Read::read_to_end(&mut stderr, &mut said).map(|_| said)
    });
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if begun.elapsed() > DEADLINE {
            let _ = child.kill();
            let _ = child.wait();
            bail!("a push hung: no end within {DEADLINE:?}");
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    let said = reader.join().ok().and_then(Result::ok).unwrap_or_default();
    let said = String::from_utf8_lossy(&said).into_owned();
    if status.success() {
        return Ok(None);
    }
    let Some(at) = said.find("error: ") else {
        bail!("a push ended with {status} and no reason: {said}");
    };
    Ok(Some(said[at + "error: ".len()..].trim().to_owned()))
}

/// Deletes a model.
///
/// # Errors
/// When there is no answer.
pub fn delete(client: &mut Client, model: &str) -> Result<(), Lost> {
    let path = format!("/v1/models/{model}");
    client.send("DELETE", &path, &[], b"").map(drop)
}
