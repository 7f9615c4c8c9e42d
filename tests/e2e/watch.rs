//! `samovar watch`: what is saved is served, however it is saved and whatever is wrong with it in between.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use samovar_tests::watching::Watch;
use samovar_tests::{Server, eventually, guest};
use serde_json::{Value, json};

/// Where its sources lie, and what is served.
const NEXT: &str = "src/next.wasm";
/// Stands for a compiler: it takes as long as nothing, and says what the source says.
const COPY: &str = "build = 'cat src/said >&2; cp src/next.wasm guest.wasm'";

struct Project {
    server: Server,
    folder: PathBuf,
}

impl Project {
    /// Around a guest that answers `/env?VERSION` and `/read?FILE`, with these lines in its manifest.
    fn new(server: Server, manifest: &str) -> Result<Self> {
        let folder = server.folder().join("project");
        fs::create_dir_all(folder.join("src"))?;
        let project = Self { server, folder };
        project.write("labels.txt", "one")?;
        project.write("src/said", "warning: \u{1b}[33mnothing yet\u{1b}[0m\n")?;
        fs::copy(guest("hostile"), project.folder.join(NEXT))?;
        fs::copy(guest("hostile"), project.folder.join("guest.wasm"))?;
        project.manifest(manifest)?;
        Ok(project)
    }

    fn manifest(&self, lines: &str) -> Result<()> {
        let text =
            format!("name = 'dev'\ncomponent = 'guest.wasm'\nfiles = ['labels.txt']\n{lines}");
        self.write("samovar.toml", &text)
    }

    /// Saves as editors do that want no half files.
    fn write(&self, name: &str, text: &str) -> Result<()> {
        let beside = self.folder.join(".beside.swp");
        fs::write(&beside, text)?;
        Ok(fs::rename(&beside, self.folder.join(name))?)
    }

    fn place(&self, name: &str, guest: &str) -> Result<()> {
        fs::copy(samovar_tests::guest(guest), self.folder.join(name))?;
        Ok(())
    }

    fn watch(&self, args: &[&str]) -> Result<Watch> {
        Watch::start(&self.server, &self.folder, args)
    }

    async fn get(&self, path: &str) -> Result<String> {
        let url = self.server.at(&format!("/models/dev/development{path}"));
        let answer = self.server.client().get(url).send().await?;
        ensure!(answer.status() == 200, "{}", answer.text().await?);
        Ok(answer.text().await?)
    }

    async fn labels(&self) -> Result<String> {
        self.get("/read?/labels.txt").await
    }

    /// Whether the guest `echo` answers, and not `hostile`.
    async fn echoes(&self) -> Result<bool> {
        let url = self.server.at("/models/dev/development/env?VERSION");
        let answer = self.server.client().post(url).body("echo?").send().await?;
        Ok(answer.text().await? == "echo?")
    }
}

