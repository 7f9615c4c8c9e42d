//! Components are compiled in processes with limits: one that takes too much memory or time, or crashes its compiler, costs
//! nobody but its pusher anything.

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};
use samovar_tests::children::{children, is_running, kill, niceness, status};
use samovar_tests::{Server, bombs, eventually};
use serde_json::Value;

const WORKER: &str = "compile-worker";

/// A component that compiles for minutes with little memory.
fn slow() -> Vec<u8> {
    bombs::component(20_000, 40, 40)
}

fn folder(server: &Server, model: &str, component: &[u8]) -> Result<PathBuf> {
    let folder = server.bundle(model, "count", "")?;
    std::fs::write(folder.join("guest.wasm"), component)?;
    Ok(folder)
}

/// Pushes a component that must be refused, and answers the reason.
fn refused(server: &Server, model: &str, component: &[u8]) -> Result<String> {
    let folder = folder(server, model, component)?;
    let output = server.cli(&["push", folder.to_str().context("path")?])?;
    ensure!(!output.status.success(), "{model} was taken");
    let deployment = first(server, model)?;
    assert_eq!(deployment["status"], "BUILD_FAILED", "{deployment}");
    let reason = deployment["status_reason"].as_str().unwrap_or_default();
    let told = String::from_utf8(output.stderr)?;
    assert!(told.contains(reason), "{told}");
    Ok(reason.to_owned())
}

/// Begins to push a component, and waits until a worker compiles it.
async fn begin(server: &Server, model: &str, component: &[u8]) -> Result<(Child, u32)> {
    let before = children(server, WORKER)?;
    let folder = folder(server, model, component)?;
    let push = server
        .command(&["push", folder.to_str().context("path")?])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let new = || -> Result<Option<u32>> {
        Ok(children(server, WORKER)?
            .difference(&before)
            .next()
            .copied())
    };
    eventually("a worker compiles", async || {
        new().is_ok_and(|worker| worker.is_some())
    })
    .await?;
    Ok((push, new()?.context("a worker")?))
}

fn first(server: &Server, model: &str) -> Result<Value> {
    let list = server.cli_json(&["deployment", "list", model])?;
    Ok(list["deployments"][0].clone())
}

/// Calls a model until it is told to stop; answers how often it was called.
struct Neighbour {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    calling: tokio::task::JoinHandle<Result<()>>,
}

