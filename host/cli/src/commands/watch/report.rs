//! The output of a watch, as text or as JSON Lines.

use std::path::PathBuf;
use std::time::Duration;

use indicatif::HumanBytes;
use samovar_client::Received;
use samovar_client::text::printable;
use samovar_types::api::development::ReloadTimings;
use samovar_types::api::logs::LogEntry;
use serde::Serialize;

use super::reload::Status;
use crate::commands::logs;
use crate::output::{self, Format};

/// Number of changed files that are listed.
const NAMED: usize = 3;

/// An event of a watch.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event<'a> {
    /// The watch begins.
    Watching {
        /// The path that the user gave.
        path: String,
        server: &'a str,
    },
    /// Source files changed.
    Changed { paths: Vec<PathBuf> },
    /// The build command was started.
    Building { command: &'a str },
    /// The build command failed; its output went to standard error.
    BuildFailed {
        command: &'a str,
        /// Its exit status.
        status: String,
        build_ms: f64,
    },
    /// The build command produced what the server already has.
    AsBefore { build_ms: f64 },
    /// Builds write these sources.
    BuildOutput { paths: Vec<PathBuf> },
    /// The development deployment serves the project's files.
    Serving(Serving<'a>),
    /// It does not, because of an error of the project or of the server.
    Failed {
        error: String,
        /// The server's error code, if the error comes from the server.
        error_code: Option<String>,
    },
    /// The server cannot be reached.
    ServerLost { error: String },
    /// The server can be reached again.
    ServerBack,
    /// A line of the deployment's log.
    Log {
        /// The line as in the management API.
        line: &'a Received<LogEntry>,
    },
    /// A note for the user.
    Note { text: String },
    /// The watch ends.
    Stopped,
}

/// Details of a push.
#[derive(Debug, Serialize)]
pub struct Serving<'a> {
    /// The effect on the server.
    pub status: Status,
    pub model: &'a str,
    /// The URL to call it at.
    pub url: String,
    /// Number of files that the server lacked.
    pub uploaded_files: usize,
    pub uploaded_bytes: u64,
    /// Duration of the build, if there was one.
    pub build_ms: Option<f64>,
    /// Time to find missing files and upload them.
    pub upload_ms: f64,
    /// Time until the new code served.
    pub activation_ms: f64,
    pub timings: Option<&'a ReloadTimings>,
}

/// A duration in milliseconds, as the server writes it.
pub fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 1e2
}

pub struct Report {
    format: Format,
}

impl Report {
    /// Prints in this format.
    pub fn new(format: Format) -> Self {
        Self { format }
    }

    /// Prints an event: results to standard output, notes to standard error.
    pub fn tell(&self, event: &Event<'_>) -> anyhow::Result<()> {
        match (self.format, event) {
            (Format::Json, event) => output::json_line(event),
            (Format::Text, Event::Serving(_) | Event::Log { .. }) => output::line(&text(event)),
            (Format::Text, event) => {
                output::note(&format!("{}\n", text(event)));
                Ok(())
            }
        }
    }
}

/// An event as text.
fn text(event: &Event<'_>) -> String {
    match event {
        Event::Watching { path, server } => {
            format!("watching {path}, for {server}; Ctrl-C ends it")
        }
        Event::Changed { paths } => format!("changed: {}", named(paths)),
        Event::Building { command } => format!("building: {command}"),
        Event::BuildFailed {
            status, build_ms, ..
        } => format!(
            "the build failed after {}: {status}; the next change starts another build",
            span(*build_ms)
        ),
        Event::BuildOutput { paths } => format!(
            "the build itself writes {}: changes of it no longer start a build; add it to .gitignore",
            named(paths)
        ),
        Event::Serving(serving) => serving.text(),
        Event::AsBefore { build_ms } => {
            format!("built in {}: no change", span(*build_ms))
        }
        Event::Failed { error, .. } => format!("error: {error}"),
        Event::ServerLost { error } => format!("{error}; trying again until it answers"),
        Event::ServerBack => "the server answers again".into(),
        Event::Log { line } => logs::text(line),
        Event::Note { text } => text.clone(),
        Event::Stopped => "stopped; the development deployment stays as it is".into(),
    }
}

