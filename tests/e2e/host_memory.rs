//! Whatever a guest makes the host allocate, the server grows by no more than the limit of its replica and a constant.

use anyhow::{Result, ensure};
use samovar_tests::Server;
use samovar_tests::onnx::{Node, Value as Port, model};
use tokio::sync::oneshot;

const MIB: u64 = 1 << 20;
/// The limit of the hostile replica.
const MEMORY: u64 = 64 * MIB;
/// What the server may grow beyond it.
const SLACK: u64 = 64 * MIB;
/// No test may take the machine down.
const CEILING: u64 = 4096 * MIB;

/// Each function that makes the host allocate, as the hostile guest names it.
const CALLS: &[&str] = &[
    "nn-error-of-a-long-name",
    "nn-error-of-many-dimensions",
    "nn-error-of-a-long-input",
    "nn-error-of-bytes",
    "nn-error-data",
    "nn-tensor",
    "nn-tensor-of-nothing",
    "nn-tensor-of-many-dimensions",
    "nn-tensor-dimensions",
    "nn-tensor-data",
    "nn-graph",
    "nn-context",
    "nn-outputs",
];

fn double() -> Vec<u8> {
    let port = |name| Port {
        name,
        ty: 1,
        dims: &[None],
    };
    let node = Node {
        op: "Add",
        inputs: &["x", "x"],
        output: "out",
        attribute: None,
    };
    model(13, &[node], &[port("x")], &[port("out")])
}

fn server() -> Result<Server> {
    let server = Server::start()?;
    server.limit_memory(CEILING)?;
    let manifest = "[limits]\nmemory = \"64MiB\"\ntimeout = \"20s\"\n\
                    [autoscaling]\nmax_replica = 1\n\
                    [graphs.double]\nfile = \"double.onnx\"\nbackend = \"rten\"\n";
    let folder = server.bundle("hostile", "hostile", manifest)?;
    std::fs::write(folder.join("double.onnx"), double())?;
    server.cli_json(&["push", folder.to_str().unwrap()])?;
    server.push("count", "")?;
    Ok(server)
}

/// Calls the neighbour until told to stop; gives how often it was served.
async fn neighbour(server: &Server, mut stop: oneshot::Receiver<()>) -> Result<usize> {
    let (client, url) = (server.client(), server.at("/models/count/production/x"));
    let mut served = 0;
    loop {
        let answer = client.get(&url).send().await?;
        ensure!(answer.status() == 200, "the neighbour: {}", answer.status());
        served += 1;
        if stop.try_recv().is_ok() {
            return Ok(served);
        }
    }
}

/// Makes the guest do this to each of these functions, and compares the server's peak with what it had before all.
async fn attack(how: &str, calls: &[&str]) -> Result<()> {
    let server = server()?;
    let client = server.client();
    let ask = async |path: &str| -> Result<(u16, String)> {
        let url = server.at(&format!("/models/hostile/production/{path}"));
        let answer = client.get(url).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    };
    ensure!(ask("").await? == (200, "ok".into()));
    let (stop, stopped) = oneshot::channel();
    stop.send(()).unwrap();
    neighbour(&server, stopped).await?;
    server.forget_peak_memory()?;
    let before = server.peak_memory()?;
    let mut failures = Vec::new();
    for call in calls {
        server.forget_peak_memory()?;
        let (stop, stopped) = oneshot::channel();
        let path = format!("{how}?{call}");
        let attacked = async {
            let answer = ask(&path).await;
            // Whoever listened has failed, which is seen below.
            let _ = stop.send(());
            answer
        };
        let (answer, served) = tokio::join!(attacked, neighbour(&server, stopped));
        let (status, text) = answer?;
        let served = served?;
        let grown = server.peak_memory()?.saturating_sub(before);
        eprintln!(
            "{how} {call}: {status} {text}, grown by {} MiB, {served} served beside it",
            grown / MIB
        );
        // It holds what it wants, is refused, or is stopped for it: each is right.
        if !matches!(status, 200 | 500) || text.contains("no case") {
            failures.push(format!("{how} {call}: {status} {text}"));
        }
        if grown >= MEMORY + SLACK {
            failures.push(format!(
                "{how} {call}: the server grew by {} MiB",
                grown / MIB
            ));
        }
        ensure!(ask("").await? == (200, "ok".into()), "after {call}");
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holding_what_the_host_gives_stays_within_the_limit() -> Result<()> {
    attack("hold", CALLS).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calling_again_and_again_stays_within_the_limit() -> Result<()> {
    attack("call", CALLS).await
}