fn wait_for(file: &Path) -> Result<()> {
    let begun = std::time::Instant::now();
    while !file.exists() {
        ensure!(begun.elapsed() < samovar_tests::PATIENCE, "no {file:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn text(event: &Value, field: &str) -> String {
    event[field].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn what_is_saved_is_served_and_only_what_is_new_is_sent() -> Result<()> {
    let project = Project::new(Server::start()?, COPY)?;
    let mut watch = project.watch(&[])?;
    let first = watch.next("serving")?;
    assert_eq!(first["status"], "CREATED", "{first}");
    assert_eq!(first["uploaded_files"], 2, "{first}");
    assert_eq!(project.labels().await?, "one");
    assert!(text(&first, "url").ends_with("/models/dev/development/predict"));

    // A file needs no build, and its upload no component.
    project.write("labels.txt", "two")?;
    let reloaded = watch.next("serving")?;
    assert_eq!(reloaded["status"], "RELOADED", "{reloaded}");
    assert_eq!(
        (&reloaded["uploaded_files"], &reloaded["uploaded_bytes"]),
        (&json!(1), &json!(3))
    );
    assert_eq!(reloaded["build_ms"], Value::Null);
    assert_eq!(project.labels().await?, "two");
    fs::write(project.folder.join("labels.txt"), "three")?;
    watch.next("serving")?;
    assert_eq!(project.labels().await?, "three");
    assert_eq!(watch.count("building"), 1, "{:#?}", watch.seen);

    // A source does.
    project.place(NEXT, "echo")?;
    let changed = watch.next("changed")?;
    assert!(
        changed["paths"][0]
            .as_str()
            .context("path")?
            .ends_with(NEXT),
        "{changed}"
    );
    let reloaded = watch.next("serving")?;
    assert_eq!(reloaded["status"], "RELOADED", "{reloaded}");
    for field in ["build_ms", "upload_ms", "activation_ms"] {
        assert!(
            reloaded[field].as_f64().is_some_and(|ms| ms > 0.0),
            "{reloaded}"
        );
    }
    assert!(reloaded["timings"]["compile_ms"].is_number(), "{reloaded}");
    assert!(project.echoes().await?);

    // What the build made, saved as it was, and what tools and editors leave are no changes.
    project.write("src/said", "warning: \u{1b}[33mnothing yet\u{1b}[0m\n")?;
    fs::create_dir_all(project.folder.join("target/release"))?;
    fs::write(project.folder.join("target/CACHEDIR.TAG"), "")?;
    for number in 0..100 {
        fs::write(project.folder.join(format!("target/release/{number}")), "x")?;
        fs::write(project.folder.join("src/.said.swp"), "x")?;
    }
    let building = watch.count("building");
    project.write("labels.txt", "four")?;
    watch.next("serving")?;
    assert_eq!(watch.count("building"), building, "{:#?}", watch.seen);
    // A folder that is new is watched like those that were there.
    fs::create_dir_all(project.folder.join("src/deep/er"))?;
    project.write("src/deep/er/mod.rs", "x")?;
    watch.next("as_before")?;
    project.write("src/deep/er/mod.rs", "y")?;
    watch.next("as_before")?;
    Ok(())
}

#[tokio::test]
async fn errors_are_shown_while_the_old_code_serves() -> Result<()> {
    let build = "build = 'cat src/said >&2; test ! -e src/broken && cp src/next.wasm guest.wasm'";
    let project = Project::new(Server::start()?, build)?;
    let mut watch = project.watch(&[])?;
    watch.next("serving")?;

    // Of the compiler, as it printed them.
    project.write("src/said", "\u{1b}[31merror\u{1b}[0m: no such word\n")?;
    project.write("src/broken", "")?;
    let failed = watch.next("build_failed")?;
    assert!(text(&failed, "status").contains('1'), "{failed}");
    let error = "\u{1b}[31merror\u{1b}[0m: no such word";
    eventually("the compiler is heard", async || {
        watch.standard_error().contains(error)
    })
    .await?;
    assert_eq!(project.labels().await?, "one");
    fs::remove_file(project.folder.join("src/broken"))?;
    watch.next("as_before")?;

    // Of the server: the component, then a graph.
    fs::write(project.folder.join(NEXT), "not wasm")?;
    let failed = watch.next("failed")?;
    assert_eq!(failed["error_code"], "component_refused", "{failed}");
    assert!(
        text(&failed, "error").contains("not WebAssembly"),
        "{failed}"
    );
    assert_eq!(project.labels().await?, "one");
    project.place(NEXT, "echo")?;
    watch.next("serving")?;
    assert!(project.echoes().await?);
    project.write("m.onnx", "not a model")?;
    project.manifest(&format!("{COPY}\n[graphs.default]\nfile = 'm.onnx'"))?;
    let failed = watch.next("failed")?;
    assert_eq!(failed["error_code"], "graph_refused", "{failed}");
    assert!(project.echoes().await?);

    // Of the manifest, and of files that are not there.
    project.manifest("graphs = 3")?;
    let failed = watch.next("failed")?;
    let wanted = "samovar.toml:4: `graphs`";
    assert!(text(&failed, "error").contains(wanted), "{failed}");
    fs::remove_file(project.folder.join("labels.txt"))?;
    project.manifest(COPY)?;
    let failed = watch.next("failed")?;
    assert!(text(&failed, "error").contains("labels.txt"), "{failed}");
    project.place(NEXT, "hostile")?;
    project.write("labels.txt", "again")?;
    eventually("it goes on", async || {
        project.labels().await.is_ok_and(|labels| labels == "again")
    })
    .await
}

#[tokio::test]
async fn no_call_fails_or_hangs_while_code_is_swapped() -> Result<()> {
    let project = Arc::new(Project::new(Server::start()?, "")?);
    let mut watch = project.watch(&[])?;
    watch.next("serving")?;
    let (ends, calls) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (project, ends, calls) = (project.clone(), ends.clone(), calls.clone());
            tokio::spawn(async move {
                let client = project.server.client();
                let url = project
                    .server
                    .at("/models/dev/development/read?/labels.txt");
                while !ends.load(Ordering::Relaxed) {
                    let request = client.get(&url).timeout(Duration::from_secs(20));
                    let answer = request.send().await?;
                    ensure!(answer.status() == 200, "{}", answer.text().await?);
                    calls.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        })
        .collect();
    let swaps = tokio::task::spawn_blocking({
        let project = project.clone();
        move || -> Result<()> {
            let code = fs::read(guest("hostile"))?;
            for round in 0..10u8 {
                // Other code each time: a custom section that says nothing.
                let mut bytes = code.clone();
                bytes.extend([0, 2, 1, b'a' + round]);
                fs::write(project.folder.join("guest.wasm"), bytes)?;
                let reloaded = watch.next("serving")?;
                assert_eq!(reloaded["status"], "RELOADED", "{reloaded}");
            }
            Ok(())
        }
    });
    swaps.await??;
    ends.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await??;
    }
    assert!(calls.load(Ordering::Relaxed) > 50, "{calls:?}");
    Ok(())
}

#[tokio::test]
async fn a_change_during_a_build_is_built_once_more_and_the_builds_own_are_not() -> Result<()> {
    let build = "build = 'touch started; until [ -e go ]; do sleep 0.01; done; rm go; cp src/next.wasm guest.wasm'";
    let project = Project::new(Server::start()?, build)?;
    let at = |name: &str| project.folder.join(name);
    project.write(".gitignore", "started\ngo\n")?;
    let mut watch = project.watch(&[])?;
    wait_for(&at("started"))?;
    project.write("src/said", "edited while it is built")?;
    fs::write(at("go"), "")?;
    watch.next("serving")?;
    let changed = watch.next("changed")?;
    assert_eq!(changed["paths"].as_array().context("paths")?.len(), 1);
    fs::write(at("go"), "")?;
    watch.next("as_before")?;
    assert_eq!(watch.count("building"), 2, "{:#?}", watch.seen);

    // A build that writes into its own sources ends all the same.
    project.manifest("build = 'date +%s%N > src/stamp; cp src/next.wasm guest.wasm'")?;
    let output = watch.next("build_output")?;
    let path = output["paths"][0].as_str().context("path")?;
    assert!(path.ends_with("src/stamp"), "{output}");
    let building = watch.count("building");
    project.place(NEXT, "echo")?;
    watch.next("serving")?;
    project.write("labels.txt", "after it")?;
    watch.next("serving")?;
    assert_eq!(watch.count("building"), building + 1, "{:#?}", watch.seen);
    assert!(project.echoes().await?);
    Ok(())
}

#[tokio::test]
async fn a_log_in_the_project_that_its_output_goes_to_is_no_source() -> Result<()> {
    let project = Project::new(Server::start()?, COPY)?;
    let log = project.folder.join("watch.log");
    let file = fs::File::create(&log)?;
    let mut watch = project.server.command(&["--json", "watch"]);
    watch
        .arg(&project.folder)
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file);
    let mut watch = watch.spawn()?;
    let count = |event: &str| -> usize {
        let text = fs::read_to_string(&log).unwrap_or_default();
        text.matches(&format!("\"event\":\"{event}\"")).count()
    };
    eventually("it serves", async || count("serving") == 1).await?;
    // Each would be built again, were the lines about the one before a change of the sources.
    for (builds, version) in [(2, "echo"), (3, "hostile")] {
        project.place(NEXT, version)?;
        eventually("it serves what was saved", async || {
            count("serving") == builds
        })
        .await?;
        assert_eq!(count("building"), builds, "{}", fs::read_to_string(&log)?);
    }
    watch.kill()?;
    watch.wait()?;
    Ok(())
}

#[tokio::test]
async fn it_goes_on_when_the_server_comes_back_also_without_its_data() -> Result<()> {
    let mut project = Project::new(Server::start_with(&["--no-auth"])?, "")?;
    let mut watch = project.watch(&[])?;
    watch.next("serving")?;
    for loses_data in [false, true] {
        project.server.kill()?;
        let lost = watch.next("server_lost")?;
        assert!(text(&lost, "error").contains(&project.server.url), "{lost}");
        let labels = format!("changed meanwhile: {loses_data}");
        project.write("labels.txt", &labels)?;
        if loses_data {
            fs::remove_dir_all(project.server.folder().join("data"))?;
        }
        let Project { server, folder } = project;
        let server = server.start_again()?;
        project = Project { server, folder };
        watch.next("server_back")?;
        // It may be told of the old bundle first.
        eventually("the change is served", async || {
            project.labels().await.is_ok_and(|found| found == labels)
        })
        .await?;
    }
    watch.next("serving")?;
    assert!(
        watch.seen.iter().all(|event| event["event"] != "failed"),
        "{:#?}",
        watch.seen
    );
    Ok(())
}

#[tokio::test]
async fn started_again_it_brings_the_server_up_to_date_first() -> Result<()> {
    let project = Project::new(Server::start()?, COPY)?;
    let mut watch = project.watch(&[])?;
    watch.next("serving")?;
    let (status, events) = watch.end(libc::SIGINT)?;
    assert_eq!(status.code(), Some(0));
    assert_eq!(events.last().context("events")?["event"], "stopped");

    project.write("labels.txt", "while nobody watched")?;
    project.place(NEXT, "hostile")?;
    let mut watch = project.watch(&[])?;
    assert_eq!(watch.next("serving")?["status"], "RELOADED");
    assert_eq!(project.labels().await?, "while nobody watched");
    drop(watch);
    let mut watch = project.watch(&[])?;
    let unchanged = watch.next("serving")?;
    assert_eq!(unchanged["status"], "UNCHANGED", "{unchanged}");
    assert_eq!(unchanged["uploaded_files"], 0);
    Ok(())
}

#[tokio::test]
async fn its_end_is_the_builds_end() -> Result<()> {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let project = Project::new(
            Server::start()?,
            "build = 'sleep 600 & echo $! > target.new; mv target.new pid; wait'",
        )?;
        project.write(".gitignore", "pid\ntarget.new\n")?;
        let watch = project.watch(&[])?;
        let pid = project.folder.join("pid");
        wait_for(&pid)?;
        let (status, _) = watch.end(signal)?;
        assert_eq!(status.code(), Some(0));
        let pid = fs::read_to_string(&pid)?;
        let stat = || fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
        // Dead, though perhaps nobody has waited for it.
        eventually("the build has ended", async || {
            stat().is_ok_and(|stat| stat.contains(") Z ")) || stat().is_err()
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_log_streams_below_from_now_on() -> Result<()> {
    let project = Project::new(Server::start()?, "")?;
    let mut watch = project.watch(&[])?;
    watch.next("serving")?;
    project.get("/stderr?first").await?;
    let log = watch.next("log")?;
    assert_eq!(log["line"]["message"], "first", "{log}");
    drop(watch);
    let mut watch = project.watch(&[])?;
    watch.next("serving")?;
    project.get("/stderr?second").await?;
    let log = watch.next("log")?;
    assert_eq!(
        log["line"]["message"], "second",
        "what was there before is not told again: {log}"
    );

    // For people it is a line.
    let mut people = project
        .server
        .command(&["watch"])
        .arg(&project.folder)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(people.stdout.take().context("stdout")?).lines();
    let line = lines.next().context("a line")??;
    let (serving, as_before) = ("serving dev at http", ", as before: ");
    assert!(
        line.starts_with(serving) && line.contains(as_before),
        "{line}"
    );
    // SAFETY: the child is not waited for yet, so the pid is its.
    unsafe { libc::kill(i32::try_from(people.id())?, libc::SIGINT) };
    assert_eq!(people.wait()?.code(), Some(0));
    assert!(lines.next().is_none());
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_watched_is_refused() -> Result<()> {
    let project = Project::new(Server::start()?, "")?;
    for (path, wanted) in [("nowhere", "nowhere"), (".", "samovar.toml")] {
        let empty = project.server.folder().join("empty");
        fs::create_dir_all(&empty)?;
        let output = project
            .server
            .cli(&["watch", empty.join(path).to_str().context("path")?])?;
        assert_eq!(output.status.code(), Some(1));
        let told = String::from_utf8(output.stderr)?;
        assert!(told.contains(wanted), "{told}");
    }
    let mut command = project.server.command(&["watch"]);
    let output = command
        .env("SAMOVAR_API_KEY", "wrong")
        .arg(&project.folder)
        .output()?;
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr)?;
    assert!(told.contains("samovar login"), "{told}");
    Ok(())
}
