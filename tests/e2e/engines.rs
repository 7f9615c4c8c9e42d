//! Graphs run in engines: what ends an engine ends neither the node nor what other models are asked.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use samovar_tests::children::{self, children};
use samovar_tests::onnx::{Node, Value as Port, Weight, looping, looping_over, model, model_with};
use samovar_tests::python::onnxruntime;
use samovar_tests::{Server, eventually};
use serde_json::{Value, json};

use crate::events::Events;
use crate::open_inference::{F32, I64, infer, node, push_folder, sum};

pub const RTEN: [&str; 2] = ["--default-backend", "rten"];

/// `y` of as many zeros as `shape` says: whoever calls decides how much memory that takes.
pub fn zeros() -> Vec<u8> {
    let shape = Port {
        name: "shape",
        ty: I64,
        dims: &[None],
    };
    let y = Port {
        name: "y",
        ty: F32,
        dims: &[None, None],
    };
    model(
        14,
        &[node("ConstantOfShape", &["shape"], "y")],
        &[shape],
        &[y],
    )
}

pub fn shape(rows: u64, columns: u64) -> Value {
    json!({ "inputs": [
        {"name": "shape", "shape": [2], "datatype": "INT64", "data": [rows, columns]},
    ]})
}

pub fn pair() -> Value {
    json!({ "inputs": [
        {"name": "a", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]},
        {"name": "b", "shape": [1, 2], "datatype": "FP32", "data": [3, 4]},
    ]})
}

fn engines(server: &Server) -> Result<BTreeSet<u32>> {
    children(server, "engine")
}

fn kill(pid: u32) {
    children::kill(pid).expect("it is there");
}

/// Waits until no engine computes any more.
async fn become_idle(server: &Server) -> Result<()> {
    eventually("the cores are idle", async || {
        let busy = |pid: &u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields = stat.rsplit(')').next().unwrap_or("");
            let times = fields.split_whitespace().skip(11).take(2);
            times
                .filter_map(|ticks| ticks.parse::<u64>().ok())
                .sum::<u64>()
        };
        let total = || -> u64 { engines(server).unwrap_or_default().iter().map(busy).sum() };
        let before = total();
        tokio::time::sleep(Duration::from_millis(300)).await;
        total() <= before + 2
    })
    .await
}

pub async fn sums(server: &Server) -> Result<()> {
    let (status, told) = infer(server, "sum", &pair()).await?;
    assert_eq!(status, 200, "{told}");
    assert_eq!(told["outputs"][0]["data"], json!([4.0, 6.0]));
    Ok(())
}

#[tokio::test]
async fn a_killed_engine_is_started_again_by_the_next_request() -> Result<()> {
    let server = Server::start_with(&RTEN)?;
    push_folder(&server, "sum", &[("sum", sum())], "")?;
    for _ in 0..5 {
        sums(&server).await?;
        let running = engines(&server)?;
        assert!(!running.is_empty());
        running.iter().copied().for_each(kill);
        eventually("they have ended", async || {
            engines(&server).is_ok_and(|now| now.is_disjoint(&running))
        })
        .await?;
    }
    sums(&server).await
}

#[tokio::test]
async fn a_request_that_ends_an_engine_costs_nobody_else_anything() -> Result<()> {
    let server = Server::start_with(&RTEN)?;
    push_folder(&server, "zeros", &[("zeros", zeros())], "")?;
    push_folder(&server, "sum", &[("sum", sum())], "")?;
    let (status, told) = infer(&server, "zeros", &shape(2, 3)).await?;
    assert_eq!(
        (status, &told["outputs"][0]["shape"]),
        (200, &json!([2, 3]))
    );
    sums(&server).await?;
    // More than there are addresses: the backend's allocation aborts its process.
    let (status, told) = infer(&server, "zeros", &shape(1 << 30, 1 << 17)).await?;
    assert_eq!(status, 500, "{told}");
    let error = told.to_string();
    assert!(
        error.contains("graph `zeros`") && error.contains("SIGABRT"),
        "{error}"
    );
    sums(&server).await?;
    let (status, told) = infer(&server, "zeros", &shape(1, 1)).await?;
    assert_eq!(status, 200, "{told}");
    // Again and again: it has an engine of its own by now, and then none for a while.
    let before = engines(&server)?;
    let mut refused = false;
    for _ in 0..6 {
        let (status, told) = infer(&server, "zeros", &shape(1 << 30, 1 << 17)).await?;
        assert_eq!(status, 500, "{told}");
        refused |= told.to_string().contains("it is quarantined for another");
        sums(&server).await?;
    }
    assert!(refused, "it ended its engine each time, and went on");
    let (status, told) = infer(&server, "zeros", &shape(1, 1)).await?;
    assert_eq!(status, 500, "{told}");
    // The engine of the neighbours is the one that it was.
    assert!(!before.is_disjoint(&engines(&server)?));
    sums(&server).await
}