impl Neighbour {
    fn of(server: &Server, model: &str) -> Self {
        let (stop, calls) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (stopped, counted) = (stop.clone(), calls.clone());
        let url = server.at(&format!("/models/{model}/production/predict"));
        let client = server.client();
        let calling = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let answer = client.get(&url).send().await?;
                ensure!(answer.status() == 200, "{}", answer.text().await?);
                counted.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        Self {
            stop,
            calls,
            calling,
        }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    async fn ends_well(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.calling.await?
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_end_within_their_limits_and_neighbours_are_served() -> Result<()> {
    let server = Server::start_with(&["--compile-memory", "256MiB", "--compile-time", "20s"])?;
    server.push("count", "")?;
    let neighbour = Neighbour::of(&server, "count");
    for (name, component) in [
        ("deep", bombs::component(1, 3000, 3000)),
        ("many", bombs::component(400_000, 0, 1)),
        ("large", slow()),
    ] {
        let before = neighbour.calls();
        let reason = tokio::task::block_in_place(|| refused(&server, name, &component))?;
        let memory = reason.contains("memory") && reason.contains("256 MiB");
        let time = reason.contains("more than 20s of processor time");
        assert!(memory || time, "{name}: {reason}");
        assert!(reason.contains("`samovar serve --compile-"), "{reason}");
        assert!(neighbour.calls() > before, "{name} stops its neighbour");
    }
    neighbour.ends_well().await?;
    // What compiles still does.
    server.push("echo", "")?;
    Ok(())
}

#[tokio::test]
async fn each_limit_is_named_with_what_was_found() -> Result<()> {
    let server = Server::start_with(&["--compile-memory", "192MiB"])?;
    let reason = refused(&server, "deep", &bombs::component(1, 3000, 3000))?;
    assert!(reason.contains("memory allocation of"), "{reason}");
    assert!(reason.contains("the limit is 192 MiB"), "{reason}");
    assert!(reason.contains("--compile-memory"), "{reason}");
    let server = server.restart_with(&["--compile-time", "1s"])?;
    let reason = refused(&server, "slow", &slow())?;
    assert!(
        reason.contains("more than 1s of processor time"),
        "{reason}"
    );
    assert!(reason.contains("--compile-time"), "{reason}");
    Ok(())
}

#[tokio::test]
async fn a_build_that_a_crash_cut_off_is_built_once_more_and_then_has_failed() -> Result<()> {
    let server = Server::start()?;
    let (mut push, worker) = begin(&server, "slow", &slow()).await?;
    let server = server.restart_with(&["--compile-time", "2s"])?;
    push.wait()?;
    eventually("the worker ends with its node", async || {
        !is_running(worker)
    })
    .await?;
    eventually("it has failed", async || {
        first(&server, "slow").unwrap()["status"] == "BUILD_FAILED"
    })
    .await?;
    let reason = first(&server, "slow")?["status_reason"].to_string();
    assert!(
        reason.contains("more than 2s of processor time"),
        "{reason}"
    );
    // The next start compiles nothing: another push is done before its worker is the second.
    let server = server.restart()?;
    assert_eq!(first(&server, "slow")?["status"], "BUILD_FAILED");
    server.push("count", "")?;
    assert_eq!(first(&server, "slow")?["status"], "BUILD_FAILED");
    assert_eq!(children(&server, WORKER)?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn deleting_a_deployment_that_compiles_ends_its_worker() -> Result<()> {
    let server = Server::start()?;
    let (mut push, worker) = begin(&server, "slow", &slow()).await?;
    server.cli_json(&["model", "delete", "slow", "--yes"])?;
    eventually("the worker ends", async || !is_running(worker)).await?;
    assert!(!push.wait()?.success());
    server.push("count", "")?;
    Ok(())
}

#[tokio::test]
async fn deleting_a_deployment_that_is_reloaded_ends_its_worker() -> Result<()> {
    let server = Server::start()?;
    let folder = server.bundle("watched", "count", "")?;
    let path = folder.to_str().context("path")?.to_owned();
    server.cli_json(&["push", "--development", &path])?;
    for worker in children(&server, WORKER)? {
        kill(worker)?;
        eventually("it has ended", async || !is_running(worker)).await?;
    }
    std::fs::write(folder.join("guest.wasm"), slow())?;
    let mut reload = server
        .command(&["push", "--development", &path])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let workers = || children(&server, WORKER);
    eventually("a worker compiles", async || {
        workers().is_ok_and(|workers| !workers.is_empty())
    })
    .await?;
    server.cli_json(&["model", "delete", "watched", "--yes"])?;
    eventually("the worker ends", async || {
        workers().is_ok_and(|workers| workers.is_empty())
    })
    .await?;
    assert!(!reload.wait()?.success());
    Ok(())
}

#[tokio::test]
async fn a_component_that_ends_its_worker_has_failed_and_no_other() -> Result<()> {
    let server = Server::start()?;
    let (mut push, worker) = begin(&server, "slow", &slow()).await?;
    server.push("count", "")?;
    kill(worker)?;
    assert!(!push.wait()?.success());
    let deployment = first(&server, "slow")?;
    assert_eq!(deployment["status"], "BUILD_FAILED", "{deployment}");
    let reason = deployment["status_reason"].to_string();
    assert!(reason.contains("SIGKILL"), "{reason}");
    // One that had compiled something before may have ended for that: the next job gets another.
    for worker in children(&server, WORKER)? {
        kill(worker)?;
    }
    server.push("echo", "")?;
    Ok(())
}

#[tokio::test]
async fn workers_are_confined_and_give_way() -> Result<()> {
    let server = Server::start_with(&["--compile-memory", "1GiB"])?;
    server.push("count", "")?;
    let workers = children(&server, WORKER)?;
    let worker = *workers.first().context("a worker stays for the next job")?;
    server.push("echo", "")?;
    assert_eq!(children(&server, WORKER)?, workers, "it did the next job");
    assert_eq!(status(worker, "NoNewPrivs")?, "1");
    assert_eq!(status(worker, "Seccomp")?, "2", "a filter");
    assert!(niceness(worker)? > niceness(server.pid())?);
    let limits = std::fs::read_to_string(format!("/proc/{worker}/limits"))?;
    let data = limits.lines().find(|line| line.starts_with("Max data"));
    let data = data.context("a limit of memory")?;
    assert!(data.contains(&(1_u64 << 30).to_string()), "{data}");
    let environment = std::fs::read(format!("/proc/{worker}/environ"))?;
    let environment = String::from_utf8_lossy(&environment);
    assert!(!environment.contains("SAMOVAR"), "{environment}");
    assert!(!environment.contains("HOME"), "{environment}");
    Ok(())
}
