//! How long `samovar watch` takes from a component that was saved to its first answer.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::bundles::variant;
use super::http::Connection;
use super::servers::Server;
use super::table::{Row, median};
use super::{Bench, ROUNDS, say};

/// The longest that it may take.
const FLOOR_MS: f64 = 300.0;
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two questions whether the new answer is there.
const ASK_INTERVAL: Duration = Duration::from_millis(1);
const PHASES: [&str; 6] = [
    "upload_ms",
    "activation_ms",
    "compile_ms",
    "graphs_ms",
    "start_ms",
    "switch_ms",
];

/// A guest, and words of its answer that are other ones in each round.
struct Guest {
    name: &'static str,
    words: &'static str,
    body: Vec<u8>,
}

/// hello and Magika.
pub fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let readme = crate::repository().join("examples/magika/README.md");
    let guests = [
        Guest {
            name: "hello",
            words: "Hello\n",
            body: Vec::new(),
        },
        Guest {
            name: "magika",
            words: "Markdown document",
            body: std::fs::read(readme)?,
        },
    ];
    guests.iter().map(|guest| row(bench, guest)).collect()
}

fn row(bench: &Bench, guest: &Guest) -> Result<Row> {
    let name = guest.name;
    say(&format!("{name}, watched"));
    let example = crate::repository().join("examples").join(name);
    let bundle = variant(&bench.folder, &format!("watch-{name}"), &example, "")?;
    let node = Server::samovar(&bench.folder, &format!("watch-{name}-data"), &[])?;
    let watch = Watch::start(&node, &bundle)?;
    watch.serving()?;
    let component = bundle.join(format!("{name}.wasm"));
    let code = std::fs::read(&component)?;
    let mut connection = Connection::open(&node.url)?;
    let path = format!("/models/{name}/development/predict");
    let (mut times, mut phases) = (Vec::new(), Vec::new());
    // The first one pays for files that are not in memory yet.
    for round in 0..=ROUNDS {
        let words = format!("{}{round}", &guest.words[..guest.words.len() - 1]);
        let changed = replaced(&code, guest.words.as_bytes(), words.as_bytes())
            .with_context(|| format!("{name} has no words {:?}", guest.words))?;
        let built = bench.folder.join("built.wasm");
        std::fs::write(&built, changed)?;
        let begun = Instant::now();
        std::fs::rename(&built, &component)?;
        loop {
            let answer = connection.send("POST", &path, "text/plain", &guest.body)?;
            if String::from_utf8_lossy(&answer.body).contains(&words) {
                break;
            }
            ensure!(begun.elapsed() < PATIENCE, "{name}: the old code serves");
            std::thread::sleep(ASK_INTERVAL);
        }
        let took = begun.elapsed().as_secs_f64() * 1e3;
        let event = watch.serving()?;
        if round > 0 {
            times.push(took);
            phases.push(PHASES.map(|phase| {
                let found = event[phase].as_f64().or(event["timings"][phase].as_f64());
                found.unwrap_or_default()
            }));
        }
    }
    let split: Vec<String> = (PHASES.iter().enumerate())
        .map(|(at, phase)| {
            let time = median(phases.iter().map(|one| one[at]).collect());
            format!("{} {time:.1}", phase.trim_end_matches("_ms"))
        })
        .collect();
    let took = median(times);
    Ok(Row {
        measure: format!("{name}, watched ({})", split.join(", ")),
        samovar: format!("{took:.0} ms"),
        beside: String::new(),
        result: "from the saved component to its answer".into(),
        floor: format!("< {FLOOR_MS} ms"),
        held: Some(took < FLOOR_MS),
    })
}

/// A `samovar watch` that runs.
struct Watch {
    child: Child,
    events: Receiver<Value>,
}

impl Watch {
    fn start(node: &Server, bundle: &Path) -> Result<Self> {
        let mut child = node
            .command(&["watch", "--no-build"])
            .arg(bundle)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let output = child.stdout.take().context("no output")?;
        let (tell, events) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap_or_default();
                if tell.send(event).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, events })
    }

    /// The next time that it serves something.
    fn serving(&self) -> Result<Value> {
        loop {
            let event = self.events.recv_timeout(PATIENCE);
            let event = event.context("`samovar watch` tells nothing")?;
            ensure!(event["event"] != "failed", "{event}");
            if event["event"] == "serving" {
                return Ok(event);
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The bytes with all places of one text replaced by another as long; nothing when there is none.
fn replaced(bytes: &[u8], old: &[u8], new: &[u8]) -> Option<Vec<u8>> {
    let places = bytes.windows(old.len()).enumerate();
    let places = places.filter(|(_, window)| *window == old);
    let places: Vec<usize> = places.map(|(at, _)| at).collect();
    let mut changed = bytes.to_owned();
    for at in &places {
        changed[*at..*at + new.len()].copy_from_slice(new);
    }
    (!places.is_empty()).then_some(changed)
}

#[cfg(test)]
mod tests {
    use super::replaced;

    #[test]
    fn words_are_replaced_wherever_they_are() {
        let changed = replaced(b"say Hello, Hello", b"Hello", b"Hell1");
        assert_eq!(changed.as_deref(), Some(&b"say Hell1, Hell1"[..]));
        assert_eq!(replaced(b"say nothing", b"Hello", b"Hell1"), None);
    }
}