#[tokio::test]
async fn runs_that_never_end_end_with_their_callers() -> Result<()> {
    let server = Server::start_with(&RTEN)?;
    let short = "[limits]\ntimeout = \"1s\"\n";
    push_folder(&server, "endless", &[("endless", looping())], short)?;
    push_folder(&server, "sum", &[("sum", sum())], "")?;
    sums(&server).await?;
    let endless = json!({ "inputs": [
        {"name": "n", "shape": [1], "datatype": "INT64", "data": [2_000_000_000]},
        {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]},
    ]});
    let begun = Instant::now();
    let (first, second) = tokio::join!(
        infer(&server, "endless", &endless),
        infer(&server, "endless", &endless)
    );
    assert_eq!((first?.0, second?.0), (504, 504));
    assert!(begun.elapsed() < Duration::from_secs(30));
    sums(&server).await?;
    become_idle(&server).await?;
    eventually("the stopped runs are counted", async || {
        let used = crate::usage::sum(&server, "endless", "inference_us").await;
        used.is_ok_and(|used| used > 1_000_000)
    })
    .await?;
    sums(&server).await
}

const JOINED: &str =
    "[limits]\ntimeout = \"1s\"\n[graphs.endless.batch]\nmax_size = 8\nmax_delay_ms = 50\n";

/// Calls that are joined to one run, and more of them than there are permits.
async fn joined_runs_end(server: &Server) -> Result<()> {
    push_folder(
        server,
        "endless",
        &[("endless", looping_over(None))],
        JOINED,
    )?;
    push_folder(server, "sum", &[("sum", sum())], "")?;
    let rounds = |rounds: u64| {
        json!({ "inputs": [
            {"name": "n", "shape": [1], "datatype": "INT64", "data": [rounds]},
            {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]},
        ]})
    };
    let (status, told) = infer(server, "endless", &rounds(3)).await?;
    assert_eq!((status, &told["outputs"][0]["data"]), (200, &json!([-1.0])));
    let endless = rounds(2_000_000_000);
    let (status, told) = infer(server, "endless", &endless).await?;
    assert_eq!(status, 504, "{told}");
    let calls = (0..8).map(|_| infer(server, "endless", &endless));
    for call in futures::future::join_all(calls).await {
        assert_eq!(call?.0, 504);
    }
    become_idle(server).await?;
    // What was stopped has used the cores, too.
    eventually("the stopped runs are counted", async || {
        let used = crate::usage::sum(server, "endless", "inference_us").await;
        used.is_ok_and(|used| used > 1_000_000)
    })
    .await?;
    sums(server).await
}

#[tokio::test]
async fn joined_runs_that_never_end_end_with_their_callers() -> Result<()> {
    joined_runs_end(&Server::start_with(&RTEN)?).await
}

#[tokio::test]
async fn onnxruntime_ends_joined_runs_without_a_caller() -> Result<()> {
    let Some(library) = onnxruntime()? else {
        return Ok(());
    };
    joined_runs_end(&Server::start_with(&["--onnxruntime", &library])?).await
}