impl Serving<'_> {
    fn text(&self) -> String {
        let mut parts = Vec::new();
        if let Some(build) = self.build_ms {
            parts.push(format!("build {}", span(build)));
        }
        parts.push(match self.uploaded_files {
            0 => format!("nothing to upload ({})", span(self.upload_ms)),
            count => format!(
                "upload of {count} {}, {} {}",
                if count == 1 { "file" } else { "files" },
                HumanBytes(self.uploaded_bytes),
                span(self.upload_ms)
            ),
        });
        let phases = self.timings.map(|timings| {
            format!(
                "compile {}, graphs {}, start {}, switch {}",
                span(timings.compile_ms),
                span(timings.graphs_ms),
                span(timings.start_ms),
                span(timings.switch_ms)
            )
        });
        let activation = span(self.activation_ms);
        parts.push(match phases {
            None => format!("activation {activation}"),
            Some(phases) => format!("activation {activation} ({phases})"),
        });
        let what = match self.status {
            Status::Created => format!("serving {} at {}", self.model, self.url),
            Status::Unchanged => format!("serving {} at {}, as before", self.model, self.url),
            Status::Reloaded => format!("reloaded {}", self.model),
        };
        format!("{what}: {}", parts.join(", "))
    }
}

fn span(ms: f64) -> String {
    match ms {
        ..10.0 => format!("{ms:.1} ms"),
        10.0..1000.0 => format!("{ms:.0} ms"),
        _ => format!("{:.1} s", ms / 1e3),
    }
}

fn named(paths: &[PathBuf]) -> String {
    let shown = paths.iter().take(NAMED);
    let shown = shown.map(|path| printable(&path.display().to_string()));
    let shown = shown.collect::<Vec<_>>().join(", ");
    match paths.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn serving(status: Status, timings: Option<&ReloadTimings>) -> Serving<'_> {
        Serving {
            status,
            model: "m",
            url: "http://h/models/m/development/predict".into(),
            uploaded_files: 0,
            uploaded_bytes: 0,
            build_ms: None,
            upload_ms: 1.25,
            activation_ms: 1234.0,
            timings,
        }
    }

    #[test]
    fn a_reload_is_one_line_of_where_the_time_went() {
        let timings = ReloadTimings {
            compile_ms: 80.4,
            graphs_ms: 0.01,
            start_ms: 2.0,
            switch_ms: 0.4,
        };
        let mut reloaded = serving(Status::Reloaded, Some(&timings));
        assert_eq!(
            reloaded.text(),
            "reloaded m: nothing to upload (1.2 ms), activation 1.2 s (compile 80 ms, graphs 0.0 ms, start 2.0 ms, switch 0.4 ms)"
        );
        reloaded.build_ms = Some(2500.0);
        reloaded.uploaded_files = 1;
        reloaded.uploaded_bytes = 2048;
        let told = reloaded.text();
        let wanted = "reloaded m: build 2.5 s, upload of 1 file, 2.00 KiB 1.2 ms, ";
        assert!(told.starts_with(wanted), "{told}");
        let created = serving(Status::Created, None).text();
        let wanted = "serving m at http://h/models/m/development/predict: nothing to upload (1.2 ms), activation 1.2 s";
        assert_eq!(created, wanted);
    }

    #[test]
    fn programs_read_the_kind_of_an_event_in_one_place() {
        let json = |event: &Event<'_>| serde_json::to_value(event).unwrap();
        let told = json(&Event::Serving(serving(Status::Unchanged, None)));
        assert_eq!(told["event"], "serving");
        assert_eq!(told["status"], "UNCHANGED");
        assert_eq!(told["activation_ms"], 1234.0);
        assert_eq!(json(&Event::Stopped), json!({"event": "stopped"}));
    }

    #[test]
    fn many_files_are_counted() {
        let paths: Vec<PathBuf> = (0..5).map(|n| format!("{n}\u{1b}").into()).collect();
        assert_eq!(named(&paths), "0\\u{1b}, 1\\u{1b}, 2\\u{1b} and 2 more");
        assert_eq!(named(&paths[..1]), "0\\u{1b}");
    }
}
