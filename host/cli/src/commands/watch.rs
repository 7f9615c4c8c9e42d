//! `samovar watch`: updates the development deployment whenever a file of the project changes, and follows its log.

mod debounce;
mod folders;
mod link;
mod plan;
mod project;
mod reload;
mod report;
mod session;
mod sources;
mod tail;

use std::path::PathBuf;

use samovar_bundle::manifest::{Manifest, ManifestError};
use samovar_client::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::failure::UsageError;
use crate::identifier;
use crate::output::Format;
use link::Link;
use project::Project;
use report::{Event, Report};
use session::Session;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A folder with a samovar.toml, a manifest, a component (.wasm), or an ONNX model (.onnx)
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Name of the model, instead of the manifest's
    #[arg(long, value_parser = identifier)]
    model: Option<String>,
    /// Another folder with sources to watch, such as a crate that the component depends on; may be repeated
    #[arg(long, value_name = "FOLDER")]
    also: Vec<PathBuf>,
    /// Do not run the manifest's build command; push files when they change
    #[arg(long)]
    no_build: bool,
}

pub async fn run(client: &Client, arguments: Arguments, format: Format) -> anyhow::Result<()> {
    // A mistake within the manifest is shown and waited for; without one there is nothing to watch.
    if let Err(error @ (ManifestError::Read { .. } | ManifestError::NotAProject { .. })) =
        Manifest::load(&arguments.path)
    {
        return Err(error.into());
    }
    if let Some(folder) = arguments.also.iter().find(|folder| !folder.is_dir()) {
        return Err(anyhow::Error::new(UsageError {
            problem: format!("--also {}: there is no such folder", folder.display()),
            hint: None,
        }));
    }
    let report = Report::new(format);
    let link = Link::default();
    let mut stop = signals()?;
    report.tell(&Event::Watching {
        path: arguments.path.display().to_string(),
        server: client.url(),
    })?;
    let (folders, hints) = folders::start();
    let (follow, mut followers) = mpsc::channel(1);
    let project = Project::new(arguments.path.clone(), arguments.also.clone(), folders);
    let session = Session {
        client,
        arguments: &arguments,
        report: &report,
        link: &link,
        follow,
        hints,
        project: Some(project),
        state: session::State::default(),
    };
    // A running build ends with the future that waits for it.
    tokio::select! {
        biased;
        _ = stop.recv() => {}
        ended = session.run() => return ended,
        ended = tail::follow(client, &mut followers, &link, &report) => return ended,
    }
    report.tell(&Event::Stopped)
}

/// Listens for Ctrl-C and the other signals that end a program in a terminal.
fn signals() -> anyhow::Result<mpsc::Receiver<()>> {
    let (tell, heard) = mpsc::channel(1);
    for kind in [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ] {
        let mut signal = signal(kind)?;
        let tell = tell.clone();
        tokio::spawn(async move {
            signal.recv().await;
            let _ = tell.send(()).await;
        });
    }
    Ok(heard)
}