/// `y` of an LSTM over `x`, whose number of sequences the caller chooses. ONNX Runtime divides by it.
fn lstm() -> Vec<u8> {
    let x = Port {
        name: "x",
        ty: F32,
        dims: &[None, None, Some(5)],
    };
    let y = Port {
        name: "y",
        ty: F32,
        dims: &[None, None, None, None],
    };
    let weight = |name, dims| Weight {
        name,
        ty: F32,
        dims,
        data: &[0; 4 * 8 * 5],
    };
    let mut recurrent = weight("r", &[1, 8, 2]);
    recurrent.data = &recurrent.data[..4 * 8 * 2];
    let node = Node {
        op: "LSTM",
        inputs: &["x", "w", "r"],
        output: "y",
        attribute: Some(("hidden_size", 2)),
    };
    let weights = [weight("w", &[1, 8, 5]), recurrent];
    model_with(14, &[node], &weights, &[x], &[y])
}

fn sequences(shape: [usize; 3]) -> Value {
    let data = vec![0.5; shape.iter().product()];
    json!({ "inputs": [{"name": "x", "shape": shape, "datatype": "FP32", "data": data}] })
}

#[tokio::test]
async fn a_shape_that_ends_onnxruntime_does_not_end_the_server() -> Result<()> {
    let Some(library) = onnxruntime()? else {
        return Ok(());
    };
    let server = Server::start_with(&["--onnxruntime", &library])?;
    push_folder(&server, "lstm", &[("lstm", lstm())], "")?;
    push_folder(&server, "sum", &[("sum", sum())], "")?;
    sums(&server).await?;
    let (status, told) = infer(&server, "lstm", &sequences([3, 2, 5])).await?;
    assert_eq!(status, 200, "{told}");
    let (status, told) = infer(&server, "lstm", &sequences([3, 0, 5])).await?;
    assert_eq!(status, 500, "{told}");
    let error = told.to_string();
    assert!(
        error.contains("graph `lstm`") && error.contains("SIG"),
        "{error}"
    );
    sums(&server).await?;
    let (status, told) = infer(&server, "lstm", &sequences([3, 2, 5])).await?;
    assert_eq!(status, 200, "{told}");
    Ok(())
}

#[tokio::test]
async fn onnxruntime_ends_a_run_without_a_caller_and_goes_on() -> Result<()> {
    let Some(library) = onnxruntime()? else {
        return Ok(());
    };
    let server = Server::start_with(&["--onnxruntime", &library])?;
    let short = "[limits]\ntimeout = \"1s\"\n";
    push_folder(&server, "endless", &[("endless", looping())], short)?;
    push_folder(&server, "sum", &[("sum", sum())], "")?;
    sums(&server).await?;
    let before = engines(&server)?;
    let endless = json!({ "inputs": [
        {"name": "n", "shape": [1], "datatype": "INT64", "data": [2_000_000_000]},
        {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]},
    ]});
    for _ in 0..3 {
        let (status, told) = infer(&server, "endless", &endless).await?;
        assert_eq!(status, 504, "{told}");
    }
    become_idle(&server).await?;
    assert_eq!(engines(&server)?, before);
    sums(&server).await
}

#[tokio::test]
async fn no_engine_stays_without_a_graph() -> Result<()> {
    let server = Server::start_with(&RTEN)?;
    eventually("none stays after the start", async || {
        engines(&server).is_ok_and(|now| now.is_empty())
    })
    .await?;
    push_folder(&server, "sum", &[("sum", sum())], "")?;
    sums(&server).await?;
    assert_eq!(engines(&server)?.len(), 1);
    server.cli(&["model", "delete", "sum", "--yes"])?;
    eventually("none stays after the model", async || {
        engines(&server).is_ok_and(|now| now.is_empty())
    })
    .await
}

#[tokio::test]
async fn an_engine_is_confined_by_what_the_kernel_has() -> Result<()> {
    let server = Server::start_with(&RTEN)?;
    push_folder(&server, "sum", &[("sum", sum())], "")?;
    sums(&server).await?;
    let pid = *engines(&server)?.first().context("an engine")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|value| value.trim_start_matches(':').trim().to_owned())
    };
    assert_eq!(field("NoNewPrivs").as_deref(), Some("1"));
    assert_eq!(field("Seccomp").as_deref(), Some("2"), "a filter");
    // The server says the same of it, and of what this kernel lacks.
    let backends = server.cli_json(&["backends"])?;
    let barriers = backends["confinement"].as_array().context("a list")?;
    let names: Vec<&Value> = barriers.iter().map(|barrier| &barrier["name"]).collect();
    assert_eq!(names, ["rlimits", "no_new_privs", "landlock", "seccomp"]);
    let (active, missing): (Vec<&Value>, Vec<&Value>) = barriers
        .iter()
        .partition(|barrier| barrier["active"] == true);
    // Kernels without Landlock are in use, and say why.
    assert!(
        missing.iter().all(|one| one["name"] == "landlock"),
        "{missing:?}"
    );
    assert!(
        missing.iter().all(|one| one["reason"].is_string()),
        "{missing:?}"
    );
    let table = server.cli(&["backends"])?;
    let table = String::from_utf8(table.stdout)?;
    assert!(
        table.contains("CONFINEMENT") && table.contains("no_new_privs"),
        "{table}"
    );
    let status = server.cli_json(&["status"])?;
    assert_eq!(status["confined_by"], status["engines"][0]["confined_by"]);
    let named = status["confined_by"].as_array().context("a list")?;
    assert_eq!(named.len(), active.len(), "{named:?}");
    let log = server.log().join("\n");
    assert!(log.contains("graphs run in engines"), "{log}");
    let environment = std::fs::read(format!("/proc/{pid}/environ"))?;
    let environment = String::from_utf8_lossy(&environment);
    assert!(!environment.contains("SAMOVAR_CONFIG"), "{environment}");
    Ok(())
}

#[tokio::test]
async fn graphs_run_in_the_servers_own_process_when_that_is_asked_for() -> Result<()> {
    let server = Server::start_with(&["--engines", "in-process"])?;
    push_folder(&server, "sum", &[("sum", sum())], "")?;
    sums(&server).await?;
    assert!(engines(&server)?.is_empty());
    let backends = server.cli_json(&["backends"])?;
    assert_eq!(backends["confinement"], json!([]));
    Ok(())
}

#[tokio::test]
async fn each_deployment_has_its_own_engine_when_that_is_asked_for() -> Result<()> {
    let server = Server::start_with(&["--engines", "per-deployment", "--default-backend", "rten"])?;
    push_folder(&server, "sum", &[("sum", sum())], "")?;
    push_folder(&server, "zeros", &[("zeros", zeros())], "")?;
    sums(&server).await?;
    infer(&server, "zeros", &shape(1, 1)).await?;
    // Beside the one in which it looked for libraries, for a while.
    eventually("two of them stay", async || {
        engines(&server).is_ok_and(|now| now.len() == 2)
    })
    .await
}

const ISOLATED: &str = "isolation = \"deployment\"\n";

/// The engine that deployments share for rten. There may be one beside it for a while, in which the server looked for libraries.
pub fn shared_engine(server: &Server) -> Result<u32> {
    let status = server.cli_json(&["status"])?;
    let engines = status["engines"].as_array().context("a list")?;
    let shared = engines.iter().find(|one| {
        one["name"] == "rten" && one["deployment_id"].is_null() && one["suspect"] == false
    });
    let process = shared.with_context(|| format!("no such engine: {status}"))?["process"].as_u64();
    Ok(u32::try_from(process.context("a process")?)?)
}

/// The engines as the server shows them: the deployment that has each for itself, and its process.
fn shown_engines(server: &Server) -> Result<Vec<(Option<String>, u32)>> {
    let status = server.cli_json(&["status"])?;
    let engines = status["engines"].as_array().context("a list")?;
    let shown = engines.iter().map(|engine| {
        let deployment = engine["deployment_id"].as_str().map(str::to_owned);
        let process = engine["process"].as_u64().context("a process")?;
        Ok((deployment, u32::try_from(process)?))
    });
    shown.collect()
}

/// The engine that deployments share, and that of this deployment, once there are no others.
async fn two_engines(server: &Server, deployment: &str) -> Result<(u32, u32)> {
    let both = || {
        let engines = shown_engines(server).ok()?;
        let of = |deployment: Option<&str>| {
            let engine = engines.iter().find(|one| one.0.as_deref() == deployment);
            engine.map(|(_, process)| *process)
        };
        (engines.len() == 2).then_some((of(None)?, of(Some(deployment))?))
    };
    // Beside the one in which the server looked for libraries, for a while.
    eventually("there are two", async || both().is_some()).await?;
    both().context("two engines")
}

#[tokio::test]
async fn a_deployment_that_asks_for_it_has_an_engine_for_itself() -> Result<()> {
    let server = Server::start_with(&RTEN)?;
    // The same model file.
    push_folder(&server, "sum", &[("sum", sum())], "")?;
    push_folder(&server, "apart", &[("sum", sum())], ISOLATED)?;
    let apart = server.cli_json(&["deployment", "show", "apart", "production"])?;
    assert_eq!(apart["isolation"], "deployment");
    let together = server.cli_json(&["deployment", "show", "sum", "production"])?;
    assert_eq!(together["isolation"], "shared");
    let id = apart["id"].as_str().context("an id")?;
    for model in ["sum", "apart"] {
        let (status, told) = infer(&server, model, &pair()).await?;
        assert_eq!(status, 200, "{told}");
    }
    // Either can end, and the other goes on as the process that it was.
    for model in ["sum", "apart"] {
        let (shared, own) = two_engines(&server, id).await?;
        let (killed, other) = match model {
            "sum" => (own, shared),
            _ => (shared, own),
        };
        kill(killed);
        for _ in 0..20 {
            let (status, told) = infer(&server, model, &pair()).await?;
            assert_eq!(status, 200, "{told}");
        }
        assert!(engines(&server)?.contains(&other));
        for model in ["sum", "apart"] {
            let (status, told) = infer(&server, model, &pair()).await?;
            assert_eq!(status, 200, "{told}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn what_is_held_against_a_graph_is_not_held_against_an_isolated_deployment() -> Result<()> {
    let server = Server::start_with(&RTEN)?;
    push_folder(&server, "zeros", &[("zeros", zeros())], "")?;
    push_folder(&server, "apart", &[("zeros", zeros())], ISOLATED)?;
    let mut refused = false;
    for _ in 0..6 {
        let (status, told) = infer(&server, "zeros", &shape(1 << 30, 1 << 17)).await?;
        assert_eq!(status, 500, "{told}");
        refused |= told.to_string().contains("it is quarantined for another");
        let (status, told) = infer(&server, "apart", &shape(1, 1)).await?;
        assert_eq!(status, 200, "{told}");
    }
    assert!(refused, "it ended its engine each time, and went on");
    Ok(())
}

#[tokio::test]
async fn a_server_without_engines_has_none_to_give_and_says_so() -> Result<()> {
    let in_process = ["--engines", "in-process"];
    let server = Server::start_with(&in_process)?;
    let refused = push_folder(&server, "apart", &[("sum", sum())], ISOLATED);
    let error = format!("{:#}", refused.err().context("it was taken")?);
    assert!(error.contains("--engines shared"), "{error}");
    // One that is served already fails when its server has none any more, and is there again when it has.
    let server = server.restart_with(&[])?;
    push_folder(&server, "sum", &[("sum", sum())], ISOLATED)?;
    sums(&server).await?;
    let server = server.restart_with(&in_process)?;
    let shown = server.cli_json(&["deployment", "show", "sum", "production"])?;
    assert_eq!(shown["status"], "FAILED", "{shown}");
    let reason = shown["status_reason"].as_str().context("a reason")?;
    assert!(reason.contains("--engines shared"), "{reason}");
    let (status, told) = infer(&server, "sum", &pair()).await?;
    assert!(status >= 500, "{told}");
    let server = server.restart_with(&[])?;
    sums(&server).await
}

/// The value of a line of `/metrics`.
pub async fn measured(server: &Server, line: &str) -> Result<u64> {
    let answer = server.client().get(server.at("/metrics")).send().await?;
    let text = answer.text().await?;
    let found = text.lines().find_map(|found| found.strip_prefix(line));
    let value = found.with_context(|| format!("no {line} in {text}"))?;
    Ok(value.trim().parse()?)
}

#[tokio::test]
async fn ends_of_engines_and_quarantines_are_told_and_counted() -> Result<()> {
    let server = Server::start_with(&RTEN)?;
    let mut all = Events::of(&server, "", None).await?;
    push_folder(&server, "zeros", &[("zeros", zeros())], "")?;
    push_folder(&server, "sum", &[("sum", sum())], "")?;
    let mut of_zeros = Events::of(&server, "?model=zeros", None).await?;
    let mut of_sum = Events::of(&server, "?model=sum", None).await?;
    let zeros = server.cli_json(&["deployment", "show", "zeros", "production"])?;
    let is_engine =
        |event: &Value, ended: bool| event["type"] == "engine" && event["ended"] == ended;
    sums(&server).await?;
    let engine = shared_engine(&server)?;
    let is_start = |event: &Value| is_engine(event, false) && event["backend"] == "rten";
    let seen = all.up_to(is_start).await?;
    let started = seen.last().context("an event")?;
    assert_eq!(started["process"], engine, "{started}");

    for _ in 0..6 {
        let (status, told) = infer(&server, "zeros", &shape(1 << 30, 1 << 17)).await?;
        assert_eq!(status, 500, "{told}");
        if told.to_string().contains("it is quarantined for another") {
            break;
        }
    }
    let concerned = json!([{ "model_id": zeros["model_id"], "deployment_id": zeros["id"] }]);
    let seen = of_zeros
        .up_to(|event| event["type"] == "quarantine")
        .await?;
    let ends: Vec<_> = seen.iter().filter(|event| is_engine(event, true)).collect();
    // The shared one, and three of its own.
    assert_eq!(ends.len(), 4, "{seen:?}");
    for (number, end) in ends.iter().enumerate() {
        assert_eq!(end["reason"], "signal", "{end}");
        assert_eq!(end["suspect"], number > 0, "{end}");
        assert_eq!(end["graphs"][0]["name"], "zeros", "{end}");
        assert_eq!(end["graphs"][0]["inputs"], json!(["i64 [2]"]), "{end}");
        assert_eq!(end["deployments"], concerned, "{end}");
    }
    assert_eq!(ends[0]["process"], engine);
    let quarantine = seen.last().context("an event")?;
    assert_eq!(quarantine["engine_ends"], 3, "{quarantine}");
    assert_eq!(quarantine["seconds"], 60, "{quarantine}");
    assert_eq!(quarantine["deployments"], concerned, "{quarantine}");

    assert_eq!(measured(&server, "samovar_graphs_quarantined").await?, 1);
    assert_eq!(
        measured(&server, "samovar_graph_quarantines_total").await?,
        1
    );
    let ends = "samovar_engine_ends_total{backend=\"rten\",reason=\"signal\"}";
    assert_eq!(measured(&server, ends).await?, 4);
    assert!(measured(&server, "samovar_engine_starts_total{backend=\"rten\"}").await? >= 4);
    sums(&server).await?;
    let shared = "{backend=\"rten\",kind=\"shared\",model=\"\",deployment=\"\"}";
    assert_eq!(
        measured(&server, &format!("samovar_engines{shared}")).await?,
        1
    );
    let memory = format!("samovar_engine_resident_memory_bytes{shared}");
    assert!(measured(&server, &memory).await? > 1 << 20);

    // A model is told nothing of what does not concern it.
    server.cli(&["model", "delete", "sum", "--yes"])?;
    let seen = of_sum.up_to(|event| event["type"] == "model").await?;
    assert!(
        seen.iter().all(|event| event["type"] != "engine"),
        "{seen:?}"
    );
    Ok(())
}
